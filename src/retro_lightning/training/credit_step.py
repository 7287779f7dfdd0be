"""Behaviour half: one gradient step, from the parts of a batch to what the optimiser may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.estimators import CreditInputs, Objective
from retro_lightning.credit.ratios import UnknownRatio
from retro_lightning.credit.scales import ReturnScale, advantage_moments, advantage_std
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.policy import Policy
from retro_lightning.training.accumulation import Accumulation
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.feedback import td_feedback
from retro_lightning.training.invariants import StepGuard
from retro_lightning.training.other_policies import Proximal, Reference
from retro_lightning.training.processes import reduced
from retro_lightning.training.reporting import StepReport

if TYPE_CHECKING:
    from retro_lightning.training.datamodule import ReplayDataModule
    from retro_lightning.training.module import PolicyGradientModule


class CreditStep:
    """Credit for a gradient step: who is asked, what it costs, and whether it may be taken.

    Args:
        baseline: What is subtracted from returns.
        return_scale: What advantages are divided by; None = nothing.
        reference_policy: Policy directory that a KL is taken to; None = the model without adapters.
    """

    def __init__(
        self, baseline: Baseline, return_scale: ReturnScale | None, reference_policy: str | None
    ) -> None:
        self._baseline, self._return_scale = baseline, return_scale
        self._proximal, self._reference = Proximal(), Reference(reference_policy)
        self._guard, self._report, self._accumulation = StepGuard(), StepReport(), Accumulation()
        self._fresh_N: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def renew(self, data: ReplayDataModule) -> None:
        """Compute anew what follows from the whole store: baseline, scale, groups, fresh rows."""
        memory = data.memory
        self._baseline.attach(lambda rows: [trajectory for trajectory, _ in memory.load(rows)])
        self._baseline.update(data.index)
        if self._return_scale is not None:
            self._return_scale.update(data.index)
        self._report.update(data.index)
        self._fresh_N = data.fresh

    def remember(self, policy: Policy) -> None:
        """Remember the policy as it is at the epoch's start."""
        self._proximal.take(policy)

    def loss(
        self, module: PolicyGradientModule, data: ReplayDataModule, batch: list[Batch]
    ) -> Tensor:
        """Loss of one gradient step, with what is logged and observed of it; see the module."""
        policy, objective = module.require_policy(), module.phase.objective
        others: dict[str, Any] = {}
        if objective.needs_proximal:  # before the graph is built, whose parameters it borrows
            others["proximal"] = self._proximal.evaluate(policy, batch)
        if objective.needs_reference:
            others["reference"] = self._reference.evaluate(policy, batch)
        evaluations = [policy.evaluate(part) for part in batch]
        inputs = credit_inputs(
            batch,
            evaluations,
            self._baseline,
            self._fresh_N,
            return_scale=self._return_scale,
            tokens=objective.needs_tokens,
            scores=objective.needs_scores,
            **others,
        )
        try:
            terms = objective(
                inputs,
                normaliser=self._accumulation.normaliser(module, objective, inputs),
                advantage_scale=_advantage_scale(module, objective, inputs),
            )
        except UnknownRatio as error:
            raise error.among([task for part in batch for task in part.tasks]) from None
        self._guard.begin(batch, terms, inputs)
        self._report(module, data, batch, evaluations, inputs, terms)
        if data.prioritisation.needs_td_errors:
            data.observe(td_feedback(batch, inputs, objective.gamma))
        return terms.loss

    def normalise(self, module: PolicyGradientModule) -> None:
        """Normalise accumulated gradients, before they are clipped."""
        self._accumulation.finish(module)

    def finish(
        self,
        module: PolicyGradientModule,
        data: ReplayDataModule,
        optimizer: torch.optim.Optimizer,
        norm_limit: float | None,
    ) -> None:
        """Check the gradients that the optimiser is about to use, and drop bad ones.

        Args:
            module: The module whose gradients they are.
            data: Knows where a bad batch is kept.
            optimizer: Its gradients are dropped, so that no parameter moves.
            norm_limit: Norm that they were clipped to; None = they were not.
        """
        good = self._guard.finish(
            list(module.parameters()),
            step=module.global_step,
            run_dir=data.run_dir,
            norm_limit=norm_limit,
        )
        if not good:
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Tensor]:
        """The policy at the epoch's start, where one is remembered."""
        return self._proximal.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Return to a state."""
        self._proximal.load_state_dict(state)


def _advantage_scale(
    module: PolicyGradientModule, objective: Objective, inputs: CreditInputs
) -> Tensor | None:
    """Standard deviation of the advantages of the whole gradient step, over all processes."""
    if not objective.normalise_advantages:
        return None
    moments = advantage_moments(objective.advantages(inputs), inputs.steps_BS)
    return advantage_std(reduced(module.trainer, moments, "sum"))
