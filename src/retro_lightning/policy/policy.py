"""Behaviour half: the policy: a causal LM, a distribution over valid actions and a value head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from retro_lightning.policy import directory
from retro_lightning.policy.actions import (
    ActionDistribution,
    TrieConstrained,
    check_finite,
)
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.checks import check_model
from retro_lightning.policy.conditioning import SoftPrompt, TaskConditioning
from retro_lightning.policy.decisions import tree_log_probs
from retro_lightning.policy.evaluation import Evaluation, action_log_probs, evaluate
from retro_lightning.policy.forward import last_hidden_states, turn_by_turn
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.language_model import LanguageModelSource
from retro_lightning.policy.loading import causal_lm, context_length, hidden_size
from retro_lightning.policy.scores import WholeActions
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.transcript import Transcript
from retro_lightning.policy.trie import FloatArray, TokenTrie
from retro_lightning.policy.value_head import ValueHead, ValueHeadSettings
from retro_lightning.policy.written import Trained
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from retro_lightning.policy.alone import AloneDecoder
    from retro_lightning.policy.cache import CachedDecoder


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
        """Log-probabilities, entropies and values of a batch, with gradients."""
        return evaluate(self, batch)

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

    def vocabulary_logits(self, hidden_RH: Tensor, rows: Sequence[int]) -> FloatArray:
        """Logits of the whole vocabulary [R, V], float64, without gradients.

        Args:
            hidden_RH: Hidden states.
            rows: Row that each belongs to, for the message.

        Raises:
            LogitsNotFinite: If they are not finite.
        """
        logits_RV = OutputHead.of(self.lm)(hidden_RH)
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

    def action_log_probs(self, trajectory: Trajectory) -> list[FloatArray]:
        """The whole distribution over valid actions at every step; see ``evaluation``."""
        return action_log_probs(self, trajectory)

    def cached_decoder(self, rows: int) -> CachedDecoder | AloneDecoder:
        """A decoder for ``rows`` sequences that remembers what it has read."""
        return turn_by_turn(self.lm, rows=rows, max_length=self.max_length)

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
