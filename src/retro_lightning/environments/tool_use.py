"""Behaviour half: settle a customer's request by calling Python functions over a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from retro_lightning.environments.service_desk import NOTHING_FOUND, Desk, Tables, tool_schema
from retro_lightning.environments.spaces import UnicodeText

__all__ = ["ToolUse", "tool_schema"]

Call = tuple[str, dict[str, str]]
"""A tool's name and its arguments."""

_NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jon", "Kira", "Leo")
_CITIES = ("Athens", "Bern", "Cairo", "Delhi", "Essen", "Fez", "Ghent", "Lima", "Oslo", "Rome")
_ITEMS = (
    *("bag", "book", "chair", "clock", "desk", "hat"),
    *("lamp", "mug", "pen", "rug", "sofa", "vase"),
)
_GIVES_BACK = (
    "{who} no longer wants the {item}",
    "{who} asks us to take back the {item}",
    "{who} ordered the {item} by mistake",
)
_MOVES = (
    "{who} has moved to {city}",
    "{who} now lives in {city}",
    "{who} wants everything sent to {city}",
)
_BOTH = (
    "{who} has moved to {city} and no longer wants the {item}",
    "{who} ordered the {item} by mistake and now lives in {city}",
)


@dataclass(frozen=True)
class Case:
    """A customer's request and the database it meets.

    Attributes:
        request: The request in words.
        name: Name of the customer who asks.
        home: City of the customer who asks, which tells namesakes apart.
        customer: Id of that customer.
        city: The city the customer has moved to, if so.
        item: What the customer wants to be rid of, if anything.
        order: Id of the order of that item.
        settle: The tool that takes the item back, by the order's status.
        customers: Rows of (id, name, city).
        orders: Rows of (id, customer, item, status).
    """

    request: str
    name: str
    home: str
    customer: str
    city: str | None
    item: str | None
    order: str
    settle: str
    customers: tuple[tuple[str, str, str], ...]
    orders: tuple[tuple[str, str, str, str], ...]

    @property
    def changes(self) -> tuple[Call, ...]:
        """The calls that lead from the database to what the customer asked for."""
        calls: list[Call] = []
        if self.city is not None:
            calls.append(("change_address", {"customer": self.customer, "city": self.city}))
        if self.item is not None:
            calls.append((self.settle, {"order": self.order}))
        return tuple(calls)


class ToolUse(gymnasium.Env[str, str]):
    """A customer-service desk: find the customer, look at the orders, do what is asked, finish.

    An action is a call such as ``cancel_order(order: hat o3)``, where an id stands behind what it
    was found by; valid are the calls whose arguments the agent has met in the request or in
    results. Whoever no longer wants an item gets a pending order cancelled and a delivered one
    refunded. ``finish()`` closes the case: the reward is 1 if the tables then equal those that the
    request leads to, else 0. Running into the time limit truncates, unsettled. ``info["tools"]`` of
    ``reset`` has the tools' schemas and ``info["calls"]`` what each valid action calls, so that
    ``ToolCalls`` can have the calls written as JSON.

    Args:
        max_steps: Time limit in steps; a case needs 3 to 5. Lower = less room for going astray.
        namesakes: Share of cases in which another customer has the same name, in [0, 1]. Higher =
            harder.
    """

    TEXT_VERSION = 3
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, max_steps: int = 8, namesakes: float = 0.5) -> None:
        """Make the environment; see the class for the arguments.

        Raises:
            ValueError: If an argument is impossible.
        """
        if max_steps < 1:
            raise ValueError(f"ToolUse: max_steps is {max_steps}, it must be at least 1")
        if not 0 <= namesakes <= 1:
            raise ValueError(f"ToolUse: namesakes is {namesakes}, it must be between 0 and 1")
        self._max_steps, self._namesakes = max_steps, namesakes
        self._desk = Desk()
        self._tools = self._desk.tools
        self._schemas = [tool_schema(tool) for tool in (*self._tools.values(), finish)]
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin a case; the same seed gives the same request and database."""
        super().reset(seed=seed, options=options)
        self._case = case = draw_case(self._namesakes, self.np_random)
        self._desk.fill(case.customers, case.orders)
        self._target: Tables = self._desk.tables_after(case.changes)
        self._cities = [city for city in (case.city, case.home) if city is not None]
        self._seen_customers: list[str] = []
        self._seen_orders: list[str] = []
        self._found_by: dict[str, str] = {}
        self._listed = False
        self._steps = 0
        info = {
            **self._info(),
            "initial_state": str(self._desk.tables()),
            "tools": self._schemas,
        }
        return "case open", info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make one of the valid calls.

        Raises:
            ValueError: If the call is not valid now.
        """
        calls = self._calls()
        if action not in calls:
            raise ValueError(
                f"ToolUse: {action!r} is not a valid action now; valid are: {', '.join(calls)}"
            )
        name, arguments = calls[action]
        self._steps += 1
        finished = name == "finish"
        if finished:
            observation = finish()
        else:
            observation = self._tools[name](**arguments)
            self._read(name, arguments, observation)
        success = finished and self._desk.tables() == self._target
        truncated = not finished and self._steps >= self._max_steps
        info = {**self._info(), "success": success}
        return observation, float(success), finished, truncated, info

    def expert_action(self) -> str:
        """The next call of the plan: find, change the address, list, settle, finish.

        What is done already, by whomever, is not done again; what can't be mended is left.
        """
        case = self._case
        if case.customer not in self._seen_customers:
            return self._text("find_customer", {"name": case.name})
        customers, orders = self._desk.tables()
        if case.city is not None and (case.customer, case.name, case.city) not in customers:
            return self._text("change_address", {"customer": case.customer, "city": case.city})
        if case.item is not None:
            if not self._listed:
                return self._text("list_orders", {"customer": case.customer})
            status = next(row[3] for row in orders if row[0] == case.order)
            if status in ("pending", "delivered"):
                return self._text(case.settle, {"order": case.order})
        return self._text("finish", {})

    def close(self) -> None:
        """Close the database."""
        self._desk.close()

    def _calls(self) -> dict[str, Call]:
        """The valid calls, by their text."""
        customers, orders = self._seen_customers, self._seen_orders
        calls: list[Call] = [("find_customer", {"name": self._case.name})]
        calls += [("list_orders", {"customer": customer}) for customer in customers]
        calls += [
            ("change_address", {"customer": customer, "city": city})
            for customer in customers
            for city in self._cities
        ]
        calls += [
            (tool, {"order": order})
            for tool in ("cancel_order", "refund_order")
            for order in orders
        ]
        calls.append(("finish", {}))
        return {self._text(*call): call for call in calls}

    def _text(self, name: str, arguments: dict[str, str]) -> str:
        return call_text(name, arguments, self._found_by)

    def _read(self, name: str, arguments: dict[str, str], result: str) -> None:
        """Note the entities that a result names."""
        rows = [row.split() for row in result.split(", ") if result != NOTHING_FOUND]
        if name == "find_customer":
            _add(self._cities, [city for city, _ in rows])
            _add(self._seen_customers, [customer for _, customer in rows])
            for city, customer in rows:
                self._found_by.setdefault(customer, city)
        if name == "list_orders":
            _add(self._seen_orders, [order for _, order, _ in rows])
            self._found_by |= {order: item for item, order, _ in rows}
            self._listed |= arguments["customer"] == self._case.customer

    def _info(self) -> dict[str, Any]:
        calls = {
            text: {"name": name, "arguments": arguments}
            for text, (name, arguments) in self._calls().items()
        }
        return {"instruction": self._case.request, "valid_actions": list(calls), "calls": calls}


