"""Comparisons of arms: aggregates against naive oracles, verdicts against hand-made runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from retro_lightning.evaluation import paired_t_test
from retro_lightning.evaluation.aggregates import (
    interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)
from retro_lightning.evaluation.comparison import Arm, Run, choose_test, compare_arms, summarise

scores = arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(0, 1))


def run(seed: int, solved: int, tasks: int = 10, family: str = "maze") -> Run:
    outcomes = {f"t{i}": [float(i < solved), 0.0, 3.0] for i in range(tasks)}
    return Run(f"run of seed {seed}", seed, {family: outcomes})


def arm(label: str, *solved: int) -> Arm:
    return Arm(label, tuple(run(seed, n) for seed, n in enumerate(solved)))


def test_interquartile_mean_by_hand():
    # Eight scores: two of each end are cut, the mean of 3, 4, 5, 6 stays.
    assert interquartile_mean([[1, 2, 3, 4], [5, 6, 7, 100]]) == 4.5
    assert math.isnan(interquartile_mean([]))


@given(scores)
def test_interquartile_mean_is_scipys_trimmed_mean(values):
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=None))


def test_bootstrap_redraws_seeds_within_families():
    # One family is always 0, the other always 1: whatever is redrawn, half of the scores is 0, and
    # of the middle half as many are 0 as 1.
    values = np.array([[0.0, 1.0]] * 4)
    assert stratified_bootstrap(values, np.random.default_rng(0)) == (0.5, 0.5)


def test_bootstrap_interval_by_brute_force():
    # Two seeds, one family: the four resamples are (0, 0), (0, 1), (1, 0), (1, 1), nothing is cut
    # of two scores (int(0.25 * 2) = 0), so means are 0, 0.5, 0.5, 1 and the interval all of it.
    interval = stratified_bootstrap(np.array([[0.0], [1.0]]), np.random.default_rng(0))
    assert interval == (0.0, 1.0)


@given(scores, st.data())
def test_probability_of_improvement_is_that_of_a_random_pair(ours, data):
    families = ours.shape[1]
    theirs = data.draw(
        arrays(float, st.tuples(st.integers(1, 5), st.just(families)), elements=st.floats(0, 1))
    )
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for f in range(families)
        for a in ours[:, f]
        for b in theirs[:, f]
    ]
    # every family has as many pairs, so the mean over families is the mean over all pairs
    assert probability_of_improvement(ours, theirs) == pytest.approx(sum(wins) / len(wins))
    both = probability_of_improvement(ours, theirs) + probability_of_improvement(theirs, ours)
    assert both == pytest.approx(1.0)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20).filter(lambda v: np.std(v) > 1e-6))
def test_t_test_equals_scipy(values):
    assert paired_t_test(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=1e-9)


def test_t_test_without_spread():
    assert paired_t_test([0.0, 0.0]) == 1.0
    assert paired_t_test([1.0, 1.0]) == 0.0


def test_a_comparison_by_hand():
    # Six seeds, 2 of 10 tasks more in each: differences are 0.2, the sign-flip p is 2 / 64.
    [found] = compare_arms([arm("b", 5, 6, 7, 5, 6, 7), arm("a", 3, 4, 5, 3, 4, 5)])
    assert found.differences == pytest.approx((0.2,) * 6)
    assert (found.p, found.adjusted, found.smallest) == (2 / 64, 2 / 64, 2 / 64)
    assert found.winner == "b"
    # of 36 pairs of seeds b loses none but where it has 5 and a has 5: 4 ties
    assert found.improvement == pytest.approx((36 - 0.5 * 4) / 36)


def test_below_six_seeds_no_winner_is_called():
    [found] = compare_arms([arm("b", 9, 9, 9, 9, 9), arm("a", 1, 1, 1, 1, 1)])
    assert found.winner is None
    assert found.smallest == found.p == 2 / 32


def test_one_seed_has_a_difference_and_nothing_else():
    [found] = compare_arms([arm("b", 9), arm("a", 1)])
    assert found.mean == pytest.approx(0.8)
    assert math.isnan(found.low)
    assert found.p == 1.0


def test_seeds_are_paired_by_their_number_not_by_their_place():
    first = Arm("a", (run(1, 5), run(2, 6), run(9, 10)))
    second = Arm("b", (run(2, 5), run(1, 3), run(7, 0)))
    [found] = compare_arms([first, second])
    assert found.seeds == (1, 2)
    assert found.differences == pytest.approx((0.2, 0.1))


def test_families_count_alike_whatever_their_number_of_tasks():
    both = Run("r", 1, {**run(1, 1, tasks=1).outcomes, **run(1, 0, tasks=99, family="b").outcomes})
    assert Arm("a", (both,)).scores_SF.mean() == 0.5


def test_faulted_tasks_are_left_out_and_counted():
    broken = Run("r", 1, {"maze": {"t0": [1.0, 1.0, 2], "t1": None}, "b": {"t2": None}})
    summary = summarise(Arm("a", (broken,)), np.random.default_rng(0))
    assert (summary.mean, summary.faults) == (0.5, 2)  # maze 1 of 1, b nothing


def test_different_tasks_are_refused():
    other = Arm("b", (run(0, 3, tasks=12),))
    with pytest.raises(ValueError, match=r"tried on different tasks \(2 differ\)"):
        compare_arms([arm("a", 3), other])


def test_arms_that_share_no_seed_are_refused():
    with pytest.raises(ValueError, match="a and b share no seed"):
        compare_arms([arm("a", 3), Arm("b", (run(7, 3),))])


def test_a_reference_is_compared_with_every_other_and_nothing_else():
    arms = [arm("c", 1, 2), arm("a", 2, 3), arm("b", 3, 4)]
    pairs = [(c.first, c.second) for c in compare_arms(arms, reference="c")]
    assert pairs == [("a", "c"), ("b", "c")]
    assert len(compare_arms(arms)) == 3
    with pytest.raises(ValueError, match="there is no arm 'd'"):
        compare_arms(arms, reference="d")


def test_holm_is_over_the_family():
    better = arm("b", 5, 6, 7, 5, 6, 7, 6)
    arms = [arm("a", 3, 4, 5, 3, 4, 5, 4), better, arm("c", 3, 4, 5, 3, 4, 5, 4)]
    found = {(c.first, c.second): c for c in compare_arms(arms, test="sign-flip")}
    # Seven seeds: p = 2 / 128 twice and 1; Holm: 3 * 2 / 128, and the second no less than it.
    assert found["a", "b"].adjusted == found["b", "c"].adjusted == 6 / 128
    assert found["a", "c"].adjusted == 1.0
    assert found["a", "c"].winner is None


def test_the_test_is_chosen_by_numbers_alone():
    assert choose_test(6, 1) == "sign-flip"  # 2 / 64 = 0.031
    assert choose_test(6, 2) == "t"  # 0.0625 could never be called
    assert choose_test(8, 6) == "sign-flip"  # 12 / 256 = 0.047
    assert choose_test(25, 1) == "t"
    assert choose_test(3, 1) == "sign-flip"  # nothing is called; p is printed
