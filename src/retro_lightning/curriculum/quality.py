"""Behaviour half: how good stored trajectories are, each measure in [0, 1], higher = better."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from retro_lightning.curriculum.columns import Codes, Columns, Floats, Mask


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Weighted mean of measures, each in [0, 1]; only the proportion of the weights counts.

    Args:
        success: Weight of having solved the task (0 or 1).
        returns: Weight of the return, scaled within the family.
        task_returns: Weight of the return, scaled within the attempts at the same task, so that
            easy tasks do not pass for good trajectories.
        efficiency: Weight of solving the task in few steps.
        novelty: Weight of being one of few attempts at the task that ended alike.
        freshness: Weight of being written by a recent policy.
        advantage: Weight of the return's excess over what other attempts at the task got.
        half_life: Age, in optimiser steps, at which freshness has fallen to a half. Lower = only
            the newest rollouts count as fresh.

    Raises:
        ValueError: If a weight is negative, all are 0, or the half-life is not above 0.
    """

    success: float = 0.7
    returns: float = 0.2
    task_returns: float = 0.0
    efficiency: float = 0.1
    novelty: float = 0.0
    freshness: float = 0.0
    advantage: float = 0.0
    half_life: float = 500.0

    def __post_init__(self) -> None:
        weights = self._weights()
        for name, value in weights.items():
            if not 0.0 <= value < math.inf:
                raise ValueError(f"quality: {name} is {value}; give a finite number of at least 0")
        if sum(weights.values()) == 0:
            raise ValueError(f"quality: {', '.join(weights)} are all 0; raise one of them")
        if not 0.0 < self.half_life < math.inf:
            raise ValueError(
                f"quality: half_life is {self.half_life}; give a finite number above 0"
            )

    def _weights(self) -> dict[str, float]:
        names = [item.name for item in fields(self) if item.name != "half_life"]
        return {name: getattr(self, name) for name in names}

    def __call__(self, columns: Columns, learnable_N: Mask) -> Floats:
        """Quality of each trajectory.

        Args:
            columns: Columns of the store.
            learnable_N: Which trajectories may be learnt from; only they set scales.

        Returns:
            Quality [N] in [0, 1]; 0 where not learnable.
        """
        sum_N = np.zeros(len(learnable_N))
        for name, weight in self._weights().items():
            if weight:
                sum_N = sum_N + weight * self._measure(name, columns, learnable_N)
        return np.where(learnable_N, sum_N / sum(self._weights().values()), 0.0)

    def _measure(self, name: str, columns: Columns, learnable_N: Mask) -> Floats:
        if name == "success":
            return columns.success.astype(np.float64)
        if name == "returns":
            return scaled_within(columns.returns, columns.family, learnable_N)
        if name == "task_returns":
            return scaled_within(columns.returns, columns.task_id, learnable_N)
        if name == "efficiency":
            return length_efficiency(columns.length, columns.task_id, columns.success, learnable_N)
        if name == "novelty":
            return novelty(columns, learnable_N)
        if name == "freshness":
            return freshness(columns.policy_version, learnable_N, self.half_life)
        excess_N = columns.returns - task_values(columns, learnable_N)
        return scaled_within(excess_N, columns.family, learnable_N)


def scaled_within(values_N: Floats, group_N: Codes, learnable_N: Mask) -> Floats:
    """Values, scaled to [0, 1] within each group: 0 = its least, 1 = its greatest.

    Args:
        values_N: Returns, for example.
        group_N: Codes of the group, from 0: the family, or the task.
        learnable_N: Which trajectories set the scale.

    Returns:
        Quality [N]; 0.5 in a group whose values do not differ, 0 where not learnable.
    """
    rows = np.flatnonzero(learnable_N)
    values, group = values_N[rows], group_N[rows]
    groups = int(group_N.max(initial=-1)) + 1
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, group, values)
    np.maximum.at(high, group, values)
    flat = high <= low  # also where a group has no learnable trajectory: inf and -inf
    span = np.where(flat, 1.0, high - low)
    scaled = (values - low[group]) / span[group]
    result_N = np.zeros(len(values_N))
    result_N[rows] = np.where(flat[group], 0.5, scaled)
    return result_N


