"""Behaviour half: task curricula that follow how fresh attempts went."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from retro_lightning.curriculum.columns import Floats
from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.tasks import (
    Deck,
    Families,
    TaskCurriculum,
    UniformTasks,
    require_tasks,
)
from retro_lightning.trajectory import Task


class SuccessBand(TaskCurriculum):
    """Tries tasks that are neither solved already nor hopeless.

    What the policy would do at a task is estimated from its attempts there, newer ones counting
    more, shrunk towards its success in the family; an untried task has the family's rate. Families
    with tasks inside the band take turns; where there is none, all tasks are tried alike.

    Left out of what the idea comes from (Florensa et al. 2018, arXiv 1705.06366, goals of
    intermediate difficulty): no tasks are generated, they are chosen.

    Args:
        low: Least estimated success rate, in [0, 1), of a task inside the band.
        high: Largest estimated success rate, above ``low``, of a task inside the band.
        explore: Share of each round, in [0, 1], that is tried as ``UniformTasks`` would, so that
            estimates outside the band do not grow old. Higher = less of a curriculum.
        memory: What an attempt still counts after another attempt at the task, in (0, 1]. Lower =
            follows the policy faster, with more noise.
        prior_weight: How many attempts the family's rate counts for, above 0.
    """

    def __init__(
        self,
        low: float = 0.2,
        high: float = 0.8,
        explore: float = 0.2,
        memory: float = 0.8,
        prior_weight: float = 1.0,
    ) -> None:
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(
                f"SuccessBand: low is {low} and high is {high}; give 0 <= low < high <= 1"
            )
        if not 0.0 <= explore <= 1.0:
            raise ValueError(f"SuccessBand: explore is {explore}; give a share between 0 and 1")
        if not 0.0 < memory <= 1.0:
            raise ValueError(f"SuccessBand: memory is {memory}; give a number above 0, at most 1")
        if not 0.0 < prior_weight < math.inf:
            raise ValueError(
                f"SuccessBand: prior_weight is {prior_weight}; give a finite number above 0"
            )
        self.low, self.high = low, high
        self.explore, self.memory, self.prior_weight = explore, memory, prior_weight
        self._uniform = UniformTasks()
        self._tasks: dict[str, list[float]] = {}
        self._families: dict[str, list[float]] = {}

    def choose(self, families: Families, n: int, rng: np.random.Generator) -> list[Task]:
        """See ``TaskCurriculum``."""
        require_tasks(families)
        inside = {
            name: [t for t in tasks if self.low <= self.estimate(t.task_id, name) <= self.high]
            for name, tasks in families.items()
        }
        inside = {name: tasks for name, tasks in inside.items() if tasks}
        explored = round(self.explore * n) if inside else n
        chosen = self._uniform.choose(families, explored, rng)
        names = [str(name) for name in rng.permutation(list(inside))]
        orders = {name: rng.permutation(len(inside[name])) for name in names}
        for turn in range(n - explored):
            name, place = names[turn % len(names)], turn // len(names)
            chosen.append(inside[name][int(orders[name][place % len(orders[name])])])
        return chosen

    def estimate(self, task_id: str, family: str) -> float:
        """Estimated success rate at a task, in [0, 1]; 0.5 before anything was tried."""
        attempts, successes = self._families.get(family, (0.0, 0.0))
        rate = (successes + 0.5) / (attempts + 1.0)
        attempts, successes = self._tasks.get(task_id, (0.0, 0.0))
        return (successes + self.prior_weight * rate) / (attempts + self.prior_weight)

    def observe(self, feedback: Feedback) -> None:
        """Renew the estimates."""
        for family in {outcome.family for outcome in feedback.outcomes}:
            self._families[family] = [c * self.memory for c in self._families.get(family, (0, 0))]
        for outcome in feedback.outcomes:
            attempts, successes = self._tasks.get(outcome.task_id, (0.0, 0.0))
            self._tasks[outcome.task_id] = [
                attempts * self.memory + 1.0,
                successes * self.memory + outcome.success,
            ]
            self._families[outcome.family][0] += 1.0
            self._families[outcome.family][1] += outcome.success

    def state_dict(self) -> dict[str, Any]:
        """See ``TaskCurriculum``."""
        return {
            "uniform": self._uniform.state_dict(),
            "tasks": {name: list(counts) for name, counts in self._tasks.items()},
            "families": {name: list(counts) for name, counts in self._families.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``TaskCurriculum``."""
        self._uniform.load_state_dict(state["uniform"])
        self._tasks = {name: list(counts) for name, counts in state["tasks"].items()}
        self._families = {name: list(counts) for name, counts in state["families"].items()}


