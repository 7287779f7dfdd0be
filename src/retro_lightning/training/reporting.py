"""Behaviour half: what is logged of gradient steps, and warnings of what goes wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from retro_lightning.credit.collapse import CollapseWatch
from retro_lightning.credit.diagnostics import advantage_warning, diagnose
from retro_lightning.credit.estimators import CreditInputs, LossTerms
from retro_lightning.credit.objective import returns_and_advantages
from retro_lightning.credit.statistics import Outcomes, groups
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.evaluation import Evaluation
from retro_lightning.training.credit_inputs import score_norms_BS

if TYPE_CHECKING:
    from retro_lightning.training.datamodule import ReplayDataModule
    from retro_lightning.training.module import PolicyGradientModule


class StepReport:
    """Logs a gradient step's metrics where they are written down, and its loss at an epoch's end.

    Lightning takes some 0.3 ms for each number it is given, whether or not it writes it.
    """

    def __init__(self) -> None:
        self._watch = CollapseWatch()
        self._warned = False
        self._group_N = torch.empty(0, dtype=torch.int64)

    def update(self, columns: Outcomes) -> None:
        """Renew what follows from the whole store; call it whenever the store has grown."""
        self._group_N = torch.from_numpy(groups(columns))

    def __call__(
        self,
        module: PolicyGradientModule,
        data: ReplayDataModule,
        parts: Sequence[Batch],
        evaluations: Sequence[Evaluation],
        inputs: CreditInputs,
        terms: LossTerms,
    ) -> None:
        """Log one gradient step, or one of the batches that it is accumulated from."""
        every = module.trainer.log_every_n_steps  # type: ignore[attr-defined]
        written = (module.global_step + 1) % every == 0
        if not written and not module.trainer.is_last_batch:
            return
        share = self._share(module, inputs)
        metrics = {
            "loss": terms.loss.detach(),
            **terms.metrics,
            "phase": torch.tensor(float(module.phase_number)),
        }
        module.log_dict(
            {f"train/{k}": v * share if k.startswith("loss") else v for k, v in metrics.items()},
            batch_size=1,
        )
        if not written:
            return
        with torch.no_grad():
            extra = self._diagnosis(module, data, parts, evaluations, inputs, terms)
        module.log_dict({f"train/{name}": value for name, value in extra.items()}, batch_size=1)
        self._warn(module, data, terms, inputs, {**terms.metrics, **extra})

    def _share(self, module: PolicyGradientModule, inputs: CreditInputs) -> Tensor | float:
        """What an accumulated batch's loss, a sum, is multiplied by to be a mean."""
        batches = module.trainer.accumulate_grad_batches
        if batches == 1:
            return 1.0
        return 1.0 / (batches * module.phase.objective.count(inputs))

    def _diagnosis(
        self,
        module: PolicyGradientModule,
        data: ReplayDataModule,
        parts: Sequence[Batch],
        evaluations: Sequence[Evaluation],
        inputs: CreditInputs,
        terms: LossTerms,
    ) -> dict[str, Tensor]:
        returns_BS, _ = returns_and_advantages(inputs, module.phase.objective.gamma)
        if inputs.scale_B is not None:
            returns_BS = returns_BS / inputs.scale_B[:, None]
        rows_B = torch.cat([part.rows_B for part in parts])
        version_B = torch.cat([part.policy_version_B for part in parts])
        own_B = rows_B >= len(data.history_store)
        norms_BS = score_norms_BS(parts, evaluations)
        if norms_BS is None:  # free text, of which only the tokens taken are known
            norms_BS = inputs.steps_BS.float()
        return diagnose(
            inputs,
            terms,
            returns_BS,
            norms_BS,
            group_B=self._group_N.to(rows_B.device)[rows_B],
            age_B=torch.where(own_B, module.global_step - version_B, -1),
        )

    def _warn(
        self,
        module: PolicyGradientModule,
        data: ReplayDataModule,
        terms: LossTerms,
        inputs: CreditInputs,
        metrics: dict[str, Tensor],
    ) -> None:
        values = torch.stack([value.detach().float() for value in metrics.values()]).tolist()
        success = float(data.validation_success)
        for sentence in self._watch(dict(zip(metrics, values, strict=True)), success):
            rank_zero_warn(f"optimiser step {module.global_step}: {sentence}")
        if self._warned:
            return
        warning = advantage_warning(
            terms.advantages_BS,
            inputs.steps_BS,
            curriculum=type(data.prioritisation).__name__,
            baseline=type(module.baseline).__name__,
        )
        if warning is not None:
            self._warned = True
            rank_zero_warn(warning)
