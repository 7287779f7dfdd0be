"""Behaviour half: prioritisation by |TD error|, which the fit tells gradient step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from retro_lightning.curriculum.columns import Columns, Floats, Mask, require_some
from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.prioritisation import (
    Prioritisation,
    check_number,
    check_share,
    shares,
)


class TDErrorWeighted(Prioritisation):
    """Draws what surprised the value head most: ``p`` proportional to ``(|TD error| + floor)^a``.

    Schaul et al. 2016 (arXiv 1511.05952, section 3.3), with whole trajectories in the place of
    transitions: the error of a trajectory is the mean over its steps, as of the last time it was
    learnt from. Those never learnt from come first: they count as the most surprising one known.

    By default the sampling is undone in the loss (``correction`` 1), for surprise says where there
    is much to learn and not what is worth imitating.

    Args:
        alpha: How much surprise counts. 0 = all alike, higher = the surprising more.
        floor: Added to every error, above 0, in units of return, so that what is well predicted
            is drawn again at all.
        balance_families: Give every family the same total probability.
        correction: How much of this sampling the loss weights undo, in [0, 1].
    """

    needs_td_errors = True

    def __init__(
        self,
        alpha: float = 0.6,
        floor: float = 0.01,
        balance_families: bool = True,
        correction: float = 1.0,
    ) -> None:
        check_number(self, "alpha", alpha)
        check_share(self, "correction", correction)
        if not 0.0 < floor < math.inf:
            raise ValueError(
                f"TDErrorWeighted: floor is {floor}; give a finite number above 0, or what is "
                "predicted exactly is never drawn again"
            )
        self.alpha, self.floor = alpha, floor
        self.balance_families = balance_families
        self.correction = correction
        self._error_N: Floats = np.zeros(0)
        """By row of the store; NaN = never learnt from."""

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``; progress is not read."""
        require_some(learnable_N)
        known_N = np.isfinite(self._error_N)
        error_N = np.full(len(learnable_N), self._error_N[known_N].max(initial=0.0))
        if not known_N.any():
            return shares(learnable_N.astype(np.float64), columns.family, self.balance_families)
        rows = np.flatnonzero(known_N[: len(error_N)])
        error_N[rows] = self._error_N[rows]
        mass_N = np.where(learnable_N, (error_N + self.floor) ** self.alpha, 0.0)
        return shares(mass_N, columns.family, self.balance_families)

    def observe(self, feedback: Feedback) -> None:
        """Remember the errors of a gradient step.

        Raises:
            ValueError: If an error is not a finite number of at least 0.
        """
        if feedback.td_errors is None:
            return
        rows, errors = feedback.td_errors.rows, feedback.td_errors.errors
        for place in np.flatnonzero(~(np.isfinite(errors) & (errors >= 0)))[:1]:
            raise ValueError(
                f"the TD error of row {rows[place]} is {errors[place]}: lower the learning rate or "
                "clip the gradient"
            )
        missing = int(rows.max(initial=-1)) + 1 - len(self._error_N)
        if missing > 0:
            self._error_N = np.concatenate([self._error_N, np.full(missing, np.nan)])
        self._error_N[rows] = errors

    def state_dict(self) -> dict[str, Any]:
        """The errors known, by row of the store."""
        rows = np.flatnonzero(np.isfinite(self._error_N))
        return {"rows": rows.tolist(), "errors": self._error_N[rows].tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        rows = np.array(state["rows"], dtype=np.int64)
        self._error_N = np.full(int(rows.max(initial=-1)) + 1, np.nan)
        self._error_N[rows] = state["errors"]
