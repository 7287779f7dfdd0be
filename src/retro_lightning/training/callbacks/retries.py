"""Behaviour half: a callback that lets an actor under training retry what it failed at."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from retro_lightning.retrospection.logs import RETRY
from retro_lightning.retrospection.reflectors import Reflector, ScriptedReflector
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.training.agreement import check_agreement
from retro_lightning.training.callbacks.rollouts import FreshRollouts
from retro_lightning.training.datamodule import ReplayDataModule
from retro_lightning.training.module import PolicyGradientModule
from retro_lightning.trajectory import Trajectory


class RetryRollouts(FreshRollouts):
    """Fresh rollouts of an actor: attempts, and a retry of each that failed, told a reflection.

    So that the actor learns to make use of what a frozen reflector writes (the actor's half of
    training both in turns). ``trajectories`` counts first attempts; retries come on top. Families
    whose actions are free text are attempted and not retried.

    Args:
        reflector: Who writes the reflections.
        trajectories: First attempts per round over all processes.
        attempts_per_task: First attempts at each task in one round; they form a group.
        parallel_environments: Environments that act at the same time in one batch.
        max_steps: Steps after which the collector cuts an episode; null = the task's own limit.
    """

    def __init__(
        self,
        reflector: Reflector | None = None,
        trajectories: int = 256,
        attempts_per_task: int = 1,
        parallel_environments: int = 128,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(trajectories, attempts_per_task, parallel_environments, max_steps)
        self.reflector = reflector if reflector is not None else ScriptedReflector()

    def _attempt(
        self, trainer: L.Trainer, module: PolicyGradientModule, data: ReplayDataModule
    ) -> list[Trajectory]:
        """This process's share of the round: first attempts, then retries."""
        first = super()._attempt(trainer, module, data)
        failed = [
            attempt
            for attempt in first
            if not attempt.success
            and attempt.truncation != "fault"
            and attempt.steps
            and attempt.steps[0].valid_actions is not None
        ]
        asked = [(data.environments[attempt.task.family], attempt) for attempt in failed]
        reflections = self.reflector.write(asked, module.seed)
        jobs = [
            Job(attempt.task, RETRY + attempt.attempt, (reflection,))
            for attempt, reflection in zip(failed, reflections, strict=True)
            if reflection is not None
        ]
        retries = list(
            collect(
                module.require_policy(),
                data.environments,
                jobs,
                run=data.run_name,
                seed=module.seed,
                batch_size=self.parallel_environments,
                max_steps=self.max_steps,
            )
        )
        check_agreement(module.require_policy(), retries)
        return [*first, *retries]


class PublishPolicy(Callback):
    """Publishes the policy as it is at the end of every few epochs, for frozen copies of it.

    ``PublishedActor`` acts with the latest one, and a ``PolicyReflector`` of the same path writes
    with it: actor and reflector are trained in turns, each beside a frozen copy of the other.

    Args:
        path: Directory that is written.
        every: Epochs between two publications. Higher = each is trained longer beside one copy.
    """

    def __init__(self, path: str, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"PublishPolicy.every is {every}; give at least 1")
        self.path, self.every = path, every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Publish; callbacks that collect come after this one in the list."""
        assert isinstance(pl_module, PolicyGradientModule)
        if trainer.is_global_zero and (trainer.current_epoch + 1) % self.every == 0:
            policy = pl_module.require_policy()
            policy.version = pl_module.global_step
            policy.save(Path(self.path))
        trainer.strategy.barrier("the policy is published")
