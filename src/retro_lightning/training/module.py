"""Behaviour half: the LightningModule that holds the policy and its credit assignment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor

from retro_lightning.credit.baselines import Baseline, NoBaseline
from retro_lightning.credit.diagnostics import advantage_warning
from retro_lightning.credit.estimators import CreditInputs, LossTerms, check_pair
from retro_lightning.credit.objective import returns_and_advantages
from retro_lightning.credit.returns import advantage_moments, advantage_std
from retro_lightning.evaluation import EvaluationCounts
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.language_model import LanguageModelSource
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.value_head import ValueHeadSettings
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.phases import Phase, check_phases
from retro_lightning.training.trials import count_over_processes, try_tasks
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from retro_lightning.training.datamodule import ReplayDataModule


class PolicyGradientModule(L.LightningModule):
    """Trains a language-model policy by policy gradient on replayed trajectories.

    Args:
        language_model: Where the language model comes from.
        phases: Objectives in order; each gives way to the next at its ``until_step`` or
            ``until_success``.
        baseline: What is subtracted from returns to lower the variance of the gradient.
        value_head: Shape of the value head.
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
        value_head: ValueHeadSettings | None = None,
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
        baseline = baseline if baseline is not None else NoBaseline()
        for phase in phases:
            check_pair(phase.objective, baseline)
        if not 0.0 <= decay_from <= 1.0:
            raise ValueError(f"model.decay_from is {decay_from}; give a share between 0 and 1")
        self.language_model = language_model
        self.phases = phases
        self.baseline = baseline
        self.value_head = value_head if value_head is not None else ValueHeadSettings()
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.decay_from = decay_from
        self.final_learning_rate = final_learning_rate
        self.greedy_evaluation = greedy_evaluation
        self.initial_policy = initial_policy
        self.seed = seed
        self.policy: Policy | None = None
        self.evaluated: list[Trajectory] = []
        self.counts: EvaluationCounts | None = None
        self._phase = 0
        self._warned = False

    # ------------------------------------------------------------------ building
    def configure_model(self) -> None:
        """Build the policy from the datamodule's tokenizer, or load ``initial_policy``."""
        if self.policy is None and self.initial_policy is not None:
            self.policy = Policy.load(Path(self.initial_policy))
        elif self.policy is None:
            self.policy = Policy.build(
                self.language_model,
                self._data.tokenizer,
                value_head=self.value_head,
                seed=self.seed,
            )
        self._data.read_as(self.policy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser over all trainable parameters, with warm-up and linear decay."""
        parameters = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        optimizer = self.optimizer(parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_share)
        schedule: LRSchedulerConfigType = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _learning_rate_share(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        total = float(self._data.planned_steps)
        start = self.decay_from * total
        if step <= start or total <= start:
            return 1.0
        gone = min((step - start) / (total - start), 1.0)
        return 1.0 - gone * (1.0 - self.final_learning_rate)

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
        self._data.begin_fit()

    def on_train_start(self) -> None:
        """Renew statistics; a fit resumed in mid-epoch has no start of the epoch."""
        self._renew()

    def on_train_epoch_start(self) -> None:
        """Renew statistics and log what the curriculum lets in."""
        self._renew()
        curriculum = self._data.describe_curriculum()
        self.log_dict({f"curriculum/{name}": value for name, value in curriculum.items()})

    def _renew(self) -> None:
        """Compute anew what follows from the whole store: baseline and fresh rows."""
        self.baseline.update(self._data.index)
        self._fresh_N = self._data.fresh

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
            Scalar loss, normalised by the steps (turns) of the whole batch over all processes.
        """
        policy = self.require_policy()
        evaluations = [policy.evaluate(part) for part in batch]
        inputs = credit_inputs(batch, evaluations, self.baseline, self._fresh_N)
        objective = self.phase.objective
        terms = objective(
            inputs,
            normaliser=self.over_processes(inputs.steps_BS.sum().float(), "mean"),
            advantage_scale=self._advantage_scale(inputs, objective.gamma),
        )
        self._log_terms(terms, inputs)
        return terms.loss

    def _advantage_scale(self, inputs: CreditInputs, gamma: float) -> Tensor:
        """Standard deviation of the advantages of the whole gradient step, over all processes."""
        _, advantages_BS = returns_and_advantages(inputs, gamma)
        moments = advantage_moments(advantages_BS, inputs.steps_BS)
        return advantage_std(self.over_processes(moments, "sum"))

    def over_processes(self, values: Tensor, operation: str) -> Tensor:
        """``sum`` or ``mean`` over processes; DDP averages gradients, so normalisers are means."""
        if self.trainer.world_size == 1:
            return values
        reduced: Tensor = self.trainer.strategy.reduce(values, reduce_op=operation)
        return reduced

    def _log_terms(self, terms: LossTerms, inputs: CreditInputs) -> None:
        metrics = {f"train/{name}": value for name, value in terms.metrics.items()}
        self.log_dict({"train/loss": terms.loss.detach(), **metrics}, batch_size=1)
        self.log("train/phase", float(self._phase), batch_size=1)
        if not torch.isfinite(terms.loss):
            raise FloatingPointError(
                f"the loss of optimiser step {self.global_step} is {terms.loss.item()}: lower "
                "model.optimizer.init_args.lr or set trainer.gradient_clip_val"
            )
        if terms.advantages_BS is None:
            return
        warning = advantage_warning(
            terms.advantages_BS,
            inputs.steps_BS,
            curriculum=type(self._data.prioritisation).__name__,
            baseline=type(self.baseline).__name__,
        )
        if warning is not None and not self._warned:
            self._warned = True
            rank_zero_warn(warning)

    def require_policy(self) -> Policy:
        """The policy, which exists once Lightning has called ``configure_model``.

        Raises:
            RuntimeError: If it has not been built yet.
        """
        if self.policy is None:
            raise RuntimeError("the policy is not built yet: call configure_model first")
        return self.policy

    # ------------------------------------------------------------------ evaluation
    def validation_step(self, batch: list[Task], batch_idx: int) -> None:
        """Try one family's validation tasks."""
        self._evaluate(batch, "val")

    def test_step(self, batch: list[Task], batch_idx: int) -> None:
        """Try one family's test tasks."""
        self._evaluate(batch, "test")

    def _evaluate(self, tasks: list[Task], stage: str) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.require_policy().version = self.global_step
        self.evaluated.extend(try_tasks(self, tasks, stage))

    def on_validation_epoch_start(self) -> None:
        """Begin with no trajectories."""
        self.evaluated.clear()

    def on_test_epoch_start(self) -> None:
        """Begin with no trajectories."""
        self.evaluated.clear()

    def on_validation_epoch_end(self) -> None:
        """Log validation success and tell the curricula."""
        success = self._log_counts("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._data.observe(success)

    def on_test_epoch_end(self) -> None:
        """Log test success."""
        self._log_counts("test")

    def _log_counts(self, stage: str) -> float:
        """Log success and return per family and their means over families; counts are summed."""
        counts = count_over_processes(self.trainer, self.evaluated)
        self.counts = counts
        for family, count in counts.families.items():
            self.log(f"{stage}/success_rate/{family}", count.success_rate)
            self.log(f"{stage}/return/{family}", count.mean_return)
        self.log(f"{stage}/success_rate", counts.success_rate)
        self.log(f"{stage}/return", counts.mean_return)
        self.log(f"{stage}/faults", float(counts.faults))
        return counts.success_rate

    # ------------------------------------------------------------------ prediction
    def predict_step(self, batch: list[Batch], batch_idx: int) -> list[tuple[int, list[float]]]:
        """The policy's log-probability of every stored action.

        Returns:
            Of each trajectory its row in the store and the log-probability of each step's action.
        """
        result = []
        for part in batch:
            logprobs_BS = self.require_policy().evaluate(part).logprobs_BS
            for row, logprobs_S, steps_S in zip(
                part.rows_B.tolist(), logprobs_BS, part.steps_BS, strict=True
            ):
                result.append((row, logprobs_S[steps_S].tolist()))
        return result

    # ------------------------------------------------------------------ checkpoints
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the phase."""
        checkpoint["retro_lightning_phase"] = self._phase

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in the phase of the checkpoint, with the policy's version."""
        self.require_policy().version = int(checkpoint["global_step"])
        self._phase = int(checkpoint["retro_lightning_phase"])
