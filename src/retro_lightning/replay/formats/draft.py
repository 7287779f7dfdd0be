"""Behaviour half: checks the fields of a foreign record and makes a trajectory of them.

Every function raises ``BadRecordError`` with a reason that names the field. What an imported file
says becomes text and numbers in a record, never a path, a class or code.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from retro_lightning.environments.base import split_of, state_hash
from retro_lightning.replay.formats.items import BadRecordError, Options
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Step, Task, Trajectory, Truncation

_OWN_HASH = re.compile(r"[0-9a-f]{32}")
_LARGEST_ATTEMPT = 2**31 - 1
_LATEST = 1e11
"""Seconds since 1970 beyond which a time must be in another unit: the year 5138."""


def field(record: dict[str, Any], name: str) -> Any:
    """A field that must be there."""
    if name not in record:
        raise BadRecordError(f"the field {name!r} is missing")
    return record[name]


def text(value: Any, what: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise BadRecordError(f"{what} is {_kind(value)}, not text")
    return value


def number(value: Any, what: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRecordError(f"{what} is {_kind(value)}, not a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise BadRecordError(f"{what} is {result}, not a finite number")
    return result


def moment(value: Any, what: str) -> float | None:
    """A time in seconds since 1970, also as text, or in ISO 8601 (UTC unless it says otherwise).

    None stays None: the log does not say.
    """
    if value is None:
        return None
    seconds = number(_seconds(value, what) if isinstance(value, str) else value, what)
    if abs(seconds) > _LATEST:
        raise BadRecordError(f"{what} is {seconds:g}, which is no time in seconds since 1970")
    return seconds


def _seconds(value: str, what: str) -> float:
    try:
        told = datetime.fromisoformat(value)
        return (told if told.tzinfo is not None else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        try:
            return float(value)
        except ValueError:
            raise BadRecordError(
                f"{what} is {value[:40]!r}, neither seconds since 1970 nor ISO 8601"
            ) from None


def flag(value: Any, what: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise BadRecordError(f"{what} is {_kind(value)}, not true or false")
    return value


def sequence(value: Any, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise BadRecordError(f"{what} is {_kind(value)}, not a list")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise BadRecordError(f"{what} is {_kind(value)}, not an object")
    return value


def attempt_number(value: Any, what: str) -> int:
    """Number of an attempt."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRecordError(f"{what} is {_kind(value)}, not a whole number")
    if not 0 <= value <= _LARGEST_ATTEMPT:
        raise BadRecordError(f"{what} is {value}, not between 0 and {_LARGEST_ATTEMPT}")
    return value


def make_task(family: str, state: str, instruction: str) -> Task:
    """A task whose identity, and with it the split, follows from state and instruction alone.

    The seed is 0: a log does not say with which one its environment began.

    Args:
        family: Kind of task.
        state: What tells tasks of one instruction apart; never shown to a policy.
        instruction: What the policy is told to do.
    """
    hash_ = state_hash(_utf8(state), {"instruction": _utf8(instruction)})
    return Task(
        task_id=f"{family}:{hash_}",
        family=family,
        instruction=instruction,
        seed=0,
        split=split_of(hash_),
    )


def named_task(family: str, name: Any, instruction: str) -> Task:
    """A task that a log names itself; an id of this project's own form is kept as it is.

    Args:
        family: Kind of task.
        name: Text or number that tells the task from others.
        instruction: What the policy is told to do.
    """
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise BadRecordError(f"task_id is {_kind(name)}, not text or a whole number")
    hash_ = str(name).removeprefix(f"{family}:")
    if not _OWN_HASH.fullmatch(hash_) or hash_ == name:
        return make_task(family, str(name), instruction)
    return Task(
        task_id=str(name),
        family=family,
        instruction=instruction,
        seed=0,
        split=split_of(hash_),
    )


def make_attempt(
    format_: str,
    source: Source,
    options: Options,
    task: Task,
    steps: Sequence[Step],
    *,
    attempt: int,
    success: bool,
    final_observation: str = "",
    final_valid_actions: tuple[str, ...] | None = None,
    truncation: Truncation | None = None,
    fault: str | None = None,
    behaviour_id: str | None = None,
    run: str | None = None,
    reflections: Iterable[str] = (),
    outcome_return: float | None = None,
    recorded_at: float | None = None,
) -> Trajectory:
    """A trajectory with ``source="import:<format>"``.

    Args:
        format_: Name of the format.
        source: The file.
        options: What the user says about all files; goes before what the record says.
        task: The task attempted.
        steps: The turns.
        attempt: Number of the attempt, from 0.
        success: Whether the task was solved.
        final_observation: Text after the last action.
        final_valid_actions: Valid actions after the last action; None for free text.
        truncation: By what the attempt was cut; None = it ended by itself.
        fault: The sentence that describes a fault.
        behaviour_id: Who acted, where the record says it.
        run: Label of the run, where it is not the file's.
        reflections: What the agent had been told when the attempt began.
        outcome_return: Return, where the log tells no steps.
        recorded_at: When the log says that it was recorded, in seconds since 1970.
    """
    made = Trajectory(
        task=task,
        steps=tuple(steps),
        final_observation=final_observation,
        final_valid_actions=final_valid_actions,
        terminated=truncation is None,
        truncated=truncation is not None,
        truncation=truncation,
        success=success,
        source=f"import:{format_}",
        behaviour_id=options.behaviour_id or behaviour_id or run or source.label,
        run=options.run or run or source.label,
        attempt=attempt,
        fault=fault,
        reflections=tuple(reflections),
        outcome_return=outcome_return,
        recorded_at=recorded_at,
    )
    for part in _texts(made):
        _utf8(part)
    return made


class AttemptCounter:
    """Numbers the attempts at a task in their order, where a log does not."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def number(self, task: Task) -> int:
        """Number of the next attempt at the task, from 0."""
        number = self._next.get(task.task_id, 0)
        self._next[task.task_id] = number + 1
        return number


def free_steps(
    observations: Sequence[str],
    actions: Sequence[str],
    rewards: Sequence[float],
    thoughts: Sequence[str | None],
) -> list[Step]:
    """Steps of free-text actions whose log-probabilities are unknown."""
    rows = zip(observations, actions, rewards, thoughts, strict=True)
    return [
        Step(observation=seen, valid_actions=None, action=done, reward=reward, thought=thought)
        for seen, done, reward, thought in rows
    ]


def last_reward(count: int, reward: float) -> list[float]:
    """Rewards of ``count`` steps of which only the last brings something."""
    return [0.0] * (count - 1) + [reward] * (count > 0)


def _texts(made: Trajectory) -> Iterable[str]:
    steps = ((s.observation, s.action, s.thought or "") for s in made.steps)
    listed = (made.final_valid_actions or (), *(s.valid_actions or () for s in made.steps))
    return itertools.chain(
        (made.task.instruction, made.final_observation, made.behaviour_id, made.fault or ""),
        (made.task.task_id, made.run, *made.reflections),
        itertools.chain.from_iterable(steps),
        itertools.chain.from_iterable(listed),
    )


def _utf8(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecordError("a text in it is not Unicode: save the file as UTF-8") from None
    return value


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)
