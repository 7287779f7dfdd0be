"""Behaviour half: what a return-conditioned policy achieves, by what it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.environments.goal_return import asking
from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Task

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Level:
    """What came of asking for one return.

    Attributes:
        family: Task family.
        asked: Return asked for at the beginning of each episode.
        beyond: Whether that is more than any stored trajectory of the family got.
        achieved: Mean return.
        success_rate: Share of the episodes that solved their task, in [0, 1].
        error: Mean absolute difference of achieved and asked.
        low: Lower limit of the mean's 95 % interval over episodes, for one checkpoint.
        high: Upper limit.
        episodes: Episodes, faulted ones left out.
    """

    family: str
    asked: float
    beyond: bool
    achieved: float
    success_rate: float
    error: float
    low: float
    high: float
    episodes: int


def asked_levels(returns_N: npt.NDArray[np.float64]) -> list[tuple[float, bool]]:
    """Quantiles of a family's returns, each once, and one level beyond them all.

    Args:
        returns_N: Returns of the family's stored trajectories.

    Returns:
        Levels, ascending, and whether each lies beyond the data.
    """
    inside = np.unique(np.round(np.quantile(returns_N, QUANTILES), 2)).tolist()
    spread = float(returns_N.max() - returns_N.min())
    return [(level, False) for level in inside] + [(float(returns_N.max()) + 0.5 * spread, True)]


def calibrate(
    policy: Policy,
    environments: Mapping[str, EnvironmentFactory],
    tasks: Mapping[str, Sequence[Task]],
    levels: Mapping[str, Sequence[tuple[float, bool]]],
    *,
    episodes: int,
    seed: int,
) -> list[Level]:
    """Ask for every level and see what comes of it.

    Args:
        policy: The policy.
        environments: Makes each family's environment, a ``GoalReturn``.
        tasks: Tasks of each family, the same for all of its levels.
        levels: Levels of each family; see ``asked_levels``.
        episodes: Episodes of each level.
        seed: Seed of action sampling.

    Raises:
        ValueError: If a family asks for no return.
    """
    results = []
    for family, asked in levels.items():
        turns = [tasks[family][i % len(tasks[family])] for i in range(episodes)]
        jobs = [Job(task, i // len(tasks[family])) for i, task in enumerate(turns)]
        for goal, beyond in asked:
            make = asking(environments[family], goal, family)
            tried = collect(
                policy, {family: make}, jobs, run="bench", seed=seed, arm=f"asked {goal}"
            )
            sound = [t for t in tried if t.truncation != "fault"]
            got = np.array([t.total_return for t in sound])
            mean = float(got.mean())
            half = 1.96 * float(got.std(ddof=1)) / math.sqrt(len(got))
            results.append(
                Level(
                    family=family,
                    asked=goal,
                    beyond=beyond,
                    achieved=mean,
                    success_rate=float(np.mean([t.success for t in sound])),
                    error=float(np.abs(got - goal).mean()),
                    low=mean - half,
                    high=mean + half,
                    episodes=len(got),
                )
            )
    return results


def slope(levels: Sequence[Level]) -> float:
    """Least-squares slope of achieved on asked, within the data; nan if only one was asked.

    1 = it gets what it is asked for, 0 = it does not listen.
    """
    inside = [level for level in levels if not level.beyond]
    asked = np.array([level.asked for level in inside])
    achieved = np.array([level.achieved for level in inside])
    centred = asked - asked.mean()
    square = float((centred**2).sum())
    return float((centred * achieved).sum()) / square if square > 0 else math.nan
