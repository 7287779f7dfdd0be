"""Behaviour half: drawing rows of a store from given probabilities. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retro_lightning.curriculum.columns import Floats, Mask, Rows


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn, and how likely it was.

    Attributes:
        rows: Rows drawn, of any shape.
        p: Probability of each of them in a single draw, of the same shape.
    """

    rows: Rows
    p: Floats


def sample_batches(
    p_N: Floats,
    batches: int,
    batch_size: int,
    stratum_N: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Draw:
    """Draw all batches of an epoch, each with its fair part of every stratum.

    All rows are drawn by systematic resampling (Kitagawa 1996, appendix: row n comes the floor or
    the ceiling of its expected number of times) in order of their stratum and dealt to the batches
    like cards: a batch's number of rows of a stratum differs from ``batch_size`` times the
    stratum's probability by at most 2, and a row that is drawn several times goes to different
    batches as far as there are any. Row n is still drawn ``batches * batch_size * p_n`` times in
    expectation, and is equally likely in every batch.

    Args:
        p_N: Probability of each row; adds up to 1.
        batches: Number of batches.
        batch_size: Rows in each.
        stratum_N: Stratum of each row (family, fresh or not, …), any integers.
        rng: Source of randomness.

    Returns:
        Rows [batches, batch_size] and their probabilities.

    Raises:
        ValueError: If the probabilities do not add up to 1, or one is negative.
    """
    check_probabilities(p_N)
    shuffled = rng.permutation(len(p_N))
    order = shuffled[np.argsort(stratum_N[shuffled], kind="stable")]
    drawn = _systematic(p_N, order, batches * batch_size, rng)
    # Column j holds `batches` neighbours in the order; each goes to a batch of its own.
    dealt = rng.permuted(drawn.reshape(batch_size, batches).T, axis=0)
    rows = rng.permuted(dealt, axis=1)
    return Draw(rows, p_N[rows])


def reserve(p_N: Floats, group_N: Mask, share: float) -> Floats:
    """Give a group of rows exactly ``share`` of the probability, all its rows alike.

    Meant for fresh trajectories: on-policy learning needs them as they were collected, failures
    included, so within the group the curriculum's preferences do not count. Outside the group
    they go on unchanged.

    Args:
        p_N: Probabilities; add up to 1.
        group_N: The rows of the group. If there is none, ``p_N`` is returned unchanged.
        share: Probability of the group, in [0, 1].

    Returns:
        Probabilities [N]; add up to 1. If ``p_N`` is 0 outside the group, the group gets all.

    Raises:
        ValueError: If the share lies outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the reserved share is {share}; give a number between 0 and 1")
    count = int(group_N.sum())
    if count == 0:
        return p_N
    rest_N = np.where(group_N, 0.0, p_N)
    total = rest_N.sum()
    if total <= 0:
        return normalised(group_N.astype(np.float64))
    return normalised((1.0 - share) * rest_N / total + share * group_N / count)


def mixed(p_N: Floats, group_N: Mask, share: float) -> Floats:
    """Mix in a group of rows, all alike: ``(1 - share) p + share / size of the group``.

    Args:
        p_N: Probabilities; add up to 1.
        group_N: The rows of the group, at least one.
        share: Probability mixed in, in [0, 1].

    Returns:
        Probabilities [N], at least ``share / size`` in the group; add up to 1.
    """
    uniform_N = normalised(group_N.astype(np.float64))
    return np.asarray((1.0 - share) * p_N + share * uniform_N, dtype=np.float64)


def correction(p_N: Floats, rows: Rows, beta: float) -> Floats:
    """``(N p)^-beta`` of drawn rows: what their losses are multiplied with to undo the sampling.

    Schaul et al. 2016 (arXiv 1511.05952), section 3.4, without its division by the largest. N
    counts the rows that can be drawn at all: with beta = 1 the objective is their plain mean (the
    weights average 1), and rows with p = 0 stay out of it; with 0 it is the mean under p.

    Args:
        p_N: Probabilities the rows were drawn with.
        rows: The rows drawn, of any shape.
        beta: How much of the sampling is undone, in [0, 1].

    Returns:
        Weight of each drawn row.
    """
    drawable = int((p_N > 0).sum())
    return np.asarray((drawable * p_N[rows]) ** -beta, dtype=np.float64)


def normalised(p_N: Floats) -> Floats:
    """Scale to a sum of 1, as exactly as floating point allows."""
    return np.asarray(p_N / p_N.sum(), dtype=np.float64)


def check_probabilities(p_N: Floats) -> None:
    """Refuse what is no probability distribution.

    Raises:
        ValueError: Saying what is wrong.
    """
    if not (np.isfinite(p_N).all() and (p_N >= 0).all() and abs(p_N.sum() - 1.0) < 1e-6):
        raise ValueError(
            f"the {len(p_N)} sampling probabilities add up to {p_N.sum()} with a least of "
            f"{p_N.min(initial=np.inf)}; a prioritisation must return finite, non-negative "
            "numbers that add up to 1"
        )


def _systematic(
    p_N: Floats, order: npt.NDArray[np.int64], size: int, rng: np.random.Generator
) -> Rows:
    """Rows at ``size`` evenly spaced points of the cumulated probabilities, in the given order."""
    positive = order[p_N[order] > 0]
    cumulated = np.cumsum(p_N[positive])
    points = (rng.random() + np.arange(size)) / size * cumulated[-1]
    places = np.searchsorted(cumulated, points, side="right")
    # A point may round up to the very end.
    return np.asarray(positive[np.minimum(places, len(positive) - 1)], dtype=np.int64)
