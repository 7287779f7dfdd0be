"""Behaviour half: a callback that keeps the policy as it was every so many gradient steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from retro_lightning.training.module import PolicyGradientModule


class StepPolicies(Callback):
    """Writes policy directories beside the checkpoints: ``step-000020-policy`` and so on.

    So that what a fit went through can be looked at afterwards: ``bench off-policy`` asks how well
    estimates from a log would have ranked it.

    Args:
        every: Optimiser steps from one to the next. Lower = more directories.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"StepPolicies: every is {every}; give a whole number of at least 1")
        self.every = every

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the policy after every ``every``-th optimiser step."""
        assert isinstance(pl_module, PolicyGradientModule)
        step = trainer.global_step
        if step % self.every == 0 and trainer.is_global_zero:
            policy = pl_module.require_policy()
            policy.version = step
            policy.save(step_policy(Path(trainer.default_root_dir), step))


def step_policy(run_dir: Path, step: int) -> Path:
    """Where a run keeps the policy as it was after a step."""
    return run_dir / "checkpoints" / f"step-{step:06d}-policy"
