"""Behaviour half: turns of a policy in many environments at once, over one key-value cache.

A turn feeds, for each row, what its cache has not seen yet (the end of its last action and the new
observation) in one padded forward pass. Forced tokens are never fed on their own. Further decisions
within an action are looked ahead at in the same pass, where the tree of actions is small, or else
cost one more pass each over the rows that are undecided.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retro_lightning.policy.actions import LogitsNotFinite
from retro_lightning.policy.decisions import node_log_probs, tree_log_probs
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.transcript import Transcript
from retro_lightning.policy.trie import IntArray, TokenTrie
from retro_lightning.policy.window import Window
from retro_lightning.rollout.turn import Choice, Turn, Walk
from retro_lightning.rollout.writing import write
from retro_lightning.trajectory import Task

_SMALL_TREE = 8
"""Tree tokens per row up to which looking ahead was measured to be no slower than descending."""


class Session:
    """Keeps ``rows`` conversations of one policy.

    The policy's weights must not change while a session is used.

    Args:
        policy: Acts, in eval mode whatever mode it is in.
        rows: Number of conversations.
        record_distribution: Compute the probability of every valid action, by looking ahead at the
            whole tree of a step's actions.
        text: How free text is sampled; None = as the policy says.
    """

    def __init__(
        self,
        policy: Policy,
        rows: int,
        *,
        record_distribution: bool = False,
        text: TextSampling | None = None,
    ) -> None:
        self._policy = policy
        self._text = policy.text if text is None else text
        self._decoder = policy.cached_decoder(rows)
        self._record = record_distribution
        self._pending: list[tuple[int, ...]] = [()] * rows
        self._windows: list[Window | None] = [None] * rows
        self._turns = [0] * rows

    @torch.no_grad()
    def start(self, row: int, task: Task) -> None:
        """Begin a conversation about a task in a row that is not in use."""
        with self._policy.evaluating():
            prompts_BH = self._policy.prompts([task])
            self._decoder.start(row, None if prompts_BH is None else prompts_BH[0])
        self._pending[row], self._turns[row] = (), 0
        self._windows[row] = self.transcript.window()

    def stop(self, row: int) -> None:
        """End a row's conversation."""
        self._decoder.stop(row)

    @property
    def transcript(self) -> Transcript:
        """How the conversations are written."""
        return self._policy.transcript

    @property
    def thinks(self) -> bool:
        """Whether a thought is written before every action."""
        return self._text.thought_tokens > 0

    def fits(self, row: int, context: IntArray, trie: TokenTrie | None) -> bool:
        """Whether a turn, whatever is written, stays within the model's context."""
        window = self._windows[row]
        if window is None:
            used = int(self._decoder.lengths[row]) + len(self._pending[row])
        else:
            used = self._decoder.virtual(row) + len(window.before())
        most = self._text.max_tokens if trie is None else trie.longest
        if self.thinks:
            most += self._text.thought_tokens + len(self._policy.transcript.marker)
        return used + len(context) + most <= self._policy.max_length

    @torch.no_grad()
    def act(
        self,
        rows: Sequence[int],
        contexts: Sequence[IntArray],
        tries: Sequence[TokenTrie | None],
        rngs: Sequence[np.random.Generator | None],
    ) -> list[Choice]:
        """One turn.

        Args:
            rows: Distinct rows, at least one.
            contexts: New tokens of each row, as made by ``Transcript.context``.
            tries: Valid actions of each row, as made by ``Transcript.trie``; None where the action
                is free text.
            rngs: Source of randomness of each row; None = greedy: the most probable action where
                the distribution scores whole actions, else the most probable child at every
                decision (not always the most probable action), and the most probable token.

        Returns:
            One choice per row.

        Raises:
            LogitsNotFinite: If the logits of a row are not finite; ``row`` is that of the session.
        """
        turns = [
            Turn(row, context, trie, rng)
            for row, context, trie, rng in zip(rows, contexts, tries, rngs, strict=True)
        ]
        with self._policy.evaluating():
            for turn in turns:
                turn.unfed = np.concatenate([self._before(turn.row), turn.context])
            if self.thinks:
                self._think(turns)
            self._choose([turn for turn in turns if turn.trie is not None])
            self._write([turn for turn in turns if turn.trie is None])
        choices = [turn.choice() for turn in turns]
        for turn, choice in zip(turns, choices, strict=True):
            self._pending[turn.row] = turn.pending
            self._turns[turn.row] += 1
            window = self._windows[turn.row]
            if window is not None:
                wrote = np.array(choice.generation.action_ids, dtype=np.int32)
                window.add(np.concatenate([turn.context, wrote]))
        return choices

    def _before(self, row: int) -> IntArray:
        """What comes before a row's turn and is not in the cache."""
        window = self._windows[row]
        if window is None:
            return np.array(self._pending[row], dtype=np.int32)
        self._decoder.forget(row)
        return window.before()

    def _think(self, turns: Sequence[Turn]) -> None:
        """Write a thought in every row; it and the marker after it are before the action."""
        hidden_RWH = self._feed(turns, None)
        texts = write(
            self._policy,
            self._decoder,
            [turn.row for turn in turns],
            hidden_RWH[:, 0],
            sampling=self._text,
            limit=self._text.thought_tokens,
            rngs=[turn.rng for turn in turns],
        )
        marker = self._policy.transcript.marker
        for turn, text in zip(turns, texts, strict=True):
            turn.thought = text
            turn.before = (*text.tokens, *marker.tolist())
            turn.unfed = np.array([text.tokens[-1], *marker.tolist()], dtype=np.int32)

    def _write(self, turns: Sequence[Turn]) -> None:
        """Write an action of free text in every row."""
        if not turns:
            return
        texts = write(
            self._policy,
            self._decoder,
            [turn.row for turn in turns],
            self._feed(turns, None)[:, 0],
            sampling=self._text,
            limit=self._text.max_tokens,
            rngs=[turn.rng for turn in turns],
        )
        for turn, text in zip(turns, texts, strict=True):
            turn.action = text
            turn.pending = (text.tokens[-1],)

    def _feed(self, turns: Sequence[Turn], tries: Sequence[TokenTrie] | None) -> Tensor:
        """Feed what the cache has not seen; values are of the state before anything is written.

        What is happening now has taught no head yet: of two the mean is recorded.
        """
        rows, chunks = [turn.row for turn in turns], [turn.unfed for turn in turns]
        hidden_RWH = self._decoder.feed(rows, chunks, tries)
        if turns[0].value is None:
            number_R = torch.tensor([self._turns[row] for row in rows], device=hidden_RWH.device)
            values_RV = self._policy.value_head(hidden_RWH[:, 0], number_R)
            for turn, value in zip(turns, values_RV.mean(dim=-1).tolist(), strict=True):
                turn.value = value
        return hidden_RWH

    def _choose(self, turns: Sequence[Turn]) -> None:
        """Choose a valid action in every row."""
        if not turns:
            return
        tries = [turn.trie for turn in turns if turn.trie is not None]
        whole = self._policy.distribution.whole
        small = max(len(trie.tree_tokens) for trie in tries) <= _SMALL_TREE
        ahead = whole or self._record or small
        hidden_RWH = self._feed(turns, tries if ahead else None)
        walks = [Walk(trie, turn.rng) for trie, turn in zip(tries, turns, strict=True)]
        try:
            self._walk(turns, walks, hidden_RWH, ahead=ahead)
        except LogitsNotFinite as error:
            raise LogitsNotFinite(turns[error.row].row) from None
        for turn, walk in zip(turns, walks, strict=True):
            turn.walk = walk
            turn.pending = tuple(walk.tokens[walk.fed :])

    def _walk(
        self, turns: Sequence[Turn], walks: Sequence[Walk], hidden_RWH: Tensor, *, ahead: bool
    ) -> None:
        """Walk to a leaf in every row."""
        tries = [walk.trie for walk in walks]
        if self._policy.distribution.whole:
            for turn, walk, every in zip(
                turns, walks, self._policy.log_probs(hidden_RWH, tries), strict=True
            ):
                walk.jump(every)
                turn.log_probs = tuple(every.tolist()) if self._record else None
        elif ahead:
            tables = tree_log_probs(self._policy.lm, hidden_RWH, tries)
            for turn, walk, table in zip(turns, walks, tables, strict=True):
                while walk.decision >= 0:
                    walk.take(table[walk.decision])
                if self._record:
                    turn.log_probs = tuple(walk.trie.log_probs(table).tolist())
        else:
            self._descend([turn.row for turn in turns], walks, hidden_RWH[:, 0])

    def _descend(self, rows: Sequence[int], walks: Sequence[Walk], hidden_RH: Tensor) -> None:
        """Walk down all tries, feeding tokens only where there is a further decision to make."""
        undecided = [i for i, walk in enumerate(walks) if walk.decision >= 0]
        hidden_RH = hidden_RH.clone()
        while undecided:
            behind = [i for i in undecided if walks[i].fed < len(walks[i].tokens)]
            if behind:
                unfed = [np.array(walks[i].unfed(), dtype=np.int32) for i in behind]
                fed = self._decoder.feed([rows[i] for i in behind], unfed)
                hidden_RH[behind] = fed[:, 0]
            tables = node_log_probs(
                self._policy.lm,
                hidden_RH[undecided],
                [walks[i].trie for i in undecided],
                [walks[i].decision for i in undecided],
                undecided,
            )
            for i, table in zip(undecided, tables, strict=True):
                walks[i].take(table)
            undecided = [i for i in undecided if walks[i].decision >= 0]
