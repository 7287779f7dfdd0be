"""Behaviour half: the policy: a causal LM, a distribution over valid actions and a value head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from retro_lightning.policy import directory
from retro_lightning.policy.actions import (
    ActionDistribution,
    LogitsNotFinite,
    TrieConstrained,
    check_finite,
    log_softmax,
)
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.checks import check_model
from retro_lightning.policy.conditioning import SoftPrompt, TaskConditioning
from retro_lightning.policy.decisions import child_logits, tree_log_probs
from retro_lightning.policy.forward import decoder, hidden_states, last_hidden_states
from retro_lightning.policy.language_model import LanguageModelSource
from retro_lightning.policy.loading import causal_lm, context_length, hidden_size
from retro_lightning.policy.scores import WholeActions
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.text import TextSampling, token_log_probs
from retro_lightning.policy.transcript import Transcript
from retro_lightning.policy.trie import FloatArray, TokenTrie
from retro_lightning.policy.value_head import ValueHead, ValueHeadSettings
from retro_lightning.policy.written import Trained
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from retro_lightning.policy.cache import CachedDecoder


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
        child_logprobs_DC: Log-probabilities of the children of every decision, -inf at padding.
        text_logprobs_F: Log-probability of each token of free text; None = there is none.
    """

    logprobs_BS: Tensor
    entropies_BS: Tensor
    values_BS: Tensor
    final_values_B: Tensor
    child_logprobs_DC: Tensor
    text_logprobs_F: Tensor | None = None


