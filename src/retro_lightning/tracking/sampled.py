"""Behaviour half: what callbacks share that show a few whole episodes of each round in MLflow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import lightning as L
from lightning.pytorch.callbacks import Callback

from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.trajectory import Trajectory

T = TypeVar("T")


class SampledEpisodes(Callback, Generic[T]):
    """Keeps the first episodes of every family, and writes them at the next end of an evaluation.

    Fresh rollouts wait for it too, or for the end of the fit: MLflow takes some hundreds of
    milliseconds for a write, however little is written. The main process alone keeps any.

    Args:
        per_family: Episodes of each family that are kept between two writes, of rollouts and of
            evaluation. Higher = more to read.
    """

    def __init__(self, per_family: int = 1) -> None:
        super().__init__()
        if per_family < 1:
            name = type(self).__name__
            raise ValueError(f"{name}.per_family is {per_family}; give at least 1")
        self.per_family = per_family
        self._waiting: dict[tuple[str, str], list[T]] = {}

    @abstractmethod
    def kept(
        self, trajectory: Trajectory, stage: str, step: int, pl_module: L.LightningModule
    ) -> T:
        """What is kept of an episode until the round is over.

        Args:
            trajectory: The episode.
            stage: ``rollout``, ``val`` or ``test``.
            step: Optimiser steps taken.
            pl_module: The module whose policy acted, unchanged since.
        """

    @abstractmethod
    def write(self, waiting: Sequence[T], logger: MLflowRun) -> None:
        """Write what was kept; there is some."""

    def on_trajectories(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stage: str,
        trajectories: Sequence[Trajectory],
    ) -> None:
        """Keep the first episodes of every family."""
        if not trainer.is_global_zero:
            return
        for trajectory in trajectories:
            waiting = self._waiting.setdefault((stage, trajectory.task.family), [])
            if len(waiting) < self.per_family:
                waiting.append(self.kept(trajectory, stage, trainer.global_step, pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the round, and the rollouts before it."""
        self._write(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the round."""
        self._write(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        waiting = [one for some in self._waiting.values() for one in some]
        self._waiting = {}
        for logger in trainer.loggers:
            if isinstance(logger, MLflowRun) and waiting:
                self.write(waiting, logger)
