"""Behaviour half: arms (configurations, each run with several seeds) compared with each other.

Tasks are nested within seeds: a run is one number, the mean over families of the share of its
tasks that it solved; what is tested are differences of these numbers, paired by seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from retro_lightning.evaluation.aggregates import (
    interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)
from retro_lightning.evaluation.counts import Outcomes
from retro_lightning.evaluation.paired import (
    holm,
    paired_sign_flip,
    paired_t_interval,
    paired_t_test,
    smallest_reachable_p,
)

Floats = npt.NDArray[np.float64]
Test = Literal["sign-flip", "t"]

LEAST_SEEDS = 6
LEVEL = 0.05
_MOST_EXACT = 20


@dataclass(frozen=True)
class Run:
    """One run, as far as a comparison looks at it.

    Attributes:
        name: How a person finds it again.
        seed: Its seed; runs of equal seed are paired.
        outcomes: Of every evaluation task.
        curve: Optimiser steps, environment steps and validation score of each round.
    """

    name: str
    seed: int
    outcomes: Outcomes
    curve: tuple[tuple[int, int, float], ...] = ()

    @property
    def tasks(self) -> frozenset[str]:
        """Ids of the tasks that it was tried on."""
        return frozenset(task for tasks in self.outcomes.values() for task in tasks)

    @property
    def faults(self) -> int:
        """Tasks whose environment raised."""
        return sum(o is None for tasks in self.outcomes.values() for o in tasks.values())

    def scores(self, families: Sequence[str]) -> list[float]:
        """Share of each family's tasks solved; faulted ones left out, 0 where all are."""
        rates = []
        for family in families:
            solved = [o[0] for o in self.outcomes[family].values() if o is not None]
            rates.append(sum(solved) / len(solved) if solved else 0.0)
        return rates


@dataclass(frozen=True)
class Arm:
    """A configuration and its runs.

    Attributes:
        label: How tables and figures name it.
        runs: One for each seed, by seed.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def families(self) -> list[str]:
        """Families of the evaluation tasks."""
        return sorted(self.runs[0].outcomes)

    @property
    def scores_SF(self) -> Floats:
        """Share of tasks solved, of every seed in every family."""
        return np.array([run.scores(self.families) for run in self.runs], dtype=np.float64)


@dataclass(frozen=True)
class ArmSummary:
    """What an arm reached.

    Attributes:
        label: Name of the arm.
        seeds: Number of its runs.
        mean: Mean score over seeds.
        interquartile: Interquartile mean over seeds and families.
        low: Lower limit of its stratified bootstrap interval.
        high: Upper limit.
        faults: Tasks whose environment raised, over all runs.
    """

    label: str
    seeds: int
    mean: float
    interquartile: float
    low: float
    high: float
    faults: int


@dataclass(frozen=True)
class Comparison:
    """One pair of arms.

    Attributes:
        first: Label of one arm.
        second: Label of the other.
        seeds: Seeds that both were run with.
        differences: Score of the first less that of the second, one per paired seed.
        mean: Mean difference.
        low: Lower limit of its 95 % t interval; NaN below two seeds.
        high: Upper limit.
        p: P-value before correction; NaN below two seeds.
        adjusted: P-value after Holm's correction for the family of comparisons.
        smallest: Smallest p-value that the test could have given, before correction.
        test: Which test.
        improvement: Probability that a run of the first beats one of the second.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    p: float
    adjusted: float
    smallest: float
    test: Test
    improvement: float

    @property
    def winner(self) -> str | None:
        """The arm that is better, if that may be said: six paired seeds, p at most 0.05."""
        if len(self.seeds) < LEAST_SEEDS or not self.adjusted <= LEVEL:
            return None
        return self.first if self.mean > 0 else self.second


