"""The service desk: reachable targets, honest actions, schemas from functions."""

import re
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.environments import check
from retro_lightning.environments.service_desk import Desk
from retro_lightning.environments.tool_use import ToolUse, call_text, draw_case, tool_schema

seeds = st.integers(0, 100_000)


def play(env, seed):
    _, info = env.reset(seed=seed)
    texts = [info["instruction"]]
    for number in range(1, 100):
        action = env.expert_action()
        assert action in info["valid_actions"]
        observation, reward, terminated, truncated, info = env.step(action)
        texts.append(observation)
        if terminated or truncated:
            assert reward == float(info["success"])
            return info["success"], number
    raise AssertionError("the episode has no end")


def test_contract():
    assert check(ToolUse, seeds=range(10)).has_expert


@given(seeds, st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_expert_settles_every_case_in_three_to_five_steps(seed, namesakes):
    success, steps = play(ToolUse(namesakes=namesakes), seed)
    assert success
    assert 3 <= steps <= 5


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_target_differs_from_the_start_only_where_asked(seed):
    case = draw_case(0.5, np.random.default_rng(seed))
    desk = Desk()
    desk.fill(case.customers, case.orders)
    before = desk.tables()
    target = desk.tables_after(case.changes)
    assert desk.tables() == before  # looking ahead changes nothing
    customers, orders = ({row[0]: row for row in table} for table in before)
    expected_customers, expected_orders = dict(customers), dict(orders)
    if case.city is not None:
        expected_customers[case.customer] = (case.customer, case.name, case.city)
    if case.item is not None:
        _, customer, item, status = orders[case.order]
        assert (customer, item) == (case.customer, case.item)
        settled = {"pending": "cancelled", "delivered": "refunded"}[status]
        expected_orders[case.order] = (case.order, customer, item, settled)
    assert target == (
        tuple(expected_customers[key] for key in sorted(expected_customers)),
        tuple(expected_orders[key] for key in sorted(expected_orders)),
    )
    assert target != before
    desk.close()


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_request_picks_out_one_customer_and_one_order(seed):
    case = draw_case(1.0, np.random.default_rng(seed))
    who = [row[0] for row in case.customers if row[1:] == (case.name, case.home)]
    assert who == [case.customer]
    if case.item is not None:
        orders = [row[0] for row in case.orders if row[1:3] == (case.customer, case.item)]
        assert orders == [case.order]


@given(seeds, st.lists(st.integers(0, 99), max_size=7))
@settings(max_examples=60, deadline=None)
def test_arguments_have_been_seen_and_lists_stay_short(seed, choices):
    env = ToolUse(max_steps=20)
    observation, info = env.reset(seed=seed)
    seen = set(re.findall(r"\w+", info["instruction"]))
    for choice in choices:
        valid = info["valid_actions"]
        assert len(valid) <= 25
        arguments = {each for call in valid for each in re.findall(r"'(\w+)'", call)}
        assert arguments <= seen
        observation, _, terminated, truncated, info = env.step(valid[choice % len(valid)])
        seen |= set(re.findall(r"\w+", observation))
        if terminated or truncated:
            break


def test_a_wrong_cancellation_can_not_be_mended():
    env = ToolUse()
    wrong = 0
    for seed in range(40):
        env.reset(seed=seed)
        case = env._case
        found_by = {case.customer: case.home} | {row[0]: row[2] for row in case.orders}
        env.step(call_text("find_customer", {"name": case.name}, found_by))
        env.step(call_text("list_orders", {"customer": case.customer}, found_by))
        mistakes = [
            row[0]
            for row in case.orders
            if row[1] == case.customer and row[0] != case.order and row[3] == "pending"
        ]
        if not mistakes:
            continue
        wrong += 1
        env.step(call_text("cancel_order", {"order": mistakes[0]}, found_by))
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(env.expert_action())
        assert not info["success"]
        assert reward == 0.0
    assert wrong > 5


def test_errors_change_nothing():
    desk = Desk()
    desk.fill(
        [("c1", "Ana", "Rome")], [("o1", "c1", "lamp", "pending"), ("o2", "c1", "pen", "cancelled")]
    )
    before = desk.tables()
    assert desk.refund_order("o1") == "error: o1 is pending"
    assert desk.cancel_order("o2") == "error: o2 is cancelled"
    assert desk.cancel_order("o9") == "error: no o9"
    assert desk.change_address("c9", "Oslo") == "error: no c9"
    assert desk.find_customer("Bob") == "nothing found"
    assert desk.tables() == before
    assert desk.list_orders("c1") == "lamp o1 pending, pen o2 cancelled"


def test_time_limit_truncates_without_reward():
    env = ToolUse(max_steps=2)
    env.reset(seed=0)
    env.step(env.expert_action())
    _, reward, terminated, truncated, info = env.step(env.expert_action())
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)


def test_schema_of_a_tool():
    def book(city: str, nights: int = 1, board: Literal["full", "half"] | None = None) -> str:
        """Book a room
        in a hotel.

        It can't be undone.

        Args:
            city: Where,
                and near what.
            nights: How long.
            board: Meals.

        Returns:
            The number: of the room.
        """
        return f"{city} {nights} {board}"

    assert tool_schema(book) == {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book a room in a hotel.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where, and near what."},
                    "nights": {"type": "integer", "description": "How long."},
                    "board": {
                        "type": "string",
                        "enum": ["full", "half"],
                        "description": "Meals.",
                    },
                },
                "required": ["city"],
            },
        },
    }


def test_schemas_of_the_desk_are_in_the_info():
    _, info = ToolUse().reset(seed=0)
    names = [tool["function"]["name"] for tool in info["tools"]]
    assert names == [
        "find_customer",
        "list_orders",
        "cancel_order",
        "refund_order",
        "change_address",
        "finish",
    ]
    parameters = info["tools"][-2]["function"]["parameters"]
    assert parameters["required"] == ["customer", "city"]


def test_schema_names_what_is_missing():
    def silent(city: str) -> str:
        return city

    def untyped(city):
        """Do.

        Args:
            city: Where.
        """

    def untold(city: str) -> str:
        """Do."""
        return city

    def strange(city: bytes) -> str:
        """Do.

        Args:
            city: Where.
        """
        return str(city)

    for function, message in (
        (silent, "'silent' has no docstring"),
        (untyped, "argument 'city' has no type hint"),
        (untold, "argument 'city' has no line under Args"),
        (strange, "has no counterpart"),
    ):
        with pytest.raises(ValueError, match=message):
            tool_schema(function)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_steps": 0}, "max_steps is 0"), ({"namesakes": 1.5}, "namesakes is 1.5")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ToolUse(**arguments)
