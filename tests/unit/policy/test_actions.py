"""The trie-constrained distribution against naive definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.policy.actions import log_softmax, log_softmax_numpy
from retro_lightning.policy.trie import TokenTrie

END = 9
TOKENS = st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple)
MENUS = st.lists(TOKENS, min_size=1, max_size=12)


def logit(prefix: tuple[int, ...], token: int) -> float:
    """An arbitrary language model: a number for every prefix and next token."""
    return float(np.sin(hash((prefix, token)) % 1000) * 3)


def naive_log_prob(action: tuple[int, ...], menu: list[tuple[int, ...]]) -> float:
    """Walks the prefix of one candidate, comparing with all others at each token."""
    total = 0.0
    whole = (*action, END)
    for j, token in enumerate(whole):
        siblings = {
            (*other, END)[j] for other in menu if (*other, END)[:j] == whole[:j] and len(other) >= j
        }
        logits = {sibling: logit(whole[:j], sibling) for sibling in siblings}
        total += logits[token] - np.log(sum(np.exp(v) for v in logits.values()))
    return total


def tables(trie: TokenTrie) -> list[np.ndarray]:
    """Log-probabilities at every decision, the prefixes being read off the actions' paths."""
    result: list[np.ndarray] = [np.zeros(0)] * len(trie.children)
    for path in trie.paths:
        for node, offset in zip(path.nodes, path.offsets, strict=True):
            prefix = tuple(path.ids[:offset].tolist())
            logits = np.array([logit(prefix, int(c)) for c in trie.children[node]])
            result[node] = log_softmax_numpy(logits)
    return result


@settings(deadline=None, max_examples=200)
@given(MENUS)
def test_equals_the_naive_scorer_and_sums_to_one(menu: list[tuple[int, ...]]) -> None:
    trie = TokenTrie(menu, END)
    ours = trie.log_probs(tables(trie))
    for number, action in enumerate(menu):
        if menu.index(action) == number:
            assert ours[number] == pytest.approx(naive_log_prob(action, menu), abs=1e-9)
        else:
            assert ours[number] == -np.inf
    assert np.exp(ours).sum() == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(MENUS, st.randoms())
def test_order_of_candidates_changes_nothing(menu: list[tuple[int, ...]], random) -> None:
    shuffled = list(menu)
    random.shuffle(shuffled)
    one, two = TokenTrie(menu, END), TokenTrie(shuffled, END)
    p, q = np.exp(one.log_probs(tables(one))), np.exp(two.log_probs(tables(two)))
    for action in set(menu):
        assert p[menu.index(action)] == q[shuffled.index(action)]
        a, b = one.paths[menu.index(action)], two.paths[shuffled.index(action)]
        for name in ("ids", "offsets", "sizes", "children", "chosen"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@settings(deadline=None, max_examples=100)
@given(MENUS)
def test_walks_decode_to_exactly_the_valid_actions(menu: list[tuple[int, ...]]) -> None:
    trie = TokenTrie(menu, END)
    leaves: list[tuple[int, tuple[int, ...]]] = []

    def walk(tokens: tuple[int, ...], decision: int, leaf: int) -> None:
        if decision < 0:
            leaves.append((leaf, tokens))
            return
        for child in range(len(trie.children[decision])):
            walk(
                tokens + tuple(trie.forced[decision][child]),
                trie.next_decision[decision][child],
                trie.leaf[decision][child],
            )

    walk(trie.root, trie.root_decision, trie.root_leaf)
    assert sorted(tokens for _, tokens in leaves) == sorted({(*action, END) for action in menu})
    for leaf, tokens in leaves:
        assert (*menu[leaf], END) == tokens
        assert menu.index(menu[leaf]) == leaf


@settings(deadline=None, max_examples=100)
@given(MENUS)
def test_tree_tokens_spell_the_prefix_of_every_decision(menu: list[tuple[int, ...]]) -> None:
    trie = TokenTrie(menu, END)
    for path in trie.paths:
        for node, offset in zip(path.nodes, path.offsets, strict=True):
            slot = trie.decision_slot[node]
            seen = np.flatnonzero(trie.tree_mask[slot]) if slot >= 0 else np.zeros(0, dtype=int)
            np.testing.assert_array_equal(trie.tree_tokens[seen], path.ids[:offset])
            np.testing.assert_array_equal(trie.tree_depth[seen], np.arange(1, offset + 1))


def test_prefixes_and_forced_tokens() -> None:
    # 1 | 1 2 | 1 2 3: forced 1, then end or 2, then end or 3, then a forced end.
    trie = TokenTrie([(1,), (1, 2), (1, 2, 3)], END)
    assert trie.root == (1,)
    assert [children.tolist() for children in trie.children] == [[2, END], [3, END]]
    assert [path.offsets.tolist() for path in trie.paths] == [[1], [1, 2], [1, 2]]
    half = np.log([0.5, 0.5])
    np.testing.assert_allclose(np.exp(trie.log_probs([half, half])), [0.5, 0.25, 0.25])


def test_one_action_needs_no_decision() -> None:
    trie = TokenTrie([(1, 2)], END)
    assert trie.root == (1, 2, END)
    assert trie.root_leaf == 0
    assert len(trie.tree_tokens) == 0
    assert trie.log_probs([]).tolist() == [0.0]


def test_padding_adds_nothing_to_a_candidate() -> None:
    # The bug of a published peer: pad positions added to a score. Whatever stands in the pads, the
    # probabilities are those of the real children: softmax(0, log 3) = 1/4, 3/4.
    mask = torch.tensor([[True, True, False, False]])
    for pad in (0.0, 50.0, float("nan"), float("inf")):
        logits = torch.tensor([[0.0, float(np.log(3.0)), pad, pad]])
        probs = log_softmax(logits, mask).exp()
        torch.testing.assert_close(probs, torch.tensor([[0.25, 0.75, 0.0, 0.0]]))


def test_many_candidates_are_all_there() -> None:
    menu = list(itertools.product(range(5), repeat=4))[:500]
    trie = TokenTrie(menu, END)
    assert np.exp(trie.log_probs(tables(trie))).sum() == pytest.approx(1.0, abs=1e-12)


def test_no_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="no valid actions"):
        TokenTrie([], END)
