"""Behaviour half: one stored batch through every estimator and baseline, against a reference.

What an estimator makes of a batch is a coefficient on every action's log-probability; its gradient
is their sum times the actions' scores, which are computed once for all estimators. The loss of the
value head, the entropy bonus and the cost of an exact KL are not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from retro_lightning.credit import enumeration
from retro_lightning.credit.baselines import Baseline, NoBaseline
from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.objective import Objective, check_pair
from retro_lightning.credit.ratios import UnknownRatio
from retro_lightning.credit.statistics import Outcomes
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.training.stored_batch import StoredBatch
from retro_lightning.trajectory import Trajectory

_REPEATS = 5
_UNKNOWN = float("nan")
_EXACT_KL = "the cost of its exact KL is in no figure, as the entropy bonus is in none"


@dataclass(frozen=True)
class Pair:
    """An objective and a baseline to be measured.

    Attributes:
        objective: Makes the loss.
        baseline: Gives the baseline.
        label: Who it is, in the table.
    """

    objective: Objective
    baseline: Baseline
    label: str

    @property
    def reads_baseline(self) -> bool:
        """Whether the baseline changes anything."""
        objective = self.objective
        return not isinstance(objective, Estimator) or objective.weighting.reads_advantages

    @property
    def leaves_out_kl(self) -> bool:
        """Whether it has a cost that is no coefficient on the actions' log-probabilities."""
        objective = self.objective
        return isinstance(objective, Estimator) and (
            objective.needs_reference and objective.kl_form == "exact"
        )


@dataclass(frozen=True)
class Measured:
    """What was measured of a pair; nan = it could not be.

    Attributes:
        estimator: Name of the estimator.
        baseline: Name of the baseline; empty = it reads none.
        variance: Variance of a trajectory's gradient (trace of the covariance), on the estimator's
            own scale: to be compared among its baselines. Higher = noisier.
        cut: Variance of the same estimator without a baseline, over this one. Higher = better.
        cosine: Of the batch's gradient and the reference; nan = there is no reference.
        bias_on_policy: On the tiny decision process, with the policy's own trajectories: the sine
            of the angle between the expected and the true gradient; 0 = unbiased up to scale.
        bias_off_policy: The same with somebody else's.
        milliseconds: Loss and its derivatives by the log-probabilities, forward pass not counted.
        used: Share of the batch's steps with a gradient.
    """

    estimator: str
    baseline: str
    variance: float = _UNKNOWN
    cut: float = _UNKNOWN
    cosine: float = _UNKNOWN
    bias_on_policy: float = _UNKNOWN
    bias_off_policy: float = _UNKNOWN
    milliseconds: float = _UNKNOWN
    used: float = _UNKNOWN


@dataclass(frozen=True)
class Measurements:
    """What was measured on a stored batch.

    Attributes:
        pairs: One of each pair.
        pushes: Of each pair that could be asked, by name, the pushes on the steps of the batch's
            longest trajectory.
        notes: What could not be measured of a pair, and why, once each.
    """

    pairs: list[Measured]
    pushes: dict[str, list[float]]
    notes: list[str]


def coefficients(batch: StoredBatch, pair: Pair) -> Tensor:
    """Push on each action's log-probability, minus the derivative of the loss, [B, S].

    Multiplied by the number of trajectories, so that a batch's gradient is the mean of its
    trajectories' and not their sum.

    Raises:
        ValueError: If the batch lacks what the objective needs; says what, and the remedy.
    """
    inputs, objective = batch.inputs, pair.objective
    if objective.needs_reference and inputs.reference_logprobs_BS is None:
        raise ValueError(
            "its KL is to a reference policy, and there is none: set model.reference_policy to a "
            "policy directory, or give a policy with adapters"
        )
    inputs = replace(
        inputs,
        baseline_BS=pair.baseline(batch.rows, inputs.values_BS.detach()),
        token_logprobs_D=_token_logprobs(inputs),
    )
    try:
        loss = objective(inputs, normaliser=objective.count(inputs)).loss
    except UnknownRatio as error:
        raise error.among([trajectory.task for trajectory in batch.trajectories]) from None
    (gradient_BS,) = torch.autograd.grad(loss, inputs.logprobs_BS)
    return -gradient_BS * len(inputs.steps_BS)


def _token_logprobs(inputs: CreditInputs) -> Tensor:
    """Log-probabilities of the token choices [D], as functions of those of their actions.

    An action's log-probability is the sum of its tokens'; what it changes by is shared out evenly
    among them. That gives the push on the action because its tokens are all pushed alike: the
    policy is at the epoch's start, where every ratio is 1.
    """
    assert inputs.token_logprobs_D is not None
    assert inputs.decisions_BS is not None
    change_BS = inputs.logprobs_BS - inputs.logprobs_BS.detach()
    share_BS = change_BS / inputs.decisions_BS.clamp(min=1)
    return inputs.token_logprobs_D + share_BS[inputs.token_row_D, inputs.token_step_D]