class Policy(nn.Module):
    """A language model whose logits are a distribution over the valid actions.

    Args:
        lm: Hugging Face causal LM, with adapters or without.
        tokenizer: Its tokenizer.
        value_head: Value head of the LM's hidden size.
        distribution: Distribution over valid actions; None = trie-constrained.
        soft_prompt: What tells it its task beside the transcript; None = nothing does.
        text: How it samples free text; None = the defaults of ``TextSampling``.
        trained: Which parts of a step are learnt from: ``all``, the ``action`` or the ``thought``.
        history_window: Turns that it sees at most before an action, its own included; None = the
            whole trajectory.
        version: Optimiser steps taken so far.

    Raises:
        ValueError: If output embeddings applied to hidden states are not the model's own logits, or
            the tokenizer has more tokens than the model has embeddings.
    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        value_head: ValueHead,
        distribution: ActionDistribution | None = None,
        soft_prompt: SoftPrompt | None = None,
        text: TextSampling | None = None,
        trained: Trained = "all",
        history_window: int | None = None,
        version: int = 0,
    ) -> None:
        super().__init__()
        self.lm, self.value_head, self.version = lm, value_head, version
        self.soft_prompt = soft_prompt
        self._prompted = soft_prompt is not None
        self.tokenizer = tokenizer
        self.text = text if text is not None else TextSampling()
        self.distribution = distribution if distribution is not None else TrieConstrained()
        self.max_length = context_length(lm)
        self.transcript = Transcript(
            tokenizer,
            max_length=self.max_length - self._prompted,
            distribution=self.distribution,
            trained=trained,
            history_window=history_window,
        )
        check_model(lm, len(tokenizer))

    @classmethod
    def build(
        cls,
        source: LanguageModelSource,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        value_head: ValueHeadSettings | None = None,
        conditioning: TaskConditioning | None = None,
        distribution: ActionDistribution | None = None,
        text: TextSampling | None = None,
        trained: Trained = "all",
        history_window: int | None = None,
        seed: int = 0,
    ) -> Policy:
        """A policy from a language-model source, the same for the same seed."""
        lm, tokenizer = source.build(tokenizer, seed)
        head = value_head if value_head is not None else ValueHeadSettings()
        prompt = None
        if conditioning is not None:
            prompt = conditioning.build(causal_lm(lm).get_input_embeddings().weight, seed)
        return cls(
            lm,
            tokenizer,
            value_head=head.build(hidden_size(lm), seed),
            distribution=distribution,
            soft_prompt=prompt,
            text=text,
            trained=trained,
            history_window=history_window,
        )

    # ------------------------------------------------------------------ distribution
    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probabilities, entropies and values of a batch, with gradients.

        Only decision and state positions go through the heads.
        """
        packed = None if batch.candidates is None else batch.candidates.packed
        prompts_BH = self.prompts(batch.tasks)
        prompts_RH = None if prompts_BH is None else prompts_BH[batch.trajectory_R]
        hidden_RTH = hidden_states(self.lm, batch.tokens_RT, prompts_RH, packed)
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
        decisions, states, finals, texts = torch.split(
            hidden_H,
            [len(batch.chosen_D), batch.steps_BS.numel(), len(batch), len(batch.text_token_F)],
        )
        logprobs_DC = self._decisions(batch, hidden_RTH, decisions)
        safe_DC = logprobs_DC.masked_fill(~batch.children_mask_DC, 0.0)
        entropy_D = -(safe_DC.exp() * safe_DC).sum(dim=1)
        step_D = batch.decision_row_D * batch.steps_BS.shape[1] + batch.decision_step_D
        chosen_D = logprobs_DC.gather(1, batch.chosen_D[:, None]).squeeze(1)
        logprobs_BS = _per_step(batch, step_D, chosen_D)
        entropies_BS = _per_step(batch, step_D, entropy_D)
        text_logprobs_F: Tensor | None = None
        if len(batch.text_token_F):
            text_logprobs_F, text_entropy_F = self._texts(batch, texts)
            step_F = batch.text_row_F * batch.steps_BS.shape[1] + batch.text_step_F
            logprobs_BS = logprobs_BS + _per_step(batch, step_F, text_logprobs_F)
            entropies_BS = entropies_BS + _per_step(batch, step_F, text_entropy_F)
        turns_S = torch.arange(batch.steps_BS.shape[1], device=states.device)
        values_BS = self.value_head(states.view(*batch.steps_BS.shape, -1), turns_S)
        return Evaluation(
            logprobs_BS=logprobs_BS,
            entropies_BS=entropies_BS,
            values_BS=values_BS.masked_fill(~batch.steps_BS, 0.0),
            final_values_B=self.value_head(finals, batch.steps_BS.sum(dim=1)).masked_fill(
                batch.final_state_B < 0, 0.0
            ),
            child_logprobs_DC=logprobs_DC,
            text_logprobs_F=text_logprobs_F,
        )

    def prompts(self, tasks: Sequence[Task]) -> Tensor | None:
        """Embeddings [B, H] of the virtual position before each sequence; None = there is none."""
        if self.soft_prompt is None or not self._prompted:
            return None
        prompts_BH: Tensor = self.soft_prompt(tasks, self.describe)
        return prompts_BH.to(causal_lm(self.lm).get_input_embeddings().weight.dtype)

    def describe(self, texts: Sequence[str]) -> Tensor:
        """The language model's own embeddings [N, H] of texts: after the last token of each."""
        rows = [self.tokenizer(f"Task: {t}", add_special_tokens=False)["input_ids"] for t in texts]
        return last_hidden_states(self.lm, rows)

    def _decisions(self, batch: Batch, hidden_RTH: Tensor, hidden_DH: Tensor) -> Tensor:
        """Log-probabilities [D, C] of the children of decisions, -inf at padding."""
        if batch.candidates is not None:
            whole = WholeActions(self.lm)
            return whole.table(batch.candidates, hidden_RTH, batch.children_mask_DC)
        logits_DC = child_logits(self.lm, hidden_DH, batch.vocabulary_U, batch.children_index_DC)
        return log_softmax(logits_DC, batch.children_mask_DC, batch.children_prior_DC)

    def _texts(self, batch: Batch, hidden_FH: Tensor) -> tuple[Tensor, Tensor]:
        return token_log_probs(
            hidden_FH,
            causal_lm(self.lm).get_output_embeddings(),
            batch.text_token_F,
            batch.text_temperature_F,
            batch.text_kept_FK,
        )

    def vocabulary_logits(self, hidden_RH: Tensor, rows: Sequence[int]) -> FloatArray:
        """Logits of the whole vocabulary [R, V], float64, without gradients.

        Args:
            hidden_RH: Hidden states.
            rows: Row that each belongs to, for the message.

        Raises:
            LogitsNotFinite: If they are not finite.
        """
        logits_RV = causal_lm(self.lm).get_output_embeddings()(hidden_RH)
        values_RV: FloatArray = logits_RV.detach().to("cpu", torch.float64).numpy()
        check_finite(values_RV, rows)
        return values_RV

    def log_probs(self, hidden_RWH: Tensor, tries: Sequence[TokenTrie]) -> list[FloatArray]:
        """Log-probability of every valid action, float64, without gradients.

        Args:
            hidden_RWH: What ``CachedDecoder.feed`` returned for these tries.
            tries: Valid actions of each row.
        """
        if not self.distribution.whole:
            tables = tree_log_probs(self.lm, hidden_RWH, tries)
            return [trie.log_probs(table) for trie, table in zip(tries, tables, strict=True)]
        scored = [trie for trie in tries if isinstance(trie, ScoredTrie)]
        return WholeActions(self.lm).log_probs(hidden_RWH, scored)

    @torch.no_grad()
    def action_log_probs(self, trajectory: Trajectory) -> list[FloatArray]:
        """The whole distribution over valid actions at every step that fits into the context.

        It is empty where the action is free text. The policy should be in eval mode.

        Raises:
            ValueError: If the logits are not finite; names task and step.
        """
        encoded = self.transcript.encode(trajectory)
        cache = self.cached_decoder(rows=1)
        prompts_BH = self.prompts([trajectory.task])
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
            tries = [self.transcript.trie(step.valid_actions)]
            hidden = cache.feed([0], [encoded.sequences[sequence][start : state + 1]], tries)
            try:
                result.append(self.log_probs(hidden, tries)[0])
            except LogitsNotFinite as error:
                where = f"task {trajectory.task.task_id}, step {len(result)}"
                raise ValueError(f"{where}: {error}") from None
            start = state + 1
        return result

    def cached_decoder(self, rows: int) -> CachedDecoder:
        """An empty key-value cache for ``rows`` sequences."""
        from retro_lightning.policy.cache import CachedDecoder

        layers = causal_lm(self.lm).config.get_text_config().num_hidden_layers
        return CachedDecoder(decoder(self.lm), layers=layers, rows=rows, max_length=self.max_length)

    @property
    def has_reference(self) -> bool:
        """Whether the model before training can be had by switching its adapters off."""
        return causal_lm(self.lm) is not self.lm

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is what it was before training: no adapters, soft prompt or dropout.

        Raises:
            ValueError: If the whole model is trained: nothing of what it was is left.
        """
        if not self.has_reference:
            raise ValueError(
                "the whole language model is trained, so that nothing of the reference is left: "
                "train adapters (model.language_model.init_args.lora), or load the first policy a "
                "second time with Policy.load"
            )
        adapted: Any = self.lm
        prompted, self._prompted = self._prompted, False
        try:
            with self.evaluating(), adapted.disable_adapter():
                yield
        finally:
            self._prompted = prompted

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it the policy is in evaluation mode."""
        training = self.training
        if training:
            self.eval()
        try:
            yield
        finally:
            if training:
                self.train()

    # ------------------------------------------------------------------ directory
    def save(self, path: Path | str) -> None:
        """Write a Hugging Face directory with the value head beside it; replaces an older one.

        The directory appears under its name only when it is complete.
        """
        parts = directory.Parts(
            self.lm,
            self.tokenizer,
            self.value_head,
            self.soft_prompt,
            self.distribution,
            self.text,
            self.transcript.trained,
            self.transcript.history_window,
            self.version,
        )
        directory.write(Path(path), parts, self.transcript.fingerprint)

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        *,
        conditioning: TaskConditioning | None = None,
        distribution: ActionDistribution | None = None,
        text: TextSampling | None = None,
        trained: Trained | None = None,
        history_window: int | None = None,
    ) -> Policy:
        """Read a policy directory, or a plain Hugging Face directory or hub name.

        A plain one gets a fresh value head and version 0.

        Args:
            path: The directory or name.
            device: Where to put the policy.
            conditioning: Needed where the policy was saved with a class that is not ours.
            distribution: Instead of the one that the policy was saved with.
            text: Likewise.
            trained: Likewise.
            history_window: Likewise.

        Raises:
            FileNotFoundError: If there is nothing at ``path``.
            ValueError: If it was written by a newer release, or its tokenizer was changed.
        """
        parts = directory.read(path, conditioning, distribution)
        policy = cls(
            parts.lm,
            parts.tokenizer,
            value_head=parts.value_head,
            distribution=parts.distribution,
            soft_prompt=parts.soft_prompt,
            text=parts.text if text is None else text,
            trained=parts.trained if trained is None else trained,
            history_window=parts.history_window if history_window is None else history_window,
            version=parts.version,
        )
        return policy.to(device)


def _per_step(batch: Batch, step: Tensor, values: Tensor) -> Tensor:
    """Sums [B, S] of values that belong to steps, given as places in the flattened [B, S]."""
    zeros = torch.zeros(batch.steps_BS.numel(), dtype=values.dtype, device=values.device)
    return zeros.index_add(0, step, values).view_as(batch.steps_BS)
