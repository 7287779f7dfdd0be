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
"""Largest difference of log-probabilities allowed in float32."""
_CHECKED_TRAJECTORIES = 32


def check_agreement(policy: Policy, trajectories: Sequence[Trajectory]) -> float:
    """Compare recorded with recomputed log-probabilities, in evaluation mode.

    Args:
        policy: The policy that collected the trajectories, not updated since.
        trajectories: Its rollouts; the first 32 with steps are checked.

    Returns:
        The largest absolute difference found.

    Raises:
        RuntimeError: If a difference exceeds ``TOLERANCE``; the message names task and step.
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
    worst = float(difference_BS.max())
    if not worst <= TOLERANCE:
        row, step = divmod(int(difference_BS.argmax()), difference_BS.shape[1])
        raise RuntimeError(
            f"rollout and training disagree on task {checked[row].task.task_id}, step {step}: the "
            f"log-probabilities differ by {worst:.2e}, more than {TOLERANCE:.0e}; check custom "
            "models for dropout in evaluation mode, position ids and attention masks"
        )
    return worst
