"""Behaviour half: what a datamodule knows from the trainer that it is attached to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from retro_lightning.policy.batch import Batch


class AttachedData(L.LightningDataModule):
    """Knows its run and how far it has come, and moves what has a device."""

    @property
    def attached(self) -> L.Trainer:
        """The trainer.

        Raises:
            RuntimeError: If there is none yet.
        """
        if self.trainer is None:
            raise RuntimeError("the datamodule is not attached to a trainer")
        return self.trainer

    @property
    def fitting(self) -> bool:
        """Whether the trainer fits."""
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    @property
    def grouped(self) -> bool:
        """Whether the module's baseline compares attempts within a group."""
        module: Any = self.attached.lightning_module
        return bool(module.baseline.needs_groups)

    @property
    def run_dir(self) -> Path:
        """Directory of the run: checkpoints, policies, run store and figures."""
        return Path(self.trainer.default_root_dir if self.trainer is not None else "runs/default")

    @property
    def run_name(self) -> str:
        """Name of the run, as trajectories carry it."""
        return self.run_dir.name

    def reads_history(self) -> bool:
        """Fit and predict read stored trajectories; an untrained policy needs the tokenizer."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn in (TrainerFn.FITTING, TrainerFn.PREDICTING):
            return True
        return getattr(trainer.lightning_module, "initial_policy", None) is None

    def steps_until_end(self, batches_per_epoch: int) -> int:
        """Optimiser steps of the whole fit.

        Raises:
            ValueError: If it has no end.
        """
        epochs, steps = self.attached.max_epochs, self.attached.max_steps
        limits = [epochs * batches_per_epoch] if epochs not in (None, -1) else []
        limits += [steps] if steps not in (None, -1) else []
        if not limits:
            raise ValueError("the fit has no end: set trainer.max_epochs or trainer.max_steps")
        return max(1, min(limits))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move the parts of a gradient step; tasks have no device."""
        return [part.to(device) if isinstance(part, Batch) else part for part in batch]
