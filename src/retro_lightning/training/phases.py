"""Behaviour half: which objective is in force when, within one ``fit``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_warn

from retro_lightning.credit.estimators import Objective


@dataclass
class Phase:
    """An objective and when it gives way to the next one; the last phase has no end.

    Args:
        objective: The loss that is minimised during the phase.
        until_step: Optimiser step at which the phase ends, counted from the start of ``fit``.
        until_success: Validation success rate, in [0, 1], at which the phase ends.
    """

    objective: Objective
    until_step: int | None = None
    until_success: float | None = None

    def over(self, step: int, success: float) -> bool:
        """Whether the phase has ended at this optimiser step with this validation success."""
        by_step = self.until_step is not None and step >= self.until_step
        by_success = self.until_success is not None and success >= self.until_success
        return by_step or by_success


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuse a sequence of phases that can't be gone through.

    Raises:
        ValueError: If there is none, one but the last never ends, or steps do not increase.
    """
    if not phases:
        raise ValueError("model.phases is empty: name at least one objective")
    last_step = 0
    for number, phase in enumerate(phases[:-1]):
        if phase.until_step is None and phase.until_success is None:
            raise ValueError(
                f"model.phases[{number}] never ends, so the phases after it are never reached: "
                "give it until_step or until_success"
            )
        if phase.until_step is not None and phase.until_step <= last_step:
            raise ValueError(
                f"model.phases[{number}].until_step is {phase.until_step}, not after the phase "
                f"before it ({last_step}): until_step counts from the start of fit"
            )
        last_step = phase.until_step or last_step
    if phases[-1].until_step is not None or phases[-1].until_success is not None:
        raise ValueError(
            "the last of model.phases has an end: remove until_step and until_success, and set "
            "trainer.max_epochs to end the fit"
        )


def warn_of_unreached(phases: Sequence[Phase], steps: int) -> None:
    """Warn if a fit is over before a phase that begins at a step can begin.

    Args:
        phases: The phases of the fit.
        steps: Optimiser steps of the whole fit.
    """
    for number, phase in enumerate(phases[:-1]):
        if phase.until_success is None and (phase.until_step or 0) >= steps:
            rank_zero_warn(
                f"model.phases[{number}].until_step is {phase.until_step} and the fit has {steps} "
                "optimiser steps: the phases after it never begin. Lower until_step, or raise "
                "trainer.max_epochs or data.batches_per_epoch"
            )
            return
