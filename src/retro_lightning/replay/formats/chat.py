"""Behaviour half: OpenAI-style chat messages, one conversation a record.

``messages`` is all that must be there, with a ``reward`` of the conversation, or a ``reward`` in
assistant messages. What may stand beside them: ``success`` (default: a positive return),
``task_id``, ``family``, ``attempt`` or ``trial`` (default: counted in the file's order), ``model``
(who acted), ``reflections`` (what it had been told), ``truncation``, and ``created`` or
``timestamp`` (when, in seconds since 1970 or in ISO 8601).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

from retro_lightning.replay.formats import draft, messages
from retro_lightning.replay.formats.items import Attempt, BadRecordError, Item, Options, Reject
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Task, Trajectory, Truncation


def read(source: Source, options: Options) -> Iterator[Item]:
    """Conversations in the file's order."""
    counter = draft.AttemptCounter()
    for line, record in source.records():
        if isinstance(record, Reject):
            yield record
            continue
        try:
            yield Attempt(line, conversation("chat", record, source, options, counter))
        except BadRecordError as error:
            yield Reject(line, str(error))


def conversation(
    format_: str,
    record: dict[str, Any],
    source: Source,
    options: Options,
    counter: draft.AttemptCounter,
) -> Trajectory:
    """The trajectory of a record with ``messages``.

    Raises:
        BadRecordError: If the record cannot be read.
    """
    talk = messages.parse(draft.sequence(draft.field(record, "messages"), "messages"))
    if not talk.actions:
        raise BadRecordError("there is no assistant message")
    rewards = _rewards(talk, record.get("reward"))
    total = math.fsum(rewards)
    task = _task(record, talk, options)
    number = record.get("attempt", record.get("trial"))
    success = record.get("success")
    model = record.get("model")
    told = draft.sequence(record.get("reflections") or [], "reflections")
    return draft.make_attempt(
        format_,
        source,
        options,
        task,
        draft.free_steps(talk.observations, talk.actions, rewards, talk.thoughts),
        attempt=counter.number(task) if number is None else draft.attempt_number(number, "attempt"),
        success=total > 0 if success is None else draft.flag(success, "success"),
        final_observation=talk.final_observation,
        truncation=truncation(record.get("truncation")),
        behaviour_id=None if model is None else draft.text(model, "model"),
        reflections=[draft.text(reflection, "a reflection") for reflection in told],
        recorded_at=draft.moment(record.get("created", record.get("timestamp")), "created"),
    )


def truncation(value: Any) -> Truncation | None:
    """A reason for which an episode was cut; a fault cannot be told without its sentence."""
    if value is None:
        return None
    known = [reason for reason in get_args(Truncation) if reason != "fault"]
    if value not in known:
        raise BadRecordError(f"truncation is {value!r}; known: {', '.join(known)}")
    reason: Truncation = value
    return reason


def _rewards(talk: messages.Conversation, told: Any) -> list[float]:
    """Rewards of the steps: the messages' own, or the conversation's with the last."""
    own = any(reward is not None for reward in talk.rewards)
    if not own:
        if told is None:
            raise BadRecordError("the field 'reward' is missing, and no message has one")
        return draft.last_reward(len(talk.actions), draft.number(told, "reward"))
    rewards = [reward or 0.0 for reward in talk.rewards]
    total = math.fsum(rewards)
    if told is not None and not math.isclose(draft.number(told, "reward"), total, abs_tol=1e-9):
        raise BadRecordError(f"reward is {told}, but the messages' rewards add up to {total}")
    return rewards


def _task(record: dict[str, Any], talk: messages.Conversation, options: Options) -> Task:
    family = options.family or draft.text(record.get("family") or "chat", "family")
    name = record.get("task_id")
    if name is None:
        return draft.make_task(family, talk.observations[0], talk.instruction)
    return draft.named_task(family, name, talk.instruction)
