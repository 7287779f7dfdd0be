"""Behaviour half: a policy tried on fixed tasks, and its outcomes counted over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning as L

from retro_lightning.evaluation import EvaluationCounts
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.training.hooks import announce_trajectories, progress
from retro_lightning.training.processes import gathered
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from retro_lightning.training.module import PolicyGradientModule

_PARALLEL = 128


def try_tasks(module: PolicyGradientModule, tasks: Sequence[Task], stage: str) -> list[Trajectory]:
    """One attempt at each task by the module's policy.

    Args:
        module: The module, attached to a trainer.
        tasks: This process's tasks of one family.
        stage: ``val`` or ``test``; keeps the random numbers of the two apart.
    """
    if not tasks:
        return []
    trainer: Any = module.trainer
    with progress(trainer, f"{stage} {tasks[0].family}", len(tasks)) as advance:
        trajectories = list(
            collect(
                module.require_policy(),
                trainer.datamodule.environments,
                [Job(task, 0) for task in tasks],
                run=trainer.datamodule.run_name,
                seed=module.seed,
                batch_size=min(_PARALLEL, len(tasks)),
                greedy=module.greedy_evaluation,
                arm=stage,
                on_progress=advance,
            )
        )
    announce_trajectories(trainer, module, stage, trajectories)
    return trajectories


def count_over_processes(
    trainer: L.Trainer, trajectories: Sequence[Trajectory]
) -> EvaluationCounts:
    """Outcomes of all processes' trajectories together; counts are summed, not rates averaged."""
    counts = EvaluationCounts.from_trajectories(trajectories)
    return EvaluationCounts.merge(gathered(trainer, counts))
