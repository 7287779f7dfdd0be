"""Behaviour half: tests of paired differences: is one configuration better than another?

Asked of paired seeds, at least six (``docs/experiments.md``, Evidence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit


def paired_sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided sign-flip test of paired differences (Fisher 1935).

    Under the null hypothesis each seed's difference is as likely with either sign; the p-value is
    the share of the 2^n sign patterns whose mean is at least as far from 0.

    Args:
        differences: One difference per paired seed, at most 20.

    Returns:
        The p-value, in (0, 1]; never below ``smallest_reachable_p(n)``.

    Raises:
        ValueError: If there are no differences or more than 20.
    """
    count = len(differences)
    if not 1 <= count <= 20:
        raise ValueError(f"the exact sign-flip test takes 1 to 20 paired seeds, not {count}")
    values = np.asarray(differences, dtype=np.float64)
    totals = values[:1]  # by symmetry the first sign may stay
    for value in values[1:]:
        totals = np.concatenate([totals + value, totals - value])
    rounding = 1e-12 * float(np.abs(values).sum())
    extreme = np.abs(totals) >= abs(float(values.sum())) - rounding
    return int(extreme.sum()) / len(totals)


def smallest_reachable_p(seeds: int) -> float:
    """The least p-value an exact two-sided sign-flip test on this many paired seeds can give."""
    return min(1.0, 2.0 * 0.5**seeds)


def paired_t_interval(
    differences: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of paired differences with Student's t interval over seeds.

    Args:
        differences: One difference per paired seed, at least 2.
        confidence: Coverage, in (0, 1).

    Returns:
        Mean, lower and upper limit.

    Raises:
        ValueError: If there are fewer than 2 differences.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"an interval over seeds needs at least 2 paired seeds, not {count}")
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    half = float(stdtrit(count - 1, 0.5 + confidence / 2.0) * values.std(ddof=1))
    half /= math.sqrt(count)
    return mean, mean - half, mean + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for a family of comparisons (Holm 1979).

    Returns:
        Adjusted p-values in the order given, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def paired_t_test(differences: Sequence[float]) -> float:
    """Two-sided paired t-test (Student 1908): p-value of the mean difference being 0.

    Args:
        differences: One difference per paired seed, at least 2.

    Returns:
        The p-value; 1 where all differences are 0.

    Raises:
        ValueError: If there are fewer than 2 differences.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"a t-test over seeds needs at least 2 paired seeds, not {count}")
    values = np.asarray(differences, dtype=np.float64)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    statistic = mean / (spread / math.sqrt(count))
    return float(2.0 * stdtr(count - 1, -abs(statistic)))
