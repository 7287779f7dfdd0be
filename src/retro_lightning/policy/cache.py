"""Behaviour half: a key-value cache with one row per environment, and forward passes through it.

Each row keeps its tokens in slots 0, 1, 2, … without holes: new tokens are written in place behind
the row's own last one, whatever the other rows do. Padding is written further behind, where it is
out of sight and overwritten by the row's next tokens. The rows in use lie together at the front,
so that a pass over all of them copies nothing: when one ends, the last one moves into its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from retro_lightning.policy.trie import IntArray, TokenTrie

_GROWTH = 128


class _Write:
    """Where the forward pass now running writes to and reads from, shared by all layers."""

    places_R1: Tensor
    slots_RQ: Tensor
    every: bool
    visible: int
    capacity: int


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, ``[rows, slots, heads, head size]``."""

    is_sliding = False

    def __init__(self, rows: int, write: _Write) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows, self._write = rows, write

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, or grow to the capacity that the write asks for."""
        self.keys = self._grown(self.keys, key_states)
        self.values = self._grown(self.values, value_states)
        self.is_initialized = True

    def _grown(self, old: Tensor | None, like: Tensor) -> Tensor:
        heads, size = like.shape[1], like.shape[3]
        new = like.new_zeros(self._rows, self._write.capacity, heads, size)
        if old is not None:
            new[:, : old.shape[1]] = old
        return new

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens into their slots; return what the queries may look at."""
        write = self._write
        if self.keys is None or self.keys.shape[1] < write.capacity:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys[write.places_R1, write.slots_RQ] = key_states.transpose(1, 2)
        self.values[write.places_R1, write.slots_RQ] = value_states.transpose(1, 2)
        keys, values = self.keys[:, : write.visible], self.values[:, : write.visible]
        if write.every:
            count = len(write.places_R1)
            keys, values = keys[:count], values[:count]
        else:
            places = write.places_R1[:, 0]
            keys, values = keys[places], values[places]
        return keys.transpose(1, 2), values.transpose(1, 2)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of one row over another."""
        if self.keys is not None and self.values is not None:
            self.keys[target, :length] = self.keys[source, :length]
            self.values[target, :length] = self.values[source, :length]

    def get_seq_length(self) -> int:
        """Not meaningful: every row has its own; positions are always given explicitly."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Not used: the mask is always given explicitly."""
        return self._write.visible, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class CachedDecoder:
    """Feeds tokens to a decoder row by row, remembering keys and values.

    Args:
        decoder: The model below the output embeddings; returns ``last_hidden_state``.
        layers: Its number of attention layers.
        rows: How many sequences are kept at most.
        max_length: Most tokens of a sequence.

    Attributes:
        lengths: Tokens of each row so far.
    """

    def __init__(self, decoder: Any, *, layers: int, rows: int, max_length: int) -> None:
        self._decoder, self._max_length = decoder, max_length
        weight = next(decoder.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self._write = _Write()
        self._write.capacity = _GROWTH
        self._layers = [_SlotLayer(rows, self._write) for _ in range(layers)]
        self._cache = Cache(layers=[*self._layers])
        self._rows: list[int] = []
        self._places: npt.NDArray[np.int64] = np.full(rows, -1)
        self.lengths: npt.NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self._virtual = self.lengths.copy()

    def start(self, row: int, prompt_H: Tensor | None = None) -> None:
        """Begin a sequence in a row that is not in use.

        Args:
            row: The row.
            prompt_H: Embedding of a virtual position before the first token; None = there is none.
        """
        assert self._places[row] < 0
        self._places[row] = len(self._rows)
        self._rows.append(row)
        self.lengths[row] = self._virtual[row] = 0
        if prompt_H is not None:
            first = np.zeros((1, 1), dtype=np.int64)
            visible = np.ones((1, 1, 1), dtype=np.bool_)
            embeddings = {"inputs_embeds": prompt_H[None, None]}
            self._forward(self._places[[row]], embeddings, first, first, visible)
            self.lengths[row] = self._virtual[row] = 1

    def virtual(self, row: int) -> int:
        """How many virtual positions, 0 or 1, a row begins with."""
        return int(self._virtual[row])

    def forget(self, row: int) -> None:
        """Begin a row's sequence anew, behind its virtual position if there is one."""
        self.lengths[row] = self._virtual[row]

    def stop(self, row: int) -> None:
        """Forget a row's tokens and put it out of use."""
        place, last = int(self._places[row]), self._rows.pop()
        if last != row:
            for layer in self._layers:
                layer.move(len(self._rows), place, int(self.lengths[last]))
            self._rows[place] = last
            self._places[last] = place
        self._places[row] = -1

    def feed(
        self,
        rows: Sequence[int],
        chunks: Sequence[IntArray],
        tries: Sequence[TokenTrie] | None = None,
    ) -> Tensor:
        """Append tokens to rows, and look ahead at the decisions of a trie.

        Args:
            rows: Distinct rows.
            chunks: Tokens of each, at least one.
            tries: Valid actions of each row: their tree tokens see the row and their own ancestors,
                and are forgotten afterwards.

        Returns:
            Hidden states ``[R, 1 + most tree tokens, H]``: after the chunk's last token, then at
            the tree tokens.
        """
        places_R = self._places[np.asarray(rows)]
        assert (places_R >= 0).all()
        order = np.argsort(places_R)
        ordered = self._feed(
            np.asarray(rows)[order],
            [chunks[i] for i in order],
            [tries[i] for i in order] if tries is not None else [],
        )
        return ordered[torch.from_numpy(np.argsort(order)).to(ordered.device)]

    def _feed(
        self,
        rows_R: npt.NDArray[np.int64],
        chunks: Sequence[IntArray],
        tries: Sequence[TokenTrie],
    ) -> Tensor:
        starts_R = self.lengths[rows_R]
        news_R = np.array([len(chunk) for chunk in chunks])
        trees_R = np.array([len(trie.tree_tokens) for trie in tries] or 0 * news_R)
        columns = np.arange(int((news_R + trees_R).max()))
        tokens_RQ = np.zeros((len(rows_R), len(columns)), dtype=np.int64)
        flat = [
            part
            for i, chunk in enumerate(chunks)
            for part in ((chunk, tries[i].tree_tokens) if tries else (chunk,))
        ]
        tokens_RQ[columns < (news_R + trees_R)[:, None]] = np.concatenate(flat)
        slots_RQ = starts_R[:, None] + columns
        positions_RQ = slots_RQ.copy()
        visible = int((starts_R + news_R + trees_R).max())
        mask_RQK = np.arange(visible) <= slots_RQ[..., None]
        for i, trie in enumerate(tries):
            if trees_R[i]:
                end = starts_R[i] + news_R[i]
                tree = slice(news_R[i], news_R[i] + trees_R[i])
                positions_RQ[i, tree] = end - 1 + trie.tree_depth
                mask_RQK[i, tree, end : end + trees_R[i]] = trie.tree_mask
        places_R = self._places[rows_R]
        positions_RQ = np.minimum(positions_RQ, self._max_length - 1)  # of padding, or beyond
        inputs = {"input_ids": torch.from_numpy(tokens_RQ).to(self._device)}
        hidden_RQH = self._forward(places_R, inputs, slots_RQ, positions_RQ, mask_RQK)
        self.lengths[rows_R] += news_R
        wanted_RW = (news_R - 1)[:, None] + np.arange(1 + int(trees_R.max()))
        wanted = torch.from_numpy(np.minimum(wanted_RW, len(columns) - 1)).to(hidden_RQH.device)
        return hidden_RQH[torch.arange(len(rows_R), device=wanted.device)[:, None], wanted]

    def _forward(
        self,
        places_R: npt.NDArray[np.int64],
        inputs: dict[str, Tensor],
        slots_RQ: npt.NDArray[np.int64],
        positions_RQ: npt.NDArray[np.int64],
        mask_RQK: npt.NDArray[np.bool_],
    ) -> Tensor:
        device = self._device
        write = self._write
        write.places_R1 = torch.from_numpy(places_R).to(device)[:, None]
        write.slots_RQ = torch.from_numpy(slots_RQ).to(device)
        write.every = len(places_R) == len(self._rows)
        write.visible = mask_RQK.shape[2]
        needed = int(slots_RQ.max()) + 1
        if needed > write.capacity:
            write.capacity = max(needed, write.capacity + write.capacity // 2)
        bias = torch.zeros(mask_RQK.shape, dtype=self._dtype, device=device)
        bias.masked_fill_(~torch.from_numpy(mask_RQK).to(device), torch.finfo(self._dtype).min)
        hidden: Tensor = self._decoder(
            **inputs,
            attention_mask=bias[:, None],
            position_ids=torch.from_numpy(positions_RQ).to(device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden
