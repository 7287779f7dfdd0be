"""The ``predict`` command's table."""

from __future__ import annotations

import numpy as np
import pytest

from retro_lightning.cli.predict import predictions_table
from retro_lightning.replay.store import ReplayStore
from tests.support import random_trajectory


def test_every_row_keeps_its_trajectory_whatever_the_order(tmp_path):
    rng = np.random.default_rng(0)
    trajectories = [random_trajectory(rng, number) for number in range(20)]
    store = ReplayStore(tmp_path / "store", create=True)
    store.append(trajectories)
    store.refresh()
    predictions = [(row, [-0.5] * t.length) for row, t in enumerate(trajectories)]
    shuffled = [predictions[i] for i in rng.permutation(20)]
    rows = predictions_table(shuffled, store.index).to_pylist()
    assert [row["row"] for row in rows] == list(range(20))
    for row, trajectory in zip(rows, trajectories, strict=True):
        assert row["task_id"] == trajectory.task.task_id
        assert row["family"] == trajectory.task.family
        assert row["behaviour_id"] == trajectory.behaviour_id
        assert row["attempt"] == trajectory.attempt
        assert row["log_probs"] == pytest.approx([-0.5] * trajectory.length)
