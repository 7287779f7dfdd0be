"""Behaviour half: what a person sees while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from retro_lightning.training.hooks import Advance

_SHOWN = {
    "train/loss": "loss",
    "rollout/success_rate": "rollout success",
    "val/success_rate": "val success",
    "val/logprob_margin": "val margin",
    "val/ranking_accuracy": "val ranking",
}


class RunProgress(ProgressBar):
    """Bars for the epoch, fresh rollouts and evaluation, and one line per finished epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._epoch: TaskID | None = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (Lightning calls this on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def _live(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                disable=not (self._enabled and self._console.is_terminal),
            )
            self._progress.start()
        return self._progress

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._epoch = None, None

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar for ``total`` episodes while the context lasts."""
        live = self._live()
        task = live.add_task(description, total=total)
        try:
            yield lambda count: live.update(task, advance=count)
        finally:
            live.remove_task(task)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin the epoch's bar."""
        live = self._live()
        if self._epoch is not None:
            live.remove_task(self._epoch)
        self._epoch = live.add_task(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            total=int(trainer.num_training_batches),
        )

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Move the epoch's bar by one gradient step."""
        if self._epoch is not None:
            self._live().update(self._epoch, advance=1)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Print the epoch's line."""
        shown = [
            f"{label} {float(trainer.callback_metrics[name]):.3f}"
            for name, label in _SHOWN.items()
            if name in trainer.callback_metrics
        ]
        if self._enabled:
            line = (
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} step {trainer.global_step}"
            )
            self._live().console.print("  ".join([line, *shown]), highlight=False)

    def on_train_end(self, *_: Any) -> None:
        """Close the bars."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Close the bars, so that the message stands below them."""
        self._close()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the bars."""
        self._close()
