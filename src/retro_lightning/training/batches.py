"""Behaviour half: one epoch of replayed trajectories, the same however often it is asked for.

The plan of an epoch (which rows, in which order) is drawn once, when the epoch begins, and stands
in the checkpoint; batch ``i`` of the plan is then a function of ``i`` alone. That is what makes a
run that is resumed in mid-epoch equal to one that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.policy.batch import Batch, collate
from retro_lightning.policy.encoded import Encoded
from retro_lightning.training.plan import Plan
from retro_lightning.trajectory import Trajectory

Load = Callable[[Sequence[int]], Sequence[tuple[Trajectory, Encoded]]]
"""Reads store rows and encodes them."""


class ReplayBatches:
    """Iterates over one epoch's gradient steps; each item is a list of length-sorted parts.

    A gradient step's trajectories differ in length by a factor of ten. Padding them all to the
    longest would waste most of the computation, so a step is handed over in ``parts`` of similar
    length whose losses add up to that of the whole step.

    Args:
        plan: What the epoch learns from.
        load: Reads and encodes rows of the store.
        parts: Most parts a step is split into. Lower = fewer, larger forward passes; higher = less
            padding.
        rank: This process's number; of each step it takes its ``Plan.share``.
        world_size: Number of processes.
        start: Gradient step to begin with; those before it have been learnt from already.
    """

    def __init__(
        self,
        plan: Plan,
        load: Load,
        *,
        parts: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        self._plan, self._load = plan, load
        self._parts = parts
        self._rank, self._world_size = rank, world_size
        self._start = start

    def __len__(self) -> int:
        """Gradient steps in the whole epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the remaining gradient steps of the epoch."""
        for number in range(self._start, len(self)):
            yield self.step(number)

    def step(self, number: int) -> list[Batch]:
        """The parts of gradient step ``number`` for this process."""
        mine = self._plan.share(number, self._rank, self._world_size)
        rows = self._plan.rows[mine]
        examples = self._load(rows.tolist())
        lengths = np.array([len(encoded.tokens) for _, encoded in examples])
        order = np.argsort(lengths, kind="stable")
        return [
            collate(
                [examples[i][1] for i in part],
                [examples[i][0] for i in part],
                rows[part],
                self._plan.weights[mine][part],
                self._plan.value_weights[mine][part],
            )
            for part in split_by_length(order, lengths[order], self._parts)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a batch that was handed out may not have been learnt from.

        Where to go on follows from the optimiser steps taken (``ReplayDataModule``). That there is
        a state tells Lightning that a fit can be resumed in mid-epoch.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing; see ``state_dict``."""


def split_by_length(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], parts: int
) -> Sequence[npt.NDArray[np.int64]]:
    """Cut a length-sorted order into at most ``parts`` runs with the least padding.

    Args:
        order: Indices sorted by length, ascending.
        lengths: Their lengths, ascending.
        parts: Most runs to cut.

    Returns:
        The runs, none of them empty, whose padded size (sum over runs of count times the longest)
        is the smallest possible; found by dynamic programming over the cut points.
    """
    count = len(order)
    parts = min(parts, count)
    sizes = lengths.astype(np.float64)
    best = np.concatenate([[0.0], np.arange(1, count + 1) * sizes])
    cuts = [np.zeros(count + 1, dtype=np.int64)]
    for _ in range(1, parts):
        starts = np.arange(count + 1)
        spans = np.maximum(starts[:, None] - starts[None, :], 0)
        longest = np.concatenate([[0.0], sizes])
        cost = np.where(
            starts[None, :] < starts[:, None], best[None, :] + spans * longest[:, None], np.inf
        )
        cost[0, 0] = 0.0
        cuts.append(np.argmin(cost, axis=1))
        best = np.min(cost, axis=1)
    runs, end = [], count
    for cut in reversed(cuts):
        if end > 0:
            runs.append(order[int(cut[end]) : end])
            end = int(cut[end])
    return runs[::-1]
