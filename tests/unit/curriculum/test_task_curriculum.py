"""Task curriculum: families in turn, tasks without repetition, resumable."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.curriculum.tasks import UniformTasks

FAMILIES = {"maze": [f"m{i}" for i in range(4)], "tools": [f"t{i}" for i in range(7)], "go": ["g0"]}


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 1000))
def test_families_and_tasks_are_tried_equally_often(rounds: list[int], seed: int) -> None:
    curriculum = UniformTasks()
    chosen = [
        task
        for number, n in enumerate(rounds)
        for task in curriculum.choose(FAMILIES, n, np.random.default_rng([seed, number]))
    ]
    assert len(chosen) == sum(rounds)
    counts = Counter(chosen)
    for tasks in FAMILIES.values():
        of_family = [counts[task] for task in tasks]
        assert max(of_family) - min(of_family) <= 1
        assert sum(of_family) in (len(chosen) // 3, len(chosen) // 3 + 1)


@given(st.integers(0, 20), st.integers(1, 20))
def test_resuming_equals_never_having_stopped(before: int, after: int) -> None:
    straight, stopped, resumed = UniformTasks(), UniformTasks(), UniformTasks()
    first = straight.choose(FAMILIES, before, np.random.default_rng(1))
    assert stopped.choose(FAMILIES, before, np.random.default_rng(1)) == first
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    expected = straight.choose(FAMILIES, after, np.random.default_rng(2))
    assert resumed.choose(FAMILIES, after, np.random.default_rng(2)) == expected


def test_the_order_follows_the_generator_and_differs_between_passes() -> None:
    tasks = {"tools": [str(i) for i in range(20)]}
    first = UniformTasks().choose(tasks, 40, np.random.default_rng(1))
    other = UniformTasks().choose(tasks, 40, np.random.default_rng(2))
    assert first != other
    assert first[:20] != first[20:]
    assert set(first[:20]) == set(first[20:])


def test_families_without_tasks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="maze"):
        UniformTasks().choose({"maze": [], "go": ["g0"]}, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="any family"):
        UniformTasks().choose({}, 1, np.random.default_rng(0))


def test_the_order_is_what_it_always_was() -> None:
    """Recorded before the curricula grew: whoever changes it changes every published number."""
    curriculum = UniformTasks()
    families = {"a": [f"a{i}" for i in range(7)], "b": [f"b{i}" for i in range(4)]}
    chosen = curriculum.choose(families, 6, np.random.default_rng(1))
    chosen += curriculum.choose(families, 4, np.random.default_rng(2))
    assert chosen == ["a5", "b0", "a4", "b2", "a3", "b1", "a2", "b3", "a1", "b0"]
