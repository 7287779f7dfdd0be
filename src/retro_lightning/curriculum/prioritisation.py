"""Behaviour half: replay prioritisation, which stored trajectories are learnt from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from retro_lightning.curriculum.pacing import Adaptive, Pacing
from retro_lightning.curriculum.quality import Codes, Columns, Floats, Mask, quality
from retro_lightning.curriculum.sampling import (
    Rows,
    correction,
    normalised,
    reserve,
    sample,
    sample_batches,
)

__all__ = [
    "Prioritisation",
    "QualityWeighted",
    "Uniform",
    "correction",
    "reserve",
    "sample",
    "sample_batches",
]


class Prioritisation(ABC):
    """Gives every stored trajectory the probability with which it is drawn for learning."""

    @abstractmethod
    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """Probability of each trajectory of the store.

        Args:
            columns: Columns of the store, N trajectories.
            learnable_N: Which may be learnt from: training tasks, not faulted, not empty.
            progress: Share of the fit that is done, in [0, 1].

        Returns:
            ``p_N``, which adds up to 1; 0 where not learnable.

        Raises:
            ValueError: If nothing can be learnt from.
        """

    @abstractmethod
    def weights(self, p_N: Floats, rows: Rows) -> Floats:
        """Loss weight of each drawn row, which undoes the sampling as far as wanted.

        Args:
            p_N: Probabilities the rows were drawn with.
            rows: The rows drawn.
        """

    def observe(self, success_rate: float) -> None:  # noqa: B027  (not all need feedback)
        """Learn of a validation success rate, in [0, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """State as Python primitives."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Return to a state."""


class Uniform(Prioritisation):
    """Draws every trajectory alike.

    Args:
        successes_only: Leave out trajectories that did not solve their task.
        balance_families: Give every family the same total probability, however many trajectories
            it has; otherwise every trajectory the same.
    """

    def __init__(self, successes_only: bool = False, balance_families: bool = True) -> None:
        self.successes_only = successes_only
        self.balance_families = balance_families

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``; progress is not read."""
        _require_some(learnable_N)
        chosen_N = learnable_N & columns.success if self.successes_only else learnable_N
        if not chosen_N.any():
            raise ValueError(
                f"none of the {int(learnable_N.sum())} learnable trajectories solved its task: "
                "set successes_only to false or add trajectories that did"
            )
        mass_N = chosen_N.astype(np.float64)
        return balanced(mass_N, columns.family) if self.balance_families else normalised(mass_N)

    def weights(self, p_N: Floats, rows: Rows) -> Floats:
        """Ones."""
        return np.ones(len(rows))


class QualityWeighted(Prioritisation):
    """Starts with the best trajectories and opens to the rest as pacing says.

    Open are the best ones of each family, by rank, so that no family is left out; within what is
    open, the probability is proportional to ``max(quality, floor) ** alpha``.

    Args:
        alpha: How much quality counts within what is open. 0 = all alike, higher = the best more.
        start_fraction: Share of each family that is open at the start, in (0, 1].
        pacing: How the rest opens; default: ``Adaptive``, with validation success.
        floor: Least quality, in (0, 1], that a trajectory is weighted with, so that failures are
            drawn at all once they are open. Lower = failures are drawn less.
        success_weight: Weight of success in quality.
        return_weight: Weight of the return, scaled within the family, in quality.
        efficiency_weight: Weight of solving the task in few steps in quality.
        balance_families: Give every family the same total probability, however many trajectories
            it has.
        correction: How much of this sampling the loss weights undo, in [0, 1]: (N p)^-correction.
            0 = what is learnt is the mean under the curriculum, 1 = the plain mean over all that
            is open.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        start_fraction: float = 0.3,
        pacing: Pacing | None = None,
        floor: float = 0.1,
        success_weight: float = 0.7,
        return_weight: float = 0.2,
        efficiency_weight: float = 0.1,
        balance_families: bool = True,
        correction: float = 0.0,
    ) -> None:
        _check("alpha", alpha, 0.0 <= alpha < math.inf, "a finite number of at least 0")
        for name, value in (("start_fraction", start_fraction), ("floor", floor)):
            _check(name, value, 0.0 < value <= 1.0, "a number above 0, at most 1")
        _check("correction", correction, 0.0 <= correction <= 1.0, "a number between 0 and 1")
        parts = {
            "success_weight": success_weight,
            "return_weight": return_weight,
            "efficiency_weight": efficiency_weight,
        }
        for name, value in parts.items():
            _check(name, value, 0.0 <= value < math.inf, "a finite number of at least 0")
        if sum(parts.values()) == 0:
            raise ValueError(f"QualityWeighted: {', '.join(parts)} are all 0; raise one of them")
        self.alpha = alpha
        self.start_fraction = start_fraction
        self.pacing = pacing if pacing is not None else Adaptive()
        self.floor = floor
        self.quality_weights = parts
        self.balance_families = balance_families
        self.correction = correction

    def open_fraction(self, progress: float) -> float:
        """Share of each family that is open, in (0, 1]."""
        return float(self.start_fraction + (1.0 - self.start_fraction) * self.pacing(progress))

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``."""
        _require_some(learnable_N)
        quality_N = quality(columns, learnable_N, **self.quality_weights)
        open_N = best_of_each(quality_N, columns.family, learnable_N, self.open_fraction(progress))
        mass_N = np.where(open_N, np.maximum(quality_N, self.floor) ** self.alpha, 0.0)
        return balanced(mass_N, columns.family) if self.balance_families else normalised(mass_N)

    def weights(self, p_N: Floats, rows: Rows) -> Floats:
        """See ``Prioritisation``."""
        return correction(p_N, rows, self.correction)

    def observe(self, success_rate: float) -> None:
        """Tell the pacing."""
        self.pacing.observe(success_rate)

    def state_dict(self) -> dict[str, Any]:
        """The pacing's state."""
        return {"pacing": self.pacing.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        self.pacing.load_state_dict(state["pacing"])


def best_of_each(quality_N: Floats, family_N: Codes, learnable_N: Mask, fraction: float) -> Mask:
    """The best ``fraction`` of each family's learnable trajectories, by rank, rounded up.

    Args:
        quality_N: Quality; of equals the later in the store (the newer) goes first.
        family_N: Family codes, from 0.
        learnable_N: Which trajectories take part.
        fraction: Share of each family, in (0, 1].

    Returns:
        Mask [N]; at least one trajectory of every family that has a learnable one.
    """
    rows = np.flatnonzero(learnable_N)
    order = rows[np.lexsort((-rows, -quality_N[rows], family_N[rows]))]
    sizes = np.bincount(family_N[order])
    rank = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[family_N[order]]
    # A hair less before rounding up: 0.3 of 10 must be 3, not ceil(3.0000000000000004).
    keep = rank < np.ceil(fraction * sizes - 1e-9)[family_N[order]]
    chosen_N = np.zeros(len(quality_N), dtype=np.bool_)
    chosen_N[order[keep]] = True
    return chosen_N


def balanced(mass_N: Floats, family_N: Codes) -> Floats:
    """Scale so that every family with any mass has the same share of it.

    Args:
        mass_N: Mass of each trajectory, not negative.
        family_N: Family codes, from 0.

    Returns:
        Probabilities [N]; add up to 1.
    """
    totals = np.bincount(family_N, weights=mass_N)
    return normalised(mass_N / np.where(totals > 0, totals, 1.0)[family_N])


def _require_some(learnable_N: Mask) -> None:
    if not learnable_N.any():
        raise ValueError(
            f"the store holds {len(learnable_N)} trajectories, none to learn from (training "
            "task, not faulted, at least one step): add some before training"
        )


def _check(name: str, value: float, fine: bool, remedy: str) -> None:
    if not fine:
        raise ValueError(f"QualityWeighted: {name} is {value}; give {remedy}")
