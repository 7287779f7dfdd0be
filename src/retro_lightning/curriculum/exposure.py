"""Behaviour half: the exposure ledger, how often each trajectory was learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.curriculum.columns import Codes, Rows

Counts = npt.NDArray[np.int64]


class ExposureLedger:
    """Counts by row of the store; counts of tasks and families follow from those of their rows."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(0, dtype=np.int64)

    def add(self, rows: Rows) -> None:
        """Count rows as learnt from once more, as often as they occur."""
        self._counts = self.with_rows(rows)

    def with_rows(self, rows: Rows, size: int = 0) -> Counts:
        """The counts as they would be after ``add``, of at least ``size`` rows."""
        size = max(size, len(self._counts), int(rows.max(initial=-1)) + 1)
        counts_N = np.bincount(rows, minlength=size)
        counts_N[: len(self._counts)] += self._counts
        return counts_N

    def state_dict(self) -> dict[str, Any]:
        """The counts that are not 0, as primitives."""
        rows = np.flatnonzero(self._counts)
        return {"rows": rows.tolist(), "counts": self._counts[rows].tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        rows = np.array(state["rows"], dtype=np.int64)
        self._counts = np.zeros(int(rows.max(initial=-1)) + 1, dtype=np.int64)
        self._counts[rows] = state["counts"]


def by_code(counts_N: Counts, code_N: Codes) -> Counts:
    """Counts of groups (tasks, families) from those of their trajectories.

    Args:
        counts_N: How often each trajectory was learnt from.
        code_N: Codes of the group, from 0.

    Returns:
        Counts by code.
    """
    size = int(code_N.max(initial=-1)) + 1
    return np.bincount(code_N, weights=counts_N, minlength=size).astype(np.int64)
