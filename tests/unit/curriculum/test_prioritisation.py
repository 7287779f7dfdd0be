"""Replay prioritisation: what is open, how much it weighs, and what never is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.curriculum.pacing import Linear
from retro_lightning.curriculum.prioritisation import (
    Prioritisation,
    QualityWeighted,
    Uniform,
    balanced,
    best_of_each,
)

MakeStore = Callable[..., Any]
ALL = [
    Uniform(),
    Uniform(balance_families=False),
    QualityWeighted(),
    QualityWeighted(alpha=3.0, start_fraction=0.1, pacing=Linear(), balance_families=False),
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


@pytest.mark.parametrize("prioritisation", [Uniform(), QualityWeighted()])
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
        curriculum.observe(success)
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
        success_weight=1.0,
        return_weight=0.0,
        efficiency_weight=0.0,
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
    first.observe(0.5)
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
        ({"return_weight": float("nan")}, "return_weight is nan"),
        (dict.fromkeys(("success_weight", "return_weight", "efficiency_weight"), 0.0), "all 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityWeighted(**arguments)  # type: ignore[arg-type]
