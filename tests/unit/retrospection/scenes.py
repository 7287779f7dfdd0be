"""Actors and environments for tests of retrospection, without a language model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.retrospection.actor import Request, ScriptedActor
from retro_lightning.retrospection.environment import RetrospectionEnv
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Task, Trajectory


def follow_hints(
    seen: str, valid: tuple[str, ...], task: Task, reflections: tuple[str, ...], number: int
) -> str:
    """Heeds the latest reflection that names the task's subject, else guesses; knows the doors."""
    subject = task.instruction.split()[-1]
    pointing = [action for action in valid if action == f"unlock the {subject}"]
    if pointing:
        return pointing[0]
    for reflection in reversed(reflections):
        words = reflection.split()
        named = [action for action in valid if action.split()[2] in words]
        if subject in words and named:
            return named[0]
    rng = generator("guess", task.task_id, number)
    return valid[int(rng.integers(len(valid)))]


_CALLS: dict[str, list[list[Request]]] = {}


class Counting(ScriptedActor):
    """Follows hints and keeps the requests of every call."""

    def __init__(self, name: str, choose: Callable[..., str] = follow_hints) -> None:
        super().__init__(choose, name)
        _CALLS[name] = []

    @property
    def calls(self) -> list[list[Request]]:
        return _CALLS[self.key]

    def attempt(self, requests: Any) -> list[Trajectory]:
        self.calls.append(list(requests))
        return super().attempt(requests)


def scene(actor: ScriptedActor, **settings: Any) -> functools.partial[RetrospectionEnv]:
    """A factory of reflections on locked doors."""
    return functools.partial(RetrospectionEnv, environment=LockedDoor, actor=actor, **settings)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)
