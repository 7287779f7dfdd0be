"""Behaviour half: a callback that keeps the run's curves and draws them when the fit ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from retro_lightning.tracking.figures import Series, learning_curve
from retro_lightning.tracking.mlflow import MLflowRun

_MEAN = "mean over families"
_WINDOWS = 20
"""How many independent points a smoothed curve has, about."""


class Figures(Callback):
    """Draws learning curves into ``figures/`` of the run's directory and logs them to MLflow.

    The numbers are part of the checkpoint, so that the curves of a resumed run begin at its
    beginning. After Ctrl-C, what there is by then is drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves: dict[str, list[list[float]]] = {}

    # ------------------------------------------------------------------ keeping
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the gradient step's numbers, as often as the logger gets them."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._keep(trainer, "train/")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what validation has found."""
        if not trainer.sanity_checking:
            self._keep(trainer, "val/")

    def _keep(self, trainer: L.Trainer, prefix: str) -> None:
        for name, value in trainer.callback_metrics.items():
            number = float(value)
            if name.startswith(prefix) and math.isfinite(number):
                self._curves.setdefault(name, []).append([float(trainer.global_step), number])

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, as lists of numbers."""
        return {"curves": {name: [list(p) for p in curve] for name, curve in self._curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the curves of a checkpoint."""
        self._curves = {name: [list(p) for p in c] for name, c in state_dict["curves"].items()}

    # ------------------------------------------------------------------ drawing
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        self._draw(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Draw what there is when a person stops the fit."""
        if isinstance(exception, KeyboardInterrupt):
            self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        for name, figure in self._figures():
            save_figure(trainer, figure, name)

    def _figures(self) -> Iterator[tuple[str, Figure]]:
        val = self._series("val/success_rate/")
        if "val/success_rate" in self._curves:
            val[_MEAN] = self._one("val/success_rate")
            yield (
                "success",
                learning_curve(
                    val,
                    title="Success on validation tasks",
                    ylabel="tasks solved",
                    emphasised=_MEAN,
                    share=True,
                ),
            )
        noisy = self._series("train/gradient_share/")
        if noisy:
            window = max(len(values) for _, values in noisy.values()) // _WINDOWS + 1
            shares = {name: running_mean(series, window) for name, series in noisy.items()}
            yield (
                "gradient_shares",
                learning_curve(
                    shares,
                    title=f"Where the gradient came from (mean over {window} logged steps)",
                    ylabel="share of the gradient",
                    share=True,
                ),
            )
        if "train/loss" in self._curves:
            yield (
                "loss",
                learning_curve(
                    {"loss": self._one("train/loss")},
                    title="Training loss (its meaning changes with the phase)",
                    ylabel="loss per step, nats",
                ),
            )

    def _series(self, prefix: str) -> dict[str, Series]:
        names = sorted(name for name in self._curves if name.startswith(prefix))
        return {name.removeprefix(prefix): self._one(name) for name in names}

    def _one(self, name: str) -> Series:
        return [p[0] for p in self._curves[name]], [p[1] for p in self._curves[name]]


def running_mean(series: Series, window: int) -> Series:
    """Each value replaced by the mean of itself and those before it, ``window`` at most.

    A single batch of a few trajectories says little about where its gradient came from.
    """
    steps, values = series
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return steps, ((sums[ends] - sums[starts]) / (ends - starts)).tolist()


def save_figure(trainer: L.Trainer, figure: Figure, name: str) -> Path:
    """Write a figure to ``figures/<name>.png`` of the run's directory, and to MLflow."""
    directory = Path(trainer.default_root_dir) / "figures"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.png"
    figure.savefig(path)
    for logger in trainer.loggers:
        if isinstance(logger, MLflowRun):
            logger.log_file(path, "figures")
    return path
