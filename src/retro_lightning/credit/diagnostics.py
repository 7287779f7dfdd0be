"""Behaviour half: numbers that tell whether learning is healthy, and warnings with a remedy."""

from __future__ import annotations

import torch
from torch import Tensor

from retro_lightning.credit.terms import CreditInputs, LossTerms
from retro_lightning.credit.variance import (
    best_constant_cut,
    gradient_variance,
    variance_cut_limit,
)

NOTHING = 1e-30
"""A weight below which a product with an advantage may underflow: such a step moves nothing."""


def explained_variance(values_BS: Tensor, targets_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """``1 - Var(targets - values) / Var(targets)`` over the steps.

    Args:
        values_BS: Estimates.
        targets_BS: What they should have been.
        steps_BS: Mask of steps.

    Returns:
        Scalar, at most 1. 1 = perfect, 0 = no better than a constant, negative = worse; NaN where
        the targets do not vary.
    """
    targets = targets_BS[steps_BS]
    total = targets.var(correction=0)
    residual = (targets - values_BS[steps_BS]).var(correction=0)
    return torch.where(total > 0, 1.0 - residual / total, torch.nan)


def effective_sample_size(weights: Tensor, mask: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2`` (Kong 1992): how many equally weighted steps these are worth.

    Args:
        weights: Importance weights, not negative.
        mask: Which of them count.

    Returns:
        Scalar between 0 (nothing counts) and the number of steps that count.
    """
    kept = torch.where(mask, weights, 0.0)
    square = kept.square().sum()
    return torch.where(square > 0, kept.sum().square() / square, 0.0)


def clipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Where the clipped surrogate has stopped the gradient.

    That is not wherever the ratio left [1-clip, 1+clip], but only where it left it in the
    direction in which the advantage pushes.

    Args:
        ratio: ``pi / pi_old``.
        advantages: Advantage, of the same shape.
        clip: The clip of ``clipped_surrogate``.

    Returns:
        Mask of the same shape.
    """
    above = (advantages > 0) & (ratio > 1.0 + clip)
    below = (advantages < 0) & (ratio < 1.0 - clip)
    return above | below


def clip_fraction(ratio: Tensor, advantages: Tensor, clip: float, mask: Tensor) -> Tensor:
    """Share of the masked steps whose gradient was stopped by the clip; 0 if there are none."""
    return masked_mean(clipped(ratio, advantages, clip).to(ratio.dtype), mask)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Per step ``r - 1 - log r``, the k3 estimate of KL(old || new) on the old policy's actions.

    Schulman 2020, "Approximating KL divergence" (joschu.net). Unbiased and never negative; a
    metric only, its gradient is not that of the KL.

    Args:
        log_ratio: ``log pi - log pi_old`` of the actions taken.

    Returns:
        Estimate of each step, in nats.
    """
    return torch.expm1(log_ratio) - log_ratio


def gradient_shares(coefficients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Share of each source in the gradient, from the size of its coefficients on ``log pi``.

    The loss depends on the parameters through every step's ``log pi``; its gradient is the sum of
    ``dloss/dlogpi * dlogpi/dparameters``. The L1 norm of the first factor, added up per source, is
    exact and costs nothing; that sources may differ in the second factor, or cancel one another, is
    left out. Entropy bonus and value loss are not counted.

    Args:
        coefficients: Sum of ``|dloss/dlogpi|`` of each source.

    Returns:
        Shares that add up to 1, or all 0 if there is no gradient.
    """
    total = torch.stack(list(coefficients.values())).sum()
    safe = torch.where(total > 0, total, 1.0)
    return {name: value / safe for name, value in coefficients.items()}


def diagnose(
    inputs: CreditInputs,
    terms: LossTerms,
    returns_BS: Tensor,
    score_norms_BS: Tensor,
    group_B: Tensor,
    age_B: Tensor,
) -> dict[str, Tensor]:
    """What tells of the health of a gradient step, whatever its objective.

    Args:
        inputs: The batch.
        terms: What the objective made of it.
        returns_BS: Return-to-go, on the scale of the advantages.
        score_norms_BS: See ``gradient_variance``; 1 for all where they are not known.
        group_B: Code of each trajectory's group.
        age_B: Optimiser steps since each trajectory's policy; negative = no policy of ours.

    Returns:
        Detached scalars by name; only those that the batch has something to say of.
    """
    steps_BS, metrics = inputs.steps_BS, {}
    ours_B = age_B >= 0
    metrics["staleness_mean"] = masked_mean(age_B.float(), ours_B)
    metrics["staleness_max"] = torch.where(ours_B, age_B, 0).max().float()
    known_BS = steps_BS & torch.isfinite(inputs.behaviour_logprobs_BS) & inputs.supported_BS
    difference_BS = inputs.logprobs_BS.detach() - inputs.behaviour_logprobs_BS
    ratio_BS = torch.where(known_BS, difference_BS, 0.0).exp()
    metrics["largest_ratio"] = torch.where(known_BS, ratio_BS, 0.0).max()
    count = known_BS.sum().clamp(min=1)
    metrics["ratio_sample_share"] = effective_sample_size(ratio_BS, known_BS) / count
    kl_BS = approximate_kl(torch.where(known_BS, difference_BS, 0.0))
    metrics["behaviour_kl"] = masked_mean(kl_BS, known_BS)
    advantages_BS = terms.advantages_BS
    if advantages_BS is None:
        return metrics
    metrics["advantage_coverage"] = advantage_coverage(advantages_BS, steps_BS)
    metrics["zero_advantage_groups"] = zero_advantage_groups(advantages_BS, steps_BS, group_B)
    ours = gradient_variance(advantages_BS, score_norms_BS, steps_BS)
    bare = gradient_variance(returns_BS, score_norms_BS, steps_BS)
    metrics["gradient_variance"] = ours
    metrics["gradient_variance_without_baseline"] = bare
    metrics["gradient_variance_cut"] = bare / ours.clamp(min=1e-12)
    limit = variance_cut_limit(returns_BS, inputs.values_BS.detach(), steps_BS)
    metrics["gradient_variance_cut_limit"] = limit
    best = best_constant_cut(returns_BS, score_norms_BS, steps_BS)
    metrics["gradient_variance_cut_by_constant"] = best
    return metrics


def advantage_coverage(advantages_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """Share of the steps that have a finite advantage; anything below 1 is an error."""
    return masked_mean(torch.isfinite(advantages_BS).to(torch.float32), steps_BS)


def step_gradients(inputs: CreditInputs) -> Tensor:
    """How much the loss pulls at each step, after it was differentiated.

    Args:
        inputs: The batch, whose log-probabilities of actions and of tokens kept their gradients.

    Returns:
        Size of the derivatives by a step's log-probability and by those of its tokens, [B, S].
    """
    pull_BS = torch.zeros_like(inputs.logprobs_BS)
    if inputs.logprobs_BS.grad is not None:
        pull_BS = inputs.logprobs_BS.grad.abs()
    token_D, row_D, step_D = inputs.token_logprobs_D, inputs.token_row_D, inputs.token_step_D
    if token_D is None or token_D.grad is None or row_D is None or step_D is None:
        return pull_BS
    return pull_BS.index_put((row_D, step_D), token_D.grad.abs(), accumulate=True)


def unreached(terms: LossTerms, inputs: CreditInputs, pull_BS: Tensor) -> Tensor:
    """Steps whose advantage is not 0 and whose log-probability got no gradient from the loss.

    Args:
        terms: What the objective made of the batch.
        inputs: The batch.
        pull_BS: See ``step_gradients``.

    Returns:
        Mask of steps, all False where the objective doesn't say which steps it leaves out.
    """
    if terms.advantages_BS is None or terms.excluded_BS is None:
        return torch.zeros_like(inputs.steps_BS)
    # A product of a tiny advantage and a tiny ratio may underflow, which is no error.
    told_BS = (terms.advantages_BS.abs() > 1e-6) & ~terms.excluded_BS
    weighed_BS = (inputs.weight_B > 0)[:, None] & inputs.steps_BS
    return told_BS & weighed_BS & (pull_BS == 0)


def zero_advantage_groups(advantages_BS: Tensor, steps_BS: Tensor, group_B: Tensor) -> Tensor:
    """Share of a batch's groups in which every advantage is 0: they teach nothing.

    Args:
        advantages_BS: Advantages.
        steps_BS: Mask of steps.
        group_B: Code of each trajectory's group.
    """
    dead_B = (torch.where(steps_BS, advantages_BS, 0.0).abs() <= 1e-8).all(dim=1)
    names_G, code_B = torch.unique(group_B, return_inverse=True)
    alive_G = torch.zeros(len(names_G), device=code_B.device).index_add(
        0, code_B, (~dead_B).float()
    )
    return (alive_G == 0).float().mean()


def advantage_warning(
    advantages_BS: Tensor | None, steps_BS: Tensor, *, curriculum: str, baseline: str
) -> str | None:
    """A sentence if a batch's advantages teach nothing because they do not vary.

    Args:
        advantages_BS: Advantages; None for an objective that uses none.
        steps_BS: Mask of steps.
        curriculum: Name of the replay prioritisation in force.
        baseline: Name of the baseline in force.

    Returns:
        The warning, or None if the advantages vary.
    """
    if advantages_BS is None:
        return None
    kept = advantages_BS[steps_BS].detach().double()
    if kept.numel() == 0:
        return (
            f"the batch has no step to learn from: the curriculum {curriculum} chose only empty "
            "trajectories; check the store"
        )
    spread = float(kept.max() - kept.min())
    # Room for rounding in float32, in which the advantages were computed.
    if not spread <= 1e-6 * max(1.0, float(kept.abs().max())):
        return None
    return (
        f"all {kept.numel()} advantages of the batch are equal ({float(kept[0]):.4g}), so it can't "
        f"tell good actions from bad: the curriculum {curriculum} drew only trajectories of equal "
        f"return, or the baseline {baseline} equals the return; open the curriculum to failures, "
        "take larger batches or another baseline"
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked values; 0 if there are none."""
    count = mask.sum().clamp(min=1)
    return torch.where(mask, values, 0.0).sum() / count
