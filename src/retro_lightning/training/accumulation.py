"""Behaviour half: a gradient step accumulated from several batches that equals one of them all.

Every batch would be divided by its own count, and Lightning divides by the number of batches; the
sum over unequal batches is then another gradient than that of the whole. So the losses are left
undivided, and the gradients are divided once, by the count of the whole gradient step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.objective import Objective
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.training.phases import Phase
from retro_lightning.training.processes import reduced

if TYPE_CHECKING:
    from retro_lightning.training.module import PolicyGradientModule


class Accumulation:
    """Counts what the batches of a gradient step add to its normaliser."""

    def __init__(self) -> None:
        self._count = torch.zeros(())

    def normaliser(
        self, module: PolicyGradientModule, objective: Objective, inputs: CreditInputs
    ) -> Tensor | float:
        """What a batch's sum of losses is divided by now."""
        batches = module.trainer.accumulate_grad_batches
        if batches == 1:
            return reduced(module.trainer, objective.count(inputs), "mean")
        self._count = self._count.to(module.device) + objective.count(inputs)
        return 1.0 / batches  # undoes Lightning's division

    def finish(self, module: PolicyGradientModule) -> None:
        """Divide the gradients by the count of the whole gradient step."""
        if module.trainer.accumulate_grad_batches == 1:
            return
        count = reduced(module.trainer, self._count, "mean").clamp(min=1.0)
        self._count = torch.zeros(())
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad /= count


def check_accumulation(phases: Sequence[Phase], baseline: Baseline, batches: int) -> None:
    """Refuse to accumulate a gradient step where it would be another one.

    Args:
        phases: The phases of the fit.
        baseline: The baseline in force.
        batches: Batches that a gradient step is accumulated from.

    Raises:
        ValueError: If an objective or the baseline must see the whole gradient step at once.
    """
    if batches == 1:
        return
    remedy = "or set trainer.accumulate_grad_batches: 1 and a larger data.batch_size"
    for phase in phases:
        if phase.objective.normalise_advantages:
            raise ValueError(
                f"{phase.objective.name} divides advantages by their standard deviation over the "
                "gradient step, which none of its accumulated batches knows: set its "
                f"normalise_advantages: false, {remedy}"
            )
    if baseline.needs_whole_step:
        raise ValueError(
            f"the baseline {type(baseline).__name__} is a mean over the gradient step, which none "
            f"of its accumulated batches knows: choose another, {remedy}"
        )
