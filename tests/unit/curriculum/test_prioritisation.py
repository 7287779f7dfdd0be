"""Replay prioritisation: what is open, how much it weighs, and what never is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.curriculum.composed import Filtered, ReplayTable, Tables
from retro_lightning.curriculum.feedback import Feedback, TDErrors
from retro_lightning.curriculum.filters import (
    AboveTaskValue,
    BestShare,
    ReturnAtLeast,
    best_of_each,
)
from retro_lightning.curriculum.pacing import Linear
from retro_lightning.curriculum.prioritisation import (
    Prioritisation,
    QualityWeighted,
    RankWeighted,
    Uniform,
    balanced,
)
from retro_lightning.curriculum.quality import Quality
from retro_lightning.curriculum.surprise import TDErrorWeighted

MakeStore = Callable[..., Any]
ALL = [
    Uniform(),
    Uniform(balance_families=False),
    QualityWeighted(),
    QualityWeighted(alpha=3.0, start_fraction=0.1, pacing=Linear(), balance_families=False),
    QualityWeighted(reverse=True),
    RankWeighted(),
    RankWeighted(alpha=2.0, balance_families=False, reverse=True),
    TDErrorWeighted(),
    Filtered([BestShare(0.5)], RankWeighted()),
    Tables([ReplayTable(["family/0"], share=3.0), ReplayTable(["family/*"])]),
]


@pytest.mark.parametrize("prioritisation", ALL)
@pytest.mark.parametrize("n", [3, 50])
def test_probabilities_are_exact_and_only_over_the_learnable(
    make_store: MakeStore, prioritisation: Prioritisation, n: int
) -> None:
    for seed in range(20):
        store, learnable = make_store(seed, n)
        p = prioritisation.probabilities(store, learnable, seed / 20)
        assert p.shape == (n,)
        assert abs(p.sum() - 1.0) < 1e-12
        assert (p >= 0).all()
        assert (p[~learnable] == 0).all()


@pytest.mark.parametrize("prioritisation", ALL)
def test_nothing_to_learn_from_is_refused(
    make_store: MakeStore, prioritisation: Prioritisation
) -> None:
    store, learnable = make_store(0, 5)
    with pytest.raises(ValueError, match="5 trajectories, none"):
        prioritisation.probabilities(store, np.zeros_like(learnable), 0.0)


@pytest.mark.parametrize(
    "prioritisation", [Uniform(), QualityWeighted(), RankWeighted(), TDErrorWeighted()]
)
def test_balanced_families_have_equal_mass(
    make_store: MakeStore, prioritisation: Prioritisation
) -> None:
    store, learnable = make_store(1, 60)
    p = prioritisation.probabilities(store, learnable, 0.0)
    np.testing.assert_allclose(np.bincount(store.family, weights=p), np.full(3, 1 / 3))


def test_uniform_over_successes(make_store: MakeStore) -> None:
    store, learnable = make_store(2, 60)
    p = Uniform(successes_only=True, balance_families=False).probabilities(store, learnable, 0.0)
    chosen = learnable & store.success
    np.testing.assert_allclose(p, chosen / chosen.sum())
    store.success[:] = False
    with pytest.raises(ValueError, match="successes_only"):
        Uniform(successes_only=True).probabilities(store, learnable, 0.0)


@settings(max_examples=50)
@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 10**6))
def test_open_are_the_best_of_each_family(n: int, fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    family, learnable = rng.integers(3, size=n), rng.random(n) < 0.7
    quality = rng.integers(4, size=n) / 3.0  # with ties
    chosen = best_of_each(quality, family, learnable, fraction)
    assert not chosen[~learnable].any()
    for f in range(3):
        rows = [i for i in range(n) if learnable[i] and family[i] == f]
        best_first = sorted(rows, key=lambda i: (-quality[i], -i))
        count = int(np.ceil(fraction * len(rows) - 1e-9))
        assert set(np.flatnonzero(chosen & (family == f))) == set(best_first[:count])


def test_three_tenths_of_ten_are_three() -> None:
    chosen = best_of_each(np.arange(10.0), np.zeros(10, int), np.ones(10, bool), 0.1 * 3)
    assert np.flatnonzero(chosen).tolist() == [7, 8, 9]


def test_the_curriculum_opens_with_validation_success(make_store: MakeStore) -> None:
    store, learnable = make_store(3, 200)
    curriculum = QualityWeighted(start_fraction=0.2)
    opened = []
    for success in (0.0, 0.5, 0.3, 0.9):
        curriculum.observe(Feedback(validation_success=success))
        opened.append(set(np.flatnonzero(curriculum.probabilities(store, learnable, 0.0))))
    assert opened[0] < opened[1] == opened[2] < opened[3]
    assert opened[3] == set(np.flatnonzero(learnable))
    assert curriculum.open_fraction(0.0) == 1.0


def test_weights_within_what_is_open_follow_quality(make_store: MakeStore) -> None:
    store, learnable = make_store(4, 40)
    curriculum = QualityWeighted(
        alpha=2.0,
        start_fraction=1.0,
        floor=0.5,
        quality=Quality(success=1.0, returns=0.0, efficiency=0.0),
        balance_families=False,
    )
    p = curriculum.probabilities(store, learnable, 0.0)
    # Quality 1 for successes; failures count as 0.5, and 0.5^2 = 1/4 of a success.
    mass = np.where(learnable, np.where(store.success, 1.0, 0.25), 0.0)
    np.testing.assert_allclose(p, mass / mass.sum())


def test_correction_is_applied_as_asked() -> None:
    p, rows = np.array([0.75, 0.25]), np.array([0, 1, 1])
    assert QualityWeighted().weights(p, rows).tolist() == [1, 1, 1]
    # (2 * 0.75)^-1 and (2 * 0.25)^-1
    expected = [1 / 1.5, 2.0, 2.0]
    np.testing.assert_allclose(QualityWeighted(correction=1.0).weights(p, rows), expected)
    assert Uniform().weights(p, rows).tolist() == [1, 1, 1]


def test_the_state_survives_a_checkpoint() -> None:
    first, second = QualityWeighted(), QualityWeighted()
    first.observe(Feedback(validation_success=0.5))
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert first.open_fraction(0.0) == second.open_fraction(0.0) > QualityWeighted().start_fraction
    Uniform().load_state_dict(Uniform().state_dict())


def test_balanced_by_hand() -> None:
    result = balanced(np.array([1.0, 3.0, 2.0, 0.0]), np.array([0, 0, 1, 2]))
    np.testing.assert_allclose(result, [0.125, 0.375, 0.5, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1"),
        ({"start_fraction": 0.0}, "start_fraction is 0"),
        ({"floor": 0.0}, "floor is 0"),
        ({"correction": 1.5}, r"correction is 1\.5"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityWeighted(**arguments)  # type: ignore[arg-type]


def test_proportional_to_quality_to_the_alpha(make_store: MakeStore) -> None:
    store, learnable = make_store(8, 40)
    plain = QualityWeighted(alpha=1.5, start_fraction=1.0, floor=0.01, balance_families=False)
    mass = np.where(learnable, np.maximum(Quality()(store, learnable), 0.01) ** 1.5, 0.0)
    np.testing.assert_allclose(plain.probabilities(store, learnable, 0.0), mass / mass.sum())


def test_reversed_opens_the_worst_first(make_store: MakeStore) -> None:
    store, learnable = make_store(9, 120)
    settings = {"alpha": 0.0, "start_fraction": 0.25, "pacing": Linear(), "floor": 1.0}
    quality = Quality()(store, learnable)
    for reverse, better in ((False, True), (True, False)):
        p = QualityWeighted(reverse=reverse, **settings).probabilities(store, learnable, 0.0)
        for family in range(3):
            mine = learnable & (store.family == family)
            opened, closed = quality[mine & (p > 0)], quality[mine & (p == 0)]
            if better:
                assert opened.min() >= closed.max()
            else:
                assert opened.max() <= closed.min()


@pytest.mark.parametrize("reverse", [False, True])
def test_rank_weighted_equals_a_naive_loop(make_store: MakeStore, reverse: bool) -> None:
    store, learnable = make_store(10, 50)
    curriculum = RankWeighted(alpha=0.7, balance_families=False, reverse=reverse)
    quality = Quality()(store, learnable)
    mass = np.zeros(50)
    for family in range(3):
        rows = [i for i in range(50) if learnable[i] and store.family[i] == family]
        for rank, i in enumerate(
            sorted(rows, key=lambda i: (quality[i] if reverse else -quality[i], -i)), start=1
        ):
            mass[i] = rank**-0.7
    np.testing.assert_allclose(curriculum.probabilities(store, learnable, 0.0), mass / mass.sum())


def _told(curriculum: Prioritisation, rows: list[int], errors: list[float]) -> None:
    curriculum.observe(Feedback(td_errors=TDErrors(np.array(rows), np.array(errors))))


def test_td_errors_weigh_and_the_unknown_comes_first(make_store: MakeStore) -> None:
    store, learnable = make_store(11, 6, 1)
    learnable[:] = True
    curriculum = TDErrorWeighted(alpha=2.0, floor=0.5)
    np.testing.assert_allclose(curriculum.probabilities(store, learnable, 0.0), np.full(6, 1 / 6))
    _told(curriculum, [0, 3], [0.5, 9.0])
    _told(curriculum, [3, 1], [1.5, 0.0])  # of row 3 the later error counts
    # (|error| + 0.5)^2, with the largest error known, 1.5, for those never learnt from.
    mass = np.array([1.0, 0.25, 4.0, 4.0, 4.0, 4.0])
    np.testing.assert_allclose(curriculum.probabilities(store, learnable, 0.0), mass / mass.sum())
    again = TDErrorWeighted(alpha=2.0, floor=0.5)
    again.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
    np.testing.assert_array_equal(
        again.probabilities(store, learnable, 0.0), curriculum.probabilities(store, learnable, 0.0)
    )
    # By default the sampling is undone in the loss: (N p)^-1.
    np.testing.assert_allclose(curriculum.weights(mass / mass.sum(), np.array([1])), [17.25 / 1.5])
    with pytest.raises(ValueError, match="TD error of row 2 is nan"):
        _told(curriculum, [1, 2], [0.1, float("nan")])


def test_tables_keep_their_ratio_however_much_they_hold(make_store: MakeStore) -> None:
    store, learnable = make_store(12, 90)
    tables = [ReplayTable(["family/2"], share=3.0), ReplayTable(["family/*"])]
    p = Tables(tables).probabilities(store, learnable, 0.0)
    # Family 2 belongs to the first table that names it: 3 parts of 4.
    assert p[store.family == 2].sum() == pytest.approx(0.75)
    assert p[store.family != 2].sum() == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"table of maze has no trajectory.*family/0, family/1"):
        Tables([ReplayTable(["maze"])]).probabilities(store, learnable, 0.0)
    only = Tables([ReplayTable(["family/1"], prioritisation=RankWeighted())])
    assert set(store.family[only.probabilities(store, learnable, 0.0) > 0]) == {1}


def test_what_is_composed_is_told_and_remembered() -> None:
    def composed() -> Prioritisation:
        return Filtered(
            [BestShare(0.9)],
            Tables([ReplayTable(["a"], prioritisation=TDErrorWeighted()), ReplayTable(["b"])]),
        )

    first, second = composed(), composed()
    assert first.needs_td_errors
    assert not Filtered([BestShare(0.9)], QualityWeighted()).needs_td_errors
    _told(first, [2], [0.5])
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert state["prioritisation"]["tables"][0] == {"rows": [2], "errors": [0.5]}


def test_filters_come_one_after_the_other(make_store: MakeStore) -> None:
    store, learnable = make_store(13, 60)
    first, second = BestShare(0.5), AboveTaskValue()
    kept = second(store, first(store, learnable))
    p = Filtered([first, second], Uniform(balance_families=False)).probabilities(
        store, learnable, 0.0
    )
    np.testing.assert_allclose(p, kept / kept.sum())
    with pytest.raises(ValueError, match="filter ReturnAtLeast keeps none"):
        Filtered([ReturnAtLeast(9.0)]).probabilities(store, learnable, 0.0)
