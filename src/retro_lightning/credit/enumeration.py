"""Behaviour half: a decision process so small that an estimator's bias is computed, not measured.

Two steps of two actions; the second state is the first action. All four trajectories are known, so
the gradient of the mean return, and the expectation of any estimate of it, are sums over everything
that can happen.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.objective import Objective
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.credit.variance import score_norms
from retro_lightning.trajectory import Step, Task, Trajectory

Path = tuple[int, int]
PATHS: tuple[Path, ...] = tuple(itertools.product((0, 1), repeat=2))  # type: ignore[arg-type]
REWARDS = torch.tensor([[0.2, 0.0], [1.0, -0.5], [0.0, 2.0]], dtype=torch.float64)
"""Reward of each action in each state (start, after action 0, after action 1)."""
POLICY = torch.tensor([[0.3, -0.4], [0.1, 0.6], [-0.7, 0.2]], dtype=torch.float64)
"""Logits of the policy being trained."""
BEHAVIOUR = torch.tensor([[-0.5, 0.4], [0.9, -0.2], [0.8, -0.3]], dtype=torch.float64)
"""Logits of somebody else, who acts otherwise in every state."""


@dataclass(frozen=True)
class Columns:
    """What a store of some trajectories at one task would say; see ``statistics.Outcomes``."""

    returns: np.ndarray[tuple[int], np.dtype[np.float64]]
    task_id: np.ndarray[tuple[int], np.dtype[np.int64]]
    family: np.ndarray[tuple[int], np.dtype[np.int64]]
    behaviour: np.ndarray[tuple[int], np.dtype[np.int64]]
    run: np.ndarray[tuple[int], np.dtype[np.int64]]
    policy_version: np.ndarray[tuple[int], np.dtype[np.int64]]
    faulted: np.ndarray[tuple[int], np.dtype[np.bool_]]


def true_gradient(policy: Tensor = POLICY) -> Tensor:
    """Gradient of the policy's mean return by its logits."""
    logits = policy.detach().requires_grad_()
    objective = torch.zeros((), dtype=torch.float64)
    for path in PATHS:
        logprobs, rewards = terms(logits, path)
        objective = objective + logprobs.sum().exp() * rewards.sum()
    return torch.autograd.grad(objective, logits)[0]


def expected_gradient(
    objective: Objective,
    baseline: Baseline,
    *,
    policy: Tensor = POLICY,
    behaviour: Tensor = POLICY,
    trajectories: int = 3,
) -> Tensor:
    """Expectation of what an objective ascends, over every batch that the behaviour can produce.

    Args:
        objective: Its loss is summed over steps and divided by the number of trajectories.
        baseline: Sees the batch as the whole store, all of one group.
        policy: Logits of the policy being trained.
        behaviour: Logits of who acted.
        trajectories: Trajectories in a batch; the cost is 4 to their power.
    """
    total = torch.zeros_like(policy)
    for paths in itertools.product(PATHS, repeat=trajectories):
        chance = torch.stack([terms(behaviour, path)[0].sum() for path in paths]).sum().exp()
        total = total + chance * estimate(objective, baseline, policy, behaviour, paths)
    return total


def estimate(
    objective: Objective,
    baseline: Baseline,
    policy: Tensor,
    behaviour: Tensor,
    paths: tuple[Path, ...],
) -> Tensor:
    """What an objective ascends on one batch: minus the gradient of its loss by the logits."""
    logits = policy.detach().requires_grad_()
    inputs = batch(logits, behaviour, paths, baseline, current=objective.value_target == "current")
    # Every episode has two steps: a mean over an episode's steps is half their sum.
    scale = 2.0 if objective.loss_normalisation == "episode" else 1.0
    loss = objective(inputs, normaliser=len(paths) / scale).loss
    (gradient,) = torch.autograd.grad(-loss, logits, allow_unused=True)
    return gradient if gradient is not None else torch.zeros_like(policy)


