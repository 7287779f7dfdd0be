"""Behaviour half: a policy directory beside every checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from retro_lightning.training.module import PolicyGradientModule


class PolicyCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint on validation and the last, each with its policy directory.

    Beside ``best.ckpt`` stands ``best-policy/``, a Hugging Face directory that ``rollout``,
    ``play`` and ``test`` load without Lightning. All of it lies in ``checkpoints/`` of the run.

    Args:
        monitor: Metric by which the best checkpoint is chosen; higher is better.
    """

    def __init__(self, monitor: str = "val/success_rate") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode="max",
            save_top_k=1,
            save_last=True,
            save_on_train_epoch_end=True,
            save_on_exception=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Fix the directory, so that ``--ckpt_path last`` finds it again (library facts, 3)."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the best, and the last whether or not it is better.

        Lightning keeps ``last`` only in epochs that improve on the best: a fit killed later
        would go on from long before.
        """
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Keep where the fit was stopped as ``last``; ``best`` stays what validation chose."""
        if self._should_save_on_exception(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_topk_checkpoint(
        self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        """Choose the best among epochs that were validated."""
        if self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        module = trainer.lightning_module
        if trainer.is_global_zero and isinstance(module, PolicyGradientModule):
            policy = module.require_policy()
            policy.version = module.global_step
            policy.save(policy_directory(filepath))

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            shutil.rmtree(policy_directory(filepath), ignore_errors=True)


def policy_directory(checkpoint: str | Path) -> Path:
    """The policy directory that stands beside a checkpoint."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-policy")
