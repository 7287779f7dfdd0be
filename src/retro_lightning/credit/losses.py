"""Behaviour half: the losses on the log-probabilities of actions, one number per step.

Every function works on tensors of any one shape (usually [B, S]) and does not reduce;
``masked_total`` reduces. Losses are minimised. Log-probabilities are natural and of whole actions
(turns), so that a ratio is taken once per action, not per token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reinforce_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """``-A log pi(a|s)``: its gradient is minus the policy gradient (Williams 1992, eq. 4).

    Args:
        logprobs: Log-probability of the action taken under the policy being trained.
        advantages: Advantage, detached. Positive = make the action more likely.

    Returns:
        Loss of each step, of the same shape.
    """
    return -advantages * logprobs


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """``-min(r A, clamp(r, 1-clip, 1+clip) A)`` with ``r = pi/pi_old``.

    Schulman et al. 2017 (arXiv 1707.06347), eq. 7, with the sign turned. Corrects for the action
    at hand only, not for the states that the old policy visited.

    Args:
        logprobs: Log-probability of the action taken under the policy being trained.
        old_logprobs: The same under the policy that collected the trajectory, detached.
        advantages: Advantage, detached.
        clip: How far the ratio may go from 1 before the gradient stops. Lower = smaller steps away
            from the policy that collected; higher = more is got from each trajectory.

    Returns:
        Loss of each step, of the same shape.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    bounded = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantages, bounded * advantages)


def truncated_importance_weights(
    logprobs: Tensor, behaviour_logprobs: Tensor, cap: float
) -> Tensor:
    """``min(cap, pi/mu)``, detached: how much more the policy takes this action than the behaviour.

    Espeholt et al. 2018 (arXiv 1802.01561), the rho of eq. 1; Munos et al. 2016 (arXiv 1606.02647)
    for why truncating bounds the variance. The weight of the present action only: neither the
    states the behaviour visited nor what it did afterwards are corrected.

    Args:
        logprobs: Log-probability of the action taken under the policy being trained.
        behaviour_logprobs: The same under the behaviour that acted.
        cap: Largest weight, at least 1. Lower = less variance, more bias towards the behaviour.

    Returns:
        Weight of each step, without gradient.
    """
    return torch.exp(logprobs - behaviour_logprobs).clamp(max=cap).detach()


def advantage_weights(advantages: Tensor, temperature: float, max_weight: float) -> Tensor:
    """``min(max_weight, exp(A / temperature))``, detached (Peng et al. 2019, arXiv 1910.00177).

    Args:
        advantages: Advantage.
        temperature: Advantage, in units of return, that makes a step count e times as much. Lower
            = only the best is imitated; higher = everything is, alike.
        max_weight: Largest weight.

    Returns:
        Weight of each step in (0, max_weight], without gradient.
    """
    return torch.exp(advantages / temperature).clamp(max=max_weight).detach()


def advantage_weighted_cloning(
    logprobs: Tensor, advantages: Tensor, temperature: float, max_weight: float
) -> Tensor:
    """``-min(max_weight, exp(A / temperature)) log pi(a|s)``; needs no behaviour log-probability.

    Peng et al. 2019 (arXiv 1910.00177), eq. 6. Left out of the paper: the TD(lambda) returns.

    Args:
        logprobs: Log-probability of the action taken under the policy being trained.
        advantages: Advantage, detached.
        temperature: See ``advantage_weights``.
        max_weight: See ``advantage_weights``.

    Returns:
        Loss of each step, of the same shape.
    """
    return -advantage_weights(advantages, temperature, max_weight) * logprobs


def filtered_cloning(logprobs: Tensor, keep: Tensor) -> Tensor:
    """``-log pi(a|s)`` where ``keep``, else exactly 0 (Chen et al. 2021, arXiv 2106.01345, %BC).

    Args:
        logprobs: Log-probability of the action taken under the policy being trained.
        keep: Mask of steps to imitate, broadcastable to ``logprobs``.

    Returns:
        Loss of each step, of the same shape.
    """
    return torch.where(keep, -logprobs, 0.0)


def exact_kl(logprobs_DC: Tensor, reference_DC: Tensor, mask_DC: Tensor) -> Tensor:
    """KL(policy || reference) at each decision, summed over all its children.

    Added up over the decisions of an action it is an unbiased estimate of the KL of the actions'
    distributions with less variance than the log-ratio of the action alone. Its gradient holds the
    visits fixed: that a choice also decides which decisions follow it is left out, as it is in an
    entropy bonus; where an action is one decision there is nothing to leave out.

    Args:
        logprobs_DC: Log-probabilities of the children under the policy being trained.
        reference_DC: The same under the reference, detached.
        mask_DC: True where there is a child; what stands elsewhere has no influence.

    Returns:
        Divergence of each decision, in nats, not negative.
    """
    logprobs_DC = torch.where(mask_DC, logprobs_DC, 0.0)
    reference_DC = torch.where(mask_DC, reference_DC, 0.0)
    terms_DC = logprobs_DC.exp() * (logprobs_DC - reference_DC)
    return torch.where(mask_DC, terms_DC, 0.0).sum(dim=1)


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Squared error of the value head on Monte Carlo returns.

    With return-to-go of stored trajectories as targets, what is learnt is the value of the
    *mixture of behaviours* in the batch, not of the present policy.

    Args:
        values: Value head's estimate before each step's action.
        targets: Return-to-go from that step on, detached.

    Returns:
        Loss of each step, of the same shape.
    """
    return (values - targets).square()


def masked_total(
    loss_BS: Tensor, mask_BS: Tensor, weight_B: Tensor, normaliser: Tensor | float
) -> Tensor:
    """Weighted sum of the steps' losses over a count that is the same for all parts of a batch.

    Because every part divides by the global count, the parts of a gradient step (gradient
    accumulation, processes) add up to the loss of the whole step.

    Args:
        loss_BS: Loss of each step; what stands at masked places has no influence, NaN included.
        mask_BS: Mask of steps that count.
        weight_B: Weight of each trajectory.
        normaliser: Number of steps in the whole gradient step, over parts and processes.

    Returns:
        Scalar.
    """
    return (torch.where(mask_BS, loss_BS, 0.0).sum(dim=1) * weight_B).sum() / normaliser
