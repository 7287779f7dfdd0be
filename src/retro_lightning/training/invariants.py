"""Behaviour half: what must hold of every gradient step, checked with one look at the device.

The loss, the gradients and the coverage of the advantages are condensed into a few numbers on the
device and read together, just before the optimiser steps: reading is what costs time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor, nn

from retro_lightning.credit.diagnostics import step_gradients, unreached
from retro_lightning.credit.estimators import CreditInputs, LossTerms
from retro_lightning.policy.actions import first_not_finite
from retro_lightning.policy.batch import Batch

MOST_BAD_STEPS = 3
"""Gradient steps in a row without a finite loss and gradient, after which training stops."""
_NORM_ROOM = 1.001
"""How far rounding may leave the clipped norm above its limit."""


class StepGuard:
    """Skips gradient steps that are not finite and refuses those that are not what they claim.

    A bad step's batches are written to ``bad_batches`` in the run's directory, as safetensors.
    """

    def __init__(self) -> None:
        self._parts: list[Batch] = []
        self._told: list[tuple[LossTerms, CreditInputs]] = []
        self._bad = 0

    def begin(self, parts: Sequence[Batch], terms: LossTerms, inputs: CreditInputs) -> None:
        """Remember a batch, or one of several, of the gradient step under way."""
        for logprobs in (inputs.logprobs_BS, inputs.token_logprobs_D):
            if logprobs is not None and logprobs.requires_grad:
                logprobs.retain_grad()
        self._parts.extend(parts)
        self._told.append((terms, inputs))

    def finish(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        step: int,
        run_dir: Path,
        norm_limit: float | None,
    ) -> bool:
        """Look at the gradients, after clipping; afterwards the next gradient step may begin.

        Args:
            parameters: The trainable parameters.
            step: Number of the optimiser step.
            run_dir: Where the batches of a bad step are kept.
            norm_limit: What the gradient's norm was clipped to; None = it was not.

        Returns:
            Whether the step may be taken.

        Raises:
            FloatingPointError: If it is the last of ``MOST_BAD_STEPS`` bad steps in a row.
            ValueError: If the gradient is longer than it was clipped to, or a step with an
                advantage got no gradient.
        """
        parts, told = self._parts, self._told
        self._parts, self._told = [], []
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        losses = [terms.loss.detach() for terms, _ in told]
        missed = [_missed(terms, inputs) for terms, inputs in told]
        loss = torch.stack(losses).sum().to(norm.device)
        norm_, loss_, missed_ = torch.stack(
            [norm, loss, torch.stack(missed).sum().to(norm)]
        ).tolist()
        if not (_finite(norm_) and _finite(loss_)):
            self._keep(parts, step, run_dir, _not_finite(parts, told))
            return False
        self._bad = 0
        if norm_limit is not None and norm_ > norm_limit * _NORM_ROOM:
            raise ValueError(
                f"the gradient of optimiser step {step} was clipped to a norm of {norm_limit} and "
                f"has {norm_:.4g}: the optimiser holds other parameters than the module; give it "
                "all of them"
            )
        if missed_ > 0:
            raise ValueError(_say_missed(told, step, int(missed_)))
        return True

    def _keep(self, parts: Sequence[Batch], step: int, run_dir: Path, first: str | None) -> None:
        """Write a bad step's batches down; raise if it was one too many.

        Args:
            parts: The batches.
            step: Number of the optimiser step.
            run_dir: Where they are kept.
            first: First task and step whose log-probability is not finite; None = all are.
        """
        self._bad += 1
        directory = run_dir / "bad_batches"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"step-{step}.safetensors"
        tensors = {
            f"{number}.{item.name}": value.cpu().contiguous()
            for number, part in enumerate(parts)
            for item in fields(part)
            if isinstance(value := getattr(part, item.name), Tensor)
        }
        save_file(tensors, path)
        if self._bad >= MOST_BAD_STEPS:
            remedy = "lower model.optimizer.init_args.lr or set trainer.gradient_clip_val"
            if first is not None:
                remedy = (
                    f"nor was the log-probability of {first}, so that the policy's weights are "
                    "damaged; begin from an earlier checkpoint, or "
                ) + remedy
            raise FloatingPointError(
                f"loss or gradient were not finite in {self._bad} gradient steps in a row, up to "
                f"optimiser step {step} (their batches are in {directory}): {remedy}"
            )
        logprob = "" if first is None else f", nor was the log-probability of {first}"
        rank_zero_warn(
            f"loss or gradient of optimiser step {step} were not finite{logprob}: the step is "
            f"skipped and its batch kept in {path}"
        )


def _not_finite(
    parts: Sequence[Batch], told: Sequence[tuple[LossTerms, CreditInputs]]
) -> str | None:
    """First task and step whose log-probability is not finite, in words; None = all are."""
    tasks = [task for part in parts for task in part.tasks]
    before = 0
    for _, inputs in told:
        place = first_not_finite(inputs.logprobs_BS, inputs.steps_BS)
        if place is not None:
            return f"task {tasks[before + place[0]].task_id}, step {place[1]}"
        before += len(inputs.steps_BS)
    return None


def _missed(terms: LossTerms, inputs: CreditInputs) -> Tensor:
    """How many steps with an advantage have no gradient, or no finite advantage."""
    count = torch.zeros((), device=inputs.steps_BS.device)
    if terms.advantages_BS is not None:
        count = (inputs.steps_BS & ~torch.isfinite(terms.advantages_BS)).sum()
    return count + unreached(terms, inputs, step_gradients(inputs)).sum()


def _say_missed(told: Sequence[tuple[LossTerms, CreditInputs]], step: int, count: int) -> str:
    for terms, inputs in told:
        places = unreached(terms, inputs, step_gradients(inputs)).nonzero()
        if len(places):
            b, s = places[0].tolist()
            return (
                f"{count} steps of optimiser step {step} have an advantage and no gradient, first "
                f"step {s} of trajectory {b} of the batch: the objective must give every step a "
                "loss, or say in excluded_BS which it leaves out"
            )
    return f"{count} steps of optimiser step {step} have no finite advantage: check rewards"


def _finite(value: float) -> bool:
    return value - value == 0.0
