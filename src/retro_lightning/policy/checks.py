"""Behaviour half: what a language model must be like to be the policy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retro_lightning.policy.alone import read_alone
from retro_lightning.policy.candidates import pack
from retro_lightning.policy.forward import decoder, hidden_states, turn_by_turn
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.loading import causal_lm, context_length
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.trie import IntArray, TokenTrie

_LENGTH = 8
"""Tokens of the rows that a model is tried on."""
_ROOM = 1e-2
"""Relative difference of hidden states that rounding may explain, TF32 included ..."""
_ROOM_EPS = 8
"""... or this many units in the last place, where weights are held in fewer bits."""

_INSTEAD = (
    "use a model that attends to all that came before by rotary or learnt positions, such as "
    "Llama, Qwen3 or GPT-2"
)


@torch.no_grad()
def check_model(lm: nn.Module, tokens: int) -> None:
    """Refuse models that would be scored wrongly; costs five forward passes of two short rows.

    Args:
        lm: The causal LM.
        tokens: How many tokens its tokenizer has.

    Raises:
        ValueError: If its logits are not finite, or are not its output embeddings applied to hidden
            states, if hidden states are others once rows of different lengths and trees of actions
            share a forward pass, or if the tokenizer has more tokens than the model has embeddings.
    """
    model = causal_lm(lm)
    name, known = type(model).__name__, model.get_input_embeddings().num_embeddings
    if tokens > known:
        raise ValueError(
            f"the tokenizer has {tokens} tokens but {name} has embeddings for "
            f"{known}: use the model's own tokenizer, or resize its embeddings"
        )
    length = min(_LENGTH, context_length(lm))
    ids_BT = (np.arange(length) + np.array([[0], [3]])) % known
    tokens_BT = torch.from_numpy(ids_BT).to(next(lm.parameters()).device)
    training = lm.training
    lm.eval()
    try:
        hidden_BTH = _check_logits(lm, tokens_BT)
        if length == _LENGTH:
            _choose_rows(lm, ids_BT.astype(np.int32), hidden_BTH)
    finally:
        lm.train(training)


def _choose_rows(lm: nn.Module, ids_BT: npt.NDArray[np.int32], plain_BTH: Tensor) -> None:
    """Have rows share forward passes if the model can read them so, else each alone."""
    name = type(causal_lm(lm)).__name__
    # Rows as short as the probe's do not meet such a limit.
    kept = getattr(causal_lm(lm).config.get_text_config(), "keep_window_size", None)
    if kept is not None:
        raise ValueError(
            f"{name} attends to {kept} keys at most (keep_window_size), which ones depends on "
            f"tokens that come after; it cannot be the policy: {_INSTEAD}"
        )
    read_alone(lm, False)
    try:
        _check_packed(lm, ids_BT, plain_BTH, f"{name} cannot read rows that share a forward pass")
    except ValueError as error:
        reason = str(error)
    else:
        return
    read_alone(lm, True)
    _check_packed(lm, ids_BT, plain_BTH, f"{name} reads a token otherwise when others follow it")
    warnings.warn(
        f"{name} reads every row alone and every action as a row, which is several times slower: "
        f"{reason}",
        stacklevel=3,
    )


def _check_logits(lm: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Logits must be finite, and a product; returns hidden states of a plain forward pass."""
    model = causal_lm(lm)
    with _one_sentence(f"{type(model).__name__} is no decoder below output embeddings"):
        hidden_BTH: Tensor = decoder(lm)(input_ids=tokens_BT, use_cache=False).last_hidden_state
        ours = OutputHead.of(lm)(hidden_BTH)
        theirs = lm(input_ids=tokens_BT, use_cache=False).logits
    if not torch.isfinite(theirs).all():
        raise ValueError(
            f"the logits of {type(model).__name__} are not finite on a probe of "
            f"{tokens_BT.shape[1]} tokens: its weights are damaged, or training had diverged when "
            "they were saved; go back to an earlier checkpoint"
        )
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(model).__name__} does more to its logits than multiply hidden states by the "
            "output embeddings, scale and cap; it cannot be the policy"
        )
    return hidden_BTH


def _check_packed(
    lm: nn.Module, ids_BT: npt.NDArray[np.int32], plain_BTH: Tensor, refused: str
) -> None:
    """Rows of different lengths, and each branch of a tree, must read what they read alone."""
    starts, ends = (4, 1), (5, 6)
    # The branch that is looked at lies behind another one, and goes on as the row itself does.
    branches = [row[end : end + 2].tolist() for row, end in zip(ids_BT, ends, strict=True)]
    tries = [ScoredTrie([[b, a], [a, b]], end=a, divisors=[1.0, 1.0]) for a, b in branches]
    prefixes = [row[:end] for row, end in zip(ids_BT, ends, strict=True)]
    with _one_sentence(refused):
        cached_RWH = _in_turns(lm, prefixes, starts, tries)
        packed = pack(prefixes, [[end - 1] for end in ends], [[trie] for trie in tries])
        packed = packed.to(plain_BTH.device)
        packed_BLH = hidden_states(lm, packed.tokens_BL, packed=packed)
    rows = list(enumerate(ends))
    alone = torch.cat([plain_BTH[row, end - 1 : end + 2] for row, end in rows]).float()
    cached = torch.cat([cached_RWH[row, [0, 3, 4]] for row, _ in rows])
    behind = torch.cat([packed_BLH[row, [end - 1, end + 2, end + 3]] for row, end in rows])
    dtype = causal_lm(lm).get_input_embeddings().weight.dtype
    room = max(_ROOM, _ROOM_EPS * torch.finfo(dtype).eps)
    for found in (cached, behind):
        off = float((found.float() - alone).norm() / alone.norm())
        if not off <= room:
            raise ValueError(f"{refused}: hidden states are off by {off:.0%} there; {_INSTEAD}")


def _in_turns(
    lm: nn.Module, rows: Sequence[IntArray], starts: Sequence[int], tries: Sequence[TokenTrie]
) -> Tensor:
    """Hidden states after rows that were fed in two parts, and at the tree tokens behind them."""
    cache = turn_by_turn(lm, rows=len(rows), max_length=_LENGTH)
    numbers = range(len(rows))
    for number in numbers:
        cache.start(number)
    cache.feed(numbers, [row[:start] for row, start in zip(rows, starts, strict=True)])
    rest = [row[start:] for row, start in zip(rows, starts, strict=True)]
    return cache.feed(numbers, rest, tries)


@contextmanager
def _one_sentence(refused: str) -> Iterator[None]:
    """Turns whatever a model's own code raises into a refusal."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{refused}: {type(error).__name__}: {first}; {_INSTEAD}") from error
