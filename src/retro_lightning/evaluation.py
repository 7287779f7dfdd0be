"""Behaviour half: what may be said of a policy: counts, intervals and paired tests.

A Wilson interval speaks of one checkpoint on one set of tasks. Whether one configuration is better
than another is asked of paired seeds: at least six (``docs/experiments.md``, Evidence).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

from retro_lightning.trajectory import Trajectory


@dataclass(frozen=True)
class FamilyCount:
    """Outcomes on the tasks of one family.

    Attributes:
        episodes: Episodes, faulted ones left out.
        successes: How many of them solved their task.
        return_sum: Sum of their undiscounted returns.
        faults: Episodes in which the environment raised.
    """

    episodes: int = 0
    successes: int = 0
    return_sum: float = 0.0
    faults: int = 0

    def __add__(self, other: FamilyCount) -> FamilyCount:
        """Counts of both together."""
        return FamilyCount(
            self.episodes + other.episodes,
            self.successes + other.successes,
            self.return_sum + other.return_sum,
            self.faults + other.faults,
        )

    @property
    def success_rate(self) -> float:
        """Share of episodes that solved their task; NaN without episodes."""
        return self.successes / self.episodes if self.episodes else math.nan

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return; NaN without episodes."""
        return self.return_sum / self.episodes if self.episodes else math.nan


@dataclass(frozen=True)
class EvaluationCounts:
    """Outcomes by family; counts of several processes or rounds add up.

    Attributes:
        families: Name of the family → its counts.
    """

    families: dict[str, FamilyCount]

    @classmethod
    def from_trajectories(cls, trajectories: Iterable[Trajectory]) -> EvaluationCounts:
        """Count the outcomes of trajectories."""
        families: dict[str, FamilyCount] = {}
        for trajectory in trajectories:
            one = (
                FamilyCount(faults=1)
                if trajectory.truncation == "fault"
                else FamilyCount(1, int(trajectory.success), trajectory.total_return)
            )
            family = trajectory.task.family
            families[family] = families.get(family, FamilyCount()) + one
        return cls(families)

    @classmethod
    def merge(cls, parts: Iterable[EvaluationCounts]) -> EvaluationCounts:
        """Counts of all parts together, families in alphabetical order."""
        families: dict[str, FamilyCount] = {}
        for part in parts:
            for family, count in part.families.items():
                families[family] = families.get(family, FamilyCount()) + count
        return cls(dict(sorted(families.items())))

    @property
    def success_rate(self) -> float:
        """Mean of the families' success rates, each counting alike."""
        return _mean([count.success_rate for count in self.families.values() if count.episodes])

    @property
    def mean_return(self) -> float:
        """Mean of the families' mean returns, each counting alike."""
        return _mean([count.mean_return for count in self.families.values() if count.episodes])


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927), for one checkpoint.

    Args:
        successes: Episodes that succeeded.
        trials: Episodes.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper limit, in [0, 1]; (0, 1) without trials.

    Raises:
        ValueError: If there are more successes than trials, or a number is negative.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is impossible")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, rate)), min(1.0, max(high, rate))


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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
