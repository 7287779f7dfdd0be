"""Behaviour half: an actor that is trained, from a recipe, when it is first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable

from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.curriculum.prioritisation import Uniform
from retro_lightning.environments.base import EnvironmentFactory, describe
from retro_lightning.policy.language_model import LanguageModelSource
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.value_head import ValueHeadSettings
from retro_lightning.retrospection.actor import Actor, PolicyActor, Request
from retro_lightning.rollout.history import History
from retro_lightning.training.callbacks.progress import RunProgress
from retro_lightning.training.datamodule import ReplayDataModule
from retro_lightning.training.module import PolicyGradientModule
from retro_lightning.training.phases import Phase
from retro_lightning.trajectory import SCHEMA_VERSION, Trajectory


class FittedActor(Actor):
    """A frozen policy that imitates the successes of a history.

    It is fitted once, by the same module and datamodule as any policy, and kept as a policy
    directory whose name is the hash of the recipe.

    Args:
        environments: The task families it learns: name → environment class with its arguments.
        history: What it learns from.
        language_model: Where its language model comes from.
        optimizer: Optimiser class with its arguments, learning rate included.
        steps: Gradient steps. Higher = follows hints more reliably.
        batch_size: Trajectories per gradient step.
        vocabulary_size: Tokens of the tokenizer that is trained on the history's text.
        context: Longest trajectory in tokens, hints included.
        cache_dir: Where actor and history are kept between runs.
        seed: Seed of its weights, its history and its choices.
        parallel: Attempts under way at the same time. Higher = faster, with more memory.
    """

    def __init__(
        self,
        environments: dict[str, EnvironmentFactory],
        history: History,
        language_model: LanguageModelSource,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        steps: int = 500,
        batch_size: int = 32,
        vocabulary_size: int = 1024,
        context: int = 512,
        cache_dir: str = ".cache/retro_lightning",
        seed: int = 1,
        parallel: int = 256,
    ) -> None:
        if steps < 1:
            raise ValueError(f"FittedActor: steps is {steps}; give at least 1")
        self.environments, self.history = environments, history
        self.language_model, self.optimizer = language_model, optimizer
        self.steps, self.batch_size = steps, batch_size
        self.vocabulary_size, self.context = vocabulary_size, context
        self.cache_dir, self.seed, self.parallel = cache_dir, seed, parallel

    @property
    def path(self) -> Path:
        """The policy directory, there or not."""
        recipe = {"schema": SCHEMA_VERSION, "actor": describe(self)}
        text = json.dumps(recipe, sort_keys=True)
        name = f"actor-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        return Path(self.cache_dir) / name

    @property
    def key(self) -> str:
        """Directory and seed; the recipe is in the directory's name."""
        return f"{self.path}:{self.seed}"

    def prepare(self) -> None:
        """Fit the policy, unless it stands already."""
        path = self.path
        if not path.exists():
            self._fit().save(path)

    def attempt(self, requests: Sequence[Request]) -> list[Trajectory]:
        """See ``Actor``."""
        self.prepare()
        return PolicyActor(str(self.path), self.seed, self.parallel).attempt(requests)

    def _fit(self) -> Policy:
        data = ReplayDataModule(
            environments=self.environments,
            history=self.history,
            prioritisation=Uniform(successes_only=True),
            batch_size=self.batch_size,
            batches_per_epoch=self.steps,
            vocabulary_size=self.vocabulary_size,
            context=self.context,
            cache_dir=self.cache_dir,
            seed=self.seed,
        )
        module = PolicyGradientModule(
            language_model=self.language_model,
            phases=[Phase(FilteredCloning(value_coef=0.05))],
            value_head=ValueHeadSettings(width=64, detach=True),
            optimizer=self.optimizer,
            warmup_steps=min(30, self.steps),
            decay_from=0.3,
            final_learning_rate=0.05,
            seed=self.seed,
        )
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[RunProgress()],
            default_root_dir=str(Path(self.cache_dir) / f"{self.path.name}-fit"),
        )
        trainer.fit(module, datamodule=data)
        return module.require_policy().eval()
