"""Quality measures against naive loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.curriculum.quality import (
    Quality,
    freshness,
    length_efficiency,
    novelty,
    scaled_within,
    task_values,
)


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, ...]:
    n = draw(st.integers(0, 12))

    def many(element: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(element, min_size=n, max_size=n))

    return (
        np.array(many(st.floats(-1, 1)), dtype=np.float64),
        np.array(many(st.integers(0, 3)), dtype=np.int32),
        np.array(many(st.integers(1, 9)), dtype=np.int32),
        np.array(many(st.booleans()), dtype=np.bool_),
        np.array(many(st.booleans()), dtype=np.bool_),
    )


@given(columns())
def test_scaled_within_equals_a_naive_loop(case: tuple[Any, ...]) -> None:
    returns, family, _, _, learnable = case
    result = scaled_within(returns, family, learnable)
    for i in range(len(returns)):
        peers = returns[learnable & (family == family[i])]
        if not learnable[i]:
            expected = 0.0
        elif max(peers) == min(peers):
            expected = 0.5
        else:
            expected = (returns[i] - min(peers)) / (max(peers) - min(peers))
        assert result[i] == pytest.approx(expected)


@given(columns())
def test_length_efficiency_equals_a_naive_loop(case: tuple[Any, ...]) -> None:
    _, task, length, success, learnable = case
    result = length_efficiency(length, task, success, learnable)
    for i in range(len(length)):
        solved = success & learnable
        expected = min(length[solved & (task == task[i])]) / length[i] if solved[i] else 0.0
        assert result[i] == pytest.approx(expected)


def test_quality_is_a_weighted_mean(make_store: Any) -> None:
    store, learnable = make_store(0, 30)
    expected = (
        2 * store.success
        + scaled_within(store.returns, store.family, learnable)
        + length_efficiency(store.length, store.task_id, store.success, learnable)
    ) / 4
    result = Quality(success=2.0, returns=1.0, efficiency=1.0)(store, learnable)
    np.testing.assert_allclose(result, np.where(learnable, expected, 0.0))
    assert result.min() >= 0
    assert result.max() <= 1


MEASURES = ("success", "returns", "task_returns", "efficiency", "novelty", "freshness", "advantage")


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_lies_in_its_bounds_and_counts_alone(make_store: Any, name: str) -> None:
    store, learnable = make_store(5, 60)
    none = dict.fromkeys(MEASURES, 0.0)
    result = Quality(**{**none, name: 3.0})(store, learnable)
    naive = {
        "success": store.success.astype(float),
        "returns": scaled_within(store.returns, store.family, learnable),
        "task_returns": scaled_within(store.returns, store.task_id, learnable),
        "efficiency": length_efficiency(store.length, store.task_id, store.success, learnable),
        "novelty": novelty(store, learnable),
        "freshness": freshness(store.policy_version, learnable, 500.0),
        "advantage": scaled_within(
            store.returns - task_values(store, learnable), store.family, learnable
        ),
    }[name]
    np.testing.assert_allclose(result, np.where(learnable, naive, 0.0))
    assert len(np.unique(result[learnable])) > 1
    assert result.min() >= 0
    assert result.max() <= 1


def test_novelty_counts_what_ended_alike(make_store: Any) -> None:
    store, learnable = make_store(6, 80)
    result = novelty(store, learnable)
    rows = np.flatnonzero(learnable)
    for i in range(80):
        alike = [
            j
            for j in rows
            if (store.task_id[j], store.success[j], store.length[j], store.returns[j])
            == (store.task_id[i], store.success[i], store.length[i], store.returns[i])
        ]
        assert result[i] == pytest.approx(len(alike) ** -0.5 if learnable[i] else 0.0)


def test_freshness_by_hand() -> None:
    version, learnable = np.array([-1, 0, 100, 200, 300]), np.array([1, 1, 1, 1, 0], dtype=bool)
    # The newest learnable version is 200; history counts as written at step 0.
    expected = [2**-2, 2**-2, 2**-1, 1.0, 0.0]
    np.testing.assert_allclose(freshness(version, learnable, half_life=100.0), expected)


def test_task_values_leave_the_trajectory_out(make_store: Any) -> None:
    store, learnable = make_store(7, 40)
    result = task_values(store, learnable, prior_weight=2.0)
    for i in range(40):
        family = store.returns[learnable & (store.family == store.family[i])].mean()
        others = [
            store.returns[j]
            for j in range(40)
            if j != i and learnable[j] and store.task_id[j] == store.task_id[i]
        ]
        assert result[i] == pytest.approx((sum(others) + 2 * family) / (len(others) + 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"returns": float("nan")}, "returns is nan"),
        ({"novelty": -1.0}, "novelty is -1"),
        ({"half_life": 0.0}, "half_life is 0"),
        (dict.fromkeys(MEASURES, 0.0), "all 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quality(**arguments)
