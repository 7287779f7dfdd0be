"""Behaviour half: one stored batch through every estimator and baseline, against a reference.

What an estimator makes of a batch is a coefficient on every action's log-probability; its gradient
is their sum times the actions' scores, which are computed once for all estimators. The loss of the
value head and the entropy bonus are not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from retro_lightning.credit import enumeration
from retro_lightning.credit.baselines import Baseline, NoBaseline
from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.objective import Objective, check_pair
from retro_lightning.credit.statistics import Outcomes
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.policy.batch import collate
from retro_lightning.policy.encoded import Encoded
from retro_lightning.policy.policy import Policy
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.other_policies import evaluate
from retro_lightning.trajectory import Trajectory

_REPEATS = 5


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


@dataclass(frozen=True)
class Measured:
    """What was measured of a pair.

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
    variance: float
    cut: float
    cosine: float
    bias_on_policy: float
    bias_off_policy: float
    milliseconds: float
    used: float


@dataclass(frozen=True)
class StoredBatch:
    """Trajectories of a store and what the policy says of them.

    Attributes:
        inputs: For the objectives; log-probabilities and values are leaves with gradient.
        scores: Of each trajectory, the gradients of its actions' log-probabilities [S, P].
        encoded: The trajectories as arrays.
        trajectories: The same as records.
        rows: Their rows in the store's columns.
    """

    inputs: CreditInputs
    scores: Sequence[Tensor]
    encoded: Sequence[Encoded]
    trajectories: Sequence[Trajectory]
    rows: Tensor


def stored_batch(
    policy: Policy, trajectories: Sequence[Trajectory], rows: Sequence[int], fresh: Sequence[bool]
) -> StoredBatch:
    """Evaluate trajectories and take the score of every action.

    Args:
        policy: The policy, in evaluation mode.
        trajectories: The batch.
        rows: Their rows in the store.
        fresh: Which of them are the present policy's own.
    """
    encoded = policy.transcript.encode_many(trajectories)
    batch = collate(encoded, trajectories, rows)
    said = evaluate(policy, [batch])
    fresh_N = np.zeros(max(rows) + 1, dtype=np.bool_)
    fresh_N[list(rows)] = fresh
    joined = credit_inputs([batch], said, NoBaseline(), fresh_N, proximal=said, scores=True)
    inputs = replace(
        joined,
        logprobs_BS=joined.logprobs_BS.clone().requires_grad_(),
        values_BS=joined.values_BS.clone().requires_grad_(),
        learner_values_BS=None,
        learner_final_values_B=None,
        entropies_BS=joined.entropies_BS.clone(),
    )
    scores = [
        _scores(policy, one, trajectory)
        for one, trajectory in zip(encoded, trajectories, strict=True)
    ]
    return StoredBatch(inputs, scores, encoded, trajectories, batch.rows_B)


def _scores(policy: Policy, encoded: Encoded, trajectory: Trajectory) -> Tensor:
    """Gradient of each action's log-probability by all trainable parameters, [S, P]."""
    parameters = trainable(policy)
    logprobs_S = policy.evaluate(collate([encoded], [trajectory])).logprobs_BS[0]
    rows = []
    for logprob in logprobs_S:
        gradients = torch.autograd.grad(
            logprob, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def trainable(policy: Policy) -> list[Tensor]:
    """The parameters that a policy gradient moves: all that train, but for the value head's."""
    return [
        parameter
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad and not name.startswith("value_head")
    ]


def coefficients(batch: StoredBatch, pair: Pair) -> Tensor:
    """Push on each action's log-probability, minus the derivative of the loss, [B, S].

    Multiplied by the number of trajectories, so that a batch's gradient is the mean of its
    trajectories' and not their sum.
    """
    inputs = replace(
        batch.inputs,
        baseline_BS=pair.baseline(batch.rows, batch.inputs.values_BS.detach()),
    )
    loss = pair.objective(inputs, normaliser=pair.objective.count(inputs)).loss
    (gradient_BS,) = torch.autograd.grad(loss, inputs.logprobs_BS)
    return -gradient_BS * len(inputs.steps_BS)


def measure(
    batch: StoredBatch,
    columns: Outcomes,
    pairs: Sequence[Pair],
    read: Callable[[Sequence[int]], Sequence[Trajectory]],
    reference: Tensor | None,
) -> tuple[list[Measured], dict[str, list[float]]]:
    """Measure pairs on a stored batch.

    Args:
        batch: The batch.
        columns: Columns of the whole store, for the baselines.
        pairs: What to measure.
        read: Reads trajectories of the store.
        reference: Gradient to compare with; None = there is none.

    Returns:
        The measurements, and of each pair the pushes on the steps of the batch's longest
        trajectory.
    """
    results, credit_map = [], {}
    bare: dict[str, float] = {}
    longest = int(batch.inputs.steps_BS.sum(dim=1).argmax())
    for pair in pairs:
        pair.baseline.attach(read)
        pair.baseline.update(columns)
        push_BS, milliseconds = _timed(batch, pair)
        each = torch.stack(
            [push[: len(score)] @ score for push, score in zip(push_BS, batch.scores, strict=True)]
        ).double()
        mean = each.mean(dim=0)
        variance = (
            (each.square().sum() - len(each) * mean.square().sum()) / (len(each) - 1)
        ).item()
        cosine = float("nan")
        if reference is not None:
            cosine = torch.cosine_similarity(mean, reference.double(), dim=0).item()
        on, off = bias(pair)
        steps = int(batch.inputs.steps_BS.sum())
        baseline = type(pair.baseline).__name__ if pair.reads_baseline else ""
        if isinstance(pair.baseline, NoBaseline):
            bare[pair.label] = variance
        without = bare.get(pair.label, float("nan"))
        results.append(
            Measured(
                estimator=pair.label,
                baseline=baseline,
                variance=variance,
                cut=without / variance if variance > 0 else float("nan"),
                cosine=cosine,
                bias_on_policy=on,
                bias_off_policy=off,
                milliseconds=milliseconds,
                used=int((push_BS != 0).sum()) / steps,
            )
        )
        length = int(batch.inputs.steps_BS[longest].sum())
        credit_map[f"{pair.label} {baseline}".strip()] = push_BS[longest, :length].tolist()
    return results, credit_map


def _timed(batch: StoredBatch, pair: Pair) -> tuple[Tensor, float]:
    """The pushes, and the median time that they take, in milliseconds."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        push_BS = coefficients(batch, pair)
        times.append(1e3 * (time.perf_counter() - start))
    return push_BS, float(np.median(times))


def bias(pair: Pair) -> tuple[float, float]:
    """Sine of the angle to the true gradient of the tiny process, on and off policy."""
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
