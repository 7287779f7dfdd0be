"""Behaviour half: how noisy policy gradients are, and by how much a baseline can quieten them."""

from __future__ import annotations

import torch
from torch import Tensor


def score_norms(logprobs_DC: Tensor, chosen_D: Tensor, mask_DC: Tensor) -> Tensor:
    """``||onehot(chosen) - p||^2 = 1 - 2 p_chosen + sum p^2`` of each decision.

    The squared length of the derivative of the log-probability of the child taken by the logits.

    Args:
        logprobs_DC: Log-probabilities of the children.
        chosen_D: Index of the child taken.
        mask_DC: True where there is a child.

    Returns:
        Squared length of each decision's score, in [0, 2].
    """
    p_DC = torch.where(mask_DC, logprobs_DC, -torch.inf).exp()
    taken_D = p_DC.gather(1, chosen_D[:, None]).squeeze(1)
    return 1.0 - 2.0 * taken_D + p_DC.square().sum(dim=1)


def gradient_variance(credits_BS: Tensor, score_norms_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """Mean squared length of a trajectory's policy gradient by the logits of its own decisions.

    ``sum_s credit_s * grad log pi_s`` has, by the logits, one block of coordinates per decision, so
    its squared length is exactly ``sum_s credit_s^2 * ||score_s||^2``. Not in it: that logits share
    parameters. With the advantages and with the returns as credits, the quotient says by how much
    the baseline cuts the spread; the mean, equal in both, is not subtracted.

    Args:
        credits_BS: What each action is credited with: advantages, or returns.
        score_norms_BS: ``score_norms`` added up over the decisions of each action.
        steps_BS: Mask of steps.

    Returns:
        Scalar, in units of squared credit. Higher = noisier.
    """
    square_BS = torch.where(steps_BS, credits_BS.square() * score_norms_BS, 0.0)
    return square_BS.sum() / steps_BS.any(dim=1).sum().clamp(min=1)


def variance_cut_limit(returns_BS: Tensor, values_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """By how much ``values`` as a baseline cut the mean square: ``E G^2 / E (G - V)^2``.

    For returns of 0 and 1 it is ``1 / ((1 - p) * (1 - EV))`` with the success rate p *of the steps*
    and ``EV = 1 - E (G - V)^2 / Var G``, which counts a bias of the values against them: ``E G^2``
    is then p, and what is left of the variance ``p (1 - p)`` is its unexplained share.

    The gradient's spread is cut by exactly that where the length of the scores tells nothing of the
    outcome, and by another factor where it does: by
    ``(E n G^2 / E G^2) / (E n (G - V)^2 / E (G - V)^2)`` times that, n being the squared length.
    A policy that is nearly sure has short scores where it does the usual, and one long score where
    it errs; there the cut stays below, and below 1 even for a perfect V.

    Args:
        returns_BS: Return-to-go.
        values_BS: The value head's estimates.
        steps_BS: Mask of steps.

    Returns:
        Scalar; above 1 where the values are of any use, higher = more to gain.
    """
    returns, residual = returns_BS[steps_BS], (returns_BS - values_BS)[steps_BS]
    return returns.square().mean() / residual.square().mean()


def best_constant_cut(returns_BS: Tensor, score_norms_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """By how much the best constant baseline cuts ``gradient_variance`` on the same batch.

    It is ``b = E n G / E n`` (Greensmith et al. 2004, theorem 8, for one state), and what it leaves
    is ``E n G^2 - (E n G)^2 / E n``. A value head that cuts less than a constant can is better
    replaced by one.

    Args:
        returns_BS: Return-to-go.
        score_norms_BS: Squared length of each action's score.
        steps_BS: Mask of steps.

    Returns:
        Scalar, at least 1.
    """
    returns, norms = returns_BS[steps_BS], score_norms_BS[steps_BS]
    square = (norms * returns.square()).sum()
    best = (norms * returns).sum().square() / norms.sum().clamp(min=1e-12)
    return square / (square - best).clamp(min=1e-12)