def batch(
    logits: Tensor, behaviour: Tensor, paths: tuple[Path, ...], baseline: Baseline, current: bool
) -> CreditInputs:
    """Some trajectories, with the value head converged to what it is to learn.

    Args:
        logits: Logits of the policy being trained, with gradient.
        behaviour: Logits of who acted.
        paths: The trajectories.
        baseline: Gives the baseline.
        current: The value head knows the present policy's value, not the behaviour's.
    """
    count = len(paths)
    told = [terms(logits, path) for path in paths]
    logprobs_BS = torch.stack([logprobs for logprobs, _ in told])
    rewards_BS = torch.stack([rewards for _, rewards in told])
    states_BS = torch.tensor([[0, 1 + path[0]] for path in paths])
    table = logits.log_softmax(dim=1)
    entropy = -(table.exp() * table).sum(dim=1)
    values_BS = state_values(logits.detach() if current else behaviour)[states_BS]
    zeros = np.zeros(count, dtype=np.int64)
    baseline.attach(lambda rows: [as_trajectory(paths[row]) for row in rows])
    baseline.update(
        Columns(
            rewards_BS.sum(dim=1).numpy(), zeros, zeros, zeros, zeros, zeros, zeros.astype(bool)
        )
    )
    steps_BS = torch.ones(count, 2, dtype=torch.bool)
    everyone_B = steps_BS[:, 0]
    return CreditInputs(
        logprobs_BS=logprobs_BS,
        entropies_BS=entropy[states_BS].detach(),  # its bonus is no part of the policy gradient
        values_BS=values_BS,
        steps_BS=steps_BS,
        rewards_BS=rewards_BS,
        behaviour_logprobs_BS=torch.stack([terms(behaviour, path)[0] for path in paths]),
        baseline_BS=baseline(torch.arange(count), values_BS),
        fresh_B=~everyone_B if not torch.equal(behaviour, logits.detach()) else everyone_B,
        supported_BS=steps_BS,
        bootstrap_B=~everyone_B,
        final_values_B=torch.zeros(count, dtype=torch.float64),
        success_B=rewards_BS.sum(dim=1) > 1.0,
        weight_B=torch.ones(count, dtype=torch.float64),
        proximal_logprobs_BS=logprobs_BS.detach(),
        decisions_BS=torch.ones(count, 2, dtype=torch.float64),
        score_norms_BS=_score_norms(logits.detach(), paths),
        token_row_D=torch.arange(count).repeat_interleave(2),  # an action is one token
        token_step_D=torch.arange(2).repeat(count),
        token_logprobs_D=logprobs_BS.flatten(),
        token_proximal_logprobs_D=logprobs_BS.detach().flatten(),
    )


def terms(logits: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """Log-probability and reward of both steps of a path."""
    states, actions = torch.tensor([0, 1 + path[0]]), torch.tensor(path)
    return logits.log_softmax(dim=1)[states, actions], REWARDS[states, actions]


def _score_norms(logits: Tensor, paths: tuple[Path, ...]) -> Tensor:
    """Squared length of the score of both steps of some paths."""
    table = logits.log_softmax(dim=1)
    mask = torch.ones(len(paths), 2, dtype=torch.bool)
    first, second = torch.tensor(paths).T
    norms = [score_norms(table[[0] * len(paths)], first, mask)]
    norms.append(score_norms(table[1 + first], second, mask))
    return torch.stack(norms, dim=1)


def state_values(logits: Tensor) -> Tensor:
    """Value of each state under a policy."""
    chances = logits.softmax(dim=1)
    later = (chances[1:] * REWARDS[1:]).sum(dim=1)
    first = (chances[0] * (REWARDS[0] + later)).sum()
    return torch.cat([first[None], later])


def as_trajectory(path: Path) -> Trajectory:
    """A path as a record; what is seen is the state."""
    rewards = terms(POLICY, path)[1].tolist()
    return Trajectory(
        task=Task(task_id="tiny", family="tiny", instruction="choose", seed=0, split="train"),
        steps=tuple(
            Step(observation=state, valid_actions=("0", "1"), action=str(action), reward=reward)
            for state, action, reward in zip(
                ("start", f"after {path[0]}"), path, rewards, strict=True
            )
        ),
        final_observation="end",
        final_valid_actions=(),
        terminated=True,
        truncated=False,
        truncation=None,
        success=sum(rewards) > 1.0,
        source="rollout",
        behaviour_id="policy",
        run="tiny",
        attempt=0,
    )
