"""Behaviour half: any JSON, JSONL, CSV, Parquet or Arrow file, by a YAML file of what is what.

A value names a field, with dots into objects and numbers into lists (``result.0.score``)::

    task: question             # needed: the instruction
    action: answer             # needed: what was done; in each of `steps` if there are any
    observation: context       # what was seen before
    thought: reasoning
    reward: score              # of the step
    valid_actions: options     # a list of texts
    steps: turns               # where a record is an attempt: the list of its steps
    episode: conversation_id   # where a record is a step: equal values in a row are one attempt
    return: total              # of the whole attempt, instead of rewards
    success: solved            # default: a positive return
    task_id: id                # what tells tasks with the same instruction apart
    attempt: trial             # from 0; default: counted in the file's order
    behaviour: agent
    reflections: told          # a list of texts
    final_observation: outcome
    recorded_at: finished      # seconds since 1970, or ISO 8601

Without ``steps`` and ``episode``, every record is an attempt of one step. A record may lack
observation, thought, valid_actions, reflections, final_observation and recorded_at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import yaml

from retro_lightning.replay.formats import comma_separated, draft, tables
from retro_lightning.replay.formats.items import (
    Attempt,
    BadRecordError,
    Item,
    Options,
    Reject,
    Remark,
)
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Step, Trajectory

Records = Iterator[tuple[int, dict[str, Any] | Reject]]

_STEP_KEYS = ("observation", "thought", "action", "reward", "valid_actions")
_KEYS = (
    *_STEP_KEYS,
    *("task", "steps", "episode", "return", "success", "task_id", "attempt", "behaviour"),
    *("reflections", "final_observation", "recorded_at"),
)
_OPTIONAL = (
    *("observation", "thought", "valid_actions", "reflections"),
    *("final_observation", "recorded_at"),
)
"""Keys whose field a record may lack."""
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read(source: Source, options: Options) -> Iterator[Item]:
    """Attempts in the file's order.

    Raises:
        ValueError: If the mapping is missing or is not one.
    """
    fields = load(options)
    counter = draft.AttemptCounter()
    blank = {key for key in _OPTIONAL if key in fields}
    made: Trajectory | None = None
    for line, group in _attempts(_records(source), fields):
        try:
            if isinstance(group, Reject):
                yield group
            else:
                made = _trajectory(group, fields, source, options, counter)
                yield Attempt(line, made)
                blank = {key for key in blank if not _has(made, key)}
        except BadRecordError as error:
            yield Reject(line, str(error))
    for key in sorted(blank if made is not None else ()):
        yield Remark(0, f"no record has {fields[key]!r}, which is to be the {key}: is it spelt so?")


def load(options: Options) -> dict[str, str]:
    """The mapping file: keys and the fields they name.

    Raises:
        ValueError: If the mapping is missing or is not one.
    """
    if options.mapping is None:
        raise ValueError("the format mapping needs --mapping FILE, a YAML file of what is what")
    try:
        fields = yaml.safe_load(options.mapping.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"--mapping {options.mapping} cannot be read ({error.strerror}): name a YAML file of "
            "what is what"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{options.mapping} is not a YAML file: {reason}") from None
    if not isinstance(fields, dict) or not all(isinstance(f, str) for f in fields.values()):
        raise ValueError(f"{options.mapping}: give one `key: field` a line; keys {_KEYS}")
    unknown = [key for key in fields if key not in _KEYS]
    if unknown:
        raise ValueError(f"{options.mapping}: {unknown[0]!r} is no key; known: {', '.join(_KEYS)}")
    missing = [key for key in ("task", "action") if key not in fields]
    if missing:
        raise ValueError(f"{options.mapping}: the key {missing[0]!r} is missing")
    if "reward" not in fields and "return" not in fields:
        raise ValueError(f"{options.mapping}: give reward (of a step) or return (of an attempt)")
    return fields


def _records(source: Source) -> Records:
    if source.path.suffix in (".parquet", ".arrow"):
        return tables.rows(source)
    return comma_separated.rows(source) if comma_separated.named(source) else source.records()


def _attempts(
    records: Records, fields: dict[str, str]
) -> Iterator[tuple[int, list[dict[str, Any]] | Reject]]:
    """Records that are one attempt."""
    key = fields.get("episode")

    def same(pair: tuple[int, tuple[int, dict[str, Any] | Reject]]) -> Any:
        number, (_, record) = pair
        try:
            return ("alone", number) if key is None else _get(record, key)
        except BadRecordError:
            return ("alone", number)

    for _, group in itertools.groupby(enumerate(records), same):
        found = [pair for _, pair in group]
        whole: list[dict[str, Any]] = []
        for line, record in found:
            if isinstance(record, Reject):
                yield line, record
            else:
                whole.append(record)
        if whole:
            yield found[0][0], whole


def _trajectory(
    records: list[dict[str, Any]],
    fields: dict[str, str],
    source: Source,
    options: Options,
    counter: draft.AttemptCounter,
) -> Trajectory:
    first, last = records[0], records[-1]
    turns: list[Any] = records
    if "steps" in fields:
        turns = draft.sequence(_get(first, fields["steps"]), fields["steps"])
        if not turns:
            raise BadRecordError(f"{fields['steps']} is empty: there is no step")
    steps = [_step(turn, fields, number) for number, turn in enumerate(turns)]
    blank = [number for number, step in enumerate(steps) if not step.action.strip()]
    if blank and comma_separated.named(
        source
    ):  # elsewhere an empty text is one, and not what was left out
        raise BadRecordError(f"{fields['action']} of step {blank[0]} is empty: there is no action")
    if "return" in fields:
        rewards = draft.last_reward(len(steps), _number(last, fields["return"]))
        steps = [_with(step, reward) for step, reward in zip(steps, rewards, strict=True)]
    instruction = draft.text(_get(first, fields["task"]), fields["task"])
    family = options.family or source.label
    task = (
        draft.named_task(family, _get(first, fields["task_id"]), instruction)
        if "task_id" in fields
        else draft.make_task(family, "", instruction)
    )
    told = _optional(first, fields, "reflections") or []
    behaviour = _get(first, fields["behaviour"]) if "behaviour" in fields else None
    final = _optional(last, fields, "final_observation")
    return draft.make_attempt(
        "mapping",
        source,
        options,
        task,
        steps,
        attempt=_attempt(first, fields["attempt"]) if "attempt" in fields else counter.number(task),
        success=_success(last, fields, math.fsum(step.reward for step in steps)),
        final_observation="" if final is None else draft.text(final, fields["final_observation"]),
        behaviour_id=None if behaviour is None else str(behaviour),
        reflections=[draft.text(t, fields["reflections"]) for t in draft.sequence(told, "told")],
        recorded_at=draft.moment(_optional(last, fields, "recorded_at"), "recorded_at"),
    )


def _has(made: Trajectory, key: str) -> bool:
    """Whether an attempt, or a step of it, has what a key stands for."""
    parts = made.steps if key in _STEP_KEYS else (made,)
    return any(getattr(part, key) for part in parts)


def _step(record: Any, fields: dict[str, str], number: int) -> Step:
    draft.mapping(record, f"step {number}")
    observation, thought, valid = (
        _optional(record, fields, key) for key in ("observation", "thought", "valid_actions")
    )
    return Step(
        observation="" if observation is None else draft.text(observation, fields["observation"]),
        valid_actions=None
        if valid is None
        else tuple(draft.text(v, "a valid action") for v in draft.sequence(valid, "valid actions")),
        action=draft.text(_get(record, fields["action"]), fields["action"]),
        reward=_number(record, fields["reward"]) if "reward" in fields else 0.0,
        thought=draft.text(thought, fields["thought"]) or None if thought is not None else None,
    )


def _with(step: Step, reward: float) -> Step:
    return Step(
        observation=step.observation,
        valid_actions=step.valid_actions,
        action=step.action,
        reward=reward,
        thought=step.thought,
    )


def _get(record: Any, path: str) -> Any:
    """The value at a dotted path."""
    value = record
    if isinstance(record, dict) and path in record:
        return record[path]
    for name in path.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise BadRecordError(f"the field {path!r} is missing")
    return value


def _optional(record: Any, fields: dict[str, str], key: str) -> Any:
    """The value that a key names; None where the record has none, or an empty cell of a CSV."""
    if key not in fields:
        return None
    try:
        return _get(record, fields[key])
    except BadRecordError:
        return None


def _number(record: Any, path: str) -> float:
    """A number, or a text that is one, as in CSV."""
    value = _get(record, path)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRecordError(f"{path} is {value[:40]!r}, not a number") from None
    return draft.number(value, path)


def _attempt(record: Any, path: str) -> int:
    value = _get(record, path)
    if isinstance(value, str) and value.isdecimal() and len(value) < 12:
        value = int(value)
    return draft.attempt_number(value, path)


def _success(record: Any, fields: dict[str, str], total: float) -> bool:
    if "success" not in fields:
        return total > 0
    value = _get(record, fields["success"])
    known = _WORDS.get(str(value).lower())
    if known is None:
        raise BadRecordError(f"{fields['success']} is {value!r}, not true or false")
    return known
