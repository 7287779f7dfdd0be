"""Behaviour half: a callback that shows a few whole trajectories of each round in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.trajectory import Trajectory

_TABLE = "trajectories.json"


class SampleTrajectories(Callback):
    """Logs sample trajectories of validation, test and fresh rollouts as a table.

    Args:
        per_family: Trajectories of each family and round. Higher = more to read; each row of a
            round costs under a millisecond, each round about 0.1 s.
    """

    def __init__(self, per_family: int = 1) -> None:
        super().__init__()
        if per_family < 1:
            raise ValueError(f"SampleTrajectories.per_family is {per_family}; give at least 1")
        self.per_family = per_family
        self._waiting: list[dict[str, Any]] = []

    def on_trajectories(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stage: str,
        trajectories: Sequence[Trajectory],
    ) -> None:
        """Keep the first trajectories of every family; they are written when the round is over."""
        if not trainer.is_global_zero:
            return
        families = dict.fromkeys(trajectory.task.family for trajectory in trajectories)
        for family in families:
            of_family = [t for t in trajectories if t.task.family == family]
            self._waiting += [
                table_row(t, stage, trainer.global_step) for t in of_family[: self.per_family]
            ]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of the epoch's rollouts."""
        self._write(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of the round."""
        self._write(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of the round."""
        self._write(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MLflowRun):
                logger.log_rows(self._waiting, _TABLE)
        self._waiting = []


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