def compare_arms(
    arms: Sequence[Arm], *, reference: str | None = None, test: Test | None = None
) -> list[Comparison]:
    """Compare arms in pairs, as one family of comparisons.

    Args:
        arms: At least two, tried on the same tasks.
        reference: Compare all others with this arm alone; None = every pair.
        test: Which test; None = ``choose_test``.

    Raises:
        ValueError: If runs were tried on different tasks, or a pair shares no seed.
    """
    check_same_tasks(arms)
    pairs = [
        (first, second)
        for first, second in itertools.combinations(_reference_last(arms, reference), 2)
        if reference is None or second.label == reference
    ]
    seeds = [sorted({r.seed for r in a.runs} & {r.seed for r in b.runs}) for a, b in pairs]
    for (first, second), shared in zip(pairs, seeds, strict=True):
        if not shared:
            raise ValueError(
                f"{first.label} and {second.label} share no seed, so that nothing is paired: run "
                "both with the same --seed_everything"
            )
    chosen = test or choose_test(min(len(shared) for shared in seeds), len(pairs))
    raw = [_pair(a, b, s, chosen) for (a, b), s in zip(pairs, seeds, strict=True)]
    adjusted = holm([1.0 if np.isnan(c.p) else c.p for c in raw])
    return [
        c if np.isnan(c.p) else replace(c, adjusted=p) for c, p in zip(raw, adjusted, strict=True)
    ]


def choose_test(seeds: int, comparisons: int) -> Test:
    """The exact sign-flip test where it could still find something, else the paired t-test.

    What is chosen depends on the numbers of seeds and comparisons alone, never on the outcomes.

    Args:
        seeds: Paired seeds.
        comparisons: Comparisons in the family, which Holm's correction multiplies p by at most.
    """
    exact = seeds <= _MOST_EXACT and smallest_reachable_p(seeds) * comparisons <= LEVEL
    return "sign-flip" if exact or seeds < LEAST_SEEDS else "t"


def check_same_tasks(arms: Sequence[Arm]) -> None:
    """Refuse runs that were tried on different tasks.

    Raises:
        ValueError: If some were.
    """
    runs = [run for arm in arms for run in arm.runs]
    for run in runs[1:]:
        if run.tasks != runs[0].tasks:
            differing = len(run.tasks ^ runs[0].tasks)
            raise ValueError(
                f"{run.name} and {runs[0].name} were tried on different tasks "
                f"({differing} differ): compare runs with the same data.environments"
            )


def summarise(arm: Arm, rng: np.random.Generator) -> ArmSummary:
    """What an arm reached, with an interval that describes and tests nothing."""
    scores_SF = arm.scores_SF
    low, high = stratified_bootstrap(scores_SF, rng)
    return ArmSummary(
        label=arm.label,
        seeds=len(arm.runs),
        mean=float(scores_SF.mean()),
        interquartile=interquartile_mean(scores_SF),
        low=low,
        high=high,
        faults=sum(run.faults for run in arm.runs),
    )


def _reference_last(arms: Sequence[Arm], reference: str | None) -> list[Arm]:
    if reference is not None and reference not in [arm.label for arm in arms]:
        labels = ", ".join(arm.label for arm in arms)
        raise ValueError(f"there is no arm {reference!r} to compare with; there are {labels}")
    return sorted(arms, key=lambda arm: arm.label == reference)


def _pair(first: Arm, second: Arm, seeds: Sequence[int], test: Test) -> Comparison:
    families = first.families
    scores = [
        {run.seed: float(np.mean(run.scores(families))) for run in arm.runs}
        for arm in (first, second)
    ]
    differences = [scores[0][seed] - scores[1][seed] for seed in seeds]
    enough = len(seeds) >= 2
    mean, low, high = (
        paired_t_interval(differences)
        if enough
        else (float(np.mean(differences)), float("nan"), float("nan"))
    )
    exact = test == "sign-flip" and len(seeds) <= _MOST_EXACT
    p_value = paired_sign_flip(differences) if exact else float("nan")
    if not exact and enough:
        p_value = paired_t_test(differences)
    return Comparison(
        first=first.label,
        second=second.label,
        seeds=tuple(seeds),
        differences=tuple(differences),
        mean=mean,
        low=low,
        high=high,
        p=p_value,
        adjusted=p_value,
        smallest=smallest_reachable_p(len(seeds)) if exact else 0.0,
        test="sign-flip" if exact else "t",
        improvement=probability_of_improvement(first.scores_SF, second.scores_SF),
    )
