"""Behaviour half: drawing whole groups of attempts, for baselines that compare within a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retro_lightning.curriculum.columns import Codes, Floats, Mask, Rows
from retro_lightning.curriculum.sampling import normalised, sample_batches


@dataclass(frozen=True, slots=True)
class GroupDraw:
    """Whole groups, batch after batch.

    Attributes:
        rows: Rows of all batches, one after the other; members of a group are neighbours.
        groups: Number of each row's group within its batch, from 0.
        starts: Where each batch begins in ``rows``, and where the last one ends.
        p_N: Probability of each row of the store in a single draw of a row; adds up to 1.
    """

    rows: Rows
    groups: Rows
    starts: Rows
    p_N: Floats


def group_codes(columns: Sequence[Codes]) -> Codes:
    """Codes, from 0, of the distinct combinations of several columns.

    Args:
        columns: What the members of a group have in common: task, policy version, behaviour, run.

    Returns:
        Code of each row's group [N].
    """
    _, codes_N = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return np.asarray(codes_N.ravel())


def sample_groups(
    p_N: Floats,
    group_N: Codes,
    learnable_N: Mask,
    batches: int,
    batch_size: int,
    stratum_N: Codes,
    rng: np.random.Generator,
) -> GroupDraw:
    """Draw all batches of an epoch out of whole groups.

    A group is drawn in proportion to the mean of its members' probabilities, so that a row is
    learnt from as often as the curriculum wants its group to be, whatever the group's size. As
    many groups make a batch as hold ``batch_size`` rows on average: batches differ in size where
    groups do.

    Args:
        p_N: Probability the curriculum gives each row; adds up to 1.
        group_N: Codes of groups, from 0.
        learnable_N: Members that may be learnt from; the others are left out of their groups.
        batches: Number of batches.
        batch_size: Rows in each, on average.
        stratum_N: Stratum of each row (family, fresh or not), equal within a group.
        rng: Source of randomness.

    Returns:
        Rows, groups and the probability of each row.
    """
    learnable = np.flatnonzero(learnable_N)
    _, first, group = np.unique(group_N[learnable], return_index=True, return_inverse=True)
    group = group.ravel()
    size_G = np.bincount(group)
    p_G = normalised(np.bincount(group, weights=p_N[learnable]) / size_G)
    mean_size = float(p_G @ size_G)
    per_batch = max(1, round(batch_size / mean_size))
    drawn = sample_batches(p_G, batches, per_batch, stratum_N[learnable[first]], rng).rows
    members = learnable[np.argsort(group, kind="stable")]
    ends_G = np.cumsum(size_G)
    rows = np.concatenate([members[ends_G[g] - size_G[g] : ends_G[g]] for g in drawn.ravel()])
    numbers = np.tile(np.arange(per_batch), batches)
    effective_N = np.zeros(len(p_N))
    effective_N[learnable] = p_G[group] / mean_size
    return GroupDraw(
        rows=rows,
        groups=np.repeat(numbers, size_G[drawn.ravel()]),
        starts=np.concatenate([[0], np.cumsum(size_G[drawn].sum(axis=1))]),
        p_N=effective_N,
    )
