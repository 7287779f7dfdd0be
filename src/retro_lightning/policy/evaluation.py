"""Behaviour half: what a policy says about a batch of recorded trajectories, with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from retro_lightning.policy.actions import LogitsNotFinite, log_softmax
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.decisions import child_logits
from retro_lightning.policy.forward import hidden_states
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.scores import WholeActions
from retro_lightning.policy.text import token_log_probs
from retro_lightning.policy.trie import FloatArray
from retro_lightning.trajectory import Trajectory

if TYPE_CHECKING:
    from retro_lightning.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the policy says about a batch; all float32, 0 at padding.

    Attributes:
        logprobs_BS: Log-probability of what was written in each step, as far as it is learnt: of
            the action taken, and of the thought before it.
        entropies_BS: Entropy, in nats, summed over the decisions on the action's path, each exact
            over the decision's children; and over the tokens of free text, each exact over what
            the token was sampled from, but at the places that were sampled only.
        values_BS: Value of the state before each action.
        final_values_B: Value of the state after the last action, where it is bootstrapped; else 0.
        learner_values_BS: Values by the head that learns from the trajectory; another than that of
            ``values_BS`` if heads are cross-fitted.
        learner_final_values_B: The same of the state after the last action.
        child_logprobs_DC: Log-probabilities of the children of every decision, -inf at padding.
        text_logprobs_F: Log-probability of each token of free text; None = there is none.
    """

    logprobs_BS: Tensor
    entropies_BS: Tensor
    values_BS: Tensor
    final_values_B: Tensor
    learner_values_BS: Tensor
    learner_final_values_B: Tensor
    child_logprobs_DC: Tensor
    text_logprobs_F: Tensor | None = None


def evaluate(policy: Policy, batch: Batch) -> Evaluation:
    """Log-probabilities, entropies and values of a batch, with gradients.

    Only decision and state positions go through the heads.
    """
    packed = None if batch.candidates is None else batch.candidates.packed
    prompts_BH = policy.prompts(batch.tasks)
    prompts_RH = None if prompts_BH is None else prompts_BH[batch.trajectory_R]
    hidden_RTH = hidden_states(policy.lm, batch.tokens_RT, prompts_RH, packed)
    decisions, states, finals, texts = _read(batch, hidden_RTH)
    logprobs_DC = _decisions(policy, batch, hidden_RTH, decisions)
    safe_DC = logprobs_DC.masked_fill(~batch.children_mask_DC, 0.0)
    entropy_D = -(safe_DC.exp() * safe_DC).sum(dim=1)
    step_D = batch.decision_row_D * batch.steps_BS.shape[1] + batch.decision_step_D
    chosen_D = logprobs_DC.gather(1, batch.chosen_D[:, None]).squeeze(1)
    logprobs_BS = _per_step(batch, step_D, chosen_D)
    entropies_BS = _per_step(batch, step_D, entropy_D)
    text_logprobs_F: Tensor | None = None
    if len(batch.text_token_F):
        text_logprobs_F, text_entropy_F = _texts(policy, batch, texts)
        step_F = batch.text_row_F * batch.steps_BS.shape[1] + batch.text_step_F
        logprobs_BS = logprobs_BS + _per_step(batch, step_F, text_logprobs_F)
        entropies_BS = entropies_BS + _per_step(batch, step_F, text_entropy_F)
    turns_S = torch.arange(batch.steps_BS.shape[1], device=states.device)
    values_BSV = policy.value_head(states.view(*batch.steps_BS.shape, -1), turns_S)
    values_BSV = values_BSV.masked_fill(~batch.steps_BS[..., None], 0.0)
    finals_BV = policy.value_head(finals, batch.steps_BS.sum(dim=1))
    finals_BV = finals_BV.masked_fill(batch.final_state_B[:, None] < 0, 0.0)
    asked_B = policy.value_head.asked(batch.rows_B)
    learner_B = policy.value_head.heads - 1 - asked_B
    every_B = torch.arange(len(batch), device=asked_B.device)
    return Evaluation(
        logprobs_BS=logprobs_BS,
        entropies_BS=entropies_BS,
        values_BS=values_BSV[every_B, :, asked_B],
        final_values_B=finals_BV[every_B, asked_B],
        learner_values_BS=values_BSV[every_B, :, learner_B],
        learner_final_values_B=finals_BV[every_B, learner_B],
        child_logprobs_DC=logprobs_DC,
        text_logprobs_F=text_logprobs_F,
    )


