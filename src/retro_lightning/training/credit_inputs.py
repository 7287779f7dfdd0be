"""Behaviour half: from batches and what the policy says of them to what credit assignment needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.estimators import CreditInputs
from retro_lightning.policy.batch import Batch, stack_steps
from retro_lightning.policy.policy import Evaluation


def credit_inputs(
    parts: Sequence[Batch],
    evaluations: Sequence[Evaluation],
    baseline: Baseline,
    fresh_N: npt.NDArray[np.bool_],
) -> CreditInputs:
    """Join the parts of a gradient step, so that credit sees the whole step at once.

    Args:
        parts: The batches of the step.
        evaluations: What the policy says of each.
        baseline: Gives the baseline of each step.
        fresh_N: Which rows of the store are rollouts of the latest collection.
    """

    def steps(name: str) -> Tensor:
        return stack_steps([getattr(part, name) for part in parts])

    def rows(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    values_BS = stack_steps([evaluation.values_BS for evaluation in evaluations])
    steps_BS = steps("steps_BS")
    rows_B = rows("rows_B")
    fresh_B = torch.from_numpy(fresh_N[rows_B.cpu().numpy()]).to(rows_B.device)
    return CreditInputs(
        logprobs_BS=stack_steps([evaluation.logprobs_BS for evaluation in evaluations]),
        entropies_BS=stack_steps([evaluation.entropies_BS for evaluation in evaluations]),
        values_BS=values_BS,
        steps_BS=steps_BS,
        rewards_BS=steps("rewards_BS"),
        behaviour_logprobs_BS=steps("behaviour_logprobs_BS"),
        supported_BS=steps("supported_BS"),
        baseline_BS=baseline(rows_B, values_BS),
        fresh_B=fresh_B,
        bootstrap_B=rows("bootstrap_B"),
        final_values_B=torch.cat([evaluation.final_values_B for evaluation in evaluations]),
        success_B=rows("success_B"),
        weight_B=rows("weight_B"),
        value_weight_B=rows("value_weight_B"),
    )
