"""Behaviour half: when fresh trajectories are collected (the collector does the collecting)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from retro_lightning.rollout.collector import collect
from retro_lightning.training.agreement import check_agreement
from retro_lightning.training.datamodule import ReplayDataModule
from retro_lightning.training.feedback import rollout_feedback
from retro_lightning.training.hooks import announce_trajectories, progress
from retro_lightning.training.module import PolicyGradientModule
from retro_lightning.training.processes import reduced
from retro_lightning.trajectory import Trajectory


class FreshRollouts(Callback):
    """Collects trajectories with the current policy after each epoch, for the next one.

    Nothing is collected for an epoch whose objective does not learn from fresh rollouts, nor after
    the last epoch.

    Args:
        trajectories: Trajectories per round over all processes. Higher = a better estimate of the
            policy gradient; lower = more frequent policy updates per environment step.
        attempts_per_task: Attempts at each task in one round; they form a group.
        parallel_environments: Environments that act at the same time in one batch.
        max_steps: Steps after which the collector cuts an episode; null = the task's own limit.
        record_distribution: Store the probability of every valid action with each step, not of the
            one taken alone: exact ratios and off-policy evaluation for more time and disk.
    """

    def __init__(
        self,
        trajectories: int = 256,
        attempts_per_task: int = 1,
        parallel_environments: int = 128,
        max_steps: int | None = None,
        record_distribution: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("trajectories", trajectories),
            ("attempts_per_task", attempts_per_task),
        ):
            if value < 1:
                raise ValueError(
                    f"FreshRollouts.{name} is {value}; give a whole number of at least 1"
                )
        self.trajectories = trajectories
        self.attempts_per_task = attempts_per_task
        self.parallel_environments = parallel_environments
        self.max_steps = max_steps
        self.record_distribution = record_distribution
        self._seen_to = -1

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect for the first epoch; its batches are drawn before ``on_train_start``."""
        module, data = _parts(trainer, pl_module)
        if module.baseline.needs_groups and self.attempts_per_task < 2:
            raise ValueError(
                f"the baseline {type(module.baseline).__name__} compares attempts at one task: "
                "set FreshRollouts.attempts_per_task to at least 2"
            )
        data.begin_fit()
        if trainer.ckpt_path is None:
            metrics = self._collect_for(0, trainer, pl_module)
            for logger in trainer.loggers if metrics else ():  # module.log is refused here
                logger.log_metrics(metrics, step=0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect what the fit that is resumed was stopped before or at."""
        if self._seen_to < trainer.current_epoch:
            pl_module.log_dict(self._collect_for(trainer.current_epoch, trainer, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect for the next epoch."""
        following = trainer.current_epoch + 1
        last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= following
        if not (last or trainer.should_stop):
            pl_module.log_dict(self._collect_for(following, trainer, pl_module))

    def state_dict(self) -> dict[str, Any]:
        """The epoch that has been seen to."""
        return {"seen_to": self._seen_to}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Return to a state."""
        self._seen_to = int(state_dict["seen_to"])

    def _collect_for(
        self, epoch: int, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, float]:
        """Collect for an epoch if its objective wants it; returns the metrics of what came."""
        module, data = _parts(trainer, pl_module)
        metrics = self._collect(trainer, module, data) if module.needs_fresh_rollouts() else {}
        self._seen_to = epoch
        return metrics

    def _collect(
        self, trainer: L.Trainer, module: PolicyGradientModule, data: ReplayDataModule
    ) -> dict[str, float]:
        chosen_before = data.task_curriculum.state_dict()
        try:
            trajectories = self._attempt(trainer, module, data)
            data.append(trajectories, module.global_step)
            data.observe(rollout_feedback(trajectories))
        except BaseException:  # a round that was not finished has not been begun
            data.task_curriculum.load_state_dict(chosen_before)
            raise
        announce_trajectories(trainer, module, "rollout", trajectories)
        module.fault_notice(trainer, "rollout", trajectories)
        return _metrics(module, trajectories)

    def _attempt(
        self, trainer: L.Trainer, module: PolicyGradientModule, data: ReplayDataModule
    ) -> list[Trajectory]:
        """This process's share of the round, checked."""
        policy = module.require_policy()
        policy.version = module.global_step
        jobs = data.next_jobs(self.trajectories, self.attempts_per_task, policy.version)
        mine = jobs[trainer.global_rank :: trainer.world_size]
        with progress(trainer, "fresh rollouts", len(mine)) as advance:
            trajectories = list(
                collect(
                    policy,
                    data.environments,
                    mine,
                    run=data.run_name,
                    seed=module.seed,
                    batch_size=self.parallel_environments,
                    max_steps=_shorter(self.max_steps, data.horizon()),
                    record_distribution=self.record_distribution,
                    on_progress=advance,
                )
            )
        check_agreement(policy, trajectories)
        return trajectories


def _shorter(first: int | None, second: int | None) -> int | None:
    """The shorter of two limits, either of which may be none."""
    limits = [limit for limit in (first, second) if limit is not None]
    return min(limits, default=None)


def _metrics(module: PolicyGradientModule, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """What came of a round, over the trajectories of all processes."""
    rows = [(1, t.success, t.total_return, t.length, t.truncation == "fault") for t in trajectories]
    sums = torch.tensor(rows, dtype=torch.float32, device=module.device).view(-1, 5).sum(dim=0)
    count, successes, returns, steps, faults = reduced(module.trainer, sums, "sum").tolist()
    return {
        "rollout/success_rate": successes / count,
        "rollout/return": returns / count,
        "rollout/length": steps / count,
        "rollout/faults": faults,
    }


def _parts(
    trainer: L.Trainer, pl_module: L.LightningModule
) -> tuple[PolicyGradientModule, ReplayDataModule]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(pl_module, PolicyGradientModule)
    assert isinstance(data, ReplayDataModule)
    return pl_module, data
