"""Behaviour half: warnings of a collapse, which name the symptom and the knob that turns it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_PATIENCE = 3


@dataclass(frozen=True)
class Symptom:
    """What a healthy run does not show for long.

    Attributes:
        metric: Name of the metric that shows it.
        limit: Value beyond which it is a symptom.
        beyond: How metric and limit compare then.
        sentence: What it means and which knob to turn.
        while_below: It is one only while the success rate is below this; finished work may look
            alike.
    """

    metric: str
    limit: float
    beyond: Callable[[float, float], bool]
    sentence: str
    while_below: float = 1.1


SYMPTOMS = (
    Symptom(
        "entropy",
        0.01,
        operator.lt,
        "the policy hardly ever varies its actions and does not succeed: raise the objective's "
        "entropy_coef or lower the learning rate",
        while_below=0.8,
    ),
    Symptom(
        "approximate_kl",
        0.5,
        operator.gt,
        "the policy is far from the one that collected: lower the learning rate or clip, or "
        "collect more often (data.batches_per_epoch)",
    ),
    Symptom(
        "clip_fraction",
        0.5,
        operator.gt,
        "most actions are clipped and teach nothing: lower the learning rate or "
        "data.batches_per_epoch, or raise clip",
    ),
    Symptom(
        "largest_ratio",
        1e4,
        operator.gt,
        "single actions count thousands of times: use a capped weighting (importance_cap, rho_cap) "
        "or replay younger trajectories",
    ),
    Symptom(
        "effective_sample_share",
        0.05,
        operator.lt,
        "a few actions carry the whole gradient: lower the cap or max_weight, raise the "
        "temperature, or take larger batches (data.batch_size)",
    ),
    Symptom(
        "explained_variance",
        -1.0,
        operator.lt,
        "the value head predicts worse than a constant: raise value_coef, widen "
        "model.value_head, or use another baseline",
    ),
    Symptom(
        "zero_advantage_groups",
        0.9,
        operator.gt,
        "nearly all groups end alike and teach nothing: try tasks of middling difficulty "
        "(data.task_curriculum), or more attempts per task",
    ),
)


class CollapseWatch:
    """Warns once of each symptom, when it has shown three times in a row."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __call__(self, metrics: Mapping[str, float], success: float) -> list[str]:
        """Warnings that are due.

        Args:
            metrics: Metrics of a gradient step by name.
            success: Latest validation success rate, in [0, 1].
        """
        warnings = []
        for symptom in SYMPTOMS:
            value = metrics.get(symptom.metric)
            shows = (
                value is not None
                and symptom.beyond(value, symptom.limit)
                and success < symptom.while_below
            )
            before = self._seen.get(symptom.metric, 0)
            if before < _PATIENCE:
                self._seen[symptom.metric] = before + 1 if shows else 0
                if self._seen[symptom.metric] == _PATIENCE:
                    warnings.append(f"{symptom.metric} is {value:.3g}: {symptom.sentence}")
        return warnings
