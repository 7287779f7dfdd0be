"""Behaviour half: what a composed estimator logs of a gradient step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retro_lightning.credit.diagnostics import (
    approximate_kl,
    effective_sample_size,
    masked_mean,
)
from retro_lightning.credit.terms import CreditInputs

if TYPE_CHECKING:
    from retro_lightning.credit.compose import Estimator


def estimator_metrics(
    estimator: Estimator,
    inputs: CreditInputs,
    log_ratio_BS: Tensor,
    advantages_BS: Tensor,
    learnt_BS: Tensor,
) -> dict[str, Tensor]:
    """Entropy, spread of the advantages, and how far the policy is from others, in nats.

    Args:
        estimator: The estimator.
        inputs: The batch.
        log_ratio_BS: Log-ratio of each action to what the weighting reads, detached.
        advantages_BS: Advantages, not normalised.
        learnt_BS: Mask of the steps that are learnt from.
    """
    steps_BS = inputs.steps_BS
    metrics = {"entropy": masked_mean(inputs.entropies_BS.detach(), steps_BS)}
    if estimator.weighting.reads_advantages:
        metrics["advantage_std"] = advantages_BS[steps_BS].std(correction=0)
        weights_BS = estimator.weighting.weights(log_ratio_BS, advantages_BS)
        count = learnt_BS.sum().clamp(min=1)
        metrics["effective_sample_share"] = effective_sample_size(weights_BS, learnt_BS) / count
    if estimator.needs_behaviour:
        metrics["left_out_share"] = (steps_BS & ~learnt_BS).sum() / steps_BS.sum().clamp(min=1)
        metrics["approximate_kl"] = masked_mean(approximate_kl(log_ratio_BS), learnt_BS)
    if inputs.reference_logprobs_BS is not None:
        kl_BS = _reference_kl(inputs, inputs.reference_logprobs_BS)
        metrics["reference_kl"] = masked_mean(kl_BS, steps_BS)
    return metrics


def _reference_kl(inputs: CreditInputs, reference_BS: Tensor) -> Tensor:
    """KL(policy || reference) of each step: exact, or for free text its k3."""
    if inputs.reference_kl_BS is not None:
        return inputs.reference_kl_BS.detach()
    difference_BS = reference_BS - inputs.logprobs_BS.detach()
    return approximate_kl(torch.where(inputs.steps_BS, difference_BS, 0.0))
