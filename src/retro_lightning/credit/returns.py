"""Behaviour half: returns and advantages of whole trajectories, turn by turn.

``steps_BS`` is a mask of a trajectory's steps: true for its first ``length`` places, false for the
padding after them. A task's own time limit is terminal (value 0 afterwards); only what *we* cut
(collector limit, full context) is continued by an estimated value, given as ``bootstrap_value_B``.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def lambda_returns(
    rewards_BS: Tensor,
    values_BS: Tensor,
    steps_BS: Tensor,
    gamma: float,
    lam: float,
    bootstrap_value_B: Tensor | None = None,
) -> Tensor:
    """TD(lambda) returns: ``G_s = r_s + gamma * ((1 - lam) * V_{s+1} + lam * G_{s+1})``.

    Sutton & Barto (2nd ed.), eq. 12.2 in recursive form. ``lambda_returns - values`` is ``gae``;
    ``lam = 1`` gives ``returns_to_go``, ``lam = 0`` the one-step target.

    Args:
        rewards_BS: Reward received for each step's action.
        values_BS: Value of the state before each step's action.
        steps_BS: Mask of steps.
        gamma: Discount per step, in [0, 1].
        lam: Weight of later steps, in [0, 1]. Lower = less variance, more bias from the values.
        bootstrap_value_B: Value after the last step; 0 where the episode really ended. None = 0.

    Returns:
        ``returns_BS``, 0 at padding.

    Raises:
        ValueError: If gamma or lam lies outside [0, 1].
    """
    excess_BS = gae(rewards_BS, values_BS, steps_BS, gamma, lam, bootstrap_value_B)
    return torch.where(steps_BS, values_BS + excess_BS, 0.0)


def n_step_returns(
    rewards_BS: Tensor,
    values_BS: Tensor,
    steps_BS: Tensor,
    gamma: float,
    n: int,
    bootstrap_value_B: Tensor | None = None,
) -> Tensor:
    """``G_s = r_s + ... + gamma^(n-1) r_{s+n-1} + gamma^n V_{s+n}``.

    Sutton & Barto (2nd ed.), eq. 7.1. Where fewer than ``n`` steps are left, the episode's end (or
    its bootstrap value) takes the place of ``V_{s+n}``.

    Args:
        rewards_BS: Reward received for each step's action.
        values_BS: Value of the state before each step's action.
        steps_BS: Mask of steps.
        gamma: Discount per step, in [0, 1].
        n: Rewards that are read before the value takes over, at least 1. Lower = less variance,
            more bias from the values.
        bootstrap_value_B: Value after the last step; 0 where the episode really ended. None = 0.

    Returns:
        ``returns_BS``, 0 at padding.

    Raises:
        ValueError: If gamma lies outside [0, 1] or n is below 1.
    """
    _check_share("gamma", gamma)
    if n < 1:
        raise ValueError(f"n is {n}; give a number of steps of at least 1")
    after_B = _or_zeros(bootstrap_value_B, rewards_BS)
    # What stands behind the last step is the value of the state after it, however far one looks.
    target_BS = torch.where(steps_BS, values_BS, after_B[:, None])
    for _ in range(min(n, rewards_BS.shape[1])):
        following_BS = torch.cat([target_BS[:, 1:], after_B[:, None]], dim=1)
        target_BS = torch.where(steps_BS, rewards_BS + gamma * following_BS, after_B[:, None])
    return torch.where(steps_BS, target_BS, 0.0)


def vtrace(
    rewards_BS: Tensor,
    values_BS: Tensor,
    log_ratio_BS: Tensor,
    steps_BS: Tensor,
    gamma: float,
    *,
    rho_cap: float = 1.0,
    c_cap: float = 1.0,
    bootstrap_value_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """V-trace targets ``v`` and one-step returns on them ``r_s + gamma * v_{s+1}``.

    Espeholt et al. 2018 (arXiv 1802.01561), eq. 1, in recursive form (their remark 1):
    ``v_s - V_s = delta_s + gamma * c_s * (v_{s+1} - V_{s+1})`` with
    ``delta_s = rho_s * (r_s + gamma * V_{s+1} - V_s)``, ``rho_s = min(rho_cap, pi/mu)`` and
    ``c_s = min(c_cap, pi/mu)``. ``v`` estimates the value of a policy between the behaviour and
    the present one, and of the present one where ``rho_cap`` does not bind. The policy gradient's
    advantage is the second result less a baseline; its weight ``rho_s`` is left to the weighting.

    Args:
        rewards_BS: Reward received for each step's action.
        values_BS: Value of the state before each step's action.
        log_ratio_BS: ``log pi - log mu`` of the actions taken, detached.
        steps_BS: Mask of steps.
        gamma: Discount per step, in [0, 1].
        rho_cap: Largest weight of a one-step error: it decides what is estimated. Lower = closer
            to the behaviour's value.
        c_cap: Largest factor by which later errors are carried back: it decides how fast. Lower =
            less variance.
        bootstrap_value_B: Value after the last step; 0 where the episode really ended. None = 0.

    Returns:
        ``targets_BS`` and ``returns_BS``, 0 at padding.

    Raises:
        ValueError: If gamma lies outside [0, 1].
    """
    _check_share("gamma", gamma)
    ratio_BS = torch.where(steps_BS, log_ratio_BS, 0.0).exp()
    rho_BS, c_BS = ratio_BS.clamp(max=rho_cap), ratio_BS.clamp(max=c_cap)
    next_value_B = _or_zeros(bootstrap_value_B, rewards_BS)
    excess_B = torch.zeros_like(next_value_B)
    targets, returns = [], []
    for s in range(rewards_BS.shape[1] - 1, -1, -1):
        here_B = steps_BS[:, s]
        returns_B = rewards_BS[:, s] + gamma * (next_value_B + excess_B)
        delta_B = rho_BS[:, s] * (rewards_BS[:, s] + gamma * next_value_B - values_BS[:, s])
        excess_B = torch.where(here_B, delta_B + gamma * c_BS[:, s] * excess_B, excess_B)
        next_value_B = torch.where(here_B, values_BS[:, s], next_value_B)
        targets.append(torch.where(here_B, next_value_B + excess_B, 0.0))
        returns.append(torch.where(here_B, returns_B, 0.0))
    if not targets:
        return torch.zeros_like(rewards_BS), torch.zeros_like(rewards_BS)
    return torch.stack(targets[::-1], dim=1), torch.stack(returns[::-1], dim=1)


def per_decision_returns(
    rewards_BS: Tensor,
    log_ratio_BS: Tensor,
    steps_BS: Tensor,
    gamma: float,
    bootstrap_value_B: Tensor | None = None,
) -> Tensor:
    """Per-decision importance-weighted returns: ``G_s = r_s + gamma * ratio_{s+1} * G_{s+1}``.

    Precup, Sutton & Singh 2000, eq. 4, untruncated: each reward is weighted by the ratios of the
    actions after ``s`` that led to it. Its expectation is the present policy's value of the action
    at ``s``; its variance grows with the product of the ratios.

    Args:
        rewards_BS: Reward received for each step's action.
        log_ratio_BS: ``log pi - log mu`` of the actions taken, detached.
        steps_BS: Mask of steps.
        gamma: Discount per step, in [0, 1].
        bootstrap_value_B: Value after the last step; 0 where the episode really ended. None = 0.

    Returns:
        ``returns_BS``, 0 at padding.

    Raises:
        ValueError: If gamma lies outside [0, 1].
    """
    _check_share("gamma", gamma)
    ratio_BS = torch.where(steps_BS, log_ratio_BS, 0.0).exp()
    carry_B = _or_zeros(bootstrap_value_B, rewards_BS)
    reversed_ = []
    for s in range(rewards_BS.shape[1] - 1, -1, -1):
        return_B = torch.where(steps_BS[:, s], rewards_BS[:, s] + gamma * carry_B, 0.0)
        reversed_.append(return_B)
        carry_B = torch.where(steps_BS[:, s], ratio_BS[:, s] * return_B, carry_B)
    if not reversed_:
        return torch.zeros_like(rewards_BS)
    return torch.stack(reversed_[::-1], dim=1)


def _or_zeros(value_B: Tensor | None, like_BS: Tensor) -> Tensor:
    return torch.zeros_like(like_BS[:, :1]).squeeze(1) if value_B is None else value_B


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; give a number between 0 and 1")
