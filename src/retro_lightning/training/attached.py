"""Behaviour half: what a datamodule asks the trainer it is attached to."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn


def required(trainer: L.Trainer | None) -> L.Trainer:
    """The trainer.

    Raises:
        RuntimeError: If there is none.
    """
    if trainer is None:
        raise RuntimeError("the datamodule is not attached to a trainer")
    return trainer


def reads_history(trainer: L.Trainer | None) -> bool:
    """Fit and predict read stored trajectories; an untrained policy needs the tokenizer."""
    if trainer is None or trainer.state.fn in (TrainerFn.FITTING, TrainerFn.PREDICTING):
        return True
    return getattr(trainer.lightning_module, "initial_policy", None) is None


def planned_steps(trainer: L.Trainer, batches_per_epoch: int) -> int:
    """Optimiser steps of the whole fit.

    Raises:
        ValueError: If it has no end.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    limits = [epochs * batches_per_epoch] if epochs not in (None, -1) else []
    limits += [steps] if steps not in (None, -1) else []
    if not limits:
        raise ValueError("the fit has no end: set trainer.max_epochs or trainer.max_steps")
    return max(1, min(limits))
