"""Where keys stand in YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from retro_lightning.config.locate import check_files, config_files, nearest, places

NAMES = st.text("abcdefghij_", min_size=1, max_size=6)
TREES = st.recursive(
    st.integers() | st.booleans() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def naive_keys(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return []
    keys = []
    for name, inner in pairs:
        keys += [f"{prefix}{name}", *naive_keys(inner, f"{prefix}{name}.")]
    return keys


@given(tree=st.dictionaries(NAMES, TREES, max_size=4))
def test_all_keys_are_found_in_order(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("yaml") / "tree.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert [place.key for place in places([str(path)])] == naive_keys(tree)


def test_lines_count_from_one(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# comment\nmodel:\n  gamma: 0.9\n  parts:\n    - class_path: x\n")
    lines = {place.key: place.line for place in places([str(path)])}
    assert lines == {
        "model": 2,
        "model.gamma": 3,
        "model.parts": 4,
        "model.parts.0": 5,
        "model.parts.0.class_path": 5,
    }


def test_config_files_are_read_off_the_command_line():
    args = [
        "--config",
        "a.yaml",
        "--model.gamma",
        "1",
        "--config=b.yaml",
        "-c",
        "c.yaml",
        "--config",
    ]
    assert config_files(args) == ["a.yaml", "b.yaml", "c.yaml"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [1", "line 1: not valid YAML"), ("- 1", "key: value"), ("\t", "not valid YAML")],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, text, complaint):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        check_files([str(path)])


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="not a YAML text file"):
        check_files([str(path)])


def test_a_missing_file_is_answered_with_its_nearest_sibling(tmp_path):
    (tmp_path / "multitask.yaml").touch()
    wrong = tmp_path / "multitsk.yaml"
    with pytest.raises(FileNotFoundError, match=r"did you mean .*multitask\.yaml"):
        check_files([str(wrong)])
    with pytest.raises(FileNotFoundError, match="check the path"):
        check_files([str(Path("no-such-directory") / "x.yaml")])


def test_nearest_prefers_the_closest_spelling():
    assert nearest("gama", ["gamma", "lambda"]) == "gamma"
    assert nearest("zzz", ["gamma", "lambda"]) is None
