"""Behaviour half: task curricula that climb: levels with promotion, and growing horizons."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.pacing import Linear, Pacing
from retro_lightning.curriculum.tasks import (
    Deck,
    Families,
    TaskCurriculum,
    UniformTasks,
    require_tasks,
)
from retro_lightning.trajectory import Task


class Levels(TaskCurriculum):
    """Promotes after success and demotes after failure; who finishes goes on at a random level.

    The game-inspired curriculum of Rudin et al. 2022 (arXiv 2109.11978, section 3.2, ANYmal): a
    number of walkers each stand on a level of their own and take turns in being tried. A level is
    one or more families. Walkers that finish the last level are spread over all levels, so that
    nothing is forgotten.

    Args:
        levels: Families, or patterns such as ``babyai/*``, of each level, from easy to hard; null
            = every family is a level, in the order of ``data.environments``.
        walkers: Number of walkers, at least 1. Lower = a walker is tried more often and climbs
            sooner; higher = the mixture of levels changes more smoothly.
        promote_from: Share of its attempts, in (0, 1], that a walker must succeed in to go up.
        demote_below: Share below which it goes down, in [0, ``promote_from``].
    """

    def __init__(
        self,
        levels: list[list[str]] | None = None,
        walkers: int = 64,
        promote_from: float = 0.5,
        demote_below: float = 0.5,
    ) -> None:
        if levels is not None and not all([levels, *levels]):
            raise ValueError("Levels: a level has no family; name at least one in each")
        if walkers < 1:
            raise ValueError(f"Levels: walkers is {walkers}; give a whole number of at least 1")
        if not 0.0 <= demote_below <= promote_from <= 1.0 or promote_from == 0.0:
            raise ValueError(
                f"Levels: demote_below is {demote_below} and promote_from {promote_from}; give "
                "0 <= demote_below <= promote_from <= 1, and promote_from above 0"
            )
        self.levels = levels
        self.promote_from, self.demote_below = promote_from, demote_below
        self._deck = Deck()
        self._standing = [0] * walkers
        self._turn = 0
        self._dealt: list[tuple[int, str]] = []

    def choose(self, families: Families, n: int, rng: np.random.Generator) -> list[Task]:
        """See ``TaskCurriculum``.

        Raises:
            ValueError: If a level names no family there is.
        """
        require_tasks(families)
        self._deck.shuffle_once(rng)
        by_level = self._by_level(list(families))
        self._standing = [
            level if level < len(by_level) else int(rng.integers(len(by_level)))
            for level in self._standing
        ]
        chosen: list[Task] = []
        self._dealt = []
        for _ in range(n):
            walker = self._turn % len(self._standing)
            names = by_level[self._standing[walker]]
            # A walker's turns go through the level's families one after the other.
            name = names[(self._turn // len(self._standing) + walker) % len(names)]
            self._turn += 1
            task = self._deck.deal(families, name)
            self._dealt.append((walker, task.task_id))
            chosen.append(task)
        return chosen

    def _by_level(self, names: list[str]) -> list[list[str]]:
        if self.levels is None:
            return [[name] for name in names]
        result = []
        for number, patterns in enumerate(self.levels):
            fitting = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
            if not fitting:
                raise ValueError(
                    f"Levels: level {number} ({', '.join(patterns)}) names no family of "
                    f"data.environments; there are {', '.join(names)}"
                )
            result.append(fitting)
        return result

    def observe(self, feedback: Feedback) -> None:
        """Move the walkers whose attempts are over."""
        if not feedback.outcomes:
            return
        successes: dict[str, list[bool]] = {}
        for outcome in feedback.outcomes:
            successes.setdefault(outcome.task_id, []).append(outcome.success)
        attempts: dict[int, list[bool]] = {}
        for walker, task_id in self._dealt:
            attempts.setdefault(walker, []).extend(successes.get(task_id, []))
        self._dealt = []
        for walker, results in attempts.items():
            if not results:
                continue  # its environment faulted: as if it had not been tried
            rate = sum(results) / len(results)
            if rate >= self.promote_from:
                self._standing[walker] += 1
            elif rate < self.demote_below:
                self._standing[walker] = max(self._standing[walker] - 1, 0)

    @property
    def standing(self) -> tuple[int, ...]:
        """Level of each walker, from 0; the number of levels = has finished."""
        return tuple(self._standing)

    def state_dict(self) -> dict[str, Any]:
        """See ``TaskCurriculum``."""
        return {
            "deck": self._deck.state_dict(),
            "standing": list(self._standing),
            "turn": self._turn,
            "dealt": [list(pair) for pair in self._dealt],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``TaskCurriculum``."""
        self._deck.load_state_dict(state["deck"])
        self._standing = [int(level) for level in state["standing"]]
        self._turn = int(state["turn"])
        self._dealt = [(int(walker), str(task_id)) for walker, task_id in state["dealt"]]


class HorizonGrowth(TaskCurriculum):
    """Lets episodes be short at first and longer as the fit goes on.

    ScalingInter (Xi et al. 2025, arXiv 2509.08755, section 4.3): few turns while the policy is
    still erratic, more once it uses them. What the horizon cuts counts as cut by the collector:
    its return is continued by the value head's estimate.

    Args:
        start: Most steps of an episode at the start, at least 1.
        end: Most steps once all is open, at least ``start``. The task's own limit holds beside it.
        pacing: How the horizon grows from start to end; default: ``Linear``. ``Steps`` gives the
            phases of the paper.
        tasks: Which tasks are tried; default: ``UniformTasks``.
    """

    def __init__(
        self,
        start: int = 5,
        end: int = 30,
        pacing: Pacing | None = None,
        tasks: TaskCurriculum | None = None,
    ) -> None:
        if not 1 <= start <= end:
            raise ValueError(
                f"HorizonGrowth: start is {start} and end is {end}; give whole numbers with "
                "1 <= start <= end"
            )
        self.start, self.end = start, end
        self.pacing = pacing if pacing is not None else Linear()
        self.tasks = tasks if tasks is not None else UniformTasks()

    def choose(self, families: Families, n: int, rng: np.random.Generator) -> list[Task]:
        """See ``TaskCurriculum``."""
        return self.tasks.choose(families, n, rng)

    def horizon(self, progress: float) -> int | None:
        """See ``TaskCurriculum``; the shorter of this one and that of ``tasks``."""
        own = self.start + int(self.pacing(progress) * (self.end - self.start))
        inner = self.tasks.horizon(progress)
        return own if inner is None else min(own, inner)

    def observe(self, feedback: Feedback) -> None:
        """Tell the pacing and the choice of tasks."""
        if feedback.validation_success is not None:
            self.pacing.observe(feedback.validation_success)
        self.tasks.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        """See ``TaskCurriculum``."""
        return {"pacing": self.pacing.state_dict(), "tasks": self.tasks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``TaskCurriculum``."""
        self.pacing.load_state_dict(state["pacing"])
        self.tasks.load_state_dict(state["tasks"])
