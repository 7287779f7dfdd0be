"""Behaviour half: returns and advantages of whole trajectories, turn by turn.

``steps_BS`` is a mask of a trajectory's steps: true for its first ``length`` places, false for the
padding after them. A task's own time limit is terminal (value 0 afterwards); only what *we* cut
(collector limit, full context) is continued by an estimated value, given as ``bootstrap_value_B``.
"""

from __future__ import annotations

import torch
from torch import Tensor

ADVANTAGE_STD_FLOOR = 0.05
"""Least standard deviation that advantages are divided by, in units of return."""


def returns_to_go(
    rewards_BS: Tensor,
    steps_BS: Tensor,
    gamma: float,
    bootstrap_value_B: Tensor | None = None,
) -> Tensor:
    """Discounted reward from each step on: ``G_s = r_s + gamma * G_{s+1}``.

    Sutton & Barto, Reinforcement Learning (2nd ed.), eq. 3.9.

    Args:
        rewards_BS: Reward received for each step's action, in the environment's units.
        steps_BS: Mask of steps.
        gamma: Discount per step (turn, not token), in [0, 1]. Lower = credit reaches less far
            back; 1 = every step is credited with all that came after it.
        bootstrap_value_B: ``G`` after the last step, in units of return; 0 where the episode
            really ended. None = 0 for all.

    Returns:
        ``returns_BS``, 0 at padding.

    Raises:
        ValueError: If gamma lies outside [0, 1].
    """
    _check_share("gamma", gamma)
    carry_B = _or_zeros(bootstrap_value_B, rewards_BS)
    reversed_ = []
    for s in range(rewards_BS.shape[1] - 1, -1, -1):
        # Padding lies after the last step, so the carry is still the bootstrap value there.
        carry_B = torch.where(steps_BS[:, s], rewards_BS[:, s] + gamma * carry_B, carry_B)
        reversed_.append(carry_B)
    if not reversed_:
        return torch.zeros_like(rewards_BS)
    return torch.where(steps_BS, torch.stack(reversed_[::-1], dim=1), 0.0)


def gae(
    rewards_BS: Tensor,
    values_BS: Tensor,
    steps_BS: Tensor,
    gamma: float,
    lam: float,
    bootstrap_value_B: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimates: ``A_s = delta_s + gamma * lam * A_{s+1}``.

    ``delta_s = r_s + gamma * V_{s+1} - V_s`` (Schulman et al. 2016, arXiv 1506.02438, eqs. 11 and
    16). ``lam = 1`` gives ``returns_to_go - values``.

    Args:
        rewards_BS: Reward received for each step's action.
        values_BS: Value of the state before each step's action.
        steps_BS: Mask of steps.
        gamma: Discount per step, in [0, 1].
        lam: Weight of later steps, in [0, 1]. Lower = less variance, more bias from the values.
        bootstrap_value_B: Value after the last step; 0 where the episode really ended. None = 0.

    Returns:
        ``advantages_BS``, 0 at padding.

    Raises:
        ValueError: If gamma or lam lies outside [0, 1].
    """
    _check_share("gamma", gamma)
    _check_share("lam", lam)
    next_value_B = _or_zeros(bootstrap_value_B, rewards_BS)
    carry_B = torch.zeros_like(next_value_B)
    reversed_ = []
    for s in range(rewards_BS.shape[1] - 1, -1, -1):
        delta_B = rewards_BS[:, s] + gamma * next_value_B - values_BS[:, s]
        carry_B = torch.where(steps_BS[:, s], delta_B + gamma * lam * carry_B, carry_B)
        next_value_B = torch.where(steps_BS[:, s], values_BS[:, s], next_value_B)
        reversed_.append(carry_B)
    if not reversed_:
        return torch.zeros_like(rewards_BS)
    return torch.where(steps_BS, torch.stack(reversed_[::-1], dim=1), 0.0)


def advantage_moments(advantages_BS: Tensor, steps_BS: Tensor) -> Tensor:
    """Count, sum and sum of squares of the advantages of one part of a gradient step.

    Moments of parts (or of processes) add up to those of the whole, so that the standard deviation
    does not depend on how the step was split.

    Args:
        advantages_BS: Advantages.
        steps_BS: Mask of steps.

    Returns:
        Tensor of shape [3].
    """
    mask = steps_BS.to(advantages_BS.dtype)
    kept = torch.where(steps_BS, advantages_BS, 0.0).detach()
    return torch.stack([mask.sum(), kept.sum(), kept.square().sum()])


def advantage_std(moments: Tensor) -> Tensor:
    """Standard deviation from added-up ``advantage_moments``, not below ``ADVANTAGE_STD_FLOOR``.

    Only the scale is taken from the batch. Its mean is not subtracted: that would be a baseline
    that comes from the curriculum's sample and contains the trajectory it is applied to.

    Args:
        moments: Tensor of shape [3].

    Returns:
        Scalar tensor, in units of return.
    """
    count = moments[0].clamp(min=1.0)
    mean = moments[1] / count
    variance = (moments[2] / count - mean.square()).clamp(min=0.0)
    return variance.sqrt().clamp(min=ADVANTAGE_STD_FLOOR)


def _or_zeros(value_B: Tensor | None, like_BS: Tensor) -> Tensor:
    return torch.zeros_like(like_BS[:, :1]).squeeze(1) if value_B is None else value_B


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; give a number between 0 and 1")
