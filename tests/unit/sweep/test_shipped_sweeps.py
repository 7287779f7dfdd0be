"""Every sweep that is shipped is read, and makes the job it speaks of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from retro_lightning.sweep.fits import check_base, check_space_keys
from retro_lightning.sweep.settings import read
from retro_lightning.sweep.space import defaults

SWEEPS = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))

pytestmark = pytest.mark.usefixtures("workplace")


def test_all_are_here():
    assert {path.stem for path in SWEEPS} == {"baseline", "curriculum", "joint", "smoke"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_read_and_its_space_can_be_made(path):
    sweep = read(["--config", str(path)])
    settings = sweep.settings
    check_space_keys(sweep)
    cli = check_base(sweep)
    first = defaults(settings.space, yaml.safe_load(cli.parser.dump(cli.config)))
    assert set(first) <= set(settings.space)
    assert first.get("data.prioritisation", "quality") == "quality"  # what the job does itself
    if path.stem != "smoke":
        # the exact sign-flip test can call a winner after Holm: 2 ** (1 - 8) * 2 = 0.016
        assert (settings.confirm.top, settings.confirm.seeds) == (2, 8)
        assert len(settings.seeds) == 3
    assert path.read_text().splitlines()[0].startswith("# ")


def test_the_joint_study_is_as_long_as_promised():
    [path] = [path for path in SWEEPS if path.stem == "joint"]
    assert read(["--config", str(path)]).settings.trials >= 60
