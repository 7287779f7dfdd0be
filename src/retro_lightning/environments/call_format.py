"""Behaviour half: tool calls as text: written, read and validated; a bad one is a sentence."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retro_lightning.environments.contract import kind

Schema = Mapping[str, Any]
"""A tool in JSON-schema form, as ``tool_schema`` makes it."""

_PROBE = "probe_tool"
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
}


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        name: The tool.
        arguments: Its arguments by name.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class NoCall:
    """What was written is no call.

    Attributes:
        reason: What is wrong, one sentence for whoever wrote it.
    """

    reason: str


@dataclass(frozen=True)
class CallFormat:
    """How a call is written: ``{"name": …, "arguments": {…}}``, between two markers.

    Attributes:
        opening: What a model writes before the JSON object.
        closing: What it writes after it.
        arguments: Key of the arguments in the object.
    """

    opening: str = ""
    closing: str = ""
    arguments: str = "arguments"

    def write(self, call: ToolCall) -> str:
        """The call as text."""
        plain = {"name": call.name, self.arguments: call.arguments}
        return f"{self.opening}{json.dumps(plain, ensure_ascii=False)}{self.closing}"

    def read(self, text: str, schemas: Sequence[Schema]) -> ToolCall | NoCall:
        """The call that a text makes; never raises, whatever the text.

        What stands before the opening marker or behind the closing one is passed over, so that a
        model may say something with its call; without markers the text must be the object alone.

        Args:
            text: What was written.
            schemas: The tools there are.
        """
        opening, closing = self.opening.strip(), self.closing.strip()
        if opening:
            _, found, text = text.partition(opening)
            if not found:
                return NoCall(f"there is no {opening} in it")
        if closing:
            text = text.partition(closing)[0]
        try:
            plain = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return NoCall("it is not a JSON object")
        if not isinstance(plain, dict):
            return NoCall("it is not a JSON object")
        if set(plain) != {"name", self.arguments}:
            return NoCall(f'its keys must be "name" and "{self.arguments}"')
        return _checked(plain["name"], plain[self.arguments], schemas)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _checked(name: Any, arguments: Any, schemas: Sequence[Schema]) -> ToolCall | NoCall:
    tools = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    if not isinstance(name, str):
        return NoCall(f"the name must be a text, it is {kind(name)}")
    if name not in tools:
        return NoCall(f"there is no tool {json.dumps(name)}; there are {', '.join(tools)}")
    if not isinstance(arguments, dict):
        return NoCall(f"the arguments of {name} must be an object")
    properties: Mapping[str, Schema] = tools[name]["properties"]
    for missing in tools[name]["required"]:
        if missing not in arguments:
            return NoCall(f"{name} needs the argument {missing}")
    for key, value in arguments.items():
        if key not in properties:
            return NoCall(f"{name} has no argument {json.dumps(key)}")
        wrong = _mismatch(value, properties[key])
        if wrong is not None:
            return NoCall(f"{name}: argument {key} {wrong}")
    return ToolCall(name, arguments)


def _mismatch(value: Any, schema: Schema) -> str | None:
    """What is wrong with a value; None = it fits its type."""
    wanted = schema["type"]
    fits = isinstance(value, _KINDS[wanted])
    if not fits or (isinstance(value, bool) and wanted != "boolean"):
        return f"must be of type {wanted}, it is {kind(value)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"must be one of {json.dumps(schema['enum'], ensure_ascii=False)}"
    for item in value if wanted == "array" else ():
        wrong = _mismatch(item, schema["items"])
        if wrong is not None:
            return f"has an item that {wrong}"
    return None


@functools.cache
def format_of(tokenizer: str) -> CallFormat:
    """How a tokenizer's chat template writes calls; a bare JSON object where it does not say.

    A probe call is rendered by the template; what stands around its JSON object, up to the end of
    the turn, are the markers.

    Args:
        tokenizer: Directory or hub name.
    """
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(tokenizer)
    if loaded.chat_template is None:
        return CallFormat()
    arguments = {"key": "value"}
    function = {"name": _PROBE, "arguments": arguments}
    user = {"role": "user", "content": "x"}
    calls = [{"type": "function", "id": "abcdefghi", "function": function}]
    assistant = {"role": "assistant", "content": "", "tool_calls": calls}
    try:
        start = loaded.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        whole = loaded.apply_chat_template([user, assistant], tokenize=False)
    except Exception:  # a template may raise anything on what it does not support
        return CallFormat()
    return _around(str(start), str(whole), arguments, str(loaded.eos_token))


def _around(start: str, whole: str, arguments: dict[str, str], end: str) -> CallFormat:
    """The format in which a rendered conversation writes the probe call."""
    if not whole.startswith(start) or _PROBE not in whole:
        return CallFormat()
    turn = whole[len(start) :]
    place = turn.rfind("{", 0, turn.index(_PROBE))
    try:
        plain, length = json.JSONDecoder().raw_decode(turn[max(place, 0) :])
    except ValueError:
        return CallFormat()
    keys = [key for key, value in plain.items() if value == arguments]
    if place < 0 or plain.get("name") != _PROBE or len(keys) != 1 or len(plain) != 2:
        return CallFormat()
    closing = turn[place + length :].partition(end)[0].rstrip()
    return CallFormat(turn[:place].lstrip(), closing, keys[0])
