"""Behaviour half: the task curriculum, which tasks the policy tries next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class TaskCurriculum(ABC):
    """Chooses the tasks of the next round of rollouts."""

    @abstractmethod
    def choose(
        self, families: Mapping[str, Sequence[T]], n: int, rng: np.random.Generator
    ) -> list[T]:
        """Choose the tasks to try next.

        Args:
            families: The tasks of each family; the order must not change in the course of a run.
            n: Number of tasks to choose.
            rng: Source of randomness, derived by the caller from the run's seed and the round.

        Returns:
            ``n`` tasks.

        Raises:
            ValueError: If there is no family, or one has no tasks.
        """

    def observe(  # noqa: B027  (not all need feedback)
        self, task_ids: Sequence[str], successes: Sequence[bool]
    ) -> None:
        """Learn how the chosen tasks went."""

    def state_dict(self) -> dict[str, Any]:
        """State as Python primitives."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Return to a state."""


class UniformTasks(TaskCurriculum):
    """Takes the families in turn, and of each its tasks in random order, none twice before all.

    The turn goes on where it stopped in the round before, so that over rounds every family is
    tried equally often even where their number does not divide the round.
    """

    def __init__(self) -> None:
        self._seed: int | None = None
        self._turn = 0
        self._chosen: dict[str, int] = {}

    def choose(
        self, families: Mapping[str, Sequence[T]], n: int, rng: np.random.Generator
    ) -> list[T]:
        """See ``TaskCurriculum``; the generator is read in the first round only."""
        names = list(families)
        if not names or not all(families[name] for name in names):
            empty = [name for name in names if not families[name]]
            raise ValueError(
                f"no training tasks for {', '.join(empty) or 'any family'}: name at least one "
                "environment, each with at least one training task"
            )
        if self._seed is None:
            self._seed = int(rng.integers(2**31))
        tasks = []
        for _ in range(n):
            place = self._turn % len(names)
            self._turn += 1
            tasks.append(self._next(place, names[place], families[names[place]]))
        return tasks

    def _next(self, place: int, name: str, tasks: Sequence[T]) -> T:
        """The family's next task: position in the present pass's permutation."""
        chosen = self._chosen.get(name, 0)
        self._chosen[name] = chosen + 1
        passed, position = divmod(chosen, len(tasks))
        order = np.random.default_rng([self._seed or 0, place, passed]).permutation(len(tasks))
        return tasks[int(order[position])]

    def state_dict(self) -> dict[str, Any]:
        """See ``TaskCurriculum``."""
        return {"seed": self._seed, "turn": self._turn, "chosen": dict(self._chosen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``TaskCurriculum``."""
        self._seed = state["seed"]
        self._turn = int(state["turn"])
        self._chosen = {str(name): int(count) for name, count in state["chosen"].items()}
