"""Behaviour half: how far two distributions over valid actions are apart under one model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retro_lightning.policy.actions import ActionDistribution
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import OURS
from retro_lightning.policy.trie import FloatArray
from retro_lightning.trajectory import Trajectory


def divergences(
    policy: Policy, other: ActionDistribution, trajectories: Sequence[Trajectory]
) -> FloatArray:
    """KL divergence, in nats, from the policy's distribution to another over the same model.

    KL(p ‖ q) = Σ_a p(a) (log p(a) - log q(a)) with p the policy's distribution over a step's valid
    actions and q what ``other`` makes of the same logits. 0 = they are the same.

    Args:
        policy: Whose distribution is p; in evaluation mode whatever mode it is in.
        other: Makes q.
        trajectories: Whose states are looked at. Steps with free-text actions are left out.

    Returns:
        One per step that fits into the context, in the order of trajectories and steps.
    """
    rival = Policy(
        policy.lm,
        policy.tokenizer,
        value_head=policy.value_head,
        soft_prompt=policy.soft_prompt,
        history_window=policy.transcript.history_window,
        distribution=other,
    )
    found = []
    with policy.evaluating():
        for trajectory in trajectories:
            ours, theirs = policy.action_log_probs(trajectory), rival.action_log_probs(trajectory)
            found += [kl(p, q) for p, q in zip(ours, theirs, strict=True) if len(p)]
    return np.array(found)


def mean_divergences(policy: Policy, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Mean divergence, in nats a step, to each of our distributions that is not the policy's.

    Args:
        policy: The policy.
        trajectories: Whose states are looked at.

    Returns:
        By the distributions' kinds; nan where no step lists valid actions.
    """
    others = [kind() for name, kind in OURS.items() if name != policy.distribution.kind]
    found = {other.kind: divergences(policy, other, trajectories) for other in others}
    return {kind: float(d.mean()) if len(d) else float("nan") for kind, d in found.items()}


def kl(log_p_A: FloatArray, log_q_A: FloatArray) -> float:
    """KL(p ‖ q) in nats; actions of probability 0 under p add nothing."""
    possible = log_p_A > -np.inf
    p_A, q_A = log_p_A[possible], log_q_A[possible]
    return float((np.exp(p_A) * (p_A - q_A)).sum())
