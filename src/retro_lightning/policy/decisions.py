"""Behaviour half: probabilities at the decisions of tries of valid actions, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from retro_lightning.policy.actions import check_finite, log_softmax_numpy
from retro_lightning.policy.batch import pad_children
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.trie import FloatArray, TokenTrie


def child_logits(
    lm: nn.Module, hidden_DH: Tensor, vocabulary_U: Tensor, index_DC: Tensor
) -> Tensor:
    """Logits of the children of decisions; only the tokens that occur are computed.

    Args:
        lm: The causal LM.
        hidden_DH: Hidden state that each decision is made from.
        vocabulary_U: Distinct tokens among all children.
        index_DC: The children, as indices into ``vocabulary_U``; padding may be anything valid.

    Returns:
        Logits [D, C]; see ``OutputHead.some``.
    """
    if len(vocabulary_U) == 0:
        return hidden_DH.new_zeros(index_DC.shape)
    return OutputHead.of(lm).some(hidden_DH, vocabulary_U).gather(1, index_DC)


def node_log_probs(
    lm: nn.Module,
    hidden_DH: Tensor,
    tries: Sequence[TokenTrie],
    decisions: Sequence[int],
    rows: Sequence[int],
) -> list[FloatArray]:
    """Log-probabilities of the children of decisions, float64, without gradients.

    Args:
        lm: The causal LM.
        hidden_DH: Hidden state that each decision is made from.
        tries: Trie that each decision belongs to.
        decisions: Its number there.
        rows: Row that each belongs to, for the message.

    Raises:
        LogitsNotFinite: If the logits are not finite.
    """
    if not tries:
        return []
    nodes = list(zip(tries, decisions, strict=True))
    children = [trie.children[number] for trie, number in nodes]
    sizes = np.array([len(tokens) for tokens in children], dtype=np.int32)
    padded = pad_children(np.concatenate(children), sizes)
    device = hidden_DH.device
    logits_DC = child_logits(
        lm, hidden_DH, padded["vocabulary_U"].to(device), padded["children_index_DC"].to(device)
    )
    values_DC = logits_DC.detach().to("cpu", torch.float64).numpy()
    check_finite(values_DC, rows)
    return [
        log_softmax_numpy(values_DC[i, :size] + (trie.prior[number] if trie.prior else 0.0))
        for i, (size, (trie, number)) in enumerate(zip(sizes, nodes, strict=True))
    ]


def tree_log_probs(
    lm: nn.Module, hidden_RWH: Tensor, tries: Sequence[TokenTrie]
) -> list[list[FloatArray]]:
    """Log-probabilities at every decision of every row's trie, from one packed forward.

    Args:
        lm: The causal LM.
        hidden_RWH: What ``CachedDecoder.feed`` returned for these tries.
        tries: Valid actions of each row.
    """
    counts = [len(trie.children) for trie in tries]
    row_D = np.repeat(np.arange(len(tries)), counts)
    row = torch.from_numpy(row_D).to(hidden_RWH.device)
    slots = np.concatenate([trie.decision_slot for trie in tries]).astype(np.int64) + 1
    hidden_DH = hidden_RWH[row, torch.from_numpy(slots).to(hidden_RWH.device)]
    owners = [trie for trie, count in zip(tries, counts, strict=True) for _ in range(count)]
    numbers = [number for count in counts for number in range(count)]
    flat = node_log_probs(lm, hidden_DH, owners, numbers, row_D.tolist())
    ends = np.cumsum(counts)
    return [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]
