"""What fits leave on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro_lightning.sweep.leftovers import clear_checkpoints
from tests.unit.sweep.conftest import leave_checkpoints


@pytest.mark.parametrize(("policies", "left"), [(False, {"best-policy"}), (True, set())])
def test_the_best_policy_stays_where_it_may_win(tmp_path: Path, policies: bool, left: set[str]):
    for seed in (1, 2):
        leave_checkpoints(tmp_path / f"seed-{seed}")
        (tmp_path / f"seed-{seed}" / "results.json").touch()
    clear_checkpoints(tmp_path, policies=policies)
    clear_checkpoints(tmp_path, policies=policies)  # another worker does it again
    for seed in (1, 2):
        fit = tmp_path / f"seed-{seed}"
        assert {path.name for path in (fit / "checkpoints").iterdir()} == left
        assert (fit / "results.json").is_file()


def test_a_trial_that_left_nothing(tmp_path: Path):
    clear_checkpoints(tmp_path / "trial-0007", policies=True)
