"""Behaviour half: how well estimates of many policies agreed with what fresh episodes told.

An estimate may monitor checkpoints or prune trials only where this has been shown: see ``trusted``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from retro_lightning.credit.off_policy import Estimate

Floats = npt.NDArray[np.float64]

LEAST_CORRELATION = 0.6
"""Rank correlation with the truth, by its lower limit, from which on an estimate may choose."""

LEAST_POLICIES = 20
"""Policies that a rank correlation must rest on."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an estimator after policies were also tried.

    Attributes:
        judged: Policies that it gave an estimate for; the others were refused.
        coverage: Share of its intervals that hold the truth, in [0, 1]. The truth is measured too:
            where its error is not small beside the intervals, coverage comes out too low.
        rank_correlation: Spearman's, of estimates and truths; 1 = the same order, 0 = chance.
        rank_low: Lower limit of its 95 % interval (Fisher's z, with a standard error of
            1.06 / sqrt(n - 3): Fieller et al. 1957, doi 10.1093/biomet/44.3-4.470).
        regret: Truth of the best policy that was judged, less that of the one with the highest
            estimate (regret@1), in units of return; 0 = it chose the best.
    """

    judged: int
    coverage: float
    rank_correlation: float
    rank_low: float
    regret: float

    @property
    def trusted(self) -> bool:
        """Whether it may monitor checkpoints and prune trials of such policies."""
        enough = self.judged >= LEAST_POLICIES
        return enough and self.rank_low >= LEAST_CORRELATION


def evidence(estimates: Sequence[Estimate | None], truths: Sequence[float]) -> Evidence:
    """Compare estimates with truths.

    Args:
        estimates: Of each policy; None = refused.
        truths: What fresh episodes of each brought.
    """
    pairs = [(e, t) for e, t in zip(estimates, truths, strict=True) if e is not None]
    values = np.array([e.value for e, _ in pairs])
    found = np.array([t for _, t in pairs])
    covered = [e.low <= t <= e.high for e, t in pairs]
    correlation = rank_correlation(values, found)
    return Evidence(
        judged=len(pairs),
        coverage=float(np.mean(covered)) if pairs else math.nan,
        rank_correlation=correlation,
        rank_low=_lower(correlation, len(pairs)),
        regret=float(found.max() - found[values.argmax()]) if pairs else math.nan,
    )


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation, equals at their mean rank; NaN where there is no order."""
    ranks = [rankdata(values) for values in (one, other)]
    if len(one) < 2 or any(np.ptp(each) == 0 for each in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _lower(correlation: float, count: int) -> float:
    if count <= 3 or math.isnan(correlation):
        return math.nan
    if abs(correlation) > 1 - 1e-12:
        return correlation
    return math.tanh(math.atanh(correlation) - 1.96 * 1.06 / math.sqrt(count - 3))
