"""Data half: one turn as an environment returned it, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np


class Broken(Exception):
    """What an environment did makes it impossible to go on; the message is one sentence."""


@dataclass(frozen=True)
class Turn:
    """What an environment returned, by ``reset`` (with reward 0) or by ``step``.

    Attributes:
        observation: The text.
        valid: The valid actions; None where the action is free text.
        instruction: What to do.
        reward: The reward.
        terminated: Whether the environment ended the episode.
        truncated: Whether the task's time limit ended it.
        success: The environment's own word on success, if it gave one.
    """

    observation: str
    valid: tuple[str, ...] | None
    instruction: str
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


def read_turn(observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Turn:
    """A turn from what an environment returned.

    Raises:
        Broken: If a part has the wrong type.
    """
    _require(isinstance(observation, str), f"the observation is {kind(observation)}, not a text")
    _require(isinstance(info, Mapping), f"info is {kind(info)}, not a mapping")
    finite = isinstance(reward, Real) and math.isfinite(reward)
    _require(finite, f"the reward is {reward!r}, not a finite number")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        _require(isinstance(flag, bool | np.bool_), f"{name} is {kind(flag)}, not a bool")
    success = info.get("success")
    flagged = isinstance(success, bool | np.bool_ | None)
    _require(flagged, f'info["success"] is {kind(success)}, not a bool')
    instruction = info.get("instruction", "")
    said = isinstance(instruction, str)
    _require(said, f'info["instruction"] is {kind(instruction)}, not a text')
    valid = info.get("valid_actions")
    listed = isinstance(valid, list | tuple) and all(isinstance(each, str) for each in valid)
    _require(valid is None or listed, f'info["valid_actions"] is not a list of texts: {valid!r}')
    return Turn(
        observation=observation,
        valid=None if valid is None else tuple(valid),
        instruction=instruction,
        reward=float(reward),
        terminated=bool(terminated),
        truncated=bool(truncated),
        success=None if success is None else bool(success),
    )


def faults(turn: Turn) -> Iterator[str]:
    """What is wrong with a turn of the right types, one sentence each."""
    if not turn.instruction.strip():
        yield 'info["instruction"] is missing or empty, it must say what to do'
    if turn.valid is None:
        return
    if not turn.valid and not turn.ended:
        yield (
            'info["valid_actions"] is empty though the episode goes on; list an action, or leave '
            "the key out where the action is free text"
        )
    for action in dict.fromkeys(turn.valid):
        if turn.valid.count(action) > 1:
            yield f'info["valid_actions"] lists {action!r} twice'
        if not action.strip():
            yield f'info["valid_actions"] lists {action!r}, an action without a visible character'


def kind(value: Any) -> str:
    """The type of a value in words, for messages."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"of type {type(value).__name__}"


def _require(fulfilled: bool, sentence: str) -> None:
    if not fulfilled:
        raise Broken(sentence)
