"""Behaviour half: what a BabyAI agent sees, as data and as words. Never looks at the mission."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VIEW = 7
"""Width and depth of the view, in cells; the agent stands in the middle of the nearest row."""

_HALF = VIEW // 2
_THING = re.compile(r"\b(red|green|blue|purple|yellow|grey) (ball|box|key|door|object)\b")
# Facing right, down, left, up: MiniGrid's directions 0 to 3 as (dx, dy).
_FORWARD = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True, slots=True)
class Thing:
    """Something visible that is not a wall.

    Attributes:
        name: What it is, such as ``red-ball`` or ``locked blue-door``.
        ahead: Cells ahead of the agent, 0 to 6.
        right: Cells to the right of the agent, -3 to 3; negative = to the left.
    """

    name: str
    ahead: int
    right: int


@dataclass(frozen=True, slots=True)
class View:
    """All that an agent sees at one moment.

    Attributes:
        things: Visible things, nearest first (steps, then ahead before aside, then left first).
        wall: Steps to the wall straight ahead; None if there is none in sight.
        carrying: Name of what the agent carries, if anything.
    """

    things: tuple[Thing, ...]
    wall: int | None
    carrying: str | None


def world_cell(
    position: tuple[int, int], direction: int, ahead: int, right: int
) -> tuple[int, int]:
    """World coordinates (x, y) of the cell ``ahead`` and ``right`` of an agent."""
    dx, dy = _FORWARD[direction]
    return position[0] + ahead * dx - right * dy, position[1] + ahead * dy + right * dx


def egocentric(grid: Any, position: tuple[int, int], direction: int) -> list[list[Any]]:
    """The 7x7 cells before an agent: ``[ahead][right + 3]``; beyond the grid there is ``False``."""
    width, height, cells = grid.width, grid.height, grid.grid
    dx, dy = _FORWARD[direction]
    rows = []
    for ahead in range(VIEW):
        x = position[0] + ahead * dx + _HALF * dy
        y = position[1] + ahead * dy - _HALF * dx
        row = []
        for _ in range(VIEW):
            inside = 0 <= x < width and 0 <= y < height
            row.append(cells[y * width + x] if inside else False)
            x -= dy
            y += dx
        rows.append(row)
    return rows


def visible(rows: Sequence[Sequence[Any]]) -> list[list[bool]]:
    """Which of the 7x7 cells are seen: light spreads from row to row and stops at walls and doors.

    The rule is MiniGrid's (``Grid.process_vis``), so that a bot and a policy see the same.
    """
    seen = [[False] * VIEW for _ in range(VIEW)]
    seen[0][_HALF] = True
    for ahead in range(VIEW):
        here, cells = seen[ahead], rows[ahead]
        further = seen[ahead + 1] if ahead + 1 < VIEW else [False] * VIEW
        for columns, side in ((range(VIEW - 1), 1), (range(VIEW - 1, 0, -1), -1)):
            for column in columns:
                if here[column] and _see_through(cells[column]):
                    here[column + side] = True
                    further[column] = True
                    further[column + side] = True
    return seen


def look(grid: Any, position: tuple[int, int], direction: int, carrying: Any) -> View:
    """What an agent at ``position`` (x, y), facing ``direction`` (0 to 3), sees of a grid."""
    rows = egocentric(grid, position, direction)
    seen = visible(rows)
    things = [
        Thing(_name(cell), ahead, column - _HALF)
        for ahead, row in enumerate(rows)
        for column, cell in enumerate(row)
        if cell and cell.type != "wall" and seen[ahead][column] and (ahead, column) != (0, _HALF)
    ]
    things.sort(key=lambda thing: (thing.ahead + abs(thing.right), -thing.ahead, thing.right))
    return View(
        things=tuple(things),
        wall=_wall([row[_HALF] for row in rows[1:]]),
        carrying=None if carrying is None else _name(carrying),
    )


def render(view: View) -> str:
    """A view in words, for example ``wall 4-ahead carrying red-key blue-ball 2-left-3-ahead``.

    What a thing is and where it is are one hyphenated word each: a small model then finds the place
    right after the thing. ``hyphenated`` writes missions with the same words.
    """
    words = [] if view.wall is None else [f"wall {view.wall}-ahead"]
    if view.carrying is not None:
        words.append(f"carrying {view.carrying}")
    words += [f"{thing.name} {_place(thing.ahead, thing.right)}" for thing in view.things]
    return " ".join(words) or "nothing"


def hyphenated(mission: str) -> str:
    """A mission with its things as in the views: "go to the red ball" asks for the ``red-ball``."""
    return _THING.sub(r"\1-\2", mission)


def _place(ahead: int, right: int) -> str:
    words = []
    if right:
        words.append(f"{abs(right)}-{'right' if right > 0 else 'left'}")
    if ahead:
        words.append(f"{ahead}-ahead")
    return "-".join(words)


def _name(cell: Any) -> str:
    if cell.type != "door":
        return f"{cell.color}-{cell.type}"
    state = "open" if cell.is_open else "locked" if cell.is_locked else "closed"
    return f"{state} {cell.color}-door"


def _see_through(cell: Any) -> bool:
    return cell is None or (cell is not False and bool(cell.see_behind()))


def _wall(cells: Sequence[Any]) -> int | None:
    for distance, cell in enumerate(cells, start=1):
        if not _see_through(cell):
            return distance if cell is False or cell.type == "wall" else None
    return None
