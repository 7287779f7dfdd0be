"""Training arrays: the same numbers as the records, without making records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retro_lightning.replay.store import ReplayStore
from tests.support import random_trajectory


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_arrays_say_what_the_records_say(tmp_path_factory, seed, sizes, data) -> None:
    rng = np.random.default_rng(seed)
    store = ReplayStore(tmp_path_factory.mktemp("store"), create=True)
    for size in sizes:
        store.append([random_trajectory(rng, number) for number in range(size)])
    store.refresh()
    rows = data.draw(st.lists(st.integers(0, len(store) - 1), max_size=12))
    arrays = store.arrays(rows)
    steps = [step for trajectory in store.read(rows) for step in trajectory.steps]
    lengths = [t.length for t in store.read(rows)]
    assert arrays.step_starts.tolist() == np.cumsum([0, *lengths]).tolist()
    assert arrays.rewards.tolist() == [step.reward for step in steps]
    for found, step in zip(arrays.log_probs.tolist(), steps, strict=True):
        assert math.isnan(found) if step.log_prob is None else found == step.log_prob
    assert len(arrays.token_starts) == len(steps) + 1
    for number, step in enumerate(steps):
        here = slice(*arrays.token_starts[number : number + 2])
        fed, wrote = (), ()
        if step.generation is not None:
            fed, wrote = step.generation.context_ids, step.generation.action_ids
        assert tuple(arrays.tokens[here]) == (*fed, *wrote)
        assert arrays.written[here].tolist() == [False] * len(fed) + [True] * len(wrote)


def test_no_such_row(tmp_path) -> None:
    store = ReplayStore(tmp_path, create=True)
    assert store.arrays([]).step_starts.tolist() == [0]
    with pytest.raises(IndexError, match="no row 0"):
        store.arrays([0])
