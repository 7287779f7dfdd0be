"""Behaviour half: OpenAI-style chat messages as observations and actions, and back.

An assistant message is one action: its text, or its tool calls, one a line, as
``name({"argument": value})``. Text beside tool calls, and ``reasoning_content``, is the thought.
What came in between (user, tool) is the observation, system messages at the start the instruction.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from retro_lightning.replay.formats import draft
from retro_lightning.replay.formats.items import BadRecordError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_CALL = re.compile(r"([\w.:-]+)\((\{.*\})\)")


@dataclass
class Conversation:
    """A conversation taken apart.

    Attributes:
        instruction: System messages at the start; without any, the first user message.
        observations: What was seen before each action.
        actions: What the assistant did.
        thoughts: What it wrote before each action, if anything.
        rewards: Rewards that stand in assistant messages; None where there is none.
        final_observation: What was seen after the last action.
    """

    instruction: str = ""
    observations: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    thoughts: list[str | None] = field(default_factory=list)
    rewards: list[float | None] = field(default_factory=list)
    final_observation: str = ""


def parse(messages: list[Any]) -> Conversation:
    """Take a conversation apart.

    Raises:
        BadRecordError: If a message is not one.
    """
    result = Conversation()
    instructions: list[str] = []
    seen: list[str] = []
    for number, value in enumerate(messages):
        what = f"message {number}"
        message = draft.mapping(value, what)
        role = draft.text(draft.field(message, "role"), f"role of {what}")
        if role not in ROLES:
            raise BadRecordError(f"{what} has the unknown role {role!r}; known: {', '.join(ROLES)}")
        if role == "assistant":
            action, thought = _action(message, what)
            reward = message.get("reward")
            result.observations.append("\n".join(seen))
            result.actions.append(action)
            result.thoughts.append(thought)
            result.rewards.append(
                None if reward is None else draft.number(reward, f"reward of {what}")
            )
            seen = []
        elif role in ("system", "developer") and not result.actions and not seen:
            instructions.append(_content(message, what))
        else:
            seen.append(_content(message, what))
    if not instructions and result.actions:
        instructions, result.observations[0] = [result.observations[0]], ""
    result.instruction = "\n".join(instructions)
    result.final_observation = "\n".join(seen)
    return result


def call_text(name: str, arguments: Any) -> str:
    """A tool call as text; arguments are an object, or JSON as a model wrote it."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return f"{name}({arguments})"
    return f"{name}({json.dumps(arguments, ensure_ascii=False)})"


def calls_of(action: str) -> list[tuple[str, str]] | None:
    """Names and JSON arguments of an action that is tool calls; None = it is plain text."""
    calls = []
    for line in action.split("\n"):
        match = _CALL.fullmatch(line)
        if match is None:
            return None
        try:
            json.loads(match[2])
        except (ValueError, RecursionError):
            return None
        calls.append((match[1], match[2]))
    return calls


def _action(message: dict[str, Any], what: str) -> tuple[str, str | None]:
    content = _content(message, what)
    reasoning = message.get("reasoning_content")
    thought = None if reasoning is None else draft.text(reasoning, f"reasoning_content of {what}")
    calls = message.get("tool_calls") or []
    if old := message.get("function_call"):
        calls = [{"function": old}]
    if not calls:
        return content, thought
    texts = []
    for call in draft.sequence(calls, f"tool_calls of {what}"):
        function = draft.mapping(
            draft.field(draft.mapping(call, f"a tool call of {what}"), "function"),
            f"function of {what}",
        )
        name = draft.text(draft.field(function, "name"), f"name of a tool call of {what}")
        texts.append(call_text(name, function.get("arguments", {})))
    written = [part for part in (thought, content) if part]
    return "\n".join(texts), "\n".join(written) or None


def _content(message: dict[str, Any], what: str) -> str:
    """A message's text; of several parts, their texts in order."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [draft.mapping(part, f"a part of {what}") for part in content]
        return "\n".join(
            draft.text(part.get("text", f"[{part.get('type')}]"), f"text of {what}")
            for part in parts
        )
    return draft.text(content, f"content of {what}")
