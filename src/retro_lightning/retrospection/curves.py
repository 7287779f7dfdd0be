"""Behaviour half: success after 0, 1, 2 … retries, for every way of reflecting (an *arm*).

All arms meet the same tasks, the same failed first attempts and, retry by retry, the same sampling
noise of the actor. Retries are counted as in the paper: a task that was solved stays solved.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.policy.policy import Policy
from retro_lightning.retrospection.attempts import make_several, require_sound
from retro_lightning.retrospection.environment import RetrospectionEnv
from retro_lightning.retrospection.scripted import (
    Writer,
    oracle,
    placebo,
    plain,
    reflect,
    require_retrospection,
)
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Task, Trajectory

Solved = npt.NDArray[np.bool_]

SCRIPTED: dict[str, Writer] = {"plain": plain, "placebo": placebo, "oracle": oracle}
"""Arms that need no reflector."""

_LIFT_NUMBERS = 500_000
"""Attempt numbers from which retries are made that measure single reflections."""


@dataclass(frozen=True)
class Arm:
    """How one way of reflecting did on the tasks of one family.

    Attributes:
        name: Name of the arm.
        family: Family of the tasks.
        solved: Whether each task was solved within 0, 1, … retries [tasks, retries + 1].
        trajectories: The reflections, one trajectory per task.
        faults: Tasks that are left out, for their episode was a fault.
    """

    name: str
    family: str
    solved: Solved
    trajectories: tuple[Trajectory, ...]
    faults: int

    def success(self, retries: int) -> float:
        """Share of tasks solved within so many retries."""
        return float(self.solved[:, retries].mean()) if len(self.solved) else float("nan")


def evaluation_environment(make: EnvironmentFactory, retries: int) -> EnvironmentFactory:
    """The same environment with this many retries, and without controls: success is counted."""
    configured: Any = make  # a partial of RetrospectionEnv, as every configured environment
    return functools.partial(configured, retries=retries, samples=1, reward="return_change")


def scripted_arm(
    name: str,
    family: str,
    make: EnvironmentFactory,
    tasks: Sequence[Task],
    *,
    retries: int,
    seed: int,
    write: Writer | None = None,
) -> Arm:
    """How a scripted reflector does.

    Args:
        name: Name of the arm, one of ``SCRIPTED`` unless ``write`` is given.
        family: Family of the tasks.
        make: Makes its ``RetrospectionEnv``.
        tasks: The tasks.
        retries: Most retries.
        seed: Seed of the reflector's choices.
        write: The reflector.
    """
    chosen = write if write is not None else SCRIPTED[name]
    long = evaluation_environment(make, retries)
    log = reflect(family, long, tasks, chosen, run="evaluation", seed=seed, name=name)
    return _arm(name, family, long, tasks, list(log), retries)


def policy_arm(
    name: str,
    family: str,
    make: EnvironmentFactory,
    tasks: Sequence[Task],
    policy: Policy,
    *,
    retries: int,
    seed: int,
) -> Arm:
    """How a trained or untrained reflector does; see ``scripted_arm``.

    Args:
        name: Name of the arm.
        family: Family of the tasks.
        make: Makes its ``RetrospectionEnv``.
        tasks: The tasks.
        policy: The reflector.
        retries: Most retries.
        seed: Seed of the reflector's choices.
    """
    long = evaluation_environment(make, retries)
    trajectories = list(
        collect(
            policy,
            {family: long},
            [Job(task, 0) for task in tasks],
            run="evaluation",
            seed=seed,
            batch_size=256,
            arm="retries",
        )
    )
    return _arm(name, family, long, tasks, trajectories, retries)


def shuffled(arm: Arm) -> Writer:
    """Writes, for every task, what an arm's reflector wrote for the next task of the family."""
    written = [[step.action for step in each.steps] for each in arm.trajectories]
    usable = [number for number, texts in enumerate(written) if texts]
    place = {each.task.seed: number for number, each in enumerate(arm.trajectories)}

    def write(env: RetrospectionEnv, rng: np.random.Generator) -> str | None:
        start = place[env.task.seed]
        for step in range(1, len(written) + 1):
            other = (start + step) % len(written)
            instruction = arm.trajectories[other].task.instruction
            if other in usable and instruction != env.task.instruction:
                return written[other][min(env.tried, len(written[other]) - 1)]
        return None

    return write


