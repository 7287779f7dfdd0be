"""Behaviour half: a customer-service desk: Python functions over an SQLite database in memory.

``tool_schema`` turns any function with type hints and a Google docstring into a JSON schema.
"""

from __future__ import annotations

import inspect
import re
import sqlite3
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

Tool = Callable[..., str]
Tables = tuple[tuple[tuple[str, ...], ...], ...]
"""All rows of all tables, sorted: equal exactly when two databases are."""

NOTHING_FOUND = "nothing found"
"""Result of a query without rows."""

_SCHEMA = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);
CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customers (id),
                     item TEXT NOT NULL, status TEXT NOT NULL);
"""
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Desk:
    """The tools of the desk and the database they work on.

    Results are compact: rows between commas, what one looks for right before what one needs, as in
    ``lamp o3 pending, pen o5 delivered``. Errors change nothing.
    """

    def __init__(self) -> None:
        """Open an empty database in memory."""
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.executescript(_SCHEMA)

    @property
    def tools(self) -> dict[str, Tool]:
        """The functions an agent may call, by name."""
        functions: list[Tool] = [
            self.find_customer,
            self.list_orders,
            self.cancel_order,
            self.refund_order,
            self.change_address,
        ]
        return {function.__name__: function for function in functions}

    def find_customer(self, name: str) -> str:
        """Find all customers of a name; each is told as city and customer id.

        Args:
            name: First name of the customer.
        """
        return self._rows("SELECT city, id FROM customers WHERE name = ? ORDER BY id", name)

    def list_orders(self, customer: str) -> str:
        """List a customer's orders; each is told as item, order id and status.

        Args:
            customer: Id of the customer.
        """
        query = "SELECT item, id, status FROM orders WHERE customer = ? ORDER BY id"
        return self._rows(query, customer)

    def cancel_order(self, order: str) -> str:
        """Cancel an order that is still pending. It can't be taken back.

        Args:
            order: Id of the order.
        """
        return self._settle(order, "pending", "cancelled")

    def refund_order(self, order: str) -> str:
        """Take back a delivered order and refund it. It can't be taken back.

        Args:
            order: Id of the order.
        """
        return self._settle(order, "delivered", "refunded")

    def change_address(self, customer: str, city: str) -> str:
        """Change the city a customer lives in.

        Args:
            customer: Id of the customer.
            city: The new city.
        """
        cursor = self._database.execute(
            "UPDATE customers SET city = ? WHERE id = ?", (city, customer)
        )
        return f"{customer} moved to {city}" if cursor.rowcount else f"error: no {customer}"

    def fill(self, customers: Iterable[tuple[str, ...]], orders: Iterable[tuple[str, ...]]) -> None:
        """Replace all rows.

        Args:
            customers: Rows of (id, name, city).
            orders: Rows of (id, customer, item, status).
        """
        self._database.execute("DELETE FROM orders")
        self._database.execute("DELETE FROM customers")
        self._database.executemany("INSERT INTO customers VALUES (?, ?, ?)", customers)
        self._database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", orders)

    def tables(self) -> Tables:
        """Everything the database holds."""
        return tuple(
            tuple(self._database.execute(f"SELECT * FROM {table} ORDER BY id").fetchall())
            for table in ("customers", "orders")
        )

    def tables_after(self, plan: Iterable[tuple[str, dict[str, str]]]) -> Tables:
        """Everything the database would hold after a plan of (tool, arguments); nothing changes."""
        self._database.execute("SAVEPOINT plan")
        try:
            for name, arguments in plan:
                self.tools[name](**arguments)
            return self.tables()
        finally:
            self._database.execute("ROLLBACK TO plan")
            self._database.execute("RELEASE plan")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _rows(self, query: str, argument: str) -> str:
        rows = self._database.execute(query, (argument,)).fetchall()
        return ", ".join(" ".join(row) for row in rows) or NOTHING_FOUND

    def _settle(self, order: str, before: str, after: str) -> str:
        row = self._database.execute("SELECT status FROM orders WHERE id = ?", (order,)).fetchone()
        if row is None:
            return f"error: no {order}"
        if row[0] != before:
            return f"error: {order} is {row[0]}"
        self._database.execute("UPDATE orders SET status = ? WHERE id = ?", (after, order))
        return f"{order} {after}"


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Describe a function as a tool, in the JSON-schema form that chat models take.

    Types come from the hints (``str``, ``int``, ``float``, ``bool``, lists, ``Literal`` and
    optional ones), texts from the Google docstring; an argument without a default is required.

    Args:
        function: A function or bound method.

    Raises:
        ValueError: If the docstring, a type hint or the text of an argument is missing, or a type
            has no counterpart in JSON.
    """
    name = function.__name__
    doc = inspect.getdoc(function)
    if not doc:
        raise ValueError(f"tool {name!r} has no docstring: say in one sentence what it does")
    hints = typing.get_type_hints(function)
    texts = _argument_texts(doc)
    properties: dict[str, Any] = {}
    required = []
    for argument, parameter in inspect.signature(function).parameters.items():
        if argument not in hints or argument not in texts:
            missing = "type hint" if argument not in hints else "line under Args: in its docstring"
            raise ValueError(f"tool {name!r}: argument {argument!r} has no {missing}")
        schema = _json_type(hints[argument], f"tool {name!r}, argument {argument!r}")
        properties[argument] = {**schema, "description": texts[argument]}
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    description = " ".join(doc.split("\n\n")[0].split())
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def _json_type(hint: Any, where: str) -> dict[str, Any]:
    if hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {**_json_type(type(arguments[0]), where), "enum": list(arguments)}
    if origin is list and arguments:
        return {"type": "array", "items": _json_type(arguments[0], where)}
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1:
            return _json_type(kinds[0], where)
    raise ValueError(f"{where}: type {hint} has no counterpart in a JSON schema")


def _argument_texts(doc: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    texts: dict[str, str] = {}
    current = ""
    for line in inspect.cleandoc(section[1]).splitlines() if section else []:
        start = re.match(r"(\w+)(?: \(.*?\))?: *(.*)", line)
        if start and not line.startswith(" "):
            current = start[1]
            texts[current] = start[2]
        elif current:
            texts[current] = f"{texts[current]} {line.strip()}".strip()
    return texts
