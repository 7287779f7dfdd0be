"""Behaviour half: filters, which leave stored trajectories out altogether."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from retro_lightning.curriculum.columns import Codes, Columns, Floats, Mask
from retro_lightning.curriculum.quality import Quality, task_values


class Filter(ABC):
    """Says which trajectories may be learnt from."""

    @abstractmethod
    def __call__(self, columns: Columns, learnable_N: Mask) -> Mask:
        """Which of the learnable trajectories are kept.

        Args:
            columns: Columns of the store.
            learnable_N: Which trajectories take part; the others set no scale and are not kept.

        Returns:
            Mask [N].
        """


class ReturnAtLeast(Filter):
    """Keeps trajectories by their return.

    Args:
        minimum: Least undiscounted return, in the environment's units, that is kept.
    """

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def __call__(self, columns: Columns, learnable_N: Mask) -> Mask:
        """See ``Filter``."""
        return np.asarray(learnable_N & (columns.returns >= self.minimum))


class QualityAtLeast(Filter):
    """Keeps trajectories by their quality.

    Args:
        minimum: Least quality, in [0, 1], that is kept. Higher = fewer and better trajectories.
        quality: The measures and their weights.
    """

    def __init__(self, minimum: float, quality: Quality | None = None) -> None:
        _check_share("QualityAtLeast", "minimum", minimum)
        self.minimum = minimum
        self.quality = quality if quality is not None else Quality()

    def __call__(self, columns: Columns, learnable_N: Mask) -> Mask:
        """See ``Filter``."""
        return np.asarray(learnable_N & (self.quality(columns, learnable_N) >= self.minimum))


class TopOfTask(Filter):
    """Keeps the best attempts at each task; of equals, the newer.

    Args:
        count: Attempts kept of each task, at least 1.
        quality: The measures and their weights.
    """

    def __init__(self, count: int = 1, quality: Quality | None = None) -> None:
        if count < 1:
            raise ValueError(f"TopOfTask: count is {count}; give a whole number of at least 1")
        self.count = count
        self.quality = quality if quality is not None else Quality()

    def __call__(self, columns: Columns, learnable_N: Mask) -> Mask:
        """See ``Filter``."""
        rank_N = rank_within(self.quality(columns, learnable_N), columns.task_id, learnable_N)
        return np.asarray(learnable_N & (rank_N < self.count))


class BestShare(Filter):
    """Keeps the best share of each family: what lies above a quantile of its quality.

    Args:
        share: Share of each family that is kept, in (0, 1], rounded up. Lower = stricter.
        quality: The measures and their weights.
    """

    def __init__(self, share: float = 0.5, quality: Quality | None = None) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"BestShare: share is {share}; give a number above 0, at most 1")
        self.share = share
        self.quality = quality if quality is not None else Quality()

    def __call__(self, columns: Columns, learnable_N: Mask) -> Mask:
        """See ``Filter``."""
        quality_N = self.quality(columns, learnable_N)
        return best_of_each(quality_N, columns.family, learnable_N, self.share)


class AboveTaskValue(Filter):
    """Keeps trajectories that got more than other attempts at their task: return > V(task).

    DigiRL (Bai et al. 2024, arXiv 2406.11896, section 4.2) compares with a learnt value of the
    instruction; here V(task) is the mean return of the other stored attempts, shrunk towards the
    family's mean, so that it needs no training and never contains the trajectory it judges.

    Args:
        margin: By how much the return must exceed V(task), in units of return.
        prior_weight: How many attempts the family's mean counts for, above 0.
    """

    def __init__(self, margin: float = 0.0, prior_weight: float = 1.0) -> None:
        if not 0.0 < prior_weight < math.inf:
            raise ValueError(
                f"AboveTaskValue: prior_weight is {prior_weight}; give a finite number above 0"
            )
        self.margin, self.prior_weight = margin, prior_weight

    def __call__(self, columns: Columns, learnable_N: Mask) -> Mask:
        """See ``Filter``."""
        value_N = task_values(columns, learnable_N, self.prior_weight)
        return np.asarray(learnable_N & (columns.returns > value_N + self.margin))


def rank_within(quality_N: Floats, group_N: Codes, learnable_N: Mask) -> Codes:
    """Rank of each learnable trajectory within its group, 0 = the best.

    Args:
        quality_N: Quality; of equals the later in the store (the newer) goes first.
        group_N: Codes of the group, from 0.
        learnable_N: Which trajectories take part.

    Returns:
        Ranks [N]; N where not learnable.
    """
    rows = np.flatnonzero(learnable_N)[::-1]  # the newest first, and stay so among equals
    rows = rows[np.argsort(_short(group_N[rows]), kind="stable")]
    rank_N = np.full(len(quality_N), len(quality_N), dtype=np.int64)
    for members in np.split(rows, np.cumsum(np.bincount(group_N[rows]))[:-1]):
        best_first = np.argsort(-quality_N[members], kind="stable")
        rank_N[members[best_first]] = np.arange(len(members))
    return rank_N


def best_of_each(quality_N: Floats, group_N: Codes, learnable_N: Mask, fraction: float) -> Mask:
    """The best ``fraction`` of each group's learnable trajectories, by rank, rounded up.

    Args:
        quality_N: Quality; of equals the later in the store (the newer) goes first.
        group_N: Codes of the group (the family), from 0.
        learnable_N: Which trajectories take part.
        fraction: Share of each group, in (0, 1].

    Returns:
        Mask [N]; at least one trajectory of every group that has a learnable one.
    """
    chosen_N = np.zeros(len(quality_N), dtype=np.bool_)
    rows = np.flatnonzero(learnable_N)
    rows = rows[np.argsort(_short(group_N[rows]), kind="stable")]
    for members in np.split(rows, np.cumsum(np.bincount(group_N[rows]))[:-1]):
        # A hair less before rounding up: 0.3 of 10 must be 3, not ceil(3.0000000000000004).
        count = int(np.ceil(fraction * len(members) - 1e-9))
        if count == 0:
            continue
        values = quality_N[members]
        least = np.partition(values, len(values) - count)[len(values) - count]
        better = members[values > least]
        equal = members[values == least]  # ascending: the newest are the last
        chosen_N[better] = True
        chosen_N[equal[len(equal) - (count - len(better)) :]] = True
    return chosen_N


def _short(codes: Codes) -> Codes:
    """Codes in 16 bits where they fit: NumPy sorts those in linear time."""
    return codes.astype(np.int16) if codes.max(initial=0) < 2**15 else codes


def _check_share(owner: str, name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{owner}: {name} is {value}; give a number between 0 and 1")
