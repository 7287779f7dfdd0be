"""Behaviour half: result files of tau-bench: a JSON array of tasks tried several times.

A result has ``task_id``, ``trial``, ``reward``, ``info`` (the task) and ``traj`` (chat messages).
The instruction is the system message, which the agent was shown; the customer's script under
``info.task`` tells tasks apart and is not shown to a policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from retro_lightning.replay.formats import draft, messages
from retro_lightning.replay.formats.items import Attempt, BadRecordError, Item, Options, Reject
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Trajectory, Truncation

_DOMAIN = re.compile(r"#\s*(\w+) agent policy", re.IGNORECASE)
_STOP = "###STOP###"
_HANDED_OVER = "transfer_to_human_agents("
_STEP_LIMIT = 30
"""tau-bench's own limit of agent steps."""


def read(source: Source, options: Options) -> Iterator[Item]:
    """Results in the file's order."""
    for line, record in source.records():
        if isinstance(record, Reject):
            yield record
            continue
        try:
            yield Attempt(line, _trajectory(record, source, options))
        except BadRecordError as error:
            yield Reject(line, str(error))


def _trajectory(record: dict[str, Any], source: Source, options: Options) -> Trajectory:
    reward = draft.number(draft.field(record, "reward"), "reward")
    attempt = draft.attempt_number(draft.field(record, "trial"), "trial")
    number = draft.attempt_number(draft.field(record, "task_id"), "task_id")
    info = draft.mapping(draft.field(record, "info"), "info")
    talk = messages.parse(draft.sequence(draft.field(record, "traj"), "traj"))
    domain = _DOMAIN.match(talk.instruction.lstrip())
    family = options.family or (f"tau_bench/{domain[1].lower()}" if domain else "tau_bench")
    state = json.dumps(info.get("task", number), sort_keys=True)
    task = draft.make_task(family, state, talk.instruction)
    fault = None if info.get("error") is None else str(info["error"])
    if not talk.actions and fault is None:
        raise BadRecordError("traj has no assistant message")
    return draft.make_attempt(
        "tau_bench",
        source,
        options,
        task,
        draft.free_steps(
            talk.observations,
            talk.actions,
            draft.last_reward(len(talk.actions), reward),
            talk.thoughts,
        ),
        attempt=attempt,
        success=abs(reward - 1) < 1e-6,
        final_observation=talk.final_observation,
        truncation="fault" if fault is not None else _truncation(talk),
        fault=fault,
    )


def _truncation(talk: messages.Conversation) -> Truncation | None:
    """``task_limit`` for a conversation that neither side has ended by the last step."""
    ended = _STOP in talk.final_observation or talk.actions[-1].startswith(_HANDED_OVER)
    return "task_limit" if not ended and len(talk.actions) >= _STEP_LIMIT else None
