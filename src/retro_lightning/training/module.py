"""Behaviour half: the LightningModule that holds the policy and its credit assignment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from retro_lightning.credit.baselines import Baseline, NoBaseline
from retro_lightning.credit.estimators import check_pair
from retro_lightning.credit.scales import ReturnScale
from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.evaluation import EvaluationCounts
from retro_lightning.policy.actions import ActionDistribution
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.conditioning import TaskConditioning
from retro_lightning.policy.language_model import LanguageModelSource
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.value_head import ValueHeadSettings
from retro_lightning.policy.window import check_window
from retro_lightning.policy.written import Trained
from retro_lightning.training.accumulation import check_accumulation
from retro_lightning.training.agreement import check_precision
from retro_lightning.training.credit_step import CreditStep
from retro_lightning.training.fault_notice import FaultNotice
from retro_lightning.training.held_out import stored_logprobs
from retro_lightning.training.judging import Judgement
from retro_lightning.training.optimizers import scheduled
from retro_lightning.training.phases import Phase, check_phases, warn_of_unreached
from retro_lightning.trajectory import Task

if TYPE_CHECKING:
    from retro_lightning.training.datamodule import ReplayDataModule


class PolicyGradientModule(L.LightningModule):
    """Trains a language-model policy by policy gradient on replayed trajectories.

    Args:
        language_model: Where the language model comes from.
        phases: Objectives in order; each gives way to the next at its ``until_step`` or
            ``until_success``.
        baseline: What is subtracted from returns to lower the variance of the gradient.
        return_scale: What advantages are divided by, so that tasks weigh alike; null = nothing.
        reference_policy: Policy directory that a KL is taken to, where an objective asks for one;
            None = the model without its adapters, where adapters are trained.
        value_head: Shape of the value head.
        conditioning: What tells the policy its task beside the transcript, in which the instruction
            always stands: a soft prompt; None = nothing. An ``initial_policy`` keeps its own.
        distribution: Distribution over valid actions; None = trie-constrained, or what an
            ``initial_policy`` was saved with.
        text: How free text (actions that are not chosen from a list, thoughts) is sampled; None =
            the defaults, or what an ``initial_policy`` was saved with.
        trained: Which parts of a step are learnt from: ``all``, the ``action`` or the ``thought``;
            None = all, or what an ``initial_policy`` was saved with.
        history_window: Turns seen at most before an action, its own included; every step is then a
            sequence of its own. None = the whole trajectory, or as ``initial_policy`` was saved.
        optimizer: Optimiser class with its arguments, learning rate included.
        warmup_steps: Optimiser steps over which the learning rate rises from 0 to its full value.
        decay_from: Share of all optimiser steps, in [0, 1], after which the learning rate falls
            linearly to ``final_learning_rate``; 1 = never.
        final_learning_rate: Learning rate after the decay, as a share of the full one.
        greedy_evaluation: Take the most probable action in validation and test instead of a sample.
        initial_policy: Policy directory or Hugging Face directory to start from instead of
            ``language_model``.
        seed: Seed of the random weights and of action sampling.
    """

    def __init__(
        self,
        language_model: LanguageModelSource,
        phases: list[Phase],
        baseline: Baseline | None = None,
        return_scale: ReturnScale | None = None,
        reference_policy: str | None = None,
        value_head: ValueHeadSettings | None = None,
        conditioning: TaskConditioning | None = None,
        distribution: ActionDistribution | None = None,
        text: TextSampling | None = None,
        trained: Trained | None = None,
        history_window: int | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 50,
        decay_from: float = 1.0,
        final_learning_rate: float = 0.1,
        greedy_evaluation: bool = False,
        initial_policy: str | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        check_phases(phases)
        check_window(history_window)
        baseline = baseline if baseline is not None else NoBaseline()
        for phase in phases:
            check_pair(phase.objective, baseline)
        if not 0.0 <= decay_from <= 1.0:
            raise ValueError(f"model.decay_from is {decay_from}; give a share between 0 and 1")
        self.language_model = language_model
        self.phases = phases
        self.baseline, self.return_scale = baseline, return_scale
        self.reference_policy = reference_policy
        self.value_head = value_head if value_head is not None else ValueHeadSettings()
        self.conditioning, self.distribution = conditioning, distribution
        self.text, self.trained, self.history_window = text, trained, history_window
        self.optimizer = optimizer
        self.warmup_steps, self.decay_from = warmup_steps, decay_from
        self.final_learning_rate = final_learning_rate
        self.greedy_evaluation = greedy_evaluation
        self.initial_policy, self.seed = initial_policy, seed
        self.policy: Policy | None = None
        self.judgement, self.fault_notice = Judgement(), FaultNotice()
        self._phase = 0
        self._step = CreditStep(baseline, return_scale, reference_policy)

    # ------------------------------------------------------------------ building
    def configure_model(self) -> None:
        """Build the policy from the datamodule's tokenizer, or load ``initial_policy``."""
        if self.policy is None and self.initial_policy is not None:
            self.policy = Policy.load(
                Path(self.initial_policy),
                distribution=self.distribution,
                text=self.text,
                trained=self.trained,
                history_window=self.history_window,
            )
        elif self.policy is None:
            self.policy = Policy.build(
                self.language_model,
                self._data.tokenizer,
                value_head=self.value_head,
                conditioning=self.conditioning,
                distribution=self.distribution,
                text=self.text,
                trained=self.trained or "all",
                history_window=self.history_window,
                seed=self.seed,
            )
        self._data.read_as(self.policy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser over all trainable parameters, with warm-up and linear decay."""
        parameters = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return scheduled(
            self.optimizer(parameters),
            total=float(self._data.planned_steps),
            warmup=self.warmup_steps,
            decay_from=self.decay_from,
            final=self.final_learning_rate,
        )

    @property
    def _data(self) -> ReplayDataModule:
        trainer: Any = self.trainer
        data: ReplayDataModule = trainer.datamodule
        return data

    # ------------------------------------------------------------------ learning
    @property
    def phase(self) -> Phase:
        """The phase in force."""
        return self.phases[self._phase]

    @property
    def phase_number(self) -> int:
        """Which of ``phases`` it is, from 0."""
        return self._phase

    def needs_fresh_rollouts(self) -> bool:
        """Whether the phase that the next optimiser step belongs to learns from fresh rollouts."""
        self.advance_phase()
        return self.phase.objective.needs_fresh

    def advance_phase(self) -> None:
        """Enter the phase that the current step and validation success call for."""
        success = self._data.validation_success
        while self._phase < len(self.phases) - 1 and self.phase.over(self.global_step, success):
            self._phase += 1

    def on_fit_start(self) -> None:
        """Begin with an empty run store, or with that of the checkpoint."""
        check_precision(self.trainer.precision)
        check_accumulation(self.phases, self.baseline, self.trainer.accumulate_grad_batches)
        self._data.begin_fit()
        warn_of_unreached(self.phases, self._data.planned_steps)

    def on_train_start(self) -> None:
        """Renew statistics; a fit resumed in mid-epoch has no start of the epoch."""
        self._step.renew(self._data)

    def on_train_epoch_start(self) -> None:
        """Renew statistics, remember the policy and log what the curriculum lets in."""
        self._step.renew(self._data)
        if any(phase.objective.needs_proximal for phase in self.phases):
            self._step.remember(self.require_policy())
        told = self._data.describe_curriculum().items()
        self.log_dict({f"curriculum/{name}": value for name, value in told})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this step's noise from (run seed, step), so that a resumed run repeats it."""
        torch.manual_seed((self.seed << 32) + self.global_step)
        self.advance_phase()

    def training_step(self, batch: list[Batch], batch_idx: int) -> Tensor:
        """Loss of one gradient step, computed in length-sorted parts.

        Args:
            batch: The parts of the step on this process.
            batch_idx: Number of the step in its epoch.

        Returns:
            Scalar loss, normalised by the steps (turns) of the whole batch over all processes;
            where gradients are accumulated over several batches, they are normalised at the end.
        """
        return self._step.loss(self, self._data, batch)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Normalise accumulated gradients, clip, and check what the optimiser is about to use."""
        self._step.normalise(self)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        by_norm = gradient_clip_algorithm in (None, "norm")
        limit = gradient_clip_val or None if by_norm else None
        self._step.finish(self, self._data, optimizer, limit)

    @property
    def counts(self) -> EvaluationCounts | None:
        """Outcomes of the last validation or test, over all processes; callbacks read it."""
        return self.judgement.counts

    def require_policy(self) -> Policy:
        """The policy, which exists once Lightning has called ``configure_model``.

        Raises:
            RuntimeError: If it has not been built yet.
        """
        if self.policy is None:
            raise RuntimeError("the policy is not built yet: call configure_model first")
        return self.policy

    # ------------------------------------------------------------------ evaluation
    def validation_step(self, batch: list[Task] | list[Batch], batch_idx: int) -> None:
        """Try one family's validation tasks, or judge by held-out trajectories."""
        self.judgement.take(self, self._data, batch, "val")

    def test_step(self, batch: list[Task] | list[Batch], batch_idx: int) -> None:
        """Try one family's test tasks, or judge by held-out trajectories."""
        self.judgement.take(self, self._data, batch, "test")

    def on_validation_epoch_start(self) -> None:
        """Begin with no trajectories."""
        self.judgement.begin()

    def on_test_epoch_start(self) -> None:
        """Begin with no trajectories."""
        self.judgement.begin()

    def on_validation_epoch_end(self) -> None:
        """Log validation success and tell the curricula."""
        success = self.judgement.finish(self, self._data, "val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._data.observe(Feedback(validation_success=success))

    def on_test_epoch_end(self) -> None:
        """Log test success."""
        self.judgement.finish(self, self._data, "test")

    def predict_step(self, batch: list[Batch], batch_idx: int) -> list[tuple[int, list[float]]]:
        """The policy's log-probability of every stored action.

        Returns:
            Of each trajectory its row in the store and the log-probability of each step's action.
        """
        return stored_logprobs(self.require_policy(), batch)

    # ------------------------------------------------------------------ checkpoints
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the phase, and the policy at the epoch's start where one is remembered."""
        checkpoint["retro_lightning_phase"] = self._phase
        checkpoint["retro_lightning_proximal"] = self._step.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in the phase of the checkpoint, with the policy's version."""
        self.require_policy().version = int(checkpoint["global_step"])
        self._phase = int(checkpoint["retro_lightning_phase"])
        self._step.load_state_dict(checkpoint.get("retro_lightning_proximal", {}))
