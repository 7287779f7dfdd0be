"""Behaviour half: distributions that score every valid action as a whole.

Each valid action a has the tokens t1 … tn, the end-of-action token included. With log p(t | …) of
the language model over its whole vocabulary, its score is

=================  ==========================================================================
``sequence``       Σ log p(ti | context, t<i): the softmax is the model's conditional given "what
                   comes next is a valid action" (GLAM, Carta et al. 2023, arXiv 2302.02662)
``token_mean``     the same divided by n (TWOSOME, Tan et al. 2024, arXiv 2401.14151)
``word_mean``      the same divided by the number of words (TWOSOME)
``pmi``            ``sequence`` minus the score without context: what the context adds (Holtzman et
                   al. 2021, arXiv 2104.08315, with "Action:" as the premise)
=================  ==========================================================================

and the probabilities are a softmax of the scores over the valid actions. All actions' tokens are
fed to the model, shared beginnings once, behind the state (``candidates.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retro_lightning.policy.actions import ActionDistribution, TrieConstrained
from retro_lightning.policy.trie import IntArray, TokenTrie


class ScoredTrie(TokenTrie):
    """A token trie whose every token is scored, forced ones too.

    Args:
        actions: Token ids of each action, without the end-of-action token.
        end: The end-of-action token.
        divisors: What each action's summed log-probability is divided by.
        bare: Tokens of the context whose score is subtracted; None = none is.

    Attributes:
        distinct: Indices of the first mentions of actions, which are the candidates.
        divisors: Of each candidate.
        bare: See above.
        edge_slot: Tree token that each token of the trie is drawn after; -1 = the context's last.
        edge_token: The tokens of the trie, one for each node but the root.
        member_edge: Tokens that make up the candidates, one candidate after the other.
        member_candidate: Candidate that each of them belongs to.
    """

    def __init__(
        self,
        actions: Sequence[Sequence[int]],
        end: int,
        *,
        divisors: Sequence[float],
        bare: IntArray | None = None,
    ) -> None:
        super().__init__(actions, end)
        self.distinct = [number for number, first in enumerate(self.first) if first == number]
        self.divisors = np.array([divisors[number] for number in self.distinct])
        self.bare = bare
        self._candidate_by_ids = {
            self.paths[number].ids.tobytes(): k for k, number in enumerate(self.distinct)
        }

    def _looked_at(self) -> list[int]:
        return [at for at, node in enumerate(self._nodes) if at > 0 and node.children]

    def _collect_tree(self) -> None:
        super()._collect_tree()
        slot = {node: number for number, node in enumerate(self._looked_at())}
        nodes = self._nodes[1:]
        self.edge_slot = np.array([slot.get(node.parent, -1) for node in nodes], dtype=np.int64)
        self.edge_token = np.array([node.token for node in nodes], dtype=np.int64)
        edges: list[int] = []
        candidates: list[int] = []
        for candidate, leaf in enumerate(self._leaf_of):  # in the order of first mentions
            at = leaf
            while at > 0:
                edges.append(at - 1)
                candidates.append(candidate)
                at = self._nodes[at].parent
        self.member_edge = np.array(edges, dtype=np.int64)
        self.member_candidate = np.array(candidates, dtype=np.int64)

    def candidate_of(self, ids: IntArray) -> int:
        """The candidate with these tokens, end included."""
        return self._candidate_by_ids[ids.tobytes()]


class SequenceScore(ActionDistribution):
    """Softmax over the summed token log-probabilities of the actions.

    Longer actions are less likely, as they are to the language model.
    """

    kind = "sequence"
    whole = True

    def settings(self) -> dict[str, Any]:
        """See ``ActionDistribution``."""
        return {}

    def trie(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, end: int, bare: IntArray
    ) -> TokenTrie:
        """See ``ActionDistribution``."""
        return ScoredTrie(ids, end, divisors=[1.0] * len(texts))


class TokenMean(SequenceScore):
    """Softmax over the mean token log-probabilities of the actions.

    Takes the length out of the score, and with it most of the differences: the more tokens, the
    flatter the distribution.
    """

    kind = "token_mean"

    def trie(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, end: int, bare: IntArray
    ) -> TokenTrie:
        """See ``ActionDistribution``."""
        return ScoredTrie(ids, end, divisors=[float(len(tokens) + 1) for tokens in ids])


class WordMean(SequenceScore):
    """Softmax over the summed token log-probabilities divided by the number of words.

    As ``TokenMean``, but how a tokenizer cuts a word into pieces doesn't matter.
    """

    kind = "word_mean"

    def trie(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, end: int, bare: IntArray
    ) -> TokenTrie:
        """See ``ActionDistribution``."""
        return ScoredTrie(ids, end, divisors=[float(max(1, len(t.split()))) for t in texts])


class PointwiseMutualInformation(SequenceScore):
    """Softmax over how much more likely the context makes the actions.

    An action that is a frequent phrase anyway gains nothing by that. The context left out is
    everything but the words "Action:"; scoring without it costs one more forward pass over the
    actions.
    """

    kind = "pmi"

    def trie(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, end: int, bare: IntArray
    ) -> TokenTrie:
        """See ``ActionDistribution``."""
        return ScoredTrie(ids, end, divisors=[1.0] * len(texts), bare=bare)


OURS: dict[str, type[ActionDistribution]] = {
    kind.kind: kind
    for kind in (TrieConstrained, SequenceScore, TokenMean, WordMean, PointwiseMutualInformation)
}
"""What a policy directory may name; a class of your own is passed to ``Policy.load``."""
