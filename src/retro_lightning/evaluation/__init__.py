"""What may be said of policies: counts, intervals, paired tests, comparisons.

A Wilson interval speaks of one checkpoint on one set of tasks. Whether one configuration is better
than another is asked of paired seeds: at least six (``docs/experiments.md``, Evidence).
"""

from retro_lightning.evaluation.counts import EvaluationCounts, FamilyCount, Outcomes, wilson
from retro_lightning.evaluation.paired import (
    holm,
    paired_sign_flip,
    paired_t_interval,
    paired_t_test,
    smallest_reachable_p,
)

__all__ = [
    "EvaluationCounts",
    "FamilyCount",
    "Outcomes",
    "holm",
    "paired_sign_flip",
    "paired_t_interval",
    "paired_t_test",
    "smallest_reachable_p",
    "wilson",
]
