"""Data half: the valid actions of a step as a token trie.

The valid actions' token sequences, each followed by the end-of-action token, form a trie. A node
with more than one child is a *decision*; a node with a single child is *forced*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ActionPath:
    """An action's way through the trie.

    Attributes:
        ids: Its tokens with the end-of-action token.
        nodes: Decision number (index into ``TokenTrie.children``) of each decision on the way.
        offsets: Tokens between the last context token and each decision: 0 = the decision is made
            by the context's own last token.
        sizes: How many children each decision has, at least 2.
        children: The children of all decisions, one after the other.
        chosen: Index of the token taken among its decision's children.
        prior: Added to the children's logits; None = nothing is.
    """

    ids: IntArray
    nodes: IntArray
    offsets: IntArray
    sizes: IntArray
    children: IntArray
    chosen: IntArray
    prior: FloatArray | None


@dataclass(slots=True)
class _Node:
    parent: int
    token: int
    depth: int
    children: dict[int, int]


class TokenTrie:
    """The token trie of one step's valid actions.

    Actions with equal tokens are one leaf, of which the first one listed is the name; children are
    sorted by token, so that the order of the candidates changes nothing.

    Args:
        actions: Token ids of each action, without the end-of-action token.
        end: The end-of-action token.
        uniform_prior: Add to each child's logit the logarithm of the leaves below it.

    Attributes:
        paths: Way of each action, in their order.
        first: Index of the first action with the same tokens, for each action.
        children: Children of each decision, ascending.
        prior: What is added to the logits of each decision's children; empty = nothing is.
        next_decision: For each decision and child, the decision that follows, or -1 for a leaf.
        forced: For each decision and child, the tokens written when it is taken: the child itself
            and all forced tokens after it.
        leaf: For each decision and child, the action it ends in, or -1.
        longest: Tokens of the longest action, end included.
        root: Forced tokens before the first decision.
        root_decision: The first decision, or -1 if there is only one action.
        root_leaf: That only action, or -1.
        tree_tokens: Tokens to append to the context for every decision to have its logits:
            the nodes, other than the root, on the way to a decision; parents first.
        tree_depth: Depth of each tree token, from 1.
        tree_mask: Which tree tokens (columns) each tree token (row) attends to.
        decision_slot: Tree token whose logits make each decision; -1 = the context's last token.
    """

    def __init__(
        self, actions: Sequence[Sequence[int]], end: int, *, uniform_prior: bool = False
    ) -> None:
        if not actions:
            raise ValueError("no valid actions")
        nodes = [_Node(-1, -1, 0, {})]
        leaf_of: dict[int, int] = {}
        first, leaves = [], []
        for number, tokens in enumerate(actions):
            at = 0
            for token in (*tokens, end):
                child = nodes[at].children.get(token)
                if child is None:
                    child = len(nodes)
                    nodes.append(_Node(at, token, nodes[at].depth + 1, {}))
                    nodes[at].children[token] = child
                at = child
            leaf_of.setdefault(at, number)
            leaves.append(at)
            first.append(leaf_of[at])
        self.first = tuple(first)
        self._nodes = nodes
        self._leaf_of = leaf_of
        self._collect_decisions()
        self.prior = self._leaves_below() if uniform_prior else []
        self._collect_tree()
        self.paths = self._paths(leaves)
        self.longest = max(len(path.ids) for path in self.paths)
        del self._nodes, self._leaf_of, self._decision_nodes, self._decision_of
        self._by_ids = {path.ids.tobytes(): path for path in self.paths}

    def _collect_decisions(self) -> None:
        nodes = self._nodes
        self._decision_nodes = [i for i, node in enumerate(nodes) if len(node.children) > 1]
        self._decision_of = {node: number for number, node in enumerate(self._decision_nodes)}
        self.children: list[IntArray] = []
        self.next_decision: list[list[int]] = []
        self.forced: list[list[tuple[int, ...]]] = []
        self.leaf: list[list[int]] = []
        for at in self._decision_nodes:
            tokens = sorted(nodes[at].children)
            runs = [self._run(nodes[at].children[token]) for token in tokens]
            self.children.append(np.array(tokens, dtype=np.int32))
            self.forced.append([(token, *run[0]) for token, run in zip(tokens, runs, strict=True)])
            self.next_decision.append([run[1] for run in runs])
            self.leaf.append([run[2] for run in runs])
        self.root, self.root_decision, self.root_leaf = self._run(0)

    def _run(self, at: int) -> tuple[tuple[int, ...], int, int]:
        """Forced tokens from a node on, then the decision or the leaf they lead to."""
        tokens: list[int] = []
        while len(self._nodes[at].children) == 1:
            ((token, at),) = self._nodes[at].children.items()
            tokens.append(token)
        return tuple(tokens), self._decision_of.get(at, -1), self._leaf_of.get(at, -1)

    def _leaves_below(self) -> list[FloatArray]:
        """Logarithm of the number of leaves below each decision's children."""
        counts = np.zeros(len(self._nodes))
        counts[list(self._leaf_of)] = 1
        for at in range(len(self._nodes) - 1, 0, -1):  # children come after their parents
            counts[self._nodes[at].parent] += counts[at]
        return [
            np.log([counts[self._nodes[at].children[int(token)]] for token in tokens])
            for at, tokens in zip(self._decision_nodes, self.children, strict=True)
        ]

    def _looked_at(self) -> list[int]:
        """Nodes, other than the root, that must be fed for every decision to have its logits."""
        needed: set[int] = set()
        for at in self._decision_nodes:
            while at > 0 and at not in needed:
                needed.add(at)
                at = self._nodes[at].parent
        return sorted(needed)

    def _collect_tree(self) -> None:
        nodes = self._nodes
        order = self._looked_at()
        slot = {node: number for number, node in enumerate(order)}
        self.tree_tokens = np.array([nodes[i].token for i in order], dtype=np.int32)
        self.tree_depth = np.array([nodes[i].depth for i in order], dtype=np.int32)
        self.tree_mask = np.zeros((len(order), len(order)), dtype=bool)
        for row, node in enumerate(order):
            parent = nodes[node].parent
            if parent > 0:
                self.tree_mask[row] = self.tree_mask[slot[parent]]
            self.tree_mask[row, row] = True
        self.decision_slot = np.array(
            [slot.get(i, -1) for i in self._decision_nodes], dtype=np.int32
        )

    def _paths(self, leaves: Sequence[int]) -> tuple[ActionPath, ...]:
        paths: dict[int, ActionPath] = {}
        for leaf in leaves:
            if leaf in paths:
                continue
            way = [leaf]
            while self._nodes[way[-1]].parent >= 0:
                way.append(self._nodes[way[-1]].parent)
            way.reverse()
            ids = np.array([self._nodes[i].token for i in way[1:]], dtype=np.int32)
            offsets = [j for j in range(len(ids)) if way[j] in self._decision_of]
            numbers = [self._decision_of[way[j]] for j in offsets]
            chosen = [
                int(np.searchsorted(self.children[n], ids[j]))
                for n, j in zip(numbers, offsets, strict=True)
            ]
            arrays = [self.children[n] for n in numbers]
            paths[leaf] = ActionPath(
                ids=ids,
                nodes=np.array(numbers, dtype=np.int32),
                offsets=np.array(offsets, dtype=np.int32),
                sizes=np.array([len(array) for array in arrays], dtype=np.int32),
                children=np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32),
                chosen=np.array(chosen, dtype=np.int32),
                prior=np.concatenate([self.prior[n] for n in numbers])
                if self.prior and numbers
                else None,
            )
        return tuple(paths[leaf] for leaf in leaves)

    def path_of(self, ids: Sequence[int]) -> ActionPath | None:
        """The way of an action given by its tokens, end included; None if it is not in the trie."""
        return self._by_ids.get(np.array(ids, dtype=np.int32).tobytes())

    def log_probs(self, node_logprobs: Sequence[FloatArray]) -> FloatArray:
        """Log-probability of every action.

        Args:
            node_logprobs: Log-probabilities of the children of each decision.

        Returns:
            One per action, in their order; the exponentials sum to 1. An action listed a second
            time has -inf there: the first mention has its probability.
        """
        result = np.full(len(self.paths), -np.inf)
        for number, path in enumerate(self.paths):
            if self.first[number] == number:
                result[number] = sum(
                    node_logprobs[node][chosen]
                    for node, chosen in zip(path.nodes, path.chosen, strict=True)
                )
        return result
