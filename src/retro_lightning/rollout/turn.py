"""Behaviour half: one row's turn in a session: its way down the actions, and what was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.trie import FloatArray, IntArray, TokenTrie
from retro_lightning.rollout.writing import Text, sample
from retro_lightning.trajectory import Generation


@dataclass(frozen=True, slots=True)
class Choice:
    """The action a policy chose in one row.

    Attributes:
        number: Its index among the valid actions (the first of equal ones); -1 for free text.
        text: The action, where it is free text.
        thought: The thought before it, if the policy thinks.
        log_prob: Log-probability of thought and action under the policy, whether sampled or greedy.
        log_probs: That of every valid action, if the session records distributions.
        generation: Its exact tokens, with the value of the state before it.
    """

    number: int
    text: str
    thought: str | None
    log_prob: float
    log_probs: tuple[float, ...] | None
    generation: Generation


class Turn:
    """One row's turn: what was fed, and what has been written so far."""

    unfed: IntArray

    def __init__(
        self,
        row: int,
        context: IntArray,
        trie: TokenTrie | None,
        rng: np.random.Generator | None,
    ) -> None:
        self.row, self.context, self.trie, self.rng = row, context, trie, rng
        self.value: float | None = None
        self.thought: Text | None = None
        self.before: tuple[int, ...] = ()
        self.walk: Walk | None = None
        self.action: Text | None = None
        self.log_probs: tuple[float, ...] | None = None
        self.pending: tuple[int, ...] = ()

    def choice(self) -> Choice:
        """What was chosen, with its record."""
        tokens, log_prob = (
            (self.action.tokens, self.action.log_prob)
            if self.action is not None
            else (self._walked.tokens, self._walked.log_prob)
        )
        texts = [text for text in (self.thought, self.action) if text is not None]
        kept = tuple(ids for text in texts for ids in text.kept)
        sampling = texts[0].sampling if texts else TextSampling()
        return Choice(
            number=-1 if self.walk is None else self.walk.leaf,
            text="" if self.action is None else self.action.text,
            thought=None if self.thought is None else self.thought.text,
            log_prob=log_prob + (0.0 if self.thought is None else self.thought.log_prob),
            log_probs=self.log_probs,
            generation=Generation(
                context_ids=tuple(self.context.tolist()),
                action_ids=(*self.before, *tokens),
                value=self.value,
                thought_length=len(self.before),
                thought_log_prob=None if self.thought is None else self.thought.log_prob,
                temperature=sampling.temperature,
                kept_ids=kept if any(kept) else None,
            ),
        )

    @property
    def _walked(self) -> Walk:
        assert self.walk is not None
        return self.walk


class Walk:
    """One row's way down the trie of its valid actions."""

    def __init__(self, trie: TokenTrie, rng: np.random.Generator | None) -> None:
        self.trie, self._rng = trie, rng
        self.tokens: list[int] = list(trie.root)
        self.decision, self.leaf = trie.root_decision, trie.root_leaf
        self.log_prob = 0.0
        self.fed = 0

    def unfed(self) -> list[int]:
        """Tokens that the cache has not seen; from now on it has."""
        tokens, self.fed = self.tokens[self.fed :], len(self.tokens)
        return tokens

    def take(self, log_probs_C: FloatArray) -> None:
        """Make the present decision and follow the forced tokens after it."""
        rng = self._rng
        child = int(np.argmax(log_probs_C)) if rng is None else sample(log_probs_C, rng)
        self.log_prob += float(log_probs_C[child])
        self.tokens += self.trie.forced[self.decision][child]
        self.leaf = self.trie.leaf[self.decision][child]
        self.decision = self.trie.next_decision[self.decision][child]

    def jump(self, log_probs_A: FloatArray) -> None:
        """Choose a whole action."""
        rng = self._rng
        self.leaf = int(np.argmax(log_probs_A)) if rng is None else sample(log_probs_A, rng)
        self.log_prob = float(log_probs_A[self.leaf])
        self.tokens = self.trie.paths[self.leaf].ids.tolist()
        self.decision = -1
