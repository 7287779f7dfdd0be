"""Behaviour half: stored trajectories, what a policy says of them, and their actions' scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from retro_lightning.credit.baselines import NoBaseline
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.policy.batch import collate
from retro_lightning.policy.encoded import Encoded
from retro_lightning.policy.policy import Policy
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.other_policies import Reference, evaluate
from retro_lightning.trajectory import Trajectory


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
    policy: Policy,
    trajectories: Sequence[Trajectory],
    rows: Sequence[int],
    fresh: Sequence[bool],
    anchor: Reference | None = None,
) -> StoredBatch:
    """Evaluate trajectories and take the score of every action.

    Args:
        policy: The policy, in evaluation mode.
        trajectories: The batch.
        rows: Their rows in the store.
        fresh: Which of them are the present policy's own.
        anchor: The reference policy that a KL is taken to; None = nobody asks, or there is none.
    """
    encoded = policy.transcript.encode_many(trajectories)
    batch = collate(encoded, trajectories, rows)
    said = evaluate(policy, [batch])
    fresh_N = np.zeros(max(rows) + 1, dtype=np.bool_)
    fresh_N[list(rows)] = fresh
    joined = credit_inputs(
        [batch],
        said,
        NoBaseline(),
        fresh_N,
        proximal=said,
        reference=None if anchor is None else anchor.evaluate(policy, [batch]),
        tokens=True,
        scores=True,
    )
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
