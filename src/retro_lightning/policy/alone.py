"""Behaviour half: a decoder that reads every row by itself, and every action as a row.

For models that cannot read rows of different lengths with trees of actions behind them in one
forward pass, because their attention counts slots instead of positions, or because a state runs
along the row. The same numbers, at the cost of a whole row for every branch of a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retro_lightning.policy.candidates import Packed
from retro_lightning.policy.loading import causal_lm, context_length
from retro_lightning.policy.trie import IntArray, TokenTrie

_MARK = "_reads_rows_alone"
_ROWS = 64
"""Rows of a forward pass."""


def reads_alone(lm: nn.Module) -> bool:
    """Whether a model's rows are read by themselves."""
    return bool(getattr(causal_lm(lm), _MARK, False))


def read_alone(lm: nn.Module, alone: bool) -> None:
    """Have a model's rows read by themselves, or not."""
    setattr(causal_lm(lm), _MARK, alone)


def hidden_of_rows(
    lm: nn.Module, rows: Sequence[npt.NDArray[np.int64]], prompts: Sequence[Tensor] | None
) -> Tensor:
    """Hidden states [N, T, H] of rows of tokens, padded behind; beyond the context, its last.

    Args:
        lm: The causal LM.
        rows: Tokens of each row, at least one.
        prompts: Embedding of a virtual position before each row; None = there is none.
    """
    embed = causal_lm(lm).get_input_embeddings()
    virtual = 0 if prompts is None else 1
    fits = context_length(lm) - virtual
    longest = min(max(map(len, rows)), fits)
    tokens_NT = np.zeros((len(rows), longest), dtype=np.int64)
    for n, row in enumerate(rows):
        tokens_NT[n, : min(len(row), fits)] = row[:fits]
    device = embed.weight.device
    parts = []
    for start in range(0, len(rows), _ROWS):
        tokens = torch.from_numpy(tokens_NT[start : start + _ROWS]).to(device)
        inputs: dict[str, Tensor] = {"input_ids": tokens}
        if prompts is not None:
            before = torch.stack(list(prompts[start : start + _ROWS]))[:, None]
            inputs = {"inputs_embeds": torch.cat([before, embed(tokens)], dim=1)}
        model: Any = causal_lm(lm).base_model
        parts.append(model(**inputs, use_cache=False).last_hidden_state[:, virtual:])
    return torch.cat(parts)


def packed_alone(lm: nn.Module, packed: Packed, prompts_BH: Tensor | None) -> Tensor:
    """Hidden states [B, L, H] of packed rows, where they are needed; 0 elsewhere.

    Args:
        lm: The causal LM.
        packed: Rows with trees behind them.
        prompts_BH: Embedding of a virtual position before each row; None = there is none.
    """
    tokens_BL, mask_BLL = packed.tokens_BL.cpu().numpy(), packed.mask_BLL.cpu().numpy()
    length = tokens_BL.shape[1]
    places = np.divmod(packed.edges.parent_P.cpu().numpy(), length)
    rows: list[npt.NDArray[np.int64]] = []
    owners: list[int] = []
    to: list[tuple[int, int, int, int]] = []
    for b in range(len(tokens_BL)):
        follows = (packed.positions_BL[b].cpu().numpy() == np.arange(length)) & (
            mask_BLL[b] == np.tri(length, dtype=np.bool_)
        ).all(axis=1)
        end = length if follows.all() else int(follows.argmin())
        ways = [np.arange(end)]
        ways += [np.flatnonzero(mask_BLL[b, at]) for at in places[1][places[0] == b] if at >= end]
        seen: set[int] = set()
        for way in sorted(ways[1:], key=len, reverse=True) + ways[:1]:
            new = [(b, at, len(rows), t) for t, at in enumerate(way.tolist()) if at not in seen]
            if not new or (new[-1][1] != way[-1]):
                continue  # its end lies on a longer way
            seen.update(at for _, at, _, _ in new)
            to += new
            rows.append(tokens_BL[b, way])
            owners.append(b)
    prompts = None if prompts_BH is None else [prompts_BH[b] for b in owners]
    hidden_NTH = hidden_of_rows(lm, rows, prompts)
    at_B, at_L, at_N, at_T = (
        torch.tensor(column, device=hidden_NTH.device) for column in zip(*to, strict=True)
    )
    result = hidden_NTH.new_zeros(*tokens_BL.shape, hidden_NTH.shape[2])
    picked = hidden_NTH[at_N, at_T.clamp(max=hidden_NTH.shape[1] - 1)]
    return result.index_put((at_B, at_L), picked)


