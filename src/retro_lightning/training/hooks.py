"""Behaviour half: what training tells whoever listens, without knowing who that is.

Training imports neither tracking nor a display. A callback that wants trajectories has a method
``on_trajectories``; the one that shows progress has a method ``track``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import lightning as L

from retro_lightning.trajectory import Trajectory

Advance = Callable[[int], None]
"""Called with the number of episodes that have just been finished."""


@runtime_checkable
class TrajectoryListener(Protocol):
    """A callback that is shown the trajectories of each round."""

    def on_trajectories(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stage: str,
        trajectories: Sequence[Trajectory],
    ) -> None:
        """Receive the trajectories of a ``rollout``, ``val`` or ``test`` round of this process."""


@runtime_checkable
class ProgressTracker(Protocol):
    """A callback that shows how far a long piece of work is."""

    def track(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Show work of ``total`` episodes while the context lasts."""


def announce_trajectories(
    trainer: L.Trainer,
    pl_module: L.LightningModule,
    stage: str,
    trajectories: Sequence[Trajectory],
) -> None:
    """Hand a round's trajectories to every callback that listens."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, TrajectoryListener):
            callback.on_trajectories(trainer, pl_module, stage, trajectories)


@contextmanager
def progress(trainer: L.Trainer, description: str, total: int) -> Iterator[Advance]:
    """Show progress through the callback that can, if there is one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ProgressTracker):
            with callback.track(description, total) as advance:
                yield advance
            return
    yield lambda count: None
