"""Behaviour half: a history from which an actor learns to follow hints that help, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from retro_lightning.environments.base import EnvironmentFactory, describe, iterate_tasks
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import Expert, NoisyExpert, run_behaviour
from retro_lightning.rollout.history import History
from retro_lightning.rollout.seeds import generator
from retro_lightning.rollout.written_once import written_once
from retro_lightning.trajectory import Trajectory

_MOST_HINTS = 3


class HintedHistory(History):
    """Attempts at training tasks with and without a helpful reflection in the prompt.

    Where a reflection helps, the expert acts, as if it had followed it: an earlier reflection on
    the same task may be wrong, for what counts is the latest. Where none does, a noisy expert acts,
    whose successes are spread over all that may be right: who imitates them learns that useless
    reflections tell nothing. Environments must have ``write_reflection`` (``proving_ground.py``).

    Args:
        tasks_per_family: Training tasks of each family.
        attempts: Attempts at each task, each with other reflections.
        hinted_share: Share of attempts, in [0, 1], with a helpful reflection.
        bare_share: Share of the other attempts, in [0, 1], with no reflection at all.
        foreign_share: Share of the reflections that do not help, in [0, 1], which name a label for
            another subject; the others are vague. Higher = the actor learns better that a label is
            for the subject it was given for.
        epsilon: Probability, in [0, 1], of a random action where nothing helps.
    """

    def __init__(
        self,
        tasks_per_family: int = 1000,
        attempts: int = 4,
        hinted_share: float = 0.5,
        bare_share: float = 0.25,
        foreign_share: float = 0.75,
        epsilon: float = 0.3,
    ) -> None:
        for name, value in (("tasks_per_family", tasks_per_family), ("attempts", attempts)):
            if value < 1:
                raise ValueError(f"HintedHistory: {name} is {value}; give at least 1")
        shares = {
            "hinted_share": hinted_share,
            "bare_share": bare_share,
            "foreign_share": foreign_share,
            "epsilon": epsilon,
        }
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"HintedHistory: {name} is {share}; give a share between 0 and 1")
        self.tasks_per_family, self.attempts = tasks_per_family, attempts
        self.hinted_share, self.bare_share = hinted_share, bare_share
        self.foreign_share, self.epsilon = foreign_share, epsilon

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """Write the history, unless it stands already.

        Raises:
            ValueError: If an environment cannot write reflections.
        """

        def write(store: ReplayStore, name: str) -> None:
            for family, make in environments.items():
                store.append(list(self._attempts(family, make, name, seed)))

        definition = {
            "seed": seed,
            "environments": describe(dict(environments)),
            "history": describe(self),
        }
        return written_once(cache_dir, definition, write)

    def _attempts(
        self, family: str, make: EnvironmentFactory, name: str, seed: int
    ) -> Iterator[Trajectory]:
        env: Any = make()
        require_writer(env, family)
        try:
            for task in islice(iterate_tasks(family, make, "train"), self.tasks_per_family):
                for attempt in range(self.attempts):
                    rng = generator(seed, "hints", task.task_id, attempt)
                    env.reset(seed=task.seed)
                    helped = bool(rng.random() < self.hinted_share)
                    reflections = self._reflections(env, helped, rng)
                    behaviour = Expert() if helped else NoisyExpert(self.epsilon)
                    trajectory = run_behaviour(
                        behaviour, task, env, run=name, attempt=attempt, rng=rng
                    )
                    yield replace(trajectory, reflections=reflections)
        finally:
            env.close()

    def _reflections(self, env: Any, helped: bool, rng: np.random.Generator) -> tuple[str, ...]:
        """Up to three reflections; a helpful one among them if ``helped``."""
        if not helped and rng.random() < self.bare_share:
            return ()
        count = int(rng.integers(1, _MOST_HINTS + 1))
        foreign = rng.random(count) < self.foreign_share
        qualities = ["off_task" if each else "vague" for each in foreign]
        if helped:
            place = int(rng.integers(count))
            qualities[place] = "helpful"
            if place and rng.random() < 0.5:
                qualities[int(rng.integers(place))] = "wrong"
        return tuple(env.write_reflection(quality, rng) for quality in qualities)


def require_writer(env: Any, family: str) -> None:
    """Refuse an environment that cannot write reflections on its tasks.

    Raises:
        ValueError: If it has no ``write_reflection``.
    """
    if not callable(getattr(env, "write_reflection", None)):
        raise ValueError(
            f"family {family!r}: {type(env).__name__} has no write_reflection(quality, rng), which "
            "scripted reflections need; give it one (see environments/proving_ground.py)"
        )
