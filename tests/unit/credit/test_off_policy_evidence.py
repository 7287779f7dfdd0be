"""Evidence for off-policy estimates: coverage, rank correlation and regret by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from retro_lightning.credit.off_policy import Estimate
from retro_lightning.credit.off_policy_evidence import evidence, rank_correlation


def estimate(value: float, half: float = 0.1) -> Estimate:
    return Estimate(
        value=value, low=value - half, high=value + half, sample_size=50.0, method="made up"
    )


def test_by_hand() -> None:
    found = evidence([estimate(0.1), None, estimate(0.5), estimate(0.4)], [0.15, 9.0, 0.3, 0.7])
    # Of the three that were judged only the first interval holds its truth; the highest estimate
    # (0.5) has truth 0.3, the best has 0.7. Ranks 1, 3, 2 against 1, 2, 3: 1 - 6 * 2 / (3 * 8).
    assert found.judged == 3
    assert found.coverage == pytest.approx(1 / 3)
    assert found.regret == pytest.approx(0.4)
    assert found.rank_correlation == pytest.approx(0.5)
    assert math.isnan(found.rank_low)  # three say nothing of an interval
    assert not found.trusted


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_rank_correlation_equals_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert math.isnan(rank_correlation(one, other))
    else:
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


@pytest.mark.parametrize(
    ("policies", "swapped", "trusted"),
    # ten of twenty turned round: .75, but from .45 on by the interval
    [(20, 0, True), (20, 4, True), (19, 0, False), (20, 10, False), (20, 20, False)],
)
def test_trust_needs_twenty_policies_in_about_the_right_order(policies, swapped, trusted) -> None:
    truths = np.linspace(0, 1, policies)
    values = truths.copy()
    values[:swapped] = values[:swapped][::-1]
    assert evidence([estimate(v) for v in values], truths.tolist()).trusted is trusted


def test_all_refused_is_no_evidence() -> None:
    found = evidence([None, None], [0.1, 0.2])
    assert (found.judged, found.trusted) == (0, False)
    assert math.isnan(found.coverage)
    assert math.isnan(found.regret)


def test_the_interval_of_a_rank_correlation() -> None:
    truths = list(range(28))
    values = [float(v) for v in (*range(14, 28), *range(14))]  # two halves in the wrong order
    found = evidence([estimate(v) for v in values], truths)
    # d = 14 for all 28: 1 - 6 * 28 * 196 / (28 * 783) = -0.50192; z = atanh = -0.55215,
    # less 1.96 * 1.06 / 5 = 0.41552.
    assert found.rank_correlation == pytest.approx(1 - 6 * 196 / 783)
    assert found.rank_low == pytest.approx(math.tanh(math.atanh(1 - 6 * 196 / 783) - 0.41552))
