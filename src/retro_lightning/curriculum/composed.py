"""Behaviour half: prioritisations made of others: behind filters, and by table at fixed ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from retro_lightning.curriculum.columns import Columns, Floats, Mask, require_some
from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.filters import Filter
from retro_lightning.curriculum.prioritisation import Prioritisation, Uniform, check_share
from retro_lightning.curriculum.sampling import normalised


class Filtered(Prioritisation):
    """Leaves out what does not pass all filters; prioritises the rest as told.

    What is left out can still come in through ``data.uniform_share``, which keeps the value head
    honest about the whole store.

    Args:
        filters: The filters, each of which sees what those before it have kept.
        prioritisation: What draws among the rest; default: ``Uniform``. Its correction holds.
    """

    def __init__(self, filters: list[Filter], prioritisation: Prioritisation | None = None) -> None:
        if not filters:
            raise ValueError("Filtered: filters is empty; name one or use the prioritisation alone")
        self.filters = filters
        self.prioritisation = prioritisation if prioritisation is not None else Uniform()
        self.correction = self.prioritisation.correction
        self.needs_td_errors = self.prioritisation.needs_td_errors

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``.

        Raises:
            ValueError: If a filter leaves nothing.
        """
        require_some(learnable_N)
        for chosen in self.filters:
            kept_N = chosen(columns, learnable_N)
            if not kept_N.any():
                raise ValueError(
                    f"the filter {type(chosen).__name__} keeps none of "
                    f"{int(learnable_N.sum())} trajectories: loosen it or leave it out"
                )
            learnable_N = kept_N
        return self.prioritisation.probabilities(columns, learnable_N, progress)

    def observe(self, feedback: Feedback) -> None:
        """Tell the prioritisation."""
        self.prioritisation.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        """The prioritisation's state."""
        return {"prioritisation": self.prioritisation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        self.prioritisation.load_state_dict(state["prioritisation"])


@dataclass
class ReplayTable:
    """One scenario's trajectories and their share of every batch.

    Args:
        families: Names of families, or patterns such as ``babyai/*``.
        share: Share relative to those of the other tables, above 0.
        prioritisation: What draws within the table; default: ``Uniform``.
    """

    families: list[str]
    share: float = 1.0
    prioritisation: Prioritisation | None = None

    def __post_init__(self) -> None:
        if not self.families:
            raise ValueError("Tables: a table's families is empty; name at least one")
        if not 0.0 < self.share < math.inf:
            raise ValueError(
                f"Tables: the share of {', '.join(self.families)} is {self.share}; give a finite "
                "number above 0"
            )


class Tables(Prioritisation):
    """Scenario by scenario at fixed ratios, however many trajectories each has.

    The multi-table replay of Gran Turismo Sophy (Wurman et al. 2022, doi
    10.1038/s41586-021-04357-7, methods): rare situations keep their part of every batch. A family
    belongs to the first table that names it; families that none names are not drawn.

    Args:
        tables: The tables.
        correction: How much of this sampling the loss weights undo, in [0, 1].
    """

    def __init__(self, tables: list[ReplayTable], correction: float = 0.0) -> None:
        if not tables:
            raise ValueError("Tables: tables is empty; name at least one")
        check_share(self, "correction", correction)
        self.tables = tables
        self.correction = correction
        self._inner = [table.prioritisation or Uniform() for table in tables]
        self.needs_td_errors = any(inner.needs_td_errors for inner in self._inner)

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``.

        Raises:
            ValueError: If a table has nothing to learn from.
        """
        require_some(learnable_N)
        table_F = _first_match([table.families for table in self.tables], columns.families)
        p_N = np.zeros(len(learnable_N))
        for number, (table, inner) in enumerate(zip(self.tables, self._inner, strict=True)):
            mine_N = learnable_N & (table_F == number)[columns.family]
            if not mine_N.any():
                raise ValueError(
                    f"Tables: the table of {', '.join(table.families)} has no trajectory to learn "
                    f"from; the store's families are {', '.join(columns.families)}"
                )
            p_N += table.share * inner.probabilities(columns, mine_N, progress)
        return normalised(p_N)

    def observe(self, feedback: Feedback) -> None:
        """Tell every table's prioritisation."""
        for inner in self._inner:
            inner.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        """The states of the tables' prioritisations, in order."""
        return {"tables": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        for inner, its in zip(self._inner, state["tables"], strict=True):
            inner.load_state_dict(its)


def _first_match(patterns: Sequence[Sequence[str]], names: Sequence[str]) -> Any:
    """Number of the first list with a pattern that fits each name [F]; -1 = none does."""
    return np.array(
        [
            next(
                (
                    number
                    for number, group in enumerate(patterns)
                    if any(fnmatchcase(name, pattern) for pattern in group)
                ),
                -1,
            )
            for name in names
        ],
        dtype=np.int64,
    )
