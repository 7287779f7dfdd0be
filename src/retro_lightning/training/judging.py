"""Behaviour half: what validation and test find: tasks tried, or held-out trajectories scored."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from lightning.pytorch.trainer.states import TrainerFn

from retro_lightning.evaluation import EvaluationCounts
from retro_lightning.policy.batch import Batch
from retro_lightning.training.held_out import Scored, held_out_metrics, score
from retro_lightning.training.processes import gathered
from retro_lightning.training.trials import count_over_processes, try_tasks
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from retro_lightning.training.datamodule import ReplayDataModule
    from retro_lightning.training.module import PolicyGradientModule


class Judgement:
    """What one validation or test has found.

    Attributes:
        trajectories: This process's attempts.
        counts: Outcomes of all processes' attempts; None before the first end, or without tasks.
    """

    def __init__(self) -> None:
        self.trajectories: list[Trajectory] = []
        self.counts: EvaluationCounts | None = None
        self._scored: list[Scored] = []

    def begin(self) -> None:
        """Begin with no trajectories."""
        self.trajectories.clear()
        self._scored.clear()

    def take(
        self,
        module: PolicyGradientModule,
        data: ReplayDataModule,
        batch: Sequence[Task | Batch],
        stage: str,
    ) -> None:
        """Try one family's tasks, or score a batch of held-out trajectories.

        Args:
            module: Its policy is judged.
            data: Knows the tasks of held-out trajectories.
            batch: Tasks, or parts of a batch of trajectories.
            stage: ``val`` or ``test``.
        """
        parts = [item for item in batch if isinstance(item, Batch)]
        if parts:
            self._scored += score(module.require_policy(), parts, data.index.task_id.tolist())
            return
        if module.trainer.state.fn == TrainerFn.FITTING:
            module.require_policy().version = module.global_step
        tasks = [item for item in batch if isinstance(item, Task)]
        self.trajectories.extend(try_tasks(module, tasks, stage))

    def finish(
        self, module: PolicyGradientModule, data: ReplayDataModule, stage: str
    ) -> float | None:
        """Log success and return per family and their means over families; counts are summed.

        Returns:
            The mean success rate; None where there was no environment to try anything in.
        """
        if not data.environments:
            scored = chain.from_iterable(gathered(module.trainer, self._scored))
            metrics = held_out_metrics(list(scored))
            module.log_dict({f"{stage}/{name}": value for name, value in metrics.items()})
            return None
        module.fault_notice(module.trainer, stage, self.trajectories)
        counts = count_over_processes(module.trainer, self.trajectories)
        self.counts = counts
        for family, count in counts.families.items():
            module.log(f"{stage}/success_rate/{family}", count.success_rate)
            module.log(f"{stage}/return/{family}", count.mean_return)
        module.log(f"{stage}/success_rate", counts.success_rate)
        module.log(f"{stage}/return", counts.mean_return)
        module.log(f"{stage}/faults", float(counts.faults))
        return counts.success_rate
