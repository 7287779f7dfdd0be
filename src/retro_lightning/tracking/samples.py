"""Behaviour half: a callback that shows a few whole trajectories of each round in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L

from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.sampled import SampledEpisodes
from retro_lightning.trajectory import Trajectory

_TABLE = "trajectories.json"


class SampleTrajectories(SampledEpisodes[dict[str, Any]]):
    """Logs sample trajectories of validation, test and fresh rollouts as a table.

    Each row of a round costs under a millisecond, each round about 0.1 s.
    """

    def kept(
        self, trajectory: Trajectory, stage: str, step: int, pl_module: L.LightningModule
    ) -> dict[str, Any]:
        """A row of the table."""
        return table_row(trajectory, stage, step)

    def write(self, waiting: Sequence[dict[str, Any]], logger: MLflowRun) -> None:
        """Add the rows to the table."""
        logger.log_rows(waiting, _TABLE)


def table_row(trajectory: Trajectory, stage: str, step: int) -> dict[str, Any]:
    """A trajectory as one row of a table.

    Args:
        trajectory: The trajectory.
        stage: ``rollout``, ``val`` or ``test``.
        step: Optimiser steps taken.
    """
    return {
        "step": step,
        "stage": stage,
        "family": trajectory.task.family,
        "task_id": trajectory.task.task_id,
        "instruction": trajectory.task.instruction,
        "success": trajectory.success,
        "return": trajectory.total_return,
        "length": trajectory.length,
        "ended": trajectory.truncation or "terminated",
        "transcript": transcript(trajectory),
    }


def transcript(trajectory: Trajectory) -> str:
    """A trajectory as text that people read: observations, actions, their probability, rewards."""
    lines = [f"task: {trajectory.task.instruction}"]
    for number, step in enumerate(trajectory.steps, 1):
        lines.append(f"[{number}] {step.observation}")
        notes = [] if step.log_prob is None else [f"log-prob {step.log_prob:.2f}"]
        notes += [f"reward {step.reward:g}"] if step.reward else []
        lines.append(f"    > {step.action}" + (f"  ({', '.join(notes)})" if notes else ""))
    lines.append(f"[end] {trajectory.fault or trajectory.final_observation}")
    return "\n".join(lines)
