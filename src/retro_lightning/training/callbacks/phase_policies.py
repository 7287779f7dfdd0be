"""Behaviour half: a callback that keeps the policy as it was at the end of each phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from retro_lightning.training.module import PolicyGradientModule


class PhasePolicies(Callback):
    """Writes a policy directory when a phase has ended: ``checkpoints/phase-0-policy`` and so on.

    So that an evaluation can say what a later phase has changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._phase = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the policy before the first step of a new phase."""
        assert isinstance(pl_module, PolicyGradientModule)
        pl_module.advance_phase()
        phase = pl_module.phases.index(pl_module.phase)
        if phase != self._phase and trainer.is_global_zero:
            policy = pl_module.require_policy()
            policy.version = pl_module.global_step
            policy.save(phase_policy(Path(trainer.default_root_dir), self._phase))
        self._phase = phase

    def state_dict(self) -> dict[str, Any]:
        """The phase that was seen last."""
        return {"phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Return to a state."""
        self._phase = int(state_dict["phase"])


def phase_policy(run_dir: Path, phase: int) -> Path:
    """Where a run keeps the policy with which a phase ended."""
    return run_dir / "checkpoints" / f"phase-{phase}-policy"
