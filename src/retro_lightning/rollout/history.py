"""Behaviour half: histories, the logged past that a fit learns from and never writes."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retro_lightning.environments.base import EnvironmentFactory, describe, iterate_tasks
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import (
    Behaviour,
    Expert,
    NoisyExpert,
    RandomWalker,
    run_behaviour,
)
from retro_lightning.rollout.seeds import generator
from retro_lightning.rollout.written_once import written_once
from retro_lightning.trajectory import Trajectory

T = TypeVar("T")

_SHARD = 1_000
_HOPELESS = 5


class History(ABC):
    """Where the logged trajectories come from.

    Attributes:
        needs_environments: Whether environments are needed to make it.
    """

    needs_environments: bool = True

    @abstractmethod
    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """The folder of the replay store, made first if it has to be.

        Args:
            environments: The task families.
            cache_dir: Where histories are kept between runs.
            seed: Seed of everything random in it.
        """


class StoredHistory(History):
    """A replay store that exists already, of the user's own.

    Args:
        path: Folder of the store.
    """

    needs_environments = False

    def __init__(self, path: str) -> None:
        self.path = path

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """The folder as given.

        Raises:
            FileNotFoundError: If there is no store.
            ValueError: If it is empty.
        """
        if len(ReplayStore(self.path)) == 0:
            raise ValueError(
                f"the replay store {self.path} named by data.history is empty: collect or import "
                "trajectories into it first"
            )
        return Path(self.path)


@dataclass
class BehaviourShare:
    """A scripted behaviour and how much of a history it writes.

    Args:
        behaviour: Who acts.
        attempts: Attempts at each of its tasks.
        share: Share of the family's tasks that it attempts, in (0, 1].

    Raises:
        ValueError: If a number is impossible.
    """

    behaviour: Behaviour
    attempts: int = 1
    share: float = 1.0

    def __post_init__(self) -> None:
        name = self.behaviour.behaviour_id
        if self.attempts < 1:
            raise ValueError(f"data.history: {name} has attempts {self.attempts}; give at least 1")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"data.history: {name} has share {self.share}; give one in (0, 1]")


class ScriptedHistory(History):
    """A history of mixed quality, written by scripted behaviours on training tasks.

    It is named by the hash of all that made it, written once and reused by every run.

    Args:
        tasks_per_family: Training tasks of each family that are attempted.
        tasks: Another number for some families: name of the family → number.
        behaviours: Who attempts them; by default an expert, a noisy expert and a random walker.
        max_steps: Steps after which an episode is cut; null = the task's own limit.
    """

    def __init__(
        self,
        tasks_per_family: int = 400,
        tasks: dict[str, int] | None = None,
        behaviours: list[BehaviourShare] | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.tasks_per_family = tasks_per_family
        self.tasks = tasks or {}
        named = {f"tasks.{family}": count for family, count in self.tasks.items()}
        for key, count in {"tasks_per_family": tasks_per_family, **named}.items():
            if count < 1:
                raise ValueError(f"data.history.{key} is {count}; give at least 1")
        self.behaviours = behaviours or [
            BehaviourShare(Expert()),
            BehaviourShare(NoisyExpert(0.3)),
            BehaviourShare(RandomWalker(), attempts=2),
        ]
        self.max_steps = max_steps
        ids = [share.behaviour.behaviour_id for share in self.behaviours]
        for twice in sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(
                f"data.history.behaviours lists {twice} twice; list it once with more attempts"
            )

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """Write the history, unless it stands already; see ``History``.

        Raises:
            ValueError: If a family has too few tasks or no expert, or every attempt at it faults,
                or ``tasks`` names no family.
        """
        unknown = sorted(set(self.tasks) - set(environments))
        if unknown:
            raise ValueError(
                f"data.history.tasks names {unknown[0]!r}, which is no family of "
                f"data.environments; there are {', '.join(environments)}"
            )
        definition = {
            "seed": seed,
            "environments": describe(dict(environments)),
            "history": describe(self),
        }

        def write(store: ReplayStore, name: str) -> None:
            self._write(store, environments, name, seed)

        return written_once(cache_dir, definition, write)

    def _write(
        self,
        store: ReplayStore,
        environments: Mapping[str, EnvironmentFactory],
        name: str,
        seed: int,
    ) -> None:
        counts = {f: self.tasks.get(f, self.tasks_per_family) for f in environments}
        total = sum(len(self._plan(list(range(count)))) for count in counts.values())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        console = Console(stderr=True)
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            bar = progress.add_task("writing the history", total=total)
            pending: list[Trajectory] = []
            for family, make in environments.items():
                progress.update(bar, description=f"writing the history: {family}")
                for trajectory in self._attempt(family, make, counts[family], name, seed):
                    pending.append(trajectory)
                    progress.advance(bar)
                    if len(pending) == _SHARD:
                        store.append(pending)
                        pending = []
            if pending:
                store.append(pending)

    def _attempt(
        self, family: str, make: EnvironmentFactory, count: int, name: str, seed: int
    ) -> Iterator[Trajectory]:
        tasks = list(islice(iterate_tasks(family, make, "train"), count))
        if len(tasks) < count:
            raise ValueError(
                f"family {family!r} has only {len(tasks)} distinct training tasks, the history "
                f"asks for {count}: lower data.history.tasks_per_family"
            )
        env = make()
        sound = faults = 0
        try:
            for task, share, attempt in self._plan(tasks):
                behaviour = share.behaviour
                rng = generator(seed, task.task_id, attempt, None, behaviour.behaviour_id)
                trajectory = run_behaviour(
                    behaviour,
                    task,
                    env,
                    run=name,
                    attempt=attempt,
                    rng=rng,
                    max_steps=self.max_steps,
                )
                if trajectory.fault is None:
                    sound += 1
                else:  # the environment may be broken for good
                    faults += 1
                    with contextlib.suppress(Exception):
                        env.close()
                    env = make()
                if sound == 0 and faults >= _HOPELESS:
                    raise ValueError(
                        f"family {family!r}: each of the first {faults} attempts faulted, the last "
                        f"with: {trajectory.fault}; try the environment with "
                        "retro_lightning.environments.check"
                    )
                yield trajectory
        finally:
            env.close()

    def _plan(self, tasks: Sequence[T]) -> list[tuple[T, BehaviourShare, int]]:
        """Who attempts which task how often; a behaviour with a share takes the first tasks."""
        return [
            (task, share, attempt)
            for share in self.behaviours
            for task in tasks[: round(share.share * len(tasks))]
            for attempt in range(share.attempts)
        ]