class AloneDecoder:
    """In the place of ``CachedDecoder``: nothing is remembered but the tokens.

    Args:
        lm: The causal LM.
        rows: How many sequences are kept at most.

    Attributes:
        lengths: Tokens of each row so far.
    """

    def __init__(self, lm: nn.Module, *, rows: int) -> None:
        self._lm = lm
        self._tokens: dict[int, npt.NDArray[np.int64]] = {}
        self._prompts: dict[int, Tensor] = {}
        self.lengths: npt.NDArray[np.int64] = np.zeros(rows, dtype=np.int64)

    def start(self, row: int, prompt_H: Tensor | None = None) -> None:
        """Begin a sequence; see ``CachedDecoder.start``."""
        self._prompts.pop(row, None)
        if prompt_H is not None:
            self._prompts[row] = prompt_H
        self.forget(row)

    def virtual(self, row: int) -> int:
        """How many virtual positions, 0 or 1, a row begins with."""
        return int(row in self._prompts)

    def forget(self, row: int) -> None:
        """Begin a row's sequence anew, behind its virtual position if there is one."""
        self._tokens[row] = np.zeros(0, dtype=np.int64)
        self.lengths[row] = self.virtual(row)

    def stop(self, row: int) -> None:
        """Forget a row's tokens and put it out of use."""
        del self._tokens[row]

    def feed(
        self,
        rows: Sequence[int],
        chunks: Sequence[IntArray],
        tries: Sequence[TokenTrie] | None = None,
    ) -> Tensor:
        """Append tokens to rows, and look ahead at a trie; see ``CachedDecoder.feed``."""
        trees = [_ways(trie) for trie in tries] if tries is not None else [[] for _ in rows]
        paths: list[npt.NDArray[np.int64]] = []
        owners: list[int] = []
        widest = max((len(trie.tree_tokens) for trie in tries or ()), default=0)
        at_RW = np.zeros((len(rows), 1 + widest, 2), dtype=np.int64)
        for r, (row, chunk) in enumerate(zip(rows, chunks, strict=True)):
            tokens = np.concatenate([self._tokens[row], np.asarray(chunk, dtype=np.int64)])
            self._tokens[row] = tokens
            self.lengths[row] += len(chunk)
            at_RW[r] = len(paths), len(tokens) - 1
            for way in trees[r] or [np.zeros(0, dtype=np.int64)]:
                at_RW[r, 1 + way, 0] = len(paths)
                at_RW[r, 1 + way, 1] = len(tokens) + np.arange(len(way))
                ahead = way if tries is None else tries[r].tree_tokens[way]
                paths.append(np.concatenate([tokens, ahead]).astype(np.int64))
                owners.append(row)
        prompts = [self._prompts[row] for row in owners] if self._prompts else None
        hidden_NTH = hidden_of_rows(self._lm, paths, prompts)
        at = torch.from_numpy(at_RW).to(hidden_NTH.device)
        return hidden_NTH[at[..., 0], at[..., 1].clamp(max=hidden_NTH.shape[1] - 1)]


def _ways(trie: TokenTrie) -> list[npt.NDArray[np.int64]]:
    """Tree tokens on the way to each that no other lies behind, parents first."""
    mask = np.asarray(trie.tree_mask, dtype=np.bool_)
    if not len(mask):
        return []
    ends = np.flatnonzero(mask.sum(axis=0) == 1)  # seen by nobody but itself
    return [np.flatnonzero(mask[end]) for end in ends]