@torch.no_grad()
def action_log_probs(policy: Policy, trajectory: Trajectory) -> list[FloatArray]:
    """The whole distribution over valid actions at every step that fits into the context.

    It is empty where the action is free text. The policy should be in eval mode.

    Raises:
        ValueError: If the logits are not finite; names task and step.
    """
    encoded = policy.transcript.encode(trajectory)
    cache = policy.cached_decoder(rows=1)
    prompts_BH = policy.prompts([trajectory.task])
    cache.start(0, None if prompts_BH is None else prompts_BH[0])
    result: list[FloatArray] = []
    start, before = 0, 0
    places = zip(encoded.sequence_S, encoded.action_positions, strict=True)
    for step, (sequence, state) in zip(trajectory.steps, places, strict=False):
        if sequence != before:
            cache.forget(0)
            start, before = 0, sequence
        if step.valid_actions is None:
            result.append(np.zeros(0))
            continue
        tries = [policy.transcript.trie(step.valid_actions)]
        hidden = cache.feed([0], [encoded.sequences[sequence][start : state + 1]], tries)
        try:
            result.append(policy.log_probs(hidden, tries)[0])
        except LogitsNotFinite as error:
            where = f"task {trajectory.task.task_id}, step {len(result)}"
            raise ValueError(f"{where}: {error}") from None
        start = state + 1
    return result


def _read(batch: Batch, hidden_RTH: Tensor) -> tuple[Tensor, ...]:
    """Hidden states at decisions, before actions, at final states and before tokens of text."""
    start_BS = batch.sequence_BS * hidden_RTH.shape[1]
    where = torch.cat(
        [
            start_BS[batch.decision_row_D, batch.decision_step_D] + batch.decision_position_D,
            (start_BS + batch.state_positions_BS).flatten(),
            batch.final_sequence_B * hidden_RTH.shape[1] + batch.final_state_B.clamp(min=0),
            start_BS[batch.text_row_F, batch.text_step_F] + batch.text_position_F,
        ]
    )
    hidden_H = hidden_RTH.flatten(0, 1).index_select(0, where)
    return torch.split(
        hidden_H,
        [len(batch.chosen_D), batch.steps_BS.numel(), len(batch), len(batch.text_token_F)],
    )


def _decisions(policy: Policy, batch: Batch, hidden_RTH: Tensor, hidden_DH: Tensor) -> Tensor:
    """Log-probabilities [D, C] of the children of decisions, -inf at padding."""
    if batch.candidates is not None:
        whole = WholeActions(policy.lm)
        return whole.table(batch.candidates, hidden_RTH, batch.children_mask_DC)
    logits_DC = child_logits(policy.lm, hidden_DH, batch.vocabulary_U, batch.children_index_DC)
    return log_softmax(logits_DC, batch.children_mask_DC, batch.children_prior_DC)


def _texts(policy: Policy, batch: Batch, hidden_FH: Tensor) -> tuple[Tensor, Tensor]:
    return token_log_probs(
        hidden_FH,
        OutputHead.of(policy.lm),
        batch.text_token_F,
        batch.text_temperature_F,
        batch.text_kept_FK,
    )


def _per_step(batch: Batch, step: Tensor, values: Tensor) -> Tensor:
    """Sums [B, S] of values that belong to steps, given as places in the flattened [B, S]."""
    zeros = torch.zeros(batch.steps_BS.numel(), dtype=values.dtype, device=values.device)
    return zeros.index_add(0, step, values).view_as(batch.steps_BS)
