"""Behaviour half: the Agent Trajectory Interchange Format (ATIF), versions 1.x.

A file is one trajectory, an array of them, or one a line. Steps of source ``agent`` are actions:
their message, or their tool calls with the message as thought; ``reasoning_content`` is thought.
Results in a step's ``observation`` are seen before the next. ATIF has no field for a reward: it is
read from ``reward`` in a step's ``metrics`` (or their ``extra``), or in ``extra`` of the whole or
of ``final_metrics``. Log-probabilities of another model's tokens are not kept: they are of a token
sequence that no transcript of ours makes. It was recorded at the latest ``timestamp`` of a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from retro_lightning.replay.formats import draft, messages
from retro_lightning.replay.formats.items import Attempt, BadRecordError, Item, Options, Reject
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Trajectory


def read(source: Source, options: Options) -> Iterator[Item]:
    """Trajectories in the file's order."""
    counter = draft.AttemptCounter()
    for line, record in source.records():
        if isinstance(record, Reject):
            yield record
            continue
        try:
            yield Attempt(line, _trajectory(record, source, options, counter))
        except BadRecordError as error:
            yield Reject(line, str(error))


def _trajectory(
    record: dict[str, Any], source: Source, options: Options, counter: draft.AttemptCounter
) -> Trajectory:
    version = draft.text(draft.field(record, "schema_version"), "schema_version")
    if not version.startswith("ATIF-v1."):
        raise BadRecordError(f"schema_version is {version!r}; ATIF-v1.x can be read")
    agent = draft.mapping(draft.field(record, "agent"), "agent")
    talk, rewards = _steps(draft.sequence(draft.field(record, "steps"), "steps"))
    if not talk.actions:
        raise BadRecordError("there is no step of source 'agent'")
    told = _told(record)
    if all(reward is None for reward in rewards):
        if told is None:
            raise BadRecordError(
                "there is no reward: give it as 'reward' in extra, in final_metrics.extra, or in "
                "the metrics of steps"
            )
        values = draft.last_reward(len(rewards), told)
    else:
        values = [reward or 0.0 for reward in rewards]
    family = options.family or "atif"
    task = draft.make_task(family, talk.observations[0], talk.instruction)
    names = (agent.get("name"), agent.get("version"), agent.get("model_name"))
    times = [draft.moment(step.get("timestamp"), "timestamp") for step in record["steps"]]
    return draft.make_attempt(
        "atif",
        source,
        options,
        task,
        draft.free_steps(talk.observations, talk.actions, values, talk.thoughts),
        attempt=counter.number(task),
        success=math.fsum(values) > 0,
        final_observation=talk.final_observation,
        behaviour_id=" ".join(draft.text(n, "agent") for n in names if n is not None) or None,
        run=options.run or _session(record),
        recorded_at=max((time for time in times if time is not None), default=None),
    )


def _steps(steps: list[Any]) -> tuple[messages.Conversation, list[float | None]]:
    """The steps as a conversation, and the rewards of the agent's."""
    chat: list[dict[str, Any]] = []
    rewards: list[float | None] = []
    for number, value in enumerate(steps, start=1):
        what = f"step {number}"
        step = draft.mapping(value, what)
        origin = draft.text(draft.field(step, "source"), f"source of {what}")
        if origin not in ("system", "user", "agent"):
            raise BadRecordError(f"{what} has the unknown source {origin!r}")
        message: dict[str, Any] = {
            "role": "assistant" if origin == "agent" else origin,
            "content": step.get("message"),
        }
        if origin == "agent":
            message["reasoning_content"] = step.get("reasoning_content")
            message["tool_calls"] = [
                _call(call, what)
                for call in draft.sequence(step.get("tool_calls") or [], f"tool_calls of {what}")
            ]
            rewards.append(_step_reward(step, what))
        chat.append(message)
        results = draft.mapping(step.get("observation") or {}, f"observation of {what}")
        for value in draft.sequence(results.get("results") or [], f"results of {what}"):
            result = draft.mapping(value, f"a result of {what}")
            if result.get("content") is not None:
                chat.append({"role": "tool", "content": result["content"]})
    return messages.parse(chat), rewards


def _call(value: Any, what: str) -> dict[str, Any]:
    call = draft.mapping(value, f"a tool call of {what}")
    name = draft.field(call, "function_name")
    return {"function": {"name": name, "arguments": call.get("arguments", {})}}


def _step_reward(step: dict[str, Any], what: str) -> float | None:
    metrics = draft.mapping(step.get("metrics") or {}, f"metrics of {what}")
    extra = draft.mapping(metrics.get("extra") or {}, f"extra metrics of {what}")
    reward = metrics.get("reward", extra.get("reward"))
    return None if reward is None else draft.number(reward, f"reward of {what}")


def _told(record: dict[str, Any]) -> float | None:
    metrics = draft.mapping(record.get("final_metrics") or {}, "final_metrics")
    for place in (metrics.get("extra"), record.get("extra"), metrics):
        reward = draft.mapping(place or {}, "extra").get("reward")
        if reward is not None:
            return draft.number(reward, "reward")
    return None


def _session(record: dict[str, Any]) -> str | None:
    session = record.get("session_id")
    return None if session is None else draft.text(session, "session_id")
