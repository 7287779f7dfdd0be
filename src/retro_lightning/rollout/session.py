"""Behaviour half: turns of a policy in many environments at once, over one key-value cache.

A turn feeds, for each row, what its cache has not seen yet (the end of its last action and the new
observation) in one padded forward pass. Forced tokens are never fed on their own. Further decisions
within an action are looked ahead at in the same pass, where the tree of actions is small, or else
cost one more pass each over the rows that are undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retro_lightning.policy.policy import Policy
from retro_lightning.policy.trie import FloatArray, IntArray, TokenTrie
from retro_lightning.trajectory import Generation, Task

_SMALL_TREE = 8
"""Tree tokens per row up to which looking ahead was measured to be no slower than descending."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The action a policy chose in one row.

    Attributes:
        number: Its index among the valid actions (the first of equal ones).
        log_prob: Its log-probability under the policy, whether it was sampled or the greedy choice.
        log_probs: That of every valid action, if the session records distributions.
        generation: Its exact tokens, with the value of the state before it.
    """

    number: int
    log_prob: float
    log_probs: tuple[float, ...] | None
    generation: Generation


class Session:
    """Keeps ``rows`` conversations of one policy.

    The policy's weights must not change while a session is used.

    Args:
        policy: Acts, in eval mode whatever mode it is in.
        rows: Number of conversations.
        record_distribution: Compute the probability of every valid action, by looking ahead at the
            whole tree of a step's actions.
    """

    def __init__(self, policy: Policy, rows: int, *, record_distribution: bool = False) -> None:
        self._policy = policy
        self._decoder = policy.cached_decoder(rows)
        self._record = record_distribution
        self._pending: list[tuple[int, ...]] = [()] * rows

    @torch.no_grad()
    def start(self, row: int, task: Task) -> None:
        """Begin a conversation about a task in a row that is not in use."""
        with self._policy.evaluating():
            prompts_BH = self._policy.prompts([task])
            self._decoder.start(row, None if prompts_BH is None else prompts_BH[0])
        self._pending[row] = ()

    def stop(self, row: int) -> None:
        """End a row's conversation."""
        self._decoder.stop(row)

    def fits(self, row: int, context: IntArray, trie: TokenTrie) -> bool:
        """Whether a turn, whichever action is chosen, stays within the model's context."""
        used = int(self._decoder.lengths[row]) + len(self._pending[row])
        return used + len(context) + trie.longest <= self._policy.max_length

    @torch.no_grad()
    def act(
        self,
        rows: Sequence[int],
        contexts: Sequence[IntArray],
        tries: Sequence[TokenTrie],
        rngs: Sequence[np.random.Generator | None],
    ) -> list[Choice]:
        """One turn.

        Args:
            rows: Distinct rows, at least one.
            contexts: New tokens of each row, as made by ``Transcript.context``.
            tries: Valid actions of each row, as made by ``Transcript.trie``.
            rngs: Source of randomness of each row; None = greedy: the most probable action where
                the distribution scores whole actions, else the most probable child at every
                decision (not always the most probable action).

        Returns:
            One choice per row.

        Raises:
            LogitsNotFinite: If the logits of a row are not finite.
        """
        with self._policy.evaluating():
            return self._act(rows, contexts, tries, rngs)

    def _act(
        self,
        rows: Sequence[int],
        contexts: Sequence[IntArray],
        tries: Sequence[TokenTrie],
        rngs: Sequence[np.random.Generator | None],
    ) -> list[Choice]:
        chunks = [
            np.concatenate([np.array(self._pending[row], dtype=np.int32), context])
            for row, context in zip(rows, contexts, strict=True)
        ]
        whole = self._policy.distribution.whole
        small = max(len(trie.tree_tokens) for trie in tries) <= _SMALL_TREE
        ahead = whole or self._record or small
        hidden_RWH = self._decoder.feed(rows, chunks, tries if ahead else None)
        values = self._policy.value_head(hidden_RWH[:, 0]).tolist()
        walks = [_Walk(trie, rng) for trie, rng in zip(tries, rngs, strict=True)]
        log_probs: list[tuple[float, ...] | None] = [None] * len(walks)
        if whole:
            for i, every in enumerate(self._policy.log_probs(hidden_RWH, tries)):
                walks[i].jump(every)
                if self._record:
                    log_probs[i] = tuple(every.tolist())
        elif ahead:
            tables = self._policy.tree_log_probs(hidden_RWH, tries)
            for i, (walk, table) in enumerate(zip(walks, tables, strict=True)):
                while walk.decision >= 0:
                    walk.take(table[walk.decision])
                if self._record:
                    log_probs[i] = tuple(tries[i].log_probs(table).tolist())
        else:
            self._descend(rows, walks, hidden_RWH[:, 0])
        for row, walk in zip(rows, walks, strict=True):
            self._pending[row] = tuple(walk.tokens[walk.fed :])
        return [
            Choice(
                number=walk.leaf,
                log_prob=walk.log_prob,
                log_probs=every,
                generation=Generation(
                    context_ids=tuple(context.tolist()),
                    action_ids=tuple(walk.tokens),
                    value=value,
                ),
            )
            for walk, every, context, value in zip(walks, log_probs, contexts, values, strict=True)
        ]

    def _descend(self, rows: Sequence[int], walks: Sequence[_Walk], hidden_RH: Tensor) -> None:
        """Walk down all tries, feeding tokens only where there is a further decision to make."""
        undecided = [i for i, walk in enumerate(walks) if walk.decision >= 0]
        hidden_RH = hidden_RH.clone()
        while undecided:
            behind = [i for i in undecided if walks[i].fed < len(walks[i].tokens)]
            if behind:
                unfed = [np.array(walks[i].unfed(), dtype=np.int32) for i in behind]
                fed = self._decoder.feed([rows[i] for i in behind], unfed)
                hidden_RH[behind] = fed[:, 0]
            tables = self._policy.node_log_probs(
                hidden_RH[undecided],
                [walks[i].trie for i in undecided],
                [walks[i].decision for i in undecided],
                undecided,
            )
            for i, table in zip(undecided, tables, strict=True):
                walks[i].take(table)
            undecided = [i for i in undecided if walks[i].decision >= 0]


class _Walk:
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


def sample(log_probs_C: FloatArray, rng: np.random.Generator) -> int:
    """Draw an index by inverting the cumulative distribution; one uniform number per draw."""
    cumulative = np.cumsum(np.exp(log_probs_C))
    index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return min(index, len(cumulative) - 1)
