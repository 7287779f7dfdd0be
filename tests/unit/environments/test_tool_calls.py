"""Calls written as JSON: what is read, what is refused in words, and the desk behind it."""

from __future__ import annotations

import functools
import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from retro_lightning.environments import check
from retro_lightning.environments.call_format import CallFormat, NoCall, ToolCall, format_of
from retro_lightning.environments.tool_calls import ToolCalls
from retro_lightning.environments.tool_use import ToolUse, tool_schema
from tests.support import CorridorEnv


def book(
    city: str,
    nights: int,
    price: float = 1.0,
    view: bool = False,
    guests: list[str] | None = None,
    board: Literal["none", "half"] = "none",
) -> str:
    """Book a room.

    Args:
        city: Where.
        nights: How long.
        price: Most to pay.
        view: With a view.
        guests: Names.
        board: Meals.
    """
    return f"{city} {nights} {price} {view} {guests} {board}"


SCHEMAS = [tool_schema(book)]
TAGS = CallFormat("<tool_call>\n", "\n</tool_call>")


def read(name: Any = "book", form: CallFormat | None = None, **arguments: Any) -> ToolCall | NoCall:
    form = form if form is not None else CallFormat()
    text = json.dumps({"name": name, form.arguments: {"city": "Rome", "nights": 2, **arguments}})
    return form.read(f"{form.opening}{text}{form.closing}", SCHEMAS)


def test_a_call_that_fits_the_hints_is_read():
    call = read(price=2, view=True, guests=["Né"], board="half")
    assert isinstance(call, ToolCall)
    assert call.arguments["price"] == 2  # a whole number is a number
    assert book(**call.arguments) == "Rome 2 2 True ['Né'] half"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"nights": "two"}, "book: argument nights must be of type integer, it is of type str"),
        ({"nights": True}, "book: argument nights must be of type integer, it is of type bool"),
        ({"nights": 2.5}, "book: argument nights must be of type integer, it is of type float"),
        ({"view": 1}, "book: argument view must be of type boolean"),
        ({"city": None}, "book: argument city must be of type string"),
        ({"guests": "Ana"}, "book: argument guests must be of type array"),
        ({"guests": ["Ana", 3]}, "argument guests has an item that must be of type string"),
        ({"board": "full"}, 'book: argument board must be one of ["none", "half"]'),
        ({"floor": 3}, 'book has no argument "floor"'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments: dict[str, Any], reason: str):
    call = read(**arguments)
    assert isinstance(call, NoCall)
    assert reason in call.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not a JSON object"),
        ("book a room", "it is not a JSON object"),
        ("[]", "it is not a JSON object"),
        ("[" * 100_000, "it is not a JSON object"),
        ("9" * 5_000, "it is not a JSON object"),
        ('{"name": "book"}', 'its keys must be "name" and "arguments"'),
        ('{"name": "fly", "arguments": {}}', 'there is no tool "fly"; there are book'),
        ('{"name": ["book"], "arguments": {}}', "the name must be a text"),
        ('{"name": "book", "arguments": []}', "the arguments of book must be an object"),
        ('{"name": "book", "arguments": {"city": "Rome"}}', "book needs the argument nights"),
        (
            '{"name": "book", "arguments": {"city": "Rome", "nights": 1, "price": NaN}}',
            "it is not a JSON object",
        ),
        ('{"name": "book", "arguments": {}} and more', "it is not a JSON object"),
    ],
)
def test_what_is_no_call_is_a_sentence(text: str, reason: str):
    call = CallFormat().read(text, SCHEMAS)
    assert isinstance(call, NoCall)
    assert reason in call.reason


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(
        st.text(),
        st.builds(lambda v: json.dumps({"name": "book", "arguments": v}), values),
        st.builds(lambda v: json.dumps({"name": v, "arguments": {}}), values),
    )
)
def test_whatever_is_written_is_an_outcome(text: str):
    for form in (CallFormat(), TAGS):
        call = form.read(f"{form.opening}{text}{form.closing}", SCHEMAS)
        if isinstance(call, ToolCall):
            book(**call.arguments)  # what is let through can be called
        else:
            assert call.reason
            assert "\n" not in call.reason


@given(st.text(), st.integers(), st.sampled_from([CallFormat(), TAGS]))
def test_what_is_written_is_read_back(city: str, nights: int, form: CallFormat):
    call = ToolCall("book", {"city": city, "nights": nights})
    if form.closing.strip() not in city or not form.closing:
        assert form.read(form.write(call), SCHEMAS) == call


