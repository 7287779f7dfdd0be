"""Behaviour half: how often tasks were solved: counts that add up, intervals of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from retro_lightning.trajectory import Trajectory

Outcomes = dict[str, dict[str, list[float] | None]]
"""Family → task id → success (0 or 1), return and length; None where the environment raised."""


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
        """Mean of the families' success rates, each counting alike.

        A family in which every episode faulted has solved nothing and counts 0: it must not leave
        the mean, which would then speak of other families.
        """
        rates = [c.success_rate if c.episodes else 0.0 for c in self.families.values()]
        return _mean(rates)

    @property
    def faults(self) -> int:
        """Episodes in which the environment raised, over all families."""
        return sum(count.faults for count in self.families.values())

    @property
    def mean_return(self) -> float:
        """Mean of the families' mean returns, each counting alike; all-faulted ones left out."""
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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
