"""Behaviour half: from batches and what the policy says of them to what credit assignment needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.estimators import CreditInputs
from retro_lightning.credit.losses import exact_kl
from retro_lightning.credit.scales import ReturnScale
from retro_lightning.credit.variance import score_norms
from retro_lightning.policy.batch import Batch, stack_steps
from retro_lightning.policy.evaluation import Evaluation

Evaluations = Sequence[Evaluation]


def credit_inputs(
    parts: Sequence[Batch],
    evaluations: Evaluations,
    baseline: Baseline,
    fresh_N: npt.NDArray[np.bool_],
    *,
    return_scale: ReturnScale | None = None,
    proximal: Evaluations | None = None,
    reference: Evaluations | None = None,
    tokens: bool = False,
    scores: bool = False,
) -> CreditInputs:
    """Join the parts of a gradient step, so that credit sees the whole step at once.

    Args:
        parts: The batches of the step.
        evaluations: What the policy says of each.
        baseline: Gives the baseline of each step.
        fresh_N: Which rows of the store are rollouts of the latest collection.
        return_scale: Gives what the advantages of each trajectory are divided by; None = 1.
        proximal: What the policy at the epoch's start says of each part; None = nobody asks.
        reference: What the reference policy says of each part; None = nobody asks.
        tokens: Give the log-probabilities of single token choices too.
        scores: Give the squared lengths of the actions' scores too.
    """

    def steps(name: str) -> Tensor:
        return stack_steps([getattr(part, name) for part in parts])

    def rows(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    values_BS = stack_steps([evaluation.values_BS for evaluation in evaluations])
    steps_BS = steps("steps_BS")
    rows_B = rows("rows_B")
    fresh_B = torch.from_numpy(fresh_N[rows_B.cpu().numpy()]).to(rows_B.device)
    return CreditInputs(
        logprobs_BS=stack_steps([evaluation.logprobs_BS for evaluation in evaluations]),
        entropies_BS=stack_steps([evaluation.entropies_BS for evaluation in evaluations]),
        values_BS=values_BS,
        steps_BS=steps_BS,
        rewards_BS=steps("rewards_BS"),
        behaviour_logprobs_BS=steps("behaviour_logprobs_BS"),
        supported_BS=steps("supported_BS"),
        baseline_BS=baseline(rows_B, values_BS),
        fresh_B=fresh_B,
        bootstrap_B=rows("bootstrap_B"),
        final_values_B=torch.cat([evaluation.final_values_B for evaluation in evaluations]),
        learner_values_BS=stack_steps([said.learner_values_BS for said in evaluations]),
        learner_final_values_B=torch.cat([said.learner_final_values_B for said in evaluations]),
        success_B=rows("success_B"),
        weight_B=rows("weight_B"),
        value_weight_B=rows("value_weight_B"),
        scale_B=None if return_scale is None else return_scale(rows_B),
        decisions_BS=_choices(parts),
        score_norms_BS=score_norms_BS(parts, evaluations) if scores else None,
        proximal_logprobs_BS=_logprobs(proximal),
        reference_logprobs_BS=_logprobs(reference),
        reference_kl_BS=_reference_kl(parts, evaluations, reference),
        **(_tokens(parts, evaluations, proximal) if tokens else {}),
    )


def score_norms_BS(parts: Sequence[Batch], evaluations: Evaluations) -> Tensor | None:
    """Squared length of each action's score by the logits of its decisions.

    None where there is free text, of which only the tokens taken are known.
    """
    norms = []
    for part, evaluation in zip(parts, evaluations, strict=True):
        if len(part.text_token_F):
            return None
        children_DC = evaluation.child_logprobs_DC.detach()
        norms.append(score_norms(children_DC, part.chosen_D, part.children_mask_DC))
    return _over_steps(parts, norms)


def _over_steps(parts: Sequence[Batch], values: Sequence[Tensor]) -> Tensor:
    """Values of decisions, added up over those of each step and joined."""
    return stack_steps(
        [
            _added_up(part, part.decision_row_D, part.decision_step_D, value_D)
            for part, value_D in zip(parts, values, strict=True)
        ]
    )


def _choices(parts: Sequence[Batch]) -> Tensor:
    """How many choices, decisions and tokens of free text, made each action."""
    counts = []
    for part in parts:
        row = torch.cat([part.decision_row_D, part.text_row_F])
        step = torch.cat([part.decision_step_D, part.text_step_F])
        counts.append(_added_up(part, row, step, torch.ones_like(row)))
    return stack_steps(counts)


def _added_up(part: Batch, row: Tensor, step: Tensor, value: Tensor) -> Tensor:
    """Values at given rows and steps of a part, added up, [B, S]."""
    count_B, longest_S = part.steps_BS.shape
    flat = torch.zeros(count_B * longest_S, dtype=value.dtype, device=value.device)
    return flat.index_add(0, row * longest_S + step, value).view(count_B, longest_S)


def _logprobs(evaluations: Evaluations | None) -> Tensor | None:
    if evaluations is None:
        return None
    return stack_steps([evaluation.logprobs_BS for evaluation in evaluations])


def _reference_kl(
    parts: Sequence[Batch], evaluations: Evaluations, reference: Evaluations | None
) -> Tensor | None:
    """Exact KL of each step; None where there is free text, whose KL is not summed up."""
    if reference is None:
        return None
    kls = []
    for part, ours, theirs in zip(parts, evaluations, reference, strict=True):
        if len(part.text_token_F):
            return None
        kls.append(
            exact_kl(ours.child_logprobs_DC, theirs.child_logprobs_DC, part.children_mask_DC)
        )
    return _over_steps(parts, kls)


def _tokens(
    parts: Sequence[Batch], evaluations: Evaluations, proximal: Evaluations | None
) -> dict[str, Tensor]:
    """Token choices of all parts, with their place in the joined step."""

    def chosen(given: Evaluations) -> Tensor:
        picked = []
        for part, evaluation in zip(parts, given, strict=True):
            picked.append(evaluation.child_logprobs_DC.gather(1, part.chosen_D[:, None]).squeeze(1))
            if evaluation.text_logprobs_F is not None:
                picked.append(evaluation.text_logprobs_F)
        return torch.cat(picked)

    before = np.cumsum([0, *(len(part) for part in parts)])
    rows = [
        row + int(start)
        for part, start in zip(parts, before, strict=False)
        for row in (part.decision_row_D, part.text_row_F)
    ]
    steps = [step for part in parts for step in (part.decision_step_D, part.text_step_F)]
    given = {"token_logprobs_D": chosen(evaluations)}
    if proximal is not None:
        given["token_proximal_logprobs_D"] = chosen(proximal)
    return {**given, "token_row_D": torch.cat(rows), "token_step_D": torch.cat(steps)}