def finish() -> str:
    """Close the case, once all that was asked for is done."""
    return "case closed"


def call_text(name: str, arguments: dict[str, str], found_by: Mapping[str, str]) -> str:
    """A call as text, such as ``cancel_order(order: hat o3)``.

    Args:
        name: Name of the tool.
        arguments: Its arguments.
        found_by: Id → what it was found by, which is written before it.
    """
    shown = [
        f"{key}: {found_by[value]} {value}" if value in found_by else f"{key}: {value}"
        for key, value in arguments.items()
    ]
    return f"{name}({', '.join(shown)})"


def draw_case(namesakes: float, rng: np.random.Generator) -> Case:
    """Draw a request and a database of three customers with their orders.

    Args:
        namesakes: Probability that a second customer has the name of the one who asks.
        rng: Source of randomness.
    """
    names = _draw(rng, _NAMES, 3)
    homes = _draw(rng, _CITIES, 4)
    if rng.random() < namesakes:
        names[1] = names[0]
    ids = [f"c{number}" for number in _draw(rng, range(1, 10), 3)]
    numbers = _draw(rng, range(1, 10), 7)
    orders = []
    for customer, count in zip(ids, (3, 2, 2), strict=True):
        for item in _draw(rng, _ITEMS, count):
            status = ("pending", "delivered")[int(rng.integers(2))]
            orders.append((f"o{numbers.pop()}", customer, str(item), status))
    order, _, item, status = orders[int(rng.integers(3))]
    kind = int(rng.integers(3))
    templates = (_GIVES_BACK, _MOVES, _BOTH)[kind]
    request = templates[int(rng.integers(len(templates)))].format(
        who=f"{names[0]} from {homes[0]}", city=homes[3], item=item
    )
    return Case(
        request=request,
        name=names[0],
        home=homes[0],
        customer=ids[0],
        city=homes[3] if kind else None,
        item=item if kind != 1 else None,
        order=order,
        settle="cancel_order" if status == "pending" else "refund_order",
        customers=tuple(zip(ids, names, homes[:3], strict=True)),
        orders=tuple(orders),
    )


def _draw(rng: np.random.Generator, pool: Sequence[Any], count: int) -> list[Any]:
    return [pool[int(place)] for place in rng.permutation(len(pool))[:count]]


def _add(known: list[str], new: list[str]) -> None:
    known.extend(each for each in new if each not in known)