def _arm(
    name: str,
    family: str,
    make: EnvironmentFactory,
    tasks: Sequence[Task],
    trajectories: Sequence[Trajectory],
    retries: int,
) -> Arm:
    at_once = _solved_at_once(family, make, tasks)
    sound = [number for number, t in enumerate(trajectories) if t.truncation != "fault"]
    solved = np.zeros((len(sound), retries + 1), dtype=np.bool_)
    for row, number in enumerate(sound):
        trajectory = trajectories[number]
        solved[row] = at_once[number]
        if trajectory.success:
            solved[row, trajectory.length :] = True
    return Arm(name, family, solved, tuple(trajectories), len(tasks) - len(sound))


def _solved_at_once(family: str, make: EnvironmentFactory, tasks: Sequence[Task]) -> list[bool]:
    """Whether the first attempt at each task succeeded; it is remembered, not made again."""
    envs = [require_retrospection(make(), family) for _ in tasks]
    RetrospectionEnv.reset_many(envs, [task.seed for task in tasks])
    for env in envs:
        env.close()
    return [env.at_once for env in envs]


def table(arms: Sequence[Arm]) -> dict[str, float]:
    """``success@k/arm/family`` of every arm, and ``success@k/arm``, the mean over families.

    Args:
        arms: Arms, each with every family it was tried on.
    """
    metrics: dict[str, float] = {}
    means: dict[str, list[float]] = {}
    for arm in arms:
        for retries in range(arm.solved.shape[1]):
            success = arm.success(retries)
            metrics[f"success@{retries}/{arm.name}/{arm.family}"] = success
            means.setdefault(f"success@{retries}/{arm.name}", []).append(success)
    return {**{name: float(np.mean(values)) for name, values in means.items()}, **metrics}


@dataclass(frozen=True)
class Measured:
    """What one reflection does to the actor's retry.

    Attributes:
        reflection: Its text.
        told: Mean return of retries told it.
        placebo: Mean return of the same retries told a placebo.
        nothing: Mean return of the same retries told nothing.
    """

    reflection: str
    told: float
    placebo: float
    nothing: float

    @property
    def lift(self) -> float:
        """Return told the reflection minus return told a placebo."""
        return self.told - self.placebo


def measure(
    family: str,
    make: EnvironmentFactory,
    written: Mapping[int, Sequence[str]],
    *,
    samples: int,
) -> list[Measured]:
    """Measure reflections on first attempts, with sampling noise that no training has met.

    Args:
        family: Family of the tasks.
        make: Makes its ``RetrospectionEnv``.
        written: Seed of a task → reflections on its failed first attempt.
        samples: Retries of each kind. Higher = a better estimate.

    Returns:
        One record per reflection, in the order given.

    Raises:
        ActorFault: If an attempt could not be made.
    """
    envs = [require_retrospection(make(), family) for _ in written]
    RetrospectionEnv.reset_many(envs, list(written))
    texts: list[str] = []
    asked = []
    for env, reflections in zip(envs, written.values(), strict=True):
        for reflection in reflections:
            texts.append(reflection)
            for told in ([reflection], [env.placebo()], []):
                requests = env.requests(_LIFT_NUMBERS, samples, told)
                asked.append((env.actor, requests))
    attempts = make_several(asked, keep=False)
    means = []
    for several in attempts:
        for attempt in several:
            require_sound(attempt)
        means.append(float(np.mean([attempt.total_return for attempt in several])))
    return [Measured(text, *means[3 * n : 3 * n + 3]) for n, text in enumerate(texts)]
