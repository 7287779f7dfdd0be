"""Behaviour half: a Gymnasium space of Unicode texts."""

from __future__ import annotations

from typing import Any

import gymnasium

_SAMPLE_ALPHABET = "abcdefghijklmnopqrstuvwxyz ,.'"


class UnicodeText(gymnasium.Space[str]):
    """All Unicode strings up to a length.

    ``gymnasium.spaces.Text`` takes letters and digits only, unless every character is listed.

    Args:
        max_length: Longest text, in characters. Higher = more texts are accepted.
    """

    def __init__(self, max_length: int = 100_000) -> None:
        """Make the space; see the class for the arguments.

        Raises:
            ValueError: If ``max_length`` is not positive.
        """
        if max_length < 1:
            raise ValueError(f"UnicodeText: max_length is {max_length}, it must be at least 1")
        self.max_length = max_length
        super().__init__(shape=None, dtype=None)

    @property
    def is_np_flattenable(self) -> bool:
        """Texts are not numbers."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A short random text of lower-case letters; masks are not used."""
        del mask, probability
        length = int(self.np_random.integers(1, min(self.max_length, 20) + 1))
        letters = self.np_random.integers(0, len(_SAMPLE_ALPHABET), length)
        return "".join(_SAMPLE_ALPHABET[letter] for letter in letters)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        """Name and bound."""
        return f"UnicodeText(max_length={self.max_length})"

    def __eq__(self, other: object) -> bool:
        """Equal bounds make equal spaces."""
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    __hash__ = None  # type: ignore[assignment]
