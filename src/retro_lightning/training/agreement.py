"""Behaviour half: the check that rollouts and training speak of the same policy.

Before the first update after a collection, the ratio of the current to the recorded probability of
every action must be 1. Where it is not, importance ratios would correct for a bug instead of for
staleness: padding, positions, masks or a dropout left on (verl-project/verl#2996 and others).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from retro_lightning.policy.batch import collate
from retro_lightning.policy.policy import Policy
from retro_lightning.trajectory import Trajectory

TOLERANCE = 1e-4
"""Largest difference of log-probabilities allowed in float32, and of probabilities where a whole
distribution was recorded."""
LOW_PRECISION_TOLERANCE = 0.1
"""The same in bfloat16 and other low precisions.

Measured on random Llama, GPT-2 and Qwen2 models of 2 to 8 layers and 32 to 512 units over contexts
of 150 to 540 tokens: 0.058 at most, below 0.01 in the median; in float32 2e-6. Cached and uncached
passes add up in another order there.
"""
ROUNDING = 1e-6
"""What is allowed besides, as a share of the log-probability: that of a long text is a sum of many
tokens', and rounds in proportion to its size (float32 has 24 bits: 6e-8 for each rounding)."""
_CHECKED_TRAJECTORIES = 32
_CHECKED_DISTRIBUTIONS = 4


def check_agreement(policy: Policy, trajectories: Sequence[Trajectory]) -> float:
    """Compare recorded with recomputed log-probabilities, in evaluation mode.

    Of four trajectories whose steps carry the whole distribution, the probabilities of all valid
    actions are compared too.

    Args:
        policy: The policy that collected the trajectories, not updated since.
        trajectories: Its rollouts; the first 32 with steps are checked.

    Returns:
        The largest absolute difference found.

    Raises:
        ValueError: If a difference exceeds ``tolerance``; the message names task and step.
    """
    checked = [t for t in trajectories if t.steps and t.truncation != "fault"]
    checked = checked[:_CHECKED_TRAJECTORIES]
    if not checked:
        return 0.0
    rows = np.arange(len(checked))
    encoded = [policy.transcript.encode(trajectory) for trajectory in checked]
    batch = collate(encoded, checked, rows, np.ones(len(checked)))
    batch = batch.to(next(policy.parameters()).device)
    training = policy.training
    policy.eval()
    with torch.no_grad():
        current_BS = policy.evaluate(batch).logprobs_BS
    policy.train(training)
    difference_BS = torch.where(
        batch.steps_BS, (current_BS - batch.behaviour_logprobs_BS).abs(), 0.0
    ).nan_to_num(torch.inf)
    excess_BS = difference_BS - ROUNDING * current_BS.abs()
    if not float(excess_BS.max()) <= tolerance(policy):
        row, step = divmod(int(excess_BS.argmax()), excess_BS.shape[1])
        difference = float(difference_BS[row, step])
        raise _disagreement(
            "log-probabilities of its action", checked[row], step, difference, tolerance(policy)
        )
    return max(float(difference_BS.max()), _check_distributions(policy, checked))


def check_precision(precision: str | None) -> None:
    """Refuse a precision of Lightning's, in which training computes otherwise than rollouts do.

    Autocast (``bf16-mixed``, ``16-mixed``) surrounds Lightning's training step alone: ratios of
    trained to recorded probabilities would be off by rounding at every step, and no tolerance could
    tell that from a bug.

    Args:
        precision: ``trainer.precision``; None = full.

    Raises:
        ValueError: If it is another than full.
    """
    if precision not in (None, "32-true"):
        raise ValueError(
            f"trainer.precision is {precision}, in which training computes otherwise than rollouts "
            "do: leave it out and set model.language_model.init_args.dtype: bfloat16 (of "
            "PretrainedLM), which is the same for both"
        )


def tolerance(policy: Policy) -> float:
    """Largest difference of log-probabilities that the policy's precision explains."""
    precise = next(policy.lm.parameters()).dtype in (torch.float32, torch.float64)
    return TOLERANCE if precise else LOW_PRECISION_TOLERANCE


def _check_distributions(policy: Policy, trajectories: Sequence[Trajectory]) -> float:
    """Compare probabilities of all valid actions, where they were recorded."""
    told = [t for t in trajectories if all(step.log_probs is not None for step in t.steps)]
    worst = 0.0
    training = policy.training
    policy.eval()
    for trajectory in told[:_CHECKED_DISTRIBUTIONS]:
        current = policy.action_log_probs(trajectory)
        for number, (step, now_A) in enumerate(zip(trajectory.steps, current, strict=False)):
            # Chances, for a difference of logarithms says nothing of what never happens.
            difference = float(np.abs(np.exp(np.array(step.log_probs)) - np.exp(now_A)).max())
            if not difference <= tolerance(policy):
                raise _disagreement(
                    "probabilities of its valid actions",
                    trajectory,
                    number,
                    difference,
                    tolerance(policy),
                )
            worst = max(worst, difference)
    policy.train(training)
    return worst


def _disagreement(
    what: str, trajectory: Trajectory, step: int, found: float, allowed: float
) -> ValueError:
    return ValueError(
        f"rollout and training disagree on task {trajectory.task.task_id}, step {step}: the {what} "
        f"differ by {found:.2e}, more than {allowed:.0e}; check custom models for dropout in "
        "evaluation mode, position ids and attention masks"
    )