class LearningProgress(TaskCurriculum):
    """Tries families in proportion to how fast success at them changes, up or down.

    Absolute learning progress (Matiisen et al. 2017, arXiv 1707.00183) as the distance between a
    fast and a slow moving average of success (Kanitscheider et al. 2021, arXiv 2106.14876), both
    renewed once a round, so that their noise is that of a whole round. Left out: the reweighting
    of small success rates. A family that is forgotten comes back by itself.

    Args:
        fast: How far the fast average follows each round, in (0, 1].
        slow: How far the slow average follows each round, in (0, fast).
        uniform_share: Share of each round, in (0, 1], that the families get alike. Higher = less
            of a curriculum.
    """

    def __init__(self, fast: float = 0.5, slow: float = 0.1, uniform_share: float = 0.3) -> None:
        if not 0.0 < slow < fast <= 1.0:
            raise ValueError(
                f"LearningProgress: slow is {slow} and fast is {fast}; give 0 < slow < fast <= 1"
            )
        if not 0.0 < uniform_share <= 1.0:
            raise ValueError(
                f"LearningProgress: uniform_share is {uniform_share}; give a share above 0, at "
                "most 1, or a family at rest is never tried again"
            )
        self.fast, self.slow, self.uniform_share = fast, slow, uniform_share
        self._deck = Deck()
        self._averages: dict[str, list[float]] = {}

    def shares(self, names: list[str]) -> Floats:
        """Share of each family in the next round; they add up to 1."""
        averages = [self._averages.get(name, (0.0, 0.0)) for name in names]
        progress_F = np.array([abs(fast - slow) for fast, slow in averages])
        total = progress_F.sum()
        uniform_F = np.full(len(names), 1.0 / len(names))
        following_F = progress_F / total if total > 0 else uniform_F
        return np.asarray(self.uniform_share * uniform_F + (1.0 - self.uniform_share) * following_F)

    def choose(self, families: Families, n: int, rng: np.random.Generator) -> list[Task]:
        """See ``TaskCurriculum``; a family's tasks are dealt none twice before all."""
        require_tasks(families)
        self._deck.shuffle_once(rng)
        names = list(families)
        points = (rng.random() + np.arange(n)) / n
        places = np.searchsorted(np.cumsum(self.shares(names)), points, side="right")
        chosen = rng.permutation(np.minimum(places, len(names) - 1))
        return [self._deck.deal(families, names[int(place)]) for place in chosen]

    def observe(self, feedback: Feedback) -> None:
        """Renew both averages of the families that were tried."""
        successes: dict[str, list[bool]] = {}
        for outcome in feedback.outcomes:
            successes.setdefault(outcome.family, []).append(outcome.success)
        for family, those in successes.items():
            mean = sum(those) / len(those)
            fast, slow = self._averages.get(family, (mean, mean))
            self._averages[family] = [
                fast + self.fast * (mean - fast),
                slow + self.slow * (mean - slow),
            ]

    def state_dict(self) -> dict[str, Any]:
        """See ``TaskCurriculum``."""
        averages = {name: list(pair) for name, pair in self._averages.items()}
        return {"deck": self._deck.state_dict(), "averages": averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``TaskCurriculum``."""
        self._deck.load_state_dict(state["deck"])
        self._averages = {name: list(pair) for name, pair in state["averages"].items()}
