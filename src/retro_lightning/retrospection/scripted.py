"""Behaviour half: scripted reflectors, and the log of mixed quality that training starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from retro_lightning.environments.base import EnvironmentFactory, describe, iterate_tasks
from retro_lightning.environments.proving_ground import QUALITIES, Quality
from retro_lightning.replay.store import ReplayStore
from retro_lightning.retrospection.environment import RetrospectionEnv
from retro_lightning.rollout.history import History
from retro_lightning.rollout.seeds import generator
from retro_lightning.rollout.written_once import written_once
from retro_lightning.trajectory import Step, Task, Trajectory

Writer = Callable[[RetrospectionEnv, np.random.Generator], str | None]
"""Writes a reflection on the failed attempt of an episode; None = the actor is told nothing new."""

_PARALLEL = 256


def plain(env: RetrospectionEnv, rng: np.random.Generator) -> str | None:
    """Nothing: the actor just tries again."""
    return None


def placebo(env: RetrospectionEnv, rng: np.random.Generator) -> str | None:
    """A reflection that was written for another task."""
    return env.placebo()


def oracle(env: RetrospectionEnv, rng: np.random.Generator) -> str | None:
    """What somebody who knows the task's secret would write."""
    return env.write_reflection("helpful", rng)


def reflect(
    family: str,
    make: EnvironmentFactory,
    tasks: Sequence[Task],
    write: Writer,
    *,
    run: str,
    seed: int,
    name: str,
) -> Iterator[Trajectory]:
    """Let a scripted reflector write in one episode for each task, many at a time.

    Args:
        family: Name of the family, as trajectories carry it.
        make: Makes its ``RetrospectionEnv``.
        tasks: The tasks.
        write: The reflector.
        run: Recorded.
        seed: Seed of the reflector's choices.
        name: Name of the reflector, recorded.

    Yields:
        One trajectory per task, in their order; a plain retry is recorded as an empty action.

    Raises:
        ValueError: If the family is no retrospection.
    """
    count = min(_PARALLEL, len(tasks))
    envs = [require_retrospection(make(), family) for _ in range(count)]
    try:
        for start in range(0, len(tasks), _PARALLEL):
            some = tasks[start : start + _PARALLEL]
            pairs = zip(envs, some, strict=False)
            episodes = [_Episode(env, task, seed, name) for env, task in pairs]
            yield from _play(episodes, write, run, name)
    finally:
        for env in envs:
            env.close()


def require_retrospection(env: Any, family: str) -> RetrospectionEnv:
    """The environment, if reflections are written in it.

    Raises:
        ValueError: If it is another.
    """
    if not isinstance(env, RetrospectionEnv):
        raise ValueError(
            f"family {family!r} is a {type(env).__name__}; reflections are written in a "
            "retro_lightning.retrospection.environment.RetrospectionEnv"
        )
    return env


class _Episode:
    """An episode under way."""

    def __init__(self, env: Any, task: Task, seed: int, name: str) -> None:
        self.env: RetrospectionEnv = env
        self.task, self.rng = task, generator(seed, task.task_id, name)
        self.steps: list[Step] = []
        self.seen, self.success, self.over = "", False, False
        self.fault: str | None = None

    def fail(self, error: Exception) -> None:
        self.fault, self.over = f"task {self.task.task_id}: {error}", True

    def take(self, action: str | None, turn: Any) -> None:
        observation, reward, self.over, _, info = turn
        self.steps.append(
            Step(
                observation=self.seen,
                valid_actions=None,
                action=action or "",
                reward=float(reward),
            )
        )
        self.seen, self.success = observation, bool(info["success"])


def _play(episodes: Sequence[_Episode], write: Writer, run: str, name: str) -> Iterator[Trajectory]:
    envs = [episode.env for episode in episodes]
    openings = RetrospectionEnv.reset_many(envs, [episode.task.seed for episode in episodes])
    for episode, opening in zip(episodes, openings, strict=True):
        if isinstance(opening, Exception):
            episode.fail(opening)
        else:
            episode.seen = opening[0]
    while going := [episode for episode in episodes if not episode.over]:
        actions = [write(episode.env, episode.rng) for episode in going]
        turns = RetrospectionEnv.step_many([episode.env for episode in going], actions)
        for episode, action, turn in zip(going, actions, turns, strict=True):
            if isinstance(turn, Exception):
                episode.fail(turn)
            else:
                episode.take(action, turn)
    for episode in episodes:
        yield Trajectory(
            task=episode.task,
            steps=tuple(episode.steps),
            final_observation=episode.seen,
            final_valid_actions=None,
            terminated=episode.fault is None,
            truncated=episode.fault is not None,
            truncation=None if episode.fault is None else "fault",
            success=episode.success and episode.fault is None,
            source=f"scripted:{name}",
            behaviour_id=name,
            run=run,
            attempt=0,
            fault=episode.fault,
        )


class ReflectionLog(History):
    """A log of scripted reflections of mixed quality and of what they did to the actor's retries.

    Args:
        tasks_per_family: Training tasks of each family, each with one episode.
        helpful: Share of reflections, in [0, 1], that name what the retry needs.
        vague: Share that name nothing.
        wrong: Share that name something wrong.
        off_task: Share that speak of another task.
    """

    def __init__(
        self,
        tasks_per_family: int = 1000,
        helpful: float = 0.25,
        vague: float = 0.25,
        wrong: float = 0.25,
        off_task: float = 0.25,
    ) -> None:
        if tasks_per_family < 1:
            raise ValueError(
                f"ReflectionLog: tasks_per_family is {tasks_per_family}; give at least 1"
            )
        shares = {"helpful": helpful, "vague": vague, "wrong": wrong, "off_task": off_task}
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1.0) > 1e-6:
            raise ValueError(
                f"ReflectionLog: the shares {shares} are not all at least 0 with a sum of 1"
            )
        self.tasks_per_family = tasks_per_family
        self.shares: dict[str, float] = shares

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """Let the actors be made, and write the log, unless they stand already.

        Raises:
            ValueError: If a family is no retrospection, or its environment can't write reflections.
        """
        envs = {f: require_retrospection(make(), f) for f, make in environments.items()}
        actors = {}
        for family, env in envs.items():  # all of them can be made before an actor is fitted
            env.actor.prepare()
            actors[family] = env.actor.key
            env.close()

        def write(store: ReplayStore, name: str) -> None:
            for family, make in environments.items():
                tasks = list(islice(iterate_tasks(family, make, "train"), self.tasks_per_family))
                log = reflect(family, make, tasks, self._write, run=name, seed=seed, name="log")
                store.append(list(log))

        definition = {
            "seed": seed,
            "actors": actors,
            "environments": describe(dict(environments)),
            "history": describe(self),
        }
        return written_once(cache_dir, definition, write)

    def _write(self, env: RetrospectionEnv, rng: np.random.Generator) -> str:
        shares = [self.shares[quality] for quality in QUALITIES]
        quality: Quality = QUALITIES[int(rng.choice(len(QUALITIES), p=shares))]
        return env.write_reflection(quality, rng)
