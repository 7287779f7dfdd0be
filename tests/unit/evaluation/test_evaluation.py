"""Counts, intervals and paired tests against naive oracles and hand-computed numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retro_lightning.evaluation import (
    EvaluationCounts,
    holm,
    paired_sign_flip,
    paired_t_interval,
    smallest_reachable_p,
    wilson,
)
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory

differences = st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=9)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def outcome(family: str, success: bool, fault: bool = False) -> Trajectory:
    base = random_trajectory(np.random.default_rng(0), steps=0)
    step = random_trajectory(np.random.default_rng(1), steps=1).steps[0]
    return dataclasses.replace(
        base,
        task=dataclasses.replace(base.task, family=family),
        steps=(dataclasses.replace(step, reward=0.5),),
        success=success,
        truncated=fault,
        truncation="fault" if fault else None,
        outcome_return=None,
    )


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.959964, z² = 3.841459: centre (0.8 + 0.192073) / 1.3841459 = 0.716740,
    # half width 1.959964 · sqrt(0.016 + 0.00960365) / 1.3841459 = 0.226577.
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490163, abs=1e-5)
    assert high == pytest.approx(0.943317, abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500), st.data())
def test_wilson_is_a_proportion_around_the_rate_and_grows_with_success(trials, data) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high
    oracle = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    if successes:
        fewer = wilson(successes - 1, trials)
        assert fewer[0] < low
        assert fewer[1] < high


def test_wilson_refuses_the_impossible() -> None:
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        wilson(3, 2)


@given(differences)
def test_sign_flip_equals_brute_force(values) -> None:
    observed = abs(sum(values))  # whole numbers: sums are exact
    flips = list(itertools.product((1, -1), repeat=len(values)))
    extreme = sum(
        abs(sum(s * v for s, v in zip(f, values, strict=True))) >= observed for f in flips
    )
    assert paired_sign_flip(values) == extreme / len(flips)
    assert paired_sign_flip([-v for v in values]) == paired_sign_flip(values)
    assert smallest_reachable_p(len(values)) <= paired_sign_flip(values) <= 1


def test_sign_flip_by_hand() -> None:
    # All six differences positive: only + + + + + + and its mirror are as extreme, 2 / 64.
    assert paired_sign_flip([0.1, 0.2, 0.3, 0.1, 0.4, 0.2]) == 2 / 64 == smallest_reachable_p(6)
    # (3, -1): |sums| of the four patterns are 2, 4, 4, 2, all at least 2.
    assert paired_sign_flip([3.0, -1.0]) == 1.0
    assert [smallest_reachable_p(n) for n in (1, 2, 3)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_sign_flip_counts_ties_in_spite_of_rounding(scale: float) -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in floating point; every pattern ties with or exceeds a sum of 0.
    assert paired_sign_flip([0.1 * scale, 0.2 * scale, -0.3 * scale]) == 1.0


def test_sign_flip_takes_one_to_twenty_seeds() -> None:
    assert paired_sign_flip([1.0] * 20) == 2.0**-19
    for wrong in ([], [1.0] * 21):
        with pytest.raises(ValueError, match="1 to 20 paired seeds"):
            paired_sign_flip(wrong)


def test_t_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); t(0.975, 2) = 4.302653.
    mean, low, high = paired_t_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    with pytest.raises(ValueError, match="at least 2 paired seeds, not 1"):
        paired_t_interval([1.0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30).filter(lambda v: np.std(v) > 1e-6))
def test_t_interval_equals_scipy(values) -> None:
    mean, low, high = paired_t_interval(values, 0.9)
    oracle = stats.t.interval(0.9, len(values) - 1, np.mean(values), stats.sem(values))
    np.testing.assert_allclose((low, high), oracle, atol=1e-9)
    assert low < mean < high


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1 = 0.03, 0.06, 0.04; never less than the one before.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@given(probabilities)
def test_holm_equals_its_definition(p_values) -> None:
    n = len(p_values)
    ranked = sorted(p_values)

    def naive(p: float) -> float:
        return min(
            1.0,
            max(
                (n - j) * q
                for j, q in enumerate(ranked)
                if q <= p and (q < p or j <= ranked.index(p))
            ),
        )

    adjusted = holm(p_values)
    assert adjusted == pytest.approx([naive(p) for p in p_values])
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))


def test_counts_by_hand() -> None:
    counts = EvaluationCounts.from_trajectories(
        [
            outcome("a", True),
            outcome("a", False),
            outcome("b", True),
            outcome("b", True, fault=True),
        ]
    )
    assert counts.families["a"].success_rate == 0.5
    assert counts.families["a"].mean_return == 0.5
    assert (counts.families["b"].episodes, counts.families["b"].faults) == (1, 1)
    assert counts.success_rate == 0.75  # families count alike: (0.5 + 1) / 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans())), st.integers(1, 4))
def test_counts_of_processes_add_up_to_those_of_one(outcomes, processes) -> None:
    trajectories = [outcome(*each) for each in outcomes]
    parts = [
        EvaluationCounts.from_trajectories(trajectories[rank::processes])
        for rank in range(processes)
    ]
    whole = EvaluationCounts.merge([EvaluationCounts.from_trajectories(trajectories)])
    assert EvaluationCounts.merge(parts) == whole
    assert list(whole.families) == sorted(whole.families)


def test_no_episode_is_no_rate() -> None:
    counts = EvaluationCounts.from_trajectories([outcome("a", True, fault=True)])
    assert math.isnan(counts.families["a"].success_rate)
    assert counts.faults == 1


def test_a_family_that_only_faults_stays_in_the_mean() -> None:
    counts = EvaluationCounts.from_trajectories(
        [outcome("a", True), outcome("b", True, fault=True)]
    )
    assert counts.success_rate == 0.5  # (1 + 0) / 2: nothing of b was solved