def test_words_around_the_markers_are_passed_over():
    call = ToolCall("book", {"city": "Rome", "nights": 1})
    assert TAGS.read(f"Let me see. {TAGS.write(call)} Done.", SCHEMAS) == call
    assert TAGS.read(CallFormat().write(call), SCHEMAS) == NoCall("there is no <tool_call> in it")


TURN = "{{ '<|' + m.role + '|>' }}"
QWEN = (
    "{% for m in messages %}" + TURN + "{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '\\n<tool_call>\\n' }}"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}"
    "{{ '\\n</tool_call>' }}{% endfor %}{{ '<eos>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LLAMA = QWEN.replace("'arguments':", "'parameters':").replace("'\\n<tool_call>\\n'", "''")
LLAMA = LLAMA.replace("'\\n</tool_call>'", "''")
MISTRAL = LLAMA.replace("'parameters':", "'arguments':").replace(
    "{{ {'name'", "{{ '[TOOL_CALLS][' }}{{ {'name'"
)
MISTRAL = MISTRAL.replace("tojson }}", "tojson }}{{ ']' }}")
SILENT = "{% for m in messages %}" + TURN + "{{ m.content }}{% endfor %}"
REFUSES = "{{ raise_exception('no tools here') if messages | length > 1 else '' }}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, CallFormat()),
        (QWEN, CallFormat("<tool_call>\n", "\n</tool_call>")),
        (LLAMA, CallFormat("", "", "parameters")),
        (MISTRAL, CallFormat("[TOOL_CALLS][", "]")),
        (SILENT, CallFormat()),
        (REFUSES, CallFormat()),
    ],
)
def test_the_format_is_that_of_the_chat_template(tmp_path, template, expected: CallFormat):
    tokenizer = tiny.tokenizer.__wrapped__()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    form = format_of(str(tmp_path))
    assert form == expected
    call = ToolCall("book", {"city": "Rome", "nights": 1})
    assert form.read(form.write(call), SCHEMAS) == call


# ---------------------------------------------------------------------- the desk
def test_contract():
    assert check(functools.partial(ToolCalls, ToolUse), seeds=range(4)).has_expert


def test_the_expert_settles_cases_in_json_and_schemas_tell_every_call():
    env = ToolCalls(ToolUse)
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        assert "valid_actions" not in info
        assert observation.startswith("Tools:\nfind_customer(name: string): Find all customers")
        assert observation.endswith("\ncase open")
        over = False
        while not over:
            action = env.expert_action()
            assert set(json.loads(action)) == {"name", "arguments"}
            observation, reward, over, truncated, info = env.step(action)
            assert not truncated
        assert (reward, info["success"]) == (1.0, True)


def test_a_failure_costs_the_penalty_and_changes_nothing():
    env = ToolCalls(ToolUse, penalty=0.25, patience=3)
    env.reset(seed=1)
    assert env.expert_action is not None
    before = env.expert_action()
    impossible = '{"name": "cancel_order", "arguments": {"order": "o77"}}'
    for number, text in enumerate(("what?", impossible, before.replace("find", "lose"))):
        observation, reward, terminated, truncated, info = env.step(text)
        assert (reward, terminated, truncated) == (-0.25, False, number == 2)
        assert observation in (
            "no call: it is not a JSON object",
            "cancel_order with these arguments is not possible now",
            'no call: there is no tool "lose_customer"; there are find_customer, list_orders, '
            "cancel_order, refund_order, change_address, finish",
        )
        assert info["success"] is False
        assert env.expert_action() == before
    assert env.step(before)[1] == 0.0  # what is wrong is not remembered by the desk


def test_the_tokenizers_format_is_the_one_asked_for(tmp_path):
    tokenizer = tiny.tokenizer.__wrapped__()
    tokenizer.chat_template = QWEN
    tokenizer.save_pretrained(tmp_path)
    env = ToolCalls(ToolUse, tokenizer=str(tmp_path))
    env.reset(seed=0)
    assert env.expert_action is not None
    action = env.expert_action()
    assert action.startswith("<tool_call>\n{")
    assert env.step(action)[1] == 0.0
    assert "no <tool_call> in it" in env.step('{"name": "finish", "arguments": {}}')[0]


def test_bad_arguments_and_environments_without_calls_are_refused():
    with pytest.raises(ValueError, match="penalty is -1"):
        ToolCalls(ToolUse, penalty=-1)
    with pytest.raises(ValueError, match="patience is 0"):
        ToolCalls(ToolUse, patience=0)
    with pytest.raises(ValueError, match=r'CorridorEnv gives no info\["tools"\]'):
        ToolCalls(CorridorEnv).reset(seed=0)