def length_efficiency(length_N: Codes, task_N: Codes, success_N: Mask, learnable_N: Mask) -> Floats:
    """Shortest known solution of the task over the trajectory's own length; 0 for failures.

    Args:
        length_N: Lengths in steps.
        task_N: Task codes, from 0.
        success_N: Whether the task was solved.
        learnable_N: Which trajectories count as known.

    Returns:
        Efficiency [N] in [0, 1]; 1 = no stored attempt solved the task in fewer steps.
    """
    rows = np.flatnonzero(success_N & learnable_N)
    tasks, lengths = task_N[rows], np.maximum(length_N[rows], 1).astype(np.float64)
    shortest = np.full(int(task_N.max(initial=-1)) + 1, np.inf)
    np.minimum.at(shortest, tasks, lengths)
    result_N = np.zeros(len(task_N))
    result_N[rows] = shortest[tasks] / lengths
    return result_N


def novelty(columns: Columns, learnable_N: Mask) -> Floats:
    """``1 / sqrt(n)``, n = stored attempts at the task with the same outcome, itself included.

    The count bonus of Bellemare et al. 2016 (arXiv 1606.01868, section 4), with the outcome
    (success, return and number of steps) in the place of the state: what was done step by step is
    not compared.

    Args:
        columns: Columns of the store.
        learnable_N: Which trajectories are counted.

    Returns:
        Novelty [N] in (0, 1]; 1 = no other attempt at the task ended like this one, 0 where not
        learnable.
    """
    rows = np.flatnonzero(learnable_N)
    # One number for each combination: sorting numbers is ten times faster than sorting records.
    outcome = columns.task_id[rows].astype(np.int64)
    for column in (columns.success, columns.length, columns.returns):
        values, place = np.unique(column[rows], return_inverse=True)
        outcome = outcome * len(values) + place.ravel()
    _, place, counts = np.unique(outcome, return_inverse=True, return_counts=True)
    result_N = np.zeros(len(learnable_N))
    result_N[rows] = 1.0 / np.sqrt(counts[place.ravel()])
    return result_N


def freshness(version_N: Codes, learnable_N: Mask, half_life: float) -> Floats:
    """``2^(-age / half_life)``, age = optimiser steps since the newest collection in the store.

    Staleness, turned round so that higher = better. What no policy of ours has written counts as
    written at step 0.

    Args:
        version_N: Policy versions; -1 = no policy of ours.
        learnable_N: Which trajectories count.
        half_life: Age at which freshness is a half, in optimiser steps.

    Returns:
        Freshness [N] in [0, 1]; 1 = of the newest collection, 0 where not learnable.
    """
    written_N = np.maximum(version_N, 0)
    newest = written_N[learnable_N].max(initial=0)
    return np.where(learnable_N, np.exp2(-(newest - written_N) / half_life), 0.0)


def task_values(columns: Columns, learnable_N: Mask, prior_weight: float = 1.0) -> Floats:
    """What other attempts at the same task got: V(task), leaving out the trajectory at hand.

    ``(sum of the others' returns + prior_weight * family's mean) / (others + prior_weight)``.

    Args:
        columns: Columns of the store.
        learnable_N: Which attempts count.
        prior_weight: How many attempts the family's mean counts for, above 0. Lower = trusts few
            attempts at the task itself.

    Returns:
        Value [N], in units of return.
    """
    weight_N = learnable_N.astype(np.float64)

    def totals(group_N: Codes) -> tuple[Floats, Floats]:
        sums = np.bincount(group_N, weights=columns.returns * weight_N)
        counts = np.bincount(group_N, weights=weight_N)
        return sums.astype(np.float64)[group_N], counts.astype(np.float64)[group_N]

    family_sum_N, family_count_N = totals(columns.family)
    family_mean_N = family_sum_N / np.maximum(family_count_N, 1.0)
    task_sum_N, task_count_N = totals(columns.task_id)
    others_sum_N = task_sum_N - columns.returns * weight_N
    others_N = task_count_N - weight_N
    return np.asarray(
        (others_sum_N + prior_weight * family_mean_N) / (others_N + prior_weight),
        dtype=np.float64,
    )
