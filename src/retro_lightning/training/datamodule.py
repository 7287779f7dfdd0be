"""Behaviour half: the LightningDataModule that owns tasks, environments, stores and curricula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from transformers import PreTrainedTokenizerBase

from retro_lightning.curriculum.prioritisation import Prioritisation, QualityWeighted
from retro_lightning.curriculum.tasks import TaskCurriculum, UniformTasks
from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.loading import load_tokenizer
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.segments import training_texts
from retro_lightning.policy.tokenizer import train_tokenizer
from retro_lightning.policy.transcript import Transcript
from retro_lightning.replay.index import Mask, StoreIndex
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.collector import Job
from retro_lightning.rollout.history import History
from retro_lightning.rollout.seeds import generator
from retro_lightning.training.batches import ReplayBatches
from retro_lightning.training.memory import ReplayMemory
from retro_lightning.training.plan import Plan, describe_plan, draw_plan
from retro_lightning.training.tasks import TaskBatches, fixed_tasks
from retro_lightning.trajectory import Split, Task, Trajectory

_TOKENIZER_TRAJECTORIES = 2_000


class ReplayDataModule(L.LightningDataModule):
    """Streams replayed trajectories in curriculum order and hands out tasks to try next.

    Two stores are read as one: the *history*, which is made once and never written by ``fit``, and
    the *run store* in the run's own directory, to which fresh rollouts are appended.

    Args:
        environments: The task families: name of the family → environment class with its arguments.
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
        for name, value in (("batch_size", batch_size), ("batches_per_epoch", batches_per_epoch)):
            if value < 1:
                raise ValueError(f"data.{name} is {value}; give a whole number of at least 1")
        if not 0.0 <= fresh_share <= 1.0:
            raise ValueError(f"data.fresh_share is {fresh_share}; give a share between 0 and 1")
        if not 0.0 < uniform_share <= 1.0:
            raise ValueError(
                f"data.uniform_share is {uniform_share}; give a share above 0, at most 1"
            )
        if not environments:
            raise ValueError("data.environments is empty: name at least one task family")
        self.environments = environments
        self.history = history
        self.prioritisation = prioritisation if prioritisation is not None else QualityWeighted()
        self.task_curriculum = task_curriculum if task_curriculum is not None else UniformTasks()
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.fresh_share = fresh_share
        self.uniform_share = uniform_share
        self.length_parts = length_parts
        self.vocabulary_size = vocabulary_size
        self.tokenizer_source = tokenizer
        self.context = context
        self.task_counts: dict[Split, int] = {
            "train": train_tasks_per_family,
            "val": val_tasks_per_family,
            "test": test_tasks_per_family,
        }
        self.cache_dir = Path(cache_dir)
        self.seed = seed
        self.validation_success = 0.0
        self.fresh_version: int | None = None
        self._plan: Plan | None = None
        self._tasks: dict[Split, dict[str, list[Task]]] = {}

    # ------------------------------------------------------------------ making and loading
    def prepare_data(self) -> None:
        """Make what is missing of history and tokenizer (one process only)."""
        if self._needs_history():
            path = self.history.materialise(self.environments, self.cache_dir, self.seed)
            if self.tokenizer_source is None and not self._tokenizer_path(path).exists():
                texts = training_texts(_evenly_spread(ReplayStore(path)))
                train_tokenizer(texts, self.vocabulary_size).save_pretrained(
                    self._tokenizer_path(path)
                )

    def setup(self, stage: str) -> None:
        """Load stores, tokenizer and the fixed tasks of the stage.

        Raises:
            ValueError: If a fit finds nothing to learn from.
        """
        self.tokenizer: PreTrainedTokenizerBase | None = None
        if not self._needs_history():
            return
        path = self.history.materialise(self.environments, self.cache_dir, self.seed)
        source = self.tokenizer_source or str(self._tokenizer_path(path))
        self.tokenizer = load_tokenizer(source)
        self.history_store = ReplayStore(path)
        own = ReplayStore(self.run_dir / "store", create=True) if stage == "fit" else None
        transcript = Transcript(self.tokenizer, max_length=self.context)
        self.memory = ReplayMemory(self.history_store, own, transcript)
        self._begun = False
        if stage == "fit" and not self.memory.learnable.any():
            raise ValueError(
                f"the history {path} holds no learnable trajectory of a training task (of its "
                f"{len(self.memory.index)}, {self.memory.index.unlearnable}): make or import one "
                "first"
            )

    def read_as(self, policy: Policy) -> None:
        """Encode stored trajectories with the policy's tokenizer, which may be another."""
        if self._needs_history():
            length = min(self.context, policy.transcript.max_length)
            self.memory.transcript = Transcript(
                policy.tokenizer,
                max_length=length,
                distribution=policy.distribution,
                trained=policy.transcript.trained,
            )

    def begin_fit(self) -> None:
        """Set aside what an earlier fit left in the run's directory, unless this one goes on there.

        Whether it does is known only after ``setup``: to be called in ``on_fit_start``, by all
        processes; calls after the first do nothing.
        """
        if self._begun:
            return
        self._begun = True
        if self._attached.ckpt_path is None:
            self.memory.restore(())
            self._plan, self.fresh_version = None, None
        self._attached.strategy.barrier("the run store is as the fit begins")

    def _needs_history(self) -> bool:
        """Fit and predict read stored trajectories; an untrained policy needs the tokenizer."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn in (TrainerFn.FITTING, TrainerFn.PREDICTING):
            return True
        return getattr(trainer.lightning_module, "initial_policy", None) is None

    def _tokenizer_path(self, history: Path) -> Path:
        return history.with_name(f"{history.name}-tokenizer-{self.vocabulary_size}")

    @property
    def _attached(self) -> L.Trainer:
        if self.trainer is None:
            raise RuntimeError("the datamodule is not attached to a trainer")
        return self.trainer

    @property
    def run_dir(self) -> Path:
        """Directory of the run: checkpoints, policies, run store and figures."""
        return Path(self.trainer.default_root_dir if self.trainer is not None else "runs/default")

    @property
    def run_name(self) -> str:
        """Name of the run, as trajectories carry it."""
        return self.run_dir.name

    def tasks(self, split: Split) -> dict[str, list[Task]]:
        """The fixed tasks of a split by family; made once and cached."""
        if split not in self._tasks:
            self._tasks[split] = {
                family: fixed_tasks(self.cache_dir, family, make, split, self.task_counts[split])
                for family, make in self.environments.items()
            }
        return self._tasks[split]

    # ------------------------------------------------------------------ learning from the past
    @property
    def index(self) -> StoreIndex:
        """Columns of all trajectories that are learnt from: history, then own rollouts."""
        return self.memory.index

    @property
    def fresh(self) -> Mask:
        """Mask over the index: this run's rollouts of its latest collection."""
        return self.memory.fresh(self.fresh_version)

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of the whole fit, for schedules."""
        trainer = self._attached
        epochs, steps = trainer.max_epochs, trainer.max_steps
        limits = [epochs * self.batches_per_epoch] if epochs not in (None, -1) else []
        limits += [steps] if steps not in (None, -1) else []
        if not limits:
            raise ValueError("the fit has no end: set trainer.max_epochs or trainer.max_steps")
        return max(1, min(limits))

    def train_dataloader(self) -> ReplayBatches:
        """The current epoch's gradient steps that have not been taken yet.

        Where in its plan a resumed fit goes on follows from the optimiser steps taken: a batch in
        the middle of which it was stopped is learnt from again.
        """
        trainer = self._attached
        epoch, step = trainer.current_epoch, trainer.global_step
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = self._draw(epoch, step)
        done = (step - self._plan.begun) * trainer.accumulate_grad_batches
        return self._batches(self._plan, start=done)

    def _draw(self, epoch: int, step: int) -> Plan:
        module: Any = self._attached.lightning_module
        return draw_plan(
            self.memory,
            self.prioritisation,
            epoch=epoch,
            begun=step,
            progress=min(1.0, step / self.planned_steps),
            batches=self.batches_per_epoch,
            batch_size=self.batch_size,
            uniform_share=self.uniform_share,
            fresh_version=self.fresh_version,
            fresh_share=self.fresh_share if module.needs_fresh_rollouts() else None,
            seed=self.seed,
        )

    def describe_curriculum(self) -> dict[str, float]:
        """What the current epoch learns from; see ``describe_plan``. Empty before the first."""
        if self._plan is None:
            return {}
        return describe_plan(self._plan, self.memory, self.fresh_version)

    def _batches(self, plan: Plan, start: int = 0) -> ReplayBatches:
        return ReplayBatches(
            plan,
            self.memory.load,
            batch_size=self.batch_size,
            parts=self.length_parts,
            rank=self._attached.global_rank,
            world_size=self._attached.world_size,
            start=start,
        )

    # ------------------------------------------------------------------ trying tasks afresh
    def next_jobs(self, count: int, attempts: int, policy_version: int) -> list[Job]:
        """Tasks that the policy should try next, each with the numbers of its attempts.

        Args:
            count: Trajectories wanted over all processes.
            attempts: Attempts per task; the attempts at one task form a group.
            policy_version: Optimiser steps taken; with the seed it fixes the choice.
        """
        rng = generator(self.seed, "tasks", policy_version)
        tasks = self.task_curriculum.choose(self.tasks("train"), -(-count // attempts), rng)
        return [Job(task, attempt) for task in tasks for attempt in range(attempts)][:count]

    def append(self, trajectories: Sequence[Trajectory], policy_version: int) -> None:
        """Append fresh rollouts to the run store and learn from them from the next epoch on."""
        self.memory.append(trajectories)
        self._attached.strategy.barrier("fresh rollouts")
        self.memory.refresh()
        self.fresh_version = policy_version

    def observe(self, validation_success: float) -> None:
        """Tell the curricula how well the policy does now (success rate in [0, 1])."""
        self.validation_success = validation_success
        self.prioritisation.observe(validation_success)

    # ------------------------------------------------------------------ evaluation
    def val_dataloader(self) -> TaskBatches:
        """This process's validation tasks."""
        return self._evaluation_tasks("val")

    def test_dataloader(self) -> TaskBatches:
        """This process's test tasks."""
        return self._evaluation_tasks("test")

    def _evaluation_tasks(self, split: Split) -> TaskBatches:
        """One batch per family, dealt to the processes without padding or repetition."""
        rank, world_size = self._attached.global_rank, self._attached.world_size
        return TaskBatches([tasks[rank::world_size] for tasks in self.tasks(split).values()])

    def predict_dataloader(self) -> ReplayBatches:
        """The history, every trajectory that a policy can read once, in its order."""
        index = self.history_store.index
        rows = np.flatnonzero(~index.faulted & (index.length > 0))
        ones = np.ones(len(rows))
        return self._batches(Plan(epoch=0, begun=0, rows=rows, weights=ones, value_weights=ones))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move the parts of a gradient step; tasks have no device."""
        return [part.to(device) if isinstance(part, Batch) else part for part in batch]

    # ------------------------------------------------------------------ checkpoints
    def state_dict(self) -> dict[str, Any]:
        """Snapshot of the run store and state of the curricula, as primitives."""
        return {
            "snapshot": list(self.memory.snapshot()),
            "plan": None if self._plan is None else self._plan.state_dict(),
            "fresh_version": self.fresh_version,
            "validation_success": self.validation_success,
            "prioritisation": self.prioritisation.state_dict(),
            "task_curriculum": self.task_curriculum.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Return to a checkpoint of a fit; rollouts newer than it are set aside, never read."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        self.memory.require_whole()
        self.memory.restore(state_dict["snapshot"])
        plan = state_dict["plan"]
        self._plan = None if plan is None else Plan.from_state(plan)
        self.fresh_version = state_dict["fresh_version"]
        self.validation_success = state_dict["validation_success"]
        self.prioritisation.load_state_dict(state_dict["prioritisation"])
        self.task_curriculum.load_state_dict(state_dict["task_curriculum"])


def _evenly_spread(store: ReplayStore) -> list[Trajectory]:
    count = min(len(store), _TOKENIZER_TRAJECTORIES)
    return store.read(np.linspace(0, len(store) - 1, count).astype(int).tolist())
