"""Whole fits of the real module and datamodule on two corridors, small enough for seconds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from retro_lightning.credit.baselines import Baseline, ValueHeadBaseline
from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.curriculum.pacing import Linear
from retro_lightning.curriculum.prioritisation import QualityWeighted
from retro_lightning.policy.language_model import LlamaFromConfig
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.history import ScriptedHistory
from retro_lightning.training.callbacks.checkpoint import PolicyCheckpoint
from retro_lightning.training.callbacks.rollouts import FreshRollouts
from retro_lightning.training.datamodule import ReplayDataModule
from retro_lightning.training.module import PolicyGradientModule
from retro_lightning.training.optimizers import MuonAdamW
from retro_lightning.training.phases import Phase
from tests.support import CorridorEnv

ADAMW = functools.partial(torch.optim.AdamW, lr=3e-3)
MUON = functools.partial(MuonAdamW, lr=3e-3, muon_lr=5e-3)
EPOCHS, BATCHES = 3, 4
"""Epochs of a fit, and gradient steps in each."""


def phases(until_step: int | None = 2) -> list[Phase]:
    """Cloning, then (in mid-epoch, unless told otherwise) policy gradient."""
    last = Phase(PolicyGradient())
    return [last] if until_step is None else [Phase(FilteredCloning(), until_step), last]


@dataclass
class Fit:
    """One fit: everything that Lightning needs for it, made anew as a new process would.

    ``baseline`` and ``phases`` are made by functions, for no two fits may share their state.
    """

    run_dir: Path
    cache_dir: Path
    make_phases: Any = phases
    make_baseline: Any = ValueHeadBaseline
    optimizer: Any = ADAMW
    callbacks: Sequence[Callback] = ()
    attempts_per_task: int = 1
    monitor: str = "val/success_rate"
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    trainer_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        environments: dict[str, Any] = {
            "corridor/short": functools.partial(CorridorEnv, length=6),
            "corridor/long": functools.partial(CorridorEnv, length=9, max_steps=20),
        }
        settings: dict[str, Any] = {
            "environments": environments,
            "history": ScriptedHistory(tasks_per_family=10),
            "prioritisation": QualityWeighted(pacing=Linear()),
            "batch_size": 8,
            "batches_per_epoch": BATCHES,
            "vocabulary_size": 300,
            "train_tasks_per_family": 10,
            "val_tasks_per_family": 3,
            "test_tasks_per_family": 3,
            "cache_dir": str(self.cache_dir),
        }
        baseline: Baseline = self.make_baseline()
        arguments: dict[str, Any] = {
            "language_model": LlamaFromConfig(
                hidden_size=32, layers=1, heads=2, context=512, recall_steps=0
            ),
            "phases": self.make_phases(),
            "baseline": baseline,
            "optimizer": self.optimizer,
            "warmup_steps": 2,
        }
        options: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "max_epochs": EPOCHS,
            "gradient_clip_val": 1.0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "reload_dataloaders_every_n_epochs": 1,
            "log_every_n_steps": 1,
        }
        self.datamodule = ReplayDataModule(**{**settings, **self.data})
        self.module = PolicyGradientModule(**{**arguments, **self.model})
        self.trainer = L.Trainer(
            **{**options, **self.trainer_options},
            default_root_dir=str(self.run_dir),
            callbacks=[
                *self._rollouts(bool(self.datamodule.environments)),
                PolicyCheckpoint(self.monitor),
                *self.callbacks,
            ],
        )

    def _rollouts(self, wanted: bool) -> list[Callback]:
        if not wanted:
            return []
        each = self.attempts_per_task
        return [FreshRollouts(trajectories=8, attempts_per_task=each, parallel_environments=8)]

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.run_dir / "checkpoints" / "last.ckpt"

    def run(self, ckpt_path: Path | None = None) -> Fit:
        """Fit."""
        self.trainer.fit(
            self.module,
            datamodule=self.datamodule,
            ckpt_path=None if ckpt_path is None else str(ckpt_path),
            weights_only=False,
        )
        return self

    def result(self) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
        """Parameters, and identity and content of everything in the run store, in order."""
        parameters = {k: v.clone() for k, v in self.module.require_policy().state_dict().items()}
        return parameters, stored(self.run_dir)


def stored(run_dir: Path) -> list[tuple[str, str]]:
    """Identity and content of every trajectory of a run store, in order."""
    rows = ReplayStore(run_dir / "store").columns(("trajectory_id", "content_hash")).to_pylist()
    return [(row["trajectory_id"], row["content_hash"]) for row in rows]


def assert_same(
    one: tuple[dict[str, Tensor], list[tuple[str, str]]],
    other: tuple[dict[str, Tensor], list[tuple[str, str]]],
) -> None:
    """Bit for bit the same parameters, and the same trajectories in the same order."""
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name
