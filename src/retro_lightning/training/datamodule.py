"""Behaviour half: the LightningDataModule that owns tasks, environments, stores and curricula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.prioritisation import Prioritisation, QualityWeighted
from retro_lightning.curriculum.tasks import TaskCurriculum, UniformTasks
from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.transcript import Transcript
from retro_lightning.replay.index import Mask, StoreIndex
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.collector import Job
from retro_lightning.rollout.history import History
from retro_lightning.training.attached import AttachedData
from retro_lightning.training.batches import ReplayBatches
from retro_lightning.training.curricula import Curricula
from retro_lightning.training.feedback import over_processes
from retro_lightning.training.held_out import HeldOutBatches
from retro_lightning.training.memory import ReplayMemory
from retro_lightning.training.plan import Plan
from retro_lightning.training.sources import Sources
from retro_lightning.training.tasks import TaskBatches
from retro_lightning.trajectory import Split, Task, Trajectory


class ReplayDataModule(AttachedData):
    """Streams replayed trajectories in curriculum order and hands out tasks to try next.

    Two stores are read as one: the *history*, which is made once and never written by ``fit``, and
    the *run store* in the run's own directory, to which fresh rollouts are appended.

    Args:
        environments: The task families: name of the family → environment class with its arguments.
            None at all = learn from the history alone and judge by its held-out trajectories.
        history: Where the logged trajectories come from.
        prioritisation: Which stored trajectories are learnt from.
        task_curriculum: Which tasks the policy tries next.
        batch_size: Trajectories per gradient step, over all processes.
        batches_per_epoch: Gradient steps between two rounds of fresh rollouts.
        fresh_share: Share of each batch, in [0, 1], drawn from the latest rollouts in phases that
            need them. Higher = closer to on-policy; lower = more reuse of the past.
        uniform_share: Share of each batch, in (0, 1], drawn from all trajectories alike, whatever
            the prioritisation prefers, so that the value head learns the mean of the whole store.
        length_parts: Parts of similar length that a gradient step is computed in. Higher = less
            padding but more, smaller forward passes.
        vocabulary_size: Tokens of the tokenizer that is trained on the history's text.
        tokenizer: Directory or name of a ready tokenizer, in place of training one.
        context: Longest trajectory in tokens; longer ones are learnt from up to the last step that
            fits.
        train_tasks_per_family: Size of the pool of training tasks for fresh rollouts.
        val_tasks_per_family: Fixed validation tasks per family.
        test_tasks_per_family: Fixed test tasks per family.
        cache_dir: Where histories, task lists and tokenizers are kept between runs.
        seed: Seed of the history, of batches and of the choice of tasks.
    """

    def __init__(
        self,
        environments: dict[str, EnvironmentFactory],
        history: History,
        prioritisation: Prioritisation | None = None,
        task_curriculum: TaskCurriculum | None = None,
        batch_size: int = 32,
        batches_per_epoch: int = 100,
        fresh_share: float = 0.5,
        uniform_share: float = 0.1,
        length_parts: int = 3,
        vocabulary_size: int = 512,
        tokenizer: str | None = None,
        context: int = 1024,
        train_tasks_per_family: int = 1000,
        val_tasks_per_family: int = 50,
        test_tasks_per_family: int = 100,
        cache_dir: str = ".cache/retro_lightning",
        seed: int = 1,
    ) -> None:
        super().__init__()
        if not environments and history.needs_environments:
            raise ValueError(
                "data.environments is empty: name at least one task family, or learn from logs "
                "alone with data.history a StoredHistory"
            )
        self.environments = environments
        self.history = history
        self.prioritisation = prioritisation if prioritisation is not None else QualityWeighted()
        self.task_curriculum = task_curriculum if task_curriculum is not None else UniformTasks()
        self.length_parts = length_parts
        self.context = context
        self.task_counts: dict[Split, int] = {
            "train": train_tasks_per_family,
            "val": val_tasks_per_family,
            "test": test_tasks_per_family,
        }
        self.seed = seed
        self.curricula = Curricula(
            self.prioritisation,
            self.task_curriculum,
            batch_size=batch_size,
            batches_per_epoch=batches_per_epoch,
            fresh_share=fresh_share,
            uniform_share=uniform_share,
            seed=seed,
        )
        self.sources = Sources(
            environments=environments,
            history=history,
            cache_dir=Path(cache_dir),
            seed=seed,
            vocabulary_size=vocabulary_size,
            tokenizer=tokenizer,
            task_counts=self.task_counts,
        )

    # ------------------------------------------------------------------ making and loading
    def prepare_data(self) -> None:
        """Make what is missing of history and tokenizer (one process only)."""
        if self._needs_history():
            self.sources.prepare()

    def setup(self, stage: str) -> None:
        """Load stores, tokenizer and the fixed tasks of the stage.

        Raises:
            ValueError: If a fit finds nothing to learn from.
        """
        self.tokenizer: PreTrainedTokenizerBase | None = None
        if not self._needs_history():
            return
        self.tokenizer = self.sources.load_tokenizer()
        self.history_store = ReplayStore(self.sources.history_path())
        own = ReplayStore(self.run_dir / "store", create=True) if stage == "fit" else None
        transcript = Transcript(self.tokenizer, max_length=self.context)
        self.memory = ReplayMemory(self.history_store, own, transcript)
        self._begun = False
        if stage == "fit":
            self.memory.require_learnable()

    def read_as(self, policy: Policy) -> None:
        """Encode stored trajectories with the policy's tokenizer, which may be another."""
        if self._needs_history():
            self.memory.transcript = policy.transcript.within(self.context)

    def begin_fit(self) -> None:
        """Set aside what an earlier fit left in the run's directory, unless this one goes on there.

        Known only after ``setup``: for ``on_fit_start``, in all processes; more calls do nothing.
        """
        if self._begun:
            return
        self._begun = True
        if self.attached.ckpt_path is None:
            self.memory.restore(())
            self.curricula.begin_anew()
        self.attached.strategy.barrier("the run store is as the fit begins")

    def _needs_history(self) -> bool:
        """Without an environment, held-out trajectories are all that a policy can be judged by."""
        return not self.environments or self.reads_history()

    def tasks(self, split: Split) -> dict[str, list[Task]]:
        """The fixed tasks of a split by family; made once and cached."""
        return self.sources.tasks(split)

    # ------------------------------------------------------------------ learning from the past
    @property
    def index(self) -> StoreIndex:
        """Columns of all trajectories that are learnt from: history, then own rollouts."""
        return self.memory.index

    @property
    def fresh(self) -> Mask:
        """Mask over the index: this run's rollouts of its latest collection."""
        return self.memory.fresh(self.curricula.fresh_version)

    @property
    def validation_success(self) -> float:
        """What validation found last, as a success rate in [0, 1]; 0 before the first."""
        return self.curricula.validation_success

    @property
    def progress(self) -> float:
        """Share of the fit that is done, in [0, 1]."""
        return min(1.0, self.attached.global_step / self.planned_steps)

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of the whole fit, for schedules."""
        return self.steps_until_end(self.curricula.batches_per_epoch)

    def train_dataloader(self) -> ReplayBatches:
        """The current epoch's gradient steps that have not been taken yet.

        Where a resumed fit goes on follows from the optimiser steps taken: a batch in the middle of
        which it was stopped is learnt from again.
        """
        trainer = self.attached
        module: Any = trainer.lightning_module
        plan = self.curricula.plan_for(
            self.memory,
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            done=self._steps_done(),
            progress=self.progress,
            fresh=module.needs_fresh_rollouts(),
            grouped=self.grouped,
        )
        return self._batches(plan, start=self._steps_done())

    def _steps_done(self) -> int:
        """Gradient steps of the current plan that were taken."""
        plan, step = self.curricula.plan, self.attached.global_step
        return 0 if plan is None else (step - plan.begun) * self.attached.accumulate_grad_batches

    def exposure(self) -> npt.NDArray[np.int64]:
        """How often each trajectory of ``index`` was learnt from in this fit."""
        return self.curricula.exposure(len(self.index), self._steps_done())

    def describe_curriculum(self) -> dict[str, float]:
        """What the current epoch learns from; see ``describe_plan``. Empty before the first."""
        return self.curricula.describe(self.memory)

    def _batches(self, plan: Plan, start: int = 0) -> ReplayBatches:
        return ReplayBatches(
            plan,
            self.memory.load,
            parts=self.length_parts,
            rank=self.attached.global_rank,
            world_size=self.attached.world_size,
            start=start,
        )

    # ------------------------------------------------------------------ trying tasks afresh
    def next_jobs(self, count: int, attempts: int, policy_version: int) -> list[Job]:
        """Tasks that the policy should try next; see ``Curricula.next_jobs``."""
        tasks = self.tasks("train")
        return self.curricula.next_jobs(tasks, count, attempts, policy_version, self.grouped)

    def horizon(self) -> int | None:
        """Most steps of a fresh episode by now; None = the task's own limit."""
        return self.task_curriculum.horizon(self.progress)

    def append(self, trajectories: Sequence[Trajectory], policy_version: int) -> None:
        """Append fresh rollouts to the run store and learn from them from the next epoch on."""
        self.memory.append(trajectories)
        self.attached.strategy.barrier("fresh rollouts")
        self.memory.refresh()
        self.curricula.fresh_version = policy_version

    def observe(self, feedback: Feedback) -> None:
        """Tell the curricula what this process has seen; all processes call it together."""
        self.curricula.observe(over_processes(self.attached, feedback))

    # ------------------------------------------------------------------ evaluation
    def val_dataloader(self) -> TaskBatches | HeldOutBatches:
        """This process's validation tasks, or held-out trajectories if there is no environment."""
        return self._evaluation("val")

    def test_dataloader(self) -> TaskBatches | HeldOutBatches:
        """This process's test tasks, or held-out trajectories if there is no environment."""
        return self._evaluation("test")

    def _evaluation(self, split: Split) -> TaskBatches | HeldOutBatches:
        """Dealt to the processes without padding or repetition; of tasks, a batch per family."""
        rank, size = self.attached.global_rank, self.attached.world_size
        if self.environments:
            return TaskBatches([tasks[rank::size] for tasks in self.tasks(split).values()])
        return HeldOutBatches(self.memory, split, self.curricula.batch_size, rank, size)

    def predict_dataloader(self) -> ReplayBatches:
        """The history, every trajectory that a policy can read once, in its order."""
        rows = self.memory.readable(None)
        return self._batches(Plan.in_order(rows, self.curricula.batch_size))

    # ------------------------------------------------------------------ checkpoints
    def state_dict(self) -> dict[str, Any]:
        """Snapshots of both stores and state of the curricula, as primitives."""
        return {**self.memory.state_dict(), **self.curricula.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Return to a checkpoint of a fit; rollouts newer than it are set aside, never read."""
        if not self.fitting:
            return
        self.memory.load_state_dict(state_dict)
        self.curricula.load_state_dict(state_dict)
