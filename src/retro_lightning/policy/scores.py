"""Behaviour half: scores of whole actions from the hidden states of a packed forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retro_lightning.policy.actions import check_finite, log_softmax, log_softmax_numpy
from retro_lightning.policy.candidates import Candidates, Edges, Packed, edges, pack_bare
from retro_lightning.policy.forward import hidden_states
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.trie import FloatArray

Head = Callable[[Tensor], Tensor]
"""From hidden states [P, H] to logits [P, V] over the whole vocabulary."""

_MOST_LOGITS = 1 << 24
"""Logits held at a time: 64 MiB. With more, they are computed again in the backward pass."""


class WholeActions:
    """Scores the valid actions of states as wholes.

    Args:
        lm: The causal LM.
    """

    def __init__(self, lm: nn.Module) -> None:
        self._lm = lm
        self._head = OutputHead.of(lm)

    def table(self, candidates: Candidates, hidden_BLH: Tensor, mask_DC: Tensor) -> Tensor:
        """Log-probabilities of all candidates of each state, with gradient.

        Args:
            candidates: All valid actions.
            hidden_BLH: Hidden states of ``candidates.packed``.
            mask_DC: True where a state has a candidate.

        Returns:
            [D, C], natural logarithms, -inf where the mask is False.
        """
        where = candidates.packed.edges
        scores_K = self._scores(where, hidden_BLH)
        if candidates.bare is not None:
            scores_K = scores_K - self._bare_scores(candidates.bare)[candidates.bare_K]
        scores_DC = scores_K.new_zeros(mask_DC.shape)
        scores_DC = scores_DC.index_put((where.state_K, where.column_K), scores_K)
        return log_softmax(scores_DC, mask_DC)

    @torch.no_grad()
    def log_probs(self, hidden_RWH: Tensor, tries: Sequence[ScoredTrie]) -> list[FloatArray]:
        """Log-probability of every valid action listed in each row, float64, without gradient.

        Args:
            hidden_RWH: Hidden states of each row's state and, after it, its tree's tokens.
            tries: Valid actions of each row.

        Raises:
            LogitsNotFinite: If the logits are not finite.
        """
        state_at = np.arange(len(tries)) * hidden_RWH.shape[1]
        where = edges(tries, state_at.tolist(), (state_at + 1).tolist()).to(hidden_RWH.device)
        scores_K = self._scores(where, hidden_RWH)
        distinct = list({id(trie): trie for trie in tries if trie.bare is not None}.values())
        if distinct:
            bare_K = self._bare_scores(pack_bare(distinct).to(hidden_RWH.device))
            of_each = torch.split(bare_K, [len(trie.distinct) for trie in distinct])
            bare = {id(trie): scores for trie, scores in zip(distinct, of_each, strict=True)}
            scores_K = scores_K - torch.cat([bare[id(trie)] for trie in tries])
        scores = scores_K.to("cpu", torch.float64).numpy()
        counts = [len(trie.distinct) for trie in tries]
        check_finite(scores, np.repeat(np.arange(len(tries)), counts).tolist())
        ends = np.cumsum(counts)
        result = []
        for trie, own in zip(tries, np.split(scores, ends[:-1]), strict=True):
            every = np.full(len(trie.first), -np.inf)
            every[trie.distinct] = log_softmax_numpy(own)
            result.append(every)
        return result

    def _bare_scores(self, bare: Packed) -> Tensor:
        hidden_NLH = hidden_states(self._lm, bare.tokens_BL, packed=bare)
        return self._scores(bare.edges, hidden_NLH)

    def _scores(self, where: Edges, hidden_BLH: Tensor) -> Tensor:
        sums_K = summed_log_probs(
            hidden_BLH.flatten(0, 1), where, self._head, self._head.vocabulary
        )
        return sums_K / where.divisor_K


def summed_log_probs(hidden_XH: Tensor, edges: Edges, head: Head, vocabulary: int) -> Tensor:
    """Sum of the log-probabilities of each candidate's tokens, over the whole vocabulary.

    Args:
        hidden_XH: Flattened hidden states that ``edges`` point into.
        edges: The candidates.
        head: The output embeddings.
        vocabulary: How many logits the head makes of one hidden state.

    Returns:
        [K], float32; sums of natural logarithms, at most 0.
    """
    hidden_PH = hidden_XH.index_select(0, edges.parent_P)
    rows = max(1, _MOST_LOGITS // vocabulary)
    if len(hidden_PH) <= rows:
        logprobs_E = _token_log_probs(hidden_PH, edges.edge_parent_E, edges.edge_token_E, head)
    else:
        parts = []
        bounds = torch.arange(0, len(hidden_PH) + rows, rows, device=hidden_PH.device)
        ends = torch.searchsorted(edges.edge_parent_E, bounds).tolist()
        for number, chunk_PH in enumerate(torch.split(hidden_PH, rows)):
            span = slice(ends[number], ends[number + 1])
            parent_E = edges.edge_parent_E[span] - number * rows
            token_E = edges.edge_token_E[span]
            parts.append(
                checkpoint(_token_log_probs, chunk_PH, parent_E, token_E, head, use_reentrant=False)
            )
        logprobs_E = torch.cat(parts)
    zeros_K = torch.zeros(len(edges.state_K), device=hidden_XH.device)
    return zeros_K.index_add(0, edges.member_candidate_M, logprobs_E[edges.member_edge_M])


def _token_log_probs(hidden_PH: Tensor, parent_E: Tensor, token_E: Tensor, head: Head) -> Tensor:
    logits_PV = head(hidden_PH).float()
    total_P = logits_PV.logsumexp(dim=-1)
    result: Tensor = logits_PV[parent_E, token_E] - total_P[parent_E]
    return result
