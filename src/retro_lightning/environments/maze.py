"""Behaviour half: a maze in words, seen as a whole or only by the walls around the agent."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

from retro_lightning.environments.maze_layout import (
    MOVES,
    Cell,
    Layout,
    distances,
    double_t,
    generated,
    moved,
)
from retro_lightning.environments.spaces import UnicodeText

_CLOCKWISE = tuple(MOVES)


class Maze(gymnasium.Env[str, str]):
    """Find the goal of a maze by moving up, down, left and right; only open ways are valid.

    With ``full`` observation the first observation holds the map, one entry per cell with its open
    ways, and each observation tells where the agent and the goal are. With ``partial`` observation
    the agent is told only the open ways around it: neither where it is nor where the goal is.

    The reward is 1 for reaching the goal and 0 otherwise, so that return = success (LMRL-Gym gives
    -1 a step and 0 at the goal instead). Running into the time limit truncates.

    Args:
        observation: ``full`` or ``partial``, see above.
        layout: ``generated`` by seed, or ``lmrl``, the fixed double T maze of LMRL-Gym with its
            25 starting cells.
        size: Cells per side of a generated maze. Higher = longer ways, harder.
        openings: Walls of a generated maze opened beyond a spanning tree. 0 = no circles. The
            expert for partial observation follows the right-hand wall, which is sure to reach the
            goal only where there are no circles.
        min_distance: Fewest steps from start to goal in a generated maze. Higher = harder to
            reach by chance.
        max_steps: Time limit in steps. Lower = less room for going astray.
    """

    TEXT_VERSION = 3
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        observation: Literal["full", "partial"] = "full",
        layout: Literal["generated", "lmrl"] = "generated",
        size: int = 4,
        openings: int = 0,
        min_distance: int = 3,
        max_steps: int = 20,
    ) -> None:
        """Make the environment; see the class for the arguments.

        Raises:
            ValueError: If an argument is impossible.
        """
        _check_choice("observation", observation, ("full", "partial"))
        _check_choice("layout", layout, ("generated", "lmrl"))
        for name, value, least in (
            ("size", size, 2),
            ("openings", openings, 0),
            ("min_distance", min_distance, 1),
            ("max_steps", max_steps, 1),
        ):
            if value < least:
                raise ValueError(f"Maze: {name} is {value}, it must be at least {least}")
        self._full = observation == "full"
        self._fixed = layout == "lmrl"
        self._size, self._openings, self._min_distance = size, openings, min_distance
        self._max_steps = max_steps
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self._layout: Layout | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode; the same seed gives the same maze, start and goal."""
        super().reset(seed=seed, options=options)
        layout = (
            double_t(self.np_random)
            if self._fixed
            else generated(self._size, self._openings, self._min_distance, self.np_random)
        )
        self._layout = layout
        self._instruction = self._describe(layout)
        self._distances = distances(layout.exits, layout.goal)
        self._cell = layout.start
        self._heading = "up"
        self._steps = 0
        initial = f"{_map(layout)} from {_word(layout.start)} to {_word(layout.goal)}"
        return self._observation(), {**self._info(), "initial_state": initial}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Move one cell.

        Raises:
            ValueError: If there is no open way in that direction.
        """
        valid = self._exits()
        if action not in valid:
            names = ", ".join(valid)
            raise ValueError(f"Maze: {action!r} is not a valid action now; valid are: {names}")
        self._cell = moved(self._cell, action)
        self._heading = action
        self._steps += 1
        success = self._distances[self._cell] == 0
        truncated = not success and self._steps >= self._max_steps
        info = {**self._info(), "success": success}
        return self._observation(), float(success), success, truncated, info

    def expert_action(self) -> str:
        """The next move of an expert that knows what the agent can know.

        Full observation: a shortest way; of several, the first clockwise from ``up``. Partial
        observation: the right-hand rule from the last move alone (at the beginning as if it had
        come upwards), which on a maze without circles passes every cell.
        """
        if self._full:
            return min(self._exits(), key=lambda way: self._distances[moved(self._cell, way)])
        ahead = _CLOCKWISE.index(self._heading)
        turns = (_CLOCKWISE[(ahead + turn) % 4] for turn in (1, 0, 3, 2))
        return next(way for way in turns if way in self._exits())

    def _exits(self) -> tuple[str, ...]:
        assert self._layout is not None, "call reset before anything else"
        return self._layout.exits[self._cell]

    def _info(self) -> dict[str, Any]:
        return {"instruction": self._instruction, "valid_actions": list(self._exits())}

    def _describe(self, layout: Layout) -> str:
        if not self._full:
            return "find the goal"
        return f"go to {_word(layout.goal)}"

    def _observation(self) -> str:
        ways = f"open {'-'.join(self._exits())}"
        if not self._full:
            return ways if self._distances[self._cell] else f"{ways} goal here"
        assert self._layout is not None
        goal = self._layout.goal
        here = f"at {_word(self._cell)} goal {_word(goal)} {_offset(self._cell, goal)} {ways}"
        return here if self._steps else f"map {_map(self._layout)} {here}"


def _word(cell: Cell) -> str:
    """A cell's name: row letter and column number, such as ``b3``."""
    return f"{chr(ord('a') + cell[0])}{cell[1] + 1}"


def _map(layout: Layout) -> str:
    return " ".join(
        f"{_word(cell)} {'-'.join(ways)}" for cell, ways in sorted(layout.exits.items())
    )


def _offset(cell: Cell, goal: Cell) -> str:
    rows, columns = goal[0] - cell[0], goal[1] - cell[1]
    words = []
    if rows:
        words.append(f"{abs(rows)}-{'down' if rows > 0 else 'up'}")
    if columns:
        words.append(f"{abs(columns)}-{'right' if columns > 0 else 'left'}")
    return "-".join(words) or "here"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Maze: {name} is {value!r}, it must be one of {', '.join(choices)}")
