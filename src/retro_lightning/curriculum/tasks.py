"""Behaviour half: the task curriculum, which tasks the policy tries next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.trajectory import Task

Families = Mapping[str, Sequence[Task]]
"""The tasks of each family; the order must not change in the course of a run."""


class TaskCurriculum(ABC):
    """Chooses the tasks of the next round of rollouts, and how long each may take."""

    @abstractmethod
    def choose(self, families: Families, n: int, rng: np.random.Generator) -> list[Task]:
        """Choose the tasks to try next.

        Args:
            families: The tasks of each family.
            n: Number of tasks to choose.
            rng: Source of randomness, derived by the caller from the run's seed and the round.

        Returns:
            ``n`` tasks.

        Raises:
            ValueError: If there is no family, or one has no tasks.
        """

    def horizon(self, progress: float) -> int | None:
        """Most steps of an episode by now; None = the task's own limit.

        Args:
            progress: Share of the fit that is done, in [0, 1].
        """
        return None

    def observe(self, feedback: Feedback) -> None:  # noqa: B027  (not all need feedback)
        """Learn how the fit goes; the outcomes of a round come in one record."""

    def state_dict(self) -> dict[str, Any]:
        """State as Python primitives."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Return to a state."""


class Deck:
    """Deals the tasks of each family in random order, none twice before all."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._dealt: dict[str, int] = {}

    def shuffle_once(self, rng: np.random.Generator) -> None:
        """Fix all orders to come; only the first call reads the generator."""
        if self._seed is None:
            self._seed = int(rng.integers(2**31))

    def deal(self, families: Families, name: str) -> Task:
        """The family's next task: position in the present pass's permutation."""
        tasks, place = families[name], list(families).index(name)
        dealt = self._dealt.get(name, 0)
        self._dealt[name] = dealt + 1
        passed, position = divmod(dealt, len(tasks))
        order = np.random.default_rng([self._seed or 0, place, passed]).permutation(len(tasks))
        return tasks[int(order[position])]

    def state_dict(self) -> dict[str, Any]:
        """The seed of the orders and how many tasks of each family were dealt."""
        return {"seed": self._seed, "chosen": dict(self._dealt)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        self._seed = state["seed"]
        self._dealt = {str(name): int(count) for name, count in state["chosen"].items()}


class UniformTasks(TaskCurriculum):
    """Takes the families in turn, and of each its tasks in random order, none twice before all.

    The turn goes on where it stopped in the round before, so that over rounds every family is
    tried equally often even where their number does not divide the round.
    """

    def __init__(self) -> None:
        self._deck = Deck()
        self._turn = 0

    def choose(self, families: Families, n: int, rng: np.random.Generator) -> list[Task]:
        """See ``TaskCurriculum``; the generator is read in the first round only."""
        require_tasks(families)
        self._deck.shuffle_once(rng)
        names = list(families)
        turns = range(self._turn, self._turn + n)
        self._turn += n
        return [self._deck.deal(families, names[turn % len(names)]) for turn in turns]

    def state_dict(self) -> dict[str, Any]:
        """See ``TaskCurriculum``."""
        return {"turn": self._turn, **self._deck.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``TaskCurriculum``."""
        self._turn = int(state["turn"])
        self._deck.load_state_dict(state)


def require_tasks(families: Families) -> None:
    """Refuse families without tasks.

    Raises:
        ValueError: Naming them.
    """
    if not families or not all(families.values()):
        empty = [name for name, tasks in families.items() if not tasks]
        raise ValueError(
            f"no training tasks for {', '.join(empty) or 'any family'}: name at least one "
            "environment, each with at least one training task"
        )
