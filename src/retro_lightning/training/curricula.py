"""Behaviour half: both curricula of a fit, what they have been told, and the epoch's plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.curriculum.exposure import ExposureLedger
from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.prioritisation import Prioritisation
from retro_lightning.curriculum.tasks import TaskCurriculum
from retro_lightning.rollout.collector import Job
from retro_lightning.rollout.seeds import generator
from retro_lightning.training.memory import ReplayMemory
from retro_lightning.training.plan import Plan, describe_plan, draw_plan
from retro_lightning.trajectory import Task


@dataclass
class Curricula:
    """Draws each epoch's plan and the tasks to try next; all of its state is in the checkpoint.

    Args:
        prioritisation: Which stored trajectories are learnt from.
        tasks: Which tasks the policy tries next.
        batch_size: Trajectories per gradient step, over all processes.
        batches_per_epoch: Gradient steps of a plan.
        fresh_share: Share of each batch for the latest rollouts, in phases that need them.
        uniform_share: Share of each batch that is drawn from all trajectories alike.
        seed: Seed of plans and of the choice of tasks.

    Attributes:
        plan: What the current epoch learns from; None before the first.
        fresh_version: Policy version of the latest collection; None = there was none.
        validation_success: The latest that was observed, in [0, 1].
        ledger: How often each row was learnt from in plans before the current one.
    """

    prioritisation: Prioritisation
    tasks: TaskCurriculum
    batch_size: int
    batches_per_epoch: int
    fresh_share: float
    uniform_share: float
    seed: int
    plan: Plan | None = field(default=None, init=False)
    fresh_version: int | None = field(default=None, init=False)
    validation_success: float = field(default=0.0, init=False)
    ledger: ExposureLedger = field(default_factory=ExposureLedger, init=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "batches_per_epoch"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"data.{name} is {value}; give a whole number of at least 1")
        if not 0.0 <= self.fresh_share <= 1.0:
            raise ValueError(
                f"data.fresh_share is {self.fresh_share}; give a share between 0 and 1"
            )
        if not 0.0 < self.uniform_share <= 1.0:
            raise ValueError(
                f"data.uniform_share is {self.uniform_share}; give a share above 0, at most 1"
            )

    def begin_anew(self) -> None:
        """Forget the plan, the collection and the exposure of an earlier fit."""
        self.plan, self.fresh_version = None, None
        self.ledger = ExposureLedger()

    def plan_for(
        self,
        memory: ReplayMemory,
        *,
        epoch: int,
        step: int,
        done: int,
        progress: float,
        fresh: bool,
        grouped: bool,
    ) -> Plan:
        """The plan of an epoch; drawn once, however often it is asked for.

        Args:
            memory: The stores.
            epoch: Number of the epoch.
            step: Optimiser steps taken by now.
            done: Gradient steps of the plan before that were learnt from.
            progress: Share of the fit that is done, in [0, 1].
            fresh: Whether a share is reserved for the latest rollouts.
            grouped: Whether whole groups of attempts are drawn.
        """
        if self.plan is None or self.plan.epoch != epoch:
            if self.plan is not None:
                self.ledger.add(self.plan.learnt(done))
            self.plan = draw_plan(
                memory,
                self.prioritisation,
                epoch=epoch,
                begun=step,
                progress=progress,
                batches=self.batches_per_epoch,
                batch_size=self.batch_size,
                uniform_share=self.uniform_share,
                fresh_version=self.fresh_version,
                fresh_share=self.fresh_share if fresh else None,
                seed=self.seed,
                grouped=grouped,
            )
        return self.plan

    def exposure(self, size: int, done: int) -> npt.NDArray[np.int64]:
        """How often each row was learnt from.

        Nothing is counted while learning: it follows from the plans, and so is exact after a
        resume.

        Args:
            size: Rows of the store.
            done: Gradient steps of the current plan that were learnt from.
        """
        rows = np.zeros(0, dtype=np.int64) if self.plan is None else self.plan.learnt(done)
        return self.ledger.with_rows(rows, size)

    def describe(self, memory: ReplayMemory) -> dict[str, float]:
        """What the current epoch learns from; see ``describe_plan``. Empty before the first."""
        return {} if self.plan is None else describe_plan(self.plan, memory, self.fresh_version)

    def next_jobs(
        self,
        tasks: dict[str, list[Task]],
        count: int,
        attempts: int,
        policy_version: int,
        grouped: bool,
    ) -> list[Job]:
        """Tasks that the policy should try next, each with the numbers of its attempts.

        Args:
            tasks: The training tasks by family.
            count: Trajectories wanted over all processes.
            attempts: Attempts per task; the attempts at one task form a group.
            policy_version: Optimiser steps taken; with the seed it fixes the choice.
            grouped: Finish the last group, even where that takes more than ``count``.
        """
        rng = generator(self.seed, "tasks", policy_version)
        chosen = self.tasks.choose(tasks, -(-count // attempts), rng)
        jobs = [Job(task, attempt) for task in chosen for attempt in range(attempts)]
        return jobs if grouped else jobs[:count]

    def observe(self, feedback: Feedback) -> None:
        """Tell both curricula."""
        if feedback.validation_success is not None:
            self.validation_success = feedback.validation_success
        self.prioritisation.observe(feedback)
        self.tasks.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        """The state as primitives."""
        return {
            "plan": None if self.plan is None else self.plan.state_dict(),
            "fresh_version": self.fresh_version,
            "validation_success": self.validation_success,
            "prioritisation": self.prioritisation.state_dict(),
            "task_curriculum": self.tasks.state_dict(),
            "exposure": self.ledger.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state; entries beside those of ``state_dict`` are not read."""
        plan = state["plan"]
        self.plan = None if plan is None else Plan.from_state(plan)
        self.fresh_version = state["fresh_version"]
        self.validation_success = state["validation_success"]
        self.prioritisation.load_state_dict(state["prioritisation"])
        self.tasks.load_state_dict(state["task_curriculum"])
        self.ledger.load_state_dict(state["exposure"])
