"""Behaviour half: placebos: reflections that were written for another task of the kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Task

_TRIES = 200


def placebo_for(task: Task, make: EnvironmentFactory, texts: Sequence[str]) -> str:
    """A placebo for a task; the same one each time.

    Args:
        task: The actor's task.
        make: Makes the actor's environment, which writes the placebo if there are no ``texts``.
        texts: Reflections that help with no task, to choose from.

    Raises:
        ValueError: If the environment has no task with another instruction.
    """
    rng = generator("placebo", task.task_id)
    if texts:
        return texts[int(rng.integers(len(texts)))]
    other: Any = make()
    try:
        for _ in range(_TRIES):
            _, info = other.reset(seed=int(rng.integers(2**31)))
            if info["instruction"] != task.instruction:
                return str(other.write_reflection("helpful", rng))
    finally:
        other.close()
    raise ValueError(
        f"task {task.task_id}: among {_TRIES} tasks of {type(other).__name__} none has another "
        "instruction, so that no reflection is sure not to help: give RetrospectionEnv placebos"
    )
