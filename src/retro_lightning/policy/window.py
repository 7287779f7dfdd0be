"""Data half: what a policy sees of the past when it sees the last turns only.

With a ``history_window`` of k a step is seen in a sequence of its own: its turn and the k - 1
before it, where they exist. No key or value is then taken over from one turn to the next, because
what they hold of turns before the window, and their positions, would not be what a sequence that
begins with the window gives; so that a rollout, which feeds the window anew at every turn, and
training, which lays the steps out one by one, compute the same log-probabilities.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from retro_lightning.policy.trie import IntArray

NOTHING: IntArray = np.zeros(0, dtype=np.int32)


def check_window(turns: int | None) -> None:
    """Refuse a window that holds nothing.

    Raises:
        ValueError: If it holds less than one turn.
    """
    if turns is not None and turns < 1:
        raise ValueError(
            f"history_window is {turns}: give at least 1 turn, or null for the whole trajectory"
        )


class Window:
    """The turns of a trajectory that are still seen.

    Args:
        turns: How many turns are seen at most, the one under way included.
        prefix: What a sequence begins with; the trajectory's first turn has it already.
    """

    def __init__(self, turns: int, prefix: IntArray) -> None:
        check_window(turns)
        self._prefix = prefix
        self._turns: deque[IntArray] = deque(maxlen=turns - 1)
        self._seen_all = True

    def before(self) -> IntArray:
        """Tokens before the next turn, in its sequence."""
        opening = [] if self._seen_all else [self._prefix]
        return np.concatenate([NOTHING, *opening, *self._turns])

    def add(self, turn: IntArray) -> None:
        """A turn is over.

        Args:
            turn: Its tokens: what was fed, and what was written.
        """
        if len(self._turns) == self._turns.maxlen:
            self._seen_all = False
        self._turns.append(turn)


class WholePast:
    """Lays a trajectory out as one sequence.

    Args:
        max_length: Most tokens of a sequence.
    """

    def __init__(self, max_length: int) -> None:
        self._max_length, self._length = max_length, 0
        self._segments: list[IntArray] = []

    def place(self, context: IntArray, written: IntArray = NOTHING) -> int | None:
        """Lay out a turn.

        Args:
            context: Tokens fed in it.
            written: Tokens written in it; none for the state after the last turn.

        Returns:
            The position of the context's last token in the turn's sequence; None = the turn does
            not fit, and nothing was done.
        """
        length = self._length + len(context) + len(written)
        if length > self._max_length:
            return None
        self._segments += (context, written)
        self._length = length
        return length - len(written) - 1

    def sequences(self) -> tuple[IntArray, ...]:
        """The sequence; the turns are all in it."""
        return (np.concatenate(self._segments),)


class WindowedPast:
    """Lays a trajectory out as one sequence per turn.

    Args:
        max_length: Most tokens of a sequence.
        window: What each turn sees of those before it.
    """

    def __init__(self, max_length: int, window: Window) -> None:
        self._max_length, self._window = max_length, window
        self._sequences: list[IntArray] = []

    def place(self, context: IntArray, written: IntArray = NOTHING) -> int | None:
        """Lay out a turn; see ``WholePast.place``."""
        before = self._window.before()
        if len(before) + len(context) + len(written) > self._max_length:
            return None
        turn = np.concatenate([context, written])
        self._sequences.append(np.concatenate([before, turn]))
        self._window.add(turn)
        return len(before) + len(context) - 1

    def sequences(self) -> tuple[IntArray, ...]:
        """One per turn, in their order."""
        return tuple(self._sequences)
