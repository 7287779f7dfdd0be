"""Filters against naive loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retro_lightning.curriculum.filters import (
    AboveTaskValue,
    BestShare,
    Filter,
    QualityAtLeast,
    ReturnAtLeast,
    TopOfTask,
)
from retro_lightning.curriculum.quality import Quality, task_values

RETURNS = Quality(success=0.0, returns=1.0, efficiency=0.0)


@pytest.mark.parametrize(
    "chosen",
    [ReturnAtLeast(0.5), QualityAtLeast(0.5), TopOfTask(2), BestShare(0.3), AboveTaskValue()],
)
def test_only_learnable_trajectories_are_kept_and_not_all(make_store: Any, chosen: Filter) -> None:
    store, learnable = make_store(0, 80)
    kept = chosen(store, learnable)
    assert not kept[~learnable].any()
    assert 0 < kept.sum() < learnable.sum()


def test_thresholds(make_store: Any) -> None:
    store, learnable = make_store(1, 80)
    expected = [bool(learnable[i]) and store.returns[i] >= 0.6 for i in range(80)]
    assert ReturnAtLeast(0.6)(store, learnable).tolist() == expected
    quality = RETURNS(store, learnable)
    expected = [bool(learnable[i]) and quality[i] >= 0.8 for i in range(80)]
    assert QualityAtLeast(0.8, RETURNS)(store, learnable).tolist() == expected


@pytest.mark.parametrize("count", [1, 2])
def test_the_best_of_each_task(make_store: Any, count: int) -> None:
    store, learnable = make_store(2, 80)
    kept = TopOfTask(count, RETURNS)(store, learnable)
    for task in np.unique(store.task_id):
        rows = [i for i in range(80) if learnable[i] and store.task_id[i] == task]
        best = sorted(rows, key=lambda i: (-store.returns[i], -i))[:count]
        assert set(np.flatnonzero(kept & (store.task_id == task))) == set(best)


def test_the_best_share_of_each_family(make_store: Any) -> None:
    store, learnable = make_store(3, 80)
    kept = BestShare(0.25, RETURNS)(store, learnable)
    for family in range(3):
        mine = learnable & (store.family == family)
        assert kept[mine].sum() == np.ceil(0.25 * mine.sum())
        assert store.returns[mine & kept].min() >= store.returns[mine & ~kept].max()


def test_above_the_tasks_value(make_store: Any) -> None:
    store, learnable = make_store(4, 80)
    values = task_values(store, learnable, 2.0)
    expected = learnable & (store.returns > values + 0.1)
    assert AboveTaskValue(0.1, 2.0)(store, learnable).tolist() == expected.tolist()
    # Attempts that all ended alike are no better than one another: none is kept.
    store.returns[:] = 1.0
    assert not AboveTaskValue()(store, learnable).any()


def test_impossible_arguments_are_refused() -> None:
    for make, message in (
        (lambda: QualityAtLeast(1.5), "minimum is 1.5"),
        (lambda: TopOfTask(0), "count is 0"),
        (lambda: BestShare(0.0), "share is 0"),
        (lambda: AboveTaskValue(prior_weight=0.0), "prior_weight is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
