"""Behaviour half: a callback that keeps what a run has achieved, for comparisons between runs.

``results.json`` of the run's directory holds what a comparison needs and MLflow's averages don't:
the outcome of every single evaluation task, and the curve of validation over optimiser steps and
environment steps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from retro_lightning.evaluation import Outcomes
from retro_lightning.replay.store import ReplayStore
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.provenance import describe_store
from retro_lightning.trajectory import Trajectory

RESULTS_FILE = "results.json"
ENVIRONMENT_STEPS = "rollout/environment_steps"
_FORMAT = 1


@dataclass(frozen=True)
class Point:
    """What one round of validation has found.

    Attributes:
        step: Optimiser steps taken.
        epoch: Epochs begun, from 1.
        environment_steps: Steps of fresh rollouts taken so far, over all processes.
        metrics: All metrics as they stood, those that are not finite included.
    """

    step: int
    epoch: int
    environment_steps: int
    metrics: dict[str, float]


class RunResults(Callback):
    """Writes ``results.json``: per-task outcomes on validation and test tasks, and the curve.

    What has been kept is part of the checkpoint, so that the curve of a resumed run begins at its
    beginning. Validation outcomes are those of the round that was best by ``monitor``.

    Args:
        monitor: Metric by which the best round of validation is chosen; higher is better.
    """

    def __init__(self, monitor: str = "val/success_rate") -> None:
        super().__init__()
        self.monitor = monitor
        self.listeners: list[Callable[[Point], None]] = []
        self.curve: list[Point] = []
        self._environment_steps = 0
        self._best = -math.inf
        self._round: Outcomes = {}
        self._outcomes: dict[str, Outcomes] = {}
        self._store: dict[str, Any] | None = None
        self._goes_on = True

    # ------------------------------------------------------------------ keeping
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Know whether a checkpoint is loaded to go on from, or to be tested."""
        self._goes_on = stage == "fit"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Describe what is learnt from; forget an earlier run of the same name."""
        store = getattr(trainer.datamodule, "history_store", None)  # type: ignore[attr-defined]
        if isinstance(store, ReplayStore):
            self._store = asdict(describe_store(store))
            for logger in trainer.loggers:
                if isinstance(logger, MLflowRun):
                    logger.log_dataset(describe_store(store))
        if trainer.ckpt_path is None and trainer.is_global_zero:
            (Path(trainer.default_root_dir) / RESULTS_FILE).unlink(missing_ok=True)

    def on_trajectories(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stage: str,
        trajectories: Sequence[Trajectory],
    ) -> None:
        """Count the steps of rollouts; keep the outcomes of evaluation."""
        if stage == "rollout":
            self._environment_steps += sum(t.length for t in trajectories)
            return
        for t in trajectories:
            family = self._round.setdefault(t.task.family, {})
            fault = t.truncation == "fault"
            family[t.task.task_id] = None if fault else [float(t.success), t.total_return, t.length]

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a round."""
        self._round = {}

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a round."""
        self._round = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a point to the curve, tell the listeners, write the file."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        steps, outcomes = self._gathered(trainer)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics[ENVIRONMENT_STEPS] = float(steps)
        point = Point(trainer.global_step, trainer.current_epoch + 1, steps, metrics)
        self.curve.append(point)
        for logger in trainer.loggers:
            logger.log_metrics({ENVIRONMENT_STEPS: float(steps)}, step=trainer.global_step)
        if metrics.get(self.monitor, -math.inf) > self._best:
            self._best = metrics[self.monitor]
            self._outcomes["val"] = outcomes
        self._write(trainer, pl_module)
        for listener in self.listeners:
            listener(point)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the outcomes of the test and log the file."""
        self._outcomes["test"] = self._gathered(trainer)[1]
        self._write(trainer, pl_module)
        self._log(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the file, which a test that follows replaces."""
        self._log(trainer)

    def _gathered(self, trainer: L.Trainer) -> tuple[int, Outcomes]:
        """Environment steps and the round's outcomes of all processes."""
        if trainer.world_size == 1:
            return self._environment_steps, self._round
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, (self._environment_steps, self._round))
        merged: Outcomes = {}
        for _, outcomes in parts:
            for family, tasks in outcomes.items():
                merged.setdefault(family, {}).update(tasks)
        return sum(steps for steps, _ in parts), merged

    # ------------------------------------------------------------------ writing
    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / RESULTS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        results = {
            "format": _FORMAT,
            "run": path.parent.name,
            "seed": getattr(pl_module, "seed", None),
            "store": self._store,
            "curve": [_stored(point) for point in self.curve],
            **self._outcomes,
        }
        if not self.curve and path.is_file():  # a test of what an earlier command has fitted
            results = json.loads(path.read_text(encoding="utf-8")) | self._outcomes
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(results), encoding="utf-8")
        os.replace(temporary, path)

    def _log(self, trainer: L.Trainer) -> None:
        path = Path(trainer.default_root_dir) / RESULTS_FILE
        for logger in trainer.loggers:
            if isinstance(logger, MLflowRun) and path.is_file():
                logger.log_file(path)

    # ------------------------------------------------------------------ checkpoints
    def state_dict(self) -> dict[str, Any]:
        """What has been kept, as primitives."""
        return {
            "curve": [asdict(point) for point in self.curve],
            "environment_steps": self._environment_steps,
            "best": self._best,
            "outcomes": self._outcomes,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint has kept; a test of an earlier one forgets nothing."""
        if not self._goes_on:
            return
        self.curve = [Point(**point) for point in state_dict["curve"]]
        self._environment_steps = int(state_dict["environment_steps"])
        self._best = float(state_dict["best"])
        self._outcomes = dict(state_dict["outcomes"])


def _stored(point: Point) -> dict[str, Any]:
    """A point with the metrics of evaluation and rollouts alone; MLflow has the others."""
    kept = {
        name: value if math.isfinite(value) else None
        for name, value in point.metrics.items()
        if name.startswith(("val/", "rollout/"))
    }
    return asdict(point) | {"metrics": kept}
