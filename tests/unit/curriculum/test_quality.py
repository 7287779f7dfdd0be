"""Quality measures against naive loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.curriculum.quality import length_efficiency, quality, return_quality


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
def test_return_quality_equals_a_naive_loop(case: tuple[Any, ...]) -> None:
    returns, family, _, _, learnable = case
    result = return_quality(returns, family, learnable)
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
    weights = {"success_weight": 2.0, "return_weight": 1.0, "efficiency_weight": 1.0}
    expected = (
        2 * store.success
        + return_quality(store.returns, store.family, learnable)
        + length_efficiency(store.length, store.task_id, store.success, learnable)
    ) / 4
    result = quality(store, learnable, **weights)
    np.testing.assert_allclose(result, np.where(learnable, expected, 0.0))
    assert result.min() >= 0
    assert result.max() <= 1
