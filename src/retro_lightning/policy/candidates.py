"""Data half: all valid actions of many states in one forward pass.

A packed row is a sequence of tokens followed by the trees of actions of its states. A tree token
sees the sequence up to its state, and its own ancestors in the tree; its position is what it would
be if it came right after the state. One forward pass over the row is then the same computation as
one for every action of every state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.trie import IntArray

LongArray = npt.NDArray[np.int64]
_NONE: LongArray = np.zeros(0, dtype=np.int64)


@dataclass(slots=True, kw_only=True)
class Edges:
    """Which tokens make up the K candidates of N states, and where they are drawn from.

    Attributes:
        parent_P: Distinct positions, in flattened hidden states, that tokens are drawn after.
        edge_parent_E: Of each token, index into ``parent_P``; ascending.
        edge_token_E: The tokens.
        member_edge_M: Tokens of the candidates, one candidate after the other.
        member_candidate_M: Candidate that each of them belongs to.
        divisor_K: What each candidate's sum is divided by.
        state_K: State of each candidate.
        column_K: Number of each candidate among its state's.
    """

    parent_P: Tensor
    edge_parent_E: Tensor
    edge_token_E: Tensor
    member_edge_M: Tensor
    member_candidate_M: Tensor
    divisor_K: Tensor
    state_K: Tensor
    column_K: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Edges:
        """The same on another device."""
        return Edges(**moved(self, device, non_blocking))


def edges(tries: Sequence[ScoredTrie], state_at: Sequence[int], tree_at: Sequence[int]) -> Edges:
    """Locate the candidates of N states in flattened hidden states.

    Args:
        tries: Valid actions of each state.
        state_at: Position of each state's last token.
        tree_at: Position of the first of its tree's tokens; the others follow.
    """
    counts = [len(trie.edge_token) for trie in tries]
    candidates = [len(trie.distinct) for trie in tries]
    first_edge, first_candidate = _starts(counts), _starts(candidates)
    drawn_after = [
        np.where(trie.edge_slot < 0, state, tree + trie.edge_slot)
        for trie, state, tree in zip(tries, state_at, tree_at, strict=True)
    ]
    parent_P, edge_parent_E = np.unique(_joined(drawn_after), return_inverse=True)
    order = np.argsort(edge_parent_E, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    members = [trie.member_edge + start for trie, start in zip(tries, first_edge, strict=True)]
    owners = [
        trie.member_candidate + start for trie, start in zip(tries, first_candidate, strict=True)
    ]
    divisors = [trie.divisors for trie in tries]
    arrays = {
        "parent_P": parent_P,
        "edge_parent_E": edge_parent_E[order],
        "edge_token_E": _joined([trie.edge_token for trie in tries])[order],
        "member_edge_M": rank[_joined(members)],
        "member_candidate_M": _joined(owners),
        "divisor_K": np.concatenate(divisors or [np.zeros(0)]).astype(np.float32),
        "state_K": np.repeat(np.arange(len(tries)), candidates),
        "column_K": _joined([np.arange(count) for count in candidates]),
    }
    return Edges(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass(slots=True, kw_only=True)
class Packed:
    """Rows of tokens with trees behind them.

    Attributes:
        tokens_BL: The sequences, each followed by its trees, padded with 0.
        positions_BL: Position of each token.
        mask_BLL: What each token (second to last dimension) attends to.
        edges: Where the candidates are in the flattened hidden states [B * L, H].
    """

    tokens_BL: Tensor
    positions_BL: Tensor
    mask_BLL: Tensor
    edges: Edges

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Packed:
        """The same on another device."""
        return Packed(**moved(self, device, non_blocking))


def pack(
    sequences: Sequence[IntArray],
    states: Sequence[Sequence[int]],
    tries: Sequence[Sequence[ScoredTrie]],
) -> Packed:
    """Put trees behind sequences.

    Args:
        sequences: Tokens of each row.
        states: Positions of each row's states.
        tries: Valid actions of each of these states.
    """
    trees = [sum(len(trie.tree_tokens) for trie in row) for row in tries]
    longest = max(len(tokens) + tree for tokens, tree in zip(sequences, trees, strict=True))
    shape = (len(sequences), longest)
    tokens_BL, positions_BL = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    mask_BLL = np.zeros((*shape, longest), np.bool_)
    mask_BLL[:] = np.tri(longest, dtype=np.bool_)
    state_at: list[int] = []
    tree_at: list[int] = []
    for row, (tokens, places, menus) in enumerate(zip(sequences, states, tries, strict=True)):
        end = len(tokens)
        tokens_BL[row, :end], positions_BL[row, :end] = tokens, np.arange(end)
        for state, trie in zip(places, menus, strict=True):
            tree = slice(end, end + len(trie.tree_tokens))
            tokens_BL[row, tree] = trie.tree_tokens
            positions_BL[row, tree] = state + trie.tree_depth
            mask_BLL[row, tree, state + 1 :] = False
            mask_BLL[row, tree, tree] = trie.tree_mask
            state_at.append(row * longest + state)
            tree_at.append(row * longest + end)
            end = tree.stop
    return Packed(
        tokens_BL=torch.from_numpy(tokens_BL),
        positions_BL=torch.from_numpy(positions_BL),
        mask_BLL=torch.from_numpy(mask_BLL),
        edges=edges([trie for row in tries for trie in row], state_at, tree_at),
    )


def pack_bare(tries: Sequence[ScoredTrie]) -> Packed:
    """Each trie behind the context that says nothing; the tries must have one."""
    contexts = [trie.bare for trie in tries if trie.bare is not None]
    states = [[len(context) - 1] for context in contexts]
    return pack(contexts, states, [[trie] for trie in tries])


@dataclass(slots=True, kw_only=True)
class Candidates:
    """All valid actions at the states of a batch of trajectories, for scoring them as a whole.

    Attributes:
        packed: The trajectories with their actions behind them.
        bare: The distinct sets of actions behind the context that says nothing; None = not needed.
        bare_K: Of each candidate, which candidate of ``bare`` it is.
    """

    packed: Packed
    bare: Packed | None
    bare_K: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Candidates:
        """The same on another device."""
        return Candidates(**moved(self, device, non_blocking))


def candidates(
    sequences: Sequence[IntArray],
    states: Sequence[IntArray],
    tries: Sequence[Sequence[ScoredTrie | None]],
) -> Candidates:
    """Collect the candidates of a batch.

    Args:
        sequences: Tokens of each trajectory.
        states: Positions of the states of all its steps.
        tries: Valid actions at each step; None where there is nothing to score.
    """
    menus = [[trie for trie in row if trie is not None] for row in tries]
    places = [
        [int(position) for position, trie in zip(at, row, strict=True) if trie is not None]
        for at, row in zip(states, tries, strict=True)
    ]
    flat = [trie for row in menus for trie in row]
    distinct = list({id(trie): trie for trie in flat if trie.bare is not None}.values())
    starts = _starts([len(trie.distinct) for trie in distinct])
    start = {id(trie): first for trie, first in zip(distinct, starts, strict=True)}
    bare_K = [start[id(trie)] + np.arange(len(trie.distinct)) for trie in flat if id(trie) in start]
    return Candidates(
        packed=pack(sequences, places, menus),
        bare=pack_bare(distinct) if distinct else None,
        bare_K=torch.from_numpy(_joined(bare_K)),
    )


def moved(record: Any, device: torch.device | str, non_blocking: bool) -> dict[str, Any]:
    """Fields of a record of tensors, and of records of tensors, on another device."""
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    kinds = Tensor | Edges | Packed | Candidates
    return {
        name: value.to(device, non_blocking=non_blocking) if isinstance(value, kinds) else value
        for name, value in values.items()
    }


def _starts(counts: Sequence[int]) -> LongArray:
    """Where each of consecutive runs begins."""
    return np.cumsum([0, *counts], dtype=np.int64)[:-1]


def _joined(arrays: Sequence[LongArray]) -> LongArray:
    return np.concatenate(arrays) if arrays else _NONE
