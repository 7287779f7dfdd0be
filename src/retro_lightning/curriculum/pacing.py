"""Behaviour half: how far a best-first curriculum has opened, from 0 (start) to 1 (everything)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any


class Pacing(ABC):
    """How a curriculum opens in the course of a fit."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """How far the curriculum has opened, in [0, 1].

        Args:
            progress: Share of the fit that is done, in [0, 1].
        """

    def observe(self, success_rate: float) -> None:  # noqa: B027  (most pacings need no feedback)
        """Learn of a validation success rate, in [0, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """State as Python primitives."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Return to a state."""


class Linear(Pacing):
    """Opens evenly with progress.

    Args:
        until: Share of the fit, in (0, 1], after which everything is open. Lower = opens sooner.
    """

    def __init__(self, until: float = 0.5) -> None:
        _check_share("Linear", "until", until)
        self.until = until

    def __call__(self, progress: float) -> float:
        """See ``Pacing``."""
        return min(max(progress, 0.0) / self.until, 1.0)


class Root(Pacing):
    """Opens fast at first, then slower: with the square root of progress (Platanios et al. 2019).

    Args:
        until: Share of the fit, in (0, 1], after which everything is open. Lower = opens sooner.
    """

    def __init__(self, until: float = 0.5) -> None:
        _check_share("Root", "until", until)
        self.until = until

    def __call__(self, progress: float) -> float:
        """See ``Pacing``."""
        return min(math.sqrt(max(progress, 0.0) / self.until), 1.0)


class Steps(Pacing):
    """Opens in equal jumps: the baby steps of Bengio et al. 2009 and Spitkovsky et al. 2010.

    Args:
        jumps: Number of jumps, at least 1, at equal distances; the first comes after the first of
            these distances, the last at ``until``. Higher = nearer to ``Linear``.
        until: Share of the fit, in (0, 1], after which everything is open. Lower = opens sooner.
    """

    def __init__(self, jumps: int = 3, until: float = 0.5) -> None:
        _check_share("Steps", "until", until)
        if jumps < 1:
            raise ValueError(f"Steps: jumps is {jumps}; give a whole number of at least 1")
        self.jumps = jumps
        self.until = until

    def __call__(self, progress: float) -> float:
        """See ``Pacing``."""
        # A hair more before rounding down: 0.3 / 0.1 must be 3 jumps, not 2.9999999999999996.
        done = math.floor(self.jumps * max(progress, 0.0) / self.until + 1e-9)
        return min(done / self.jumps, 1.0)


class Adaptive(Pacing):
    """Opens as the best validation success seen so far rises; it never closes again.

    Args:
        low: Validation success, in [0, 1], up to which the curriculum stays at its start.
        high: Validation success, above ``low``, from which everything is open.
    """

    def __init__(self, low: float = 0.2, high: float = 0.8) -> None:
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(
                f"Adaptive: low is {low} and high is {high}; give 0 <= low < high <= 1"
            )
        self.low = low
        self.high = high
        self._best = 0.0

    def __call__(self, progress: float) -> float:
        """See ``Pacing``; progress is not read."""
        return min(max((self._best - self.low) / (self.high - self.low), 0.0), 1.0)

    def observe(self, success_rate: float) -> None:
        """See ``Pacing``."""
        self._best = max(self._best, float(success_rate))

    def state_dict(self) -> dict[str, Any]:
        """See ``Pacing``."""
        return {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Pacing``."""
        self._best = float(state["best"])


def _check_share(owner: str, name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{owner}: {name} is {value}; give a number above 0, at most 1")
