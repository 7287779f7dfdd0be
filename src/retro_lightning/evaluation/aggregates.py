"""Behaviour half: aggregates over seeds and families that one lucky run does not decide.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264). They *describe* arms; whether arms differ is what ``paired.py`` tests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """Mean of the middle half of all scores (25 % trimmed from each end); NaN without scores.

    Args:
        scores: Scores of every seed and family, in any shape.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not ordered.size:
        return float("nan")
    cut = int(0.25 * ordered.size)  # as scipy.stats.trim_mean, which rliable uses
    return float(ordered[cut : ordered.size - cut].mean())


def stratified_bootstrap(
    scores_SF: Floats, rng: np.random.Generator, *, draws: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the interquartile mean; seeds are redrawn within each family.

    Args:
        scores_SF: Score of every seed in every family.
        rng: Source of randomness.
        draws: Bootstrap samples.
        confidence: Coverage, in (0, 1). With few seeds it is less than that: it describes.

    Returns:
        Lower and upper limit.
    """
    seeds, families = scores_SF.shape
    picks = rng.integers(seeds, size=(draws, seeds, families))
    drawn = np.sort(scores_SF[picks, np.arange(families)].reshape(draws, -1), axis=1)
    cut = int(0.25 * drawn.shape[1])
    means = drawn[:, cut : drawn.shape[1] - cut].mean(axis=1)
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)


def probability_of_improvement(scores_SF: Floats, others_SF: Floats) -> float:
    """Chance that a run of one arm beats a run of the other, in the mean over families.

    Ties count half; 0.5 = no difference, 1 = always better.

    Args:
        scores_SF: Score of every seed in every family.
        others_SF: The same of the other arm, with as many families.
    """
    ours, theirs = scores_SF[:, None, :], others_SF[None, :, :]
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())