def measure(
    batch: StoredBatch,
    columns: Outcomes,
    pairs: Sequence[Pair],
    read: Callable[[Sequence[int]], Sequence[Trajectory]],
    reference: Tensor | None,
) -> Measurements:
    """Measure pairs on a stored batch and on the tiny process; what can't be is told in a note.

    Args:
        batch: The batch.
        columns: Columns of the whole store, for the baselines.
        pairs: What to measure.
        read: Reads trajectories of the store.
        reference: Gradient to compare with; None = there is none.
    """
    results, pushes = [], {}
    notes: dict[str, None] = {}
    bare: dict[str, float] = {}
    longest = int(batch.inputs.steps_BS.sum(dim=1).argmax())
    length = int(batch.inputs.steps_BS[longest].sum())
    for pair in pairs:
        pair.baseline.attach(read)
        pair.baseline.update(columns)
        baseline = type(pair.baseline).__name__ if pair.reads_baseline else ""
        found = Measured(pair.label, baseline)
        with _noted(notes, pair.label):
            push_BS, milliseconds = _timed(batch, pair)
            found = _on_batch(batch, push_BS, found, reference)
            if isinstance(pair.baseline, NoBaseline):
                bare[pair.label] = found.variance
            cut = (
                bare.get(pair.label, _UNKNOWN) / found.variance if found.variance > 0 else _UNKNOWN
            )
            found = replace(found, cut=cut, milliseconds=milliseconds)
            pushes[f"{pair.label} {baseline}".strip()] = push_BS[longest, :length].tolist()
            if pair.leaves_out_kl:
                notes[f"{pair.label}: {_EXACT_KL}"] = None
        with _noted(notes, pair.label):
            on, off = bias(pair)
            found = replace(found, bias_on_policy=on, bias_off_policy=off)
        results.append(found)
    return Measurements(results, pushes, list(notes))


@contextmanager
def _noted(notes: dict[str, None], label: str) -> Iterator[None]:
    """Make a note, once, of what could not be measured."""
    try:
        yield
    except ValueError as error:
        notes[f"{label}: {error}"] = None


def _on_batch(
    batch: StoredBatch, push_BS: Tensor, pair: Measured, reference: Tensor | None
) -> Measured:
    """What pushes on the batch's actions make of its gradient."""
    each = torch.stack(
        [push[: len(score)] @ score for push, score in zip(push_BS, batch.scores, strict=True)]
    ).double()
    mean = each.mean(dim=0)
    variance = (each.square().sum() - len(each) * mean.square().sum()) / (len(each) - 1)
    cosine = _UNKNOWN
    if reference is not None:
        cosine = torch.cosine_similarity(mean, reference.double(), dim=0).item()
    used = int((push_BS != 0).sum()) / int(batch.inputs.steps_BS.sum())
    return replace(pair, variance=variance.item(), cosine=cosine, used=used)


def _timed(batch: StoredBatch, pair: Pair) -> tuple[Tensor, float]:
    """The pushes, and the median time that they take, in milliseconds."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        push_BS = coefficients(batch, pair)
        times.append(1e3 * (time.perf_counter() - start))
    return push_BS, float(np.median(times))


def bias(pair: Pair) -> tuple[float, float]:
    """Sine of the angle to the true gradient of the tiny process, on and off policy.

    Raises:
        ValueError: If the objective takes a KL, for which the process has no reference policy.
    """
    if pair.objective.needs_reference:
        raise ValueError("it has no bias here, for the tiny process has no reference policy")
    exact = enumeration.true_gradient().flatten()
    angles = []
    for behaviour in (enumeration.POLICY, enumeration.BEHAVIOUR):
        found = enumeration.expected_gradient(
            pair.objective, pair.baseline, behaviour=behaviour, trajectories=2
        )
        cosine = torch.cosine_similarity(found.flatten(), exact, dim=0).item()
        angles.append(max(0.0, 1.0 - cosine * cosine) ** 0.5 if cosine > 0 else 1.0)
    return angles[0], angles[1]


def compatible(objectives: Mapping[str, Objective], baselines: Sequence[Baseline]) -> list[Pair]:
    """All pairs that do not contradict each other; an objective that reads no baseline once."""
    pairs = []
    for label, objective in objectives.items():
        for baseline in baselines:
            pair = Pair(objective, baseline, label)
            try:
                check_pair(objective, baseline)
            except ValueError:
                continue
            pairs.append(pair)
            if not pair.reads_baseline:
                break
    return pairs
