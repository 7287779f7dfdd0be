"""Behaviour half: frozen reflectors: who writes reflections while an actor is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.environments.proving_ground import QUALITIES
from retro_lightning.environments.spaces import UnicodeText
from retro_lightning.retrospection.actor import load, published_version
from retro_lightning.retrospection.hints import require_writer
from retro_lightning.retrospection.memory import Memory
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Task, Trajectory


class Reflector(ABC):
    """Writes a reflection on each of many failed attempts."""

    @abstractmethod
    def write(
        self, failed: Sequence[tuple[EnvironmentFactory, Trajectory]], seed: int
    ) -> list[str | None]:
        """Reflections, one for each attempt; None = none that could be used.

        Args:
            failed: Failed attempts, each with what makes its environment.
            seed: Seed of what is random; equal for equal attempts.
        """


class ScriptedReflector(Reflector):
    """What the environments themselves write (``write_reflection``), of mixed quality.

    Args:
        helpful: Share of reflections, in [0, 1], that help; the others are vague, wrong or about
            another task, alike often.
    """

    def __init__(self, helpful: float = 0.5) -> None:
        if not 0.0 <= helpful <= 1.0:
            raise ValueError(f"ScriptedReflector: helpful is {helpful}; give a share in [0, 1]")
        self.helpful = helpful

    def write(
        self, failed: Sequence[tuple[EnvironmentFactory, Trajectory]], seed: int
    ) -> list[str | None]:
        """See ``Reflector``."""
        shares = [self.helpful, *[(1.0 - self.helpful) / 3] * 3]
        return [self._write(make, attempt, shares, seed) for make, attempt in failed]

    def _write(
        self, make: EnvironmentFactory, attempt: Trajectory, shares: list[float], seed: int
    ) -> str:
        env: Any = make()
        try:
            require_writer(env, attempt.task.family)
            env.reset(seed=attempt.task.seed)
            rng = generator(seed, "reflector", attempt.task.task_id, attempt.attempt)
            quality = QUALITIES[int(rng.choice(len(QUALITIES), p=shares))]
            return str(env.write_reflection(quality, rng))
        finally:
            env.close()


class PolicyReflector(Reflector):
    """A reflector that was trained before: a policy directory.

    Where there is no such directory yet, nothing is written.

    Args:
        path: Its directory, such as ``runs/retroformer/checkpoints/best-policy``.
        memory: How attempts are told; as in its training.
    """

    def __init__(self, path: str, memory: Memory | None = None) -> None:
        self.path, self.memory = path, memory if memory is not None else Memory()

    def write(
        self, failed: Sequence[tuple[EnvironmentFactory, Trajectory]], seed: int
    ) -> list[str | None]:
        """See ``Reflector``: one rollout session for all attempts."""
        if published_version(self.path) is None:
            return [None] * len(failed)
        prompts = [
            (self.memory.describe(attempt), attempt.task.instruction) for _, attempt in failed
        ]
        jobs = [
            Job(
                Task(
                    task_id=attempt.task.task_id,
                    family="reflections",
                    instruction=attempt.task.instruction,
                    seed=number,
                    split=attempt.task.split,
                ),
                attempt.attempt,
            )
            for number, (_, attempt) in enumerate(failed)
        ]
        written = collect(
            load(self.path, published_version(self.path)),
            {"reflections": lambda: _Prompts(prompts)},
            jobs,
            run="reflector",
            seed=seed,
            batch_size=256,
            arm="reflector",
        )
        texts = [each.steps[0].action if each.steps else "" for each in written]
        return [None if self.memory.complaint(text) else text for text in texts]


class _Prompts(gymnasium.Env[str, str]):
    """Shows a prompt and takes one free text."""

    def __init__(self, prompts: Sequence[tuple[str, str]]) -> None:
        self._prompts = prompts
        self.observation_space = self.action_space = UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        observation, instruction = self._prompts[int(np.int64(seed or 0))]
        self._instruction = instruction
        return observation, {"instruction": instruction}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", 0.0, True, False, {"instruction": self._instruction, "success": False}
