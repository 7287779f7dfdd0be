"""The index: columns agree with the trajectories, and indices of several stores join."""

from __future__ import annotations

import dataclasses
import math
from itertools import groupby

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.replay.index import StoreIndex
from retro_lightning.replay.records import encode
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory


def trajectories(seed: int, count: int) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    made = [random_trajectory(rng, number) for number in range(count)]
    return [dataclasses.replace(t, recorded_at=1e9 + t.attempt) if t.success else t for t in made]


def index_of(made: list[Trajectory]) -> StoreIndex:
    return StoreIndex.from_table(pa.Table.from_batches([encode(made)]))


def check(index: StoreIndex, made: list[Trajectory]) -> None:
    assert len(index) == len(made)
    assert index.returns.tolist() == [t.total_return for t in made]
    assert index.success.tolist() == [t.success for t in made]
    assert index.length.tolist() == [t.length for t in made]
    assert index.attempt.tolist() == [t.attempt for t in made]
    times = [math.nan if t.recorded_at is None else t.recorded_at for t in made]
    np.testing.assert_array_equal(index.recorded_at, times)
    versions = [-1 if t.policy_version is None else t.policy_version for t in made]
    assert index.policy_version.tolist() == versions
    assert index.faulted.tolist() == [t.truncation == "fault" for t in made]
    assert index.is_train.tolist() == [t.task.split == "train" for t in made]
    assert [index.task_ids[code] for code in index.task_id] == [t.task.task_id for t in made]
    assert [index.families[code] for code in index.family] == [t.task.family for t in made]
    assert [index.behaviours[code] for code in index.behaviour] == [t.behaviour_id for t in made]
    assert [index.sources[code] for code in index.source] == [t.source for t in made]
    for names in (index.task_ids, index.families, index.behaviours, index.sources):
        assert len(set(names)) == len(names)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_columns_of_joined_stores(seed: int, sizes: list[int]) -> None:
    parts = [trajectories(seed + number, size) for number, size in enumerate(sizes)]
    whole = [trajectory for part in parts for trajectory in part]
    check(StoreIndex.concat([index_of(part) for part in parts]), whole)
    check(index_of(whole), whole)


def test_success_by_family_and_behaviour_equals_counting() -> None:
    made = trajectories(0, 200)
    sound = [t for t in made if t.truncation != "fault"]
    key = lambda t: (t.task.family, t.behaviour_id)  # noqa: E731
    counted = {
        pair: (sum(t.success for t in group), len(group))
        for pair, members in groupby(sorted(sound, key=key), key)
        for group in [list(members)]
    }
    assert index_of(made).success_table() == counted
