"""What the project's own files promise each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def normalised(requirement: str) -> str:
    """The name in a requirement, as package indices spell it."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


PINNED = {normalised(line) for line in CONSTRAINTS}


def test_constraints_are_exact_versions_that_exist_on_an_index():
    # No local tags (torch==2.13.0+cpu exists on no index), no paths, no ranges.
    assert [line for line in CONSTRAINTS if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_no_package_is_pinned_twice():
    assert len(PINNED) == len(CONSTRAINTS)


@pytest.mark.parametrize("extra", ["dependencies", "test", "dev"])
def test_every_requirement_is_pinned(extra):
    requirements = (
        PROJECT["dependencies"]
        if extra == "dependencies"
        else PROJECT["optional-dependencies"][extra]
    )
    assert {normalised(r) for r in requirements} <= PINNED


def test_requirements_are_open_ranges():
    # An exact version in pyproject.toml would make the project impossible to install beside others.
    assert not [r for r in PROJECT["dependencies"] if "==" in r or "<" in r]


def test_the_console_script_exists():
    from retro_lightning.cli import main

    assert PROJECT["scripts"] == {"retro-lightning": "retro_lightning.cli.main:main"}
    assert callable(main.main)


def test_ci_runs_the_second_command_of_the_readme():
    command = 'pip install -c constraints.txt -e ".[test]" && pytest'
    assert command in (ROOT / ".ci" / "run").read_text()
    readme = ROOT / "README.md"
    if readme.exists():
        assert command in readme.read_text()


def test_every_module_says_what_it_is():
    missing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*.py")
        if not path.read_text(encoding="utf-8").lstrip("r").startswith('"""')
    ]
    assert missing == []
