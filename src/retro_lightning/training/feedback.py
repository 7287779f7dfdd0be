"""Behaviour half: what a fit tells its curricula, made from what it has just seen."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import numpy as np
import torch

from retro_lightning.credit.returns import gae
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.curriculum.feedback import Feedback, TaskOutcome, TDErrors
from retro_lightning.policy.batch import Batch
from retro_lightning.training.processes import gathered
from retro_lightning.trajectory import Trajectory


def rollout_feedback(trajectories: Sequence[Trajectory]) -> Feedback:
    """How fresh attempts went; faulted ones say nothing of the policy."""
    return Feedback(
        outcomes=tuple(
            TaskOutcome(t.task.task_id, t.task.family, t.success)
            for t in trajectories
            if t.truncation != "fault"
        )
    )


@torch.no_grad()
def td_feedback(parts: Sequence[Batch], inputs: CreditInputs, gamma: float) -> Feedback:
    """Mean ``|r + gamma V(next) - V|`` over the steps of each trajectory of a gradient step.

    Args:
        parts: The batches of the step.
        inputs: What credit assignment was given of them.
        gamma: Discount per step.
    """
    after_B = torch.where(inputs.bootstrap_B, inputs.final_values_B, 0.0)
    # With lambda 0 the generalised advantage is the one-step TD error.
    errors_BS = gae(inputs.rewards_BS, inputs.values_BS, inputs.steps_BS, gamma, 0.0, after_B)
    mean_B = errors_BS.abs().sum(dim=1) / inputs.steps_BS.sum(dim=1)
    rows_B = torch.cat([part.rows_B for part in parts])
    errors = TDErrors(rows_B.cpu().numpy(), mean_B.double().cpu().numpy())
    return Feedback(td_errors=errors)


def over_processes(trainer: L.Trainer, feedback: Feedback) -> Feedback:
    """What all processes have seen, in the order of their ranks; equal on all of them."""
    return merged(gathered(trainer, feedback))


def merged(parts: Sequence[Feedback]) -> Feedback:
    """One record of several; of validation success, which is reduced already, the first."""
    errors = [part.td_errors for part in parts if part.td_errors is not None]
    return Feedback(
        validation_success=parts[0].validation_success,
        outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
        td_errors=TDErrors(
            np.concatenate([e.rows for e in errors]), np.concatenate([e.errors for e in errors])
        )
        if errors
        else None,
    )
