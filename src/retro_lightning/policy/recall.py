"""Behaviour half: gives a random language model the one skill every pretrained one has: recall.

An instruction names a thing, the observation says where it is; to act on it, the model must find in
its context what stood beside the name. Pretrained models do this by *induction heads* (Olsson et
al. 2022): one head looks at the token before, a later one attends to where the present token stood
and reads what followed. A small random model that learns from episodes alone does not find the
circuit within minutes (measured in ``docs/experiments.md``). So it is

1. started near it (``start_near_induction_``), in the spirit of mimetic initialisation (Trockman
   and Kolter 2023), and
2. pretrained for some seconds on associative recall over random tokens of its own vocabulary
   (``learn_recall_``): text that speaks of no task at all, in one of two forms (``RECALLS``).

``pairs``, the multi-query recall (MQAR) of Arora et al. 2023, is for a model that writes text:
where a thing is named again, what stood beside it follows. ``answers`` is for a model that chooses
actions; it adds what an agent's context adds: a key returns with other values, of which the latest
counts, and several keys are asked for before any is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Recall = Literal["answers", "pairs"]
RecallBatch = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
_ROWS = 32
_PAIRS = 8
_TURNS = 4
_KEYS = 8
_LISTED = 5
_ASKED = 2
_TOKENS = _KEYS + 1 + _TURNS * _LISTED
_LR, _MUON_LR = 3e-3, 8e-3
_PREVIOUS_HEADS = 2
_PREVIOUS_BIAS = 8.0
_CONTENT_SHARE = 0.3
_PREVIOUS_WRITTEN = 0.1
_OTHER_WRITTEN = 0.01
_MATCH_GAIN = 1.5


@torch.no_grad()
def start_near_induction_(model: Any, generator: torch.Generator) -> None:
    """Set a Llama's attention near an induction circuit.

    Heads of the first block copy what they attend to, turned by a random rotation M, so that it
    lies beside the token's own meaning in the residual stream; two of them attend to the token
    before, by biases that the rotary positions turn by one. Heads of the second block match the
    present token with what the first block wrote at earlier ones (keys undo M), and copy the token
    found there. Two heads of the third block look one token back again, so that an action marker
    reads what the task's last word has found; the others attend to tokens like the present one.

    Args:
        model: ``LlamaForCausalLM`` with attention biases and at least 2 layers.
        generator: Source of randomness.

    Raises:
        ValueError: If the model has no attention biases or only one layer.
    """
    layers = model.model.layers
    if layers[0].self_attn.q_proj.bias is None or len(layers) < 2:
        raise ValueError("recall pretraining needs attention biases and at least 2 layers")
    width = model.config.hidden_size
    shared, turned = _orthogonal(width, generator), _orthogonal(width, generator)
    for number, layer in enumerate(layers):
        attention = layer.self_attn
        basis = shared if number < 2 else _orthogonal(width, generator)
        query = _orthogonal(width, generator) if number == 0 else _MATCH_GAIN * basis
        key = _MATCH_GAIN * basis @ turned.T if number == 1 else query
        written = turned @ basis.T * _OTHER_WRITTEN if number == 0 else basis.T
        matrices = {
            attention.q_proj: query,
            attention.k_proj: key,
            attention.v_proj: basis,
            attention.o_proj: written,
        }
        for projection, matrix in matrices.items():
            projection.weight.copy_(matrix)
            projection.bias.zero_()
    for layer in layers[0:3:2]:
        _look_back_(layer.self_attn, model.config)
    previous = slice(0, _PREVIOUS_HEADS * (width // model.config.num_attention_heads))
    layers[0].self_attn.o_proj.weight[:, previous] *= _PREVIOUS_WRITTEN / _OTHER_WRITTEN


def _look_back_(attention: Any, config: Any) -> None:
    """Biases for which query n and key n - 1 agree after the rotary positions have turned them."""
    size = config.hidden_size // config.num_attention_heads
    theta = float(config.rope_parameters["rope_theta"])
    angle = theta ** (-torch.arange(size // 2) / (size // 2))
    query = torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
    key = torch.cat([torch.cos(angle), torch.sin(angle)])
    for head in range(min(_PREVIOUS_HEADS, config.num_attention_heads)):
        rows = slice(head * size, (head + 1) * size)
        for projection, direction in ((attention.q_proj, query), (attention.k_proj, key)):
            projection.weight[rows] *= _CONTENT_SHARE
            projection.bias[rows] = _PREVIOUS_BIAS * direction


def _orthogonal(width: int, generator: torch.Generator) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return orthogonal


def whole_words(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Tokens [V] of more than one byte: what the tokenizer has learnt from text."""
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    ids = [i for token, i in vocabulary.items() if len(token) > 1 and i not in special]
    return torch.tensor(sorted(ids))


def answers_batch(tokens_V: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences of turns ``k v k v k v k v k v  q q  m v v``.

    A turn lists five of the sequence's eight keys k, each with a value v that was never seen
    before, asks for two of them (q), and after a marker m answers with their values in that order.

    Args:
        tokens_V: Tokens to draw keys, values and the marker from.
        generator: Source of randomness.

    Returns:
        ``tokens_BT`` and the positions [8] whose next token is an answer.

    Raises:
        ValueError: If there are too few tokens to draw from.
    """
    _check_enough(tokens_V, _TOKENS)
    drawn_BN = tokens_V[_shuffled(len(tokens_V), generator)]
    keys_BK, marker_B1 = drawn_BN[:, :_KEYS], drawn_BN[:, _KEYS : _KEYS + 1]
    turns = []
    for first in range(_KEYS + 1, _TOKENS, _LISTED):
        values_BL = drawn_BN[:, first : first + _LISTED]
        keys_BL = keys_BK.gather(1, _shuffled(_KEYS, generator)[:, :_LISTED])
        asked_BQ = _shuffled(_LISTED, generator)[:, :_ASKED]
        turns += [torch.stack([keys_BL, values_BL], dim=2).flatten(1), keys_BL.gather(1, asked_BQ)]
        turns += [marker_B1, values_BL.gather(1, asked_BQ)]
    length = 2 * _LISTED + 2 * _ASKED + 1
    ends = length * torch.arange(1, _TURNS + 1)
    return torch.cat(turns, dim=1), (ends[:, None] + torch.arange(-_ASKED - 1, -1)).flatten()


def pairs_batch(tokens_V: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences ``k1 v1 k2 v2 … k8 v8`` followed by the same pairs in another order.

    Args:
        tokens_V: Tokens to draw keys and values from.
        generator: Source of randomness.

    Returns:
        ``tokens_BT`` and the positions [8] whose next token is a value seen before.

    Raises:
        ValueError: If there are too few tokens to draw from.
    """
    _check_enough(tokens_V, 2 * _PAIRS)
    order_BV = _shuffled(len(tokens_V), generator)
    pairs_BP2 = tokens_V[order_BV[:, : 2 * _PAIRS]].view(_ROWS, _PAIRS, 2)
    again_BP = _shuffled(_PAIRS, generator)
    repeated_BP2 = pairs_BP2.gather(1, again_BP[:, :, None].expand(-1, -1, 2))
    tokens_BT = torch.cat([pairs_BP2.flatten(1), repeated_BP2.flatten(1)], dim=1)
    return tokens_BT, torch.arange(2 * _PAIRS, 4 * _PAIRS, 2)


RECALLS: Mapping[Recall, RecallBatch] = {"answers": answers_batch, "pairs": pairs_batch}
"""What is recalled, by name."""


def _check_enough(tokens_V: Tensor, needed: int) -> None:
    if len(tokens_V) < needed:
        raise ValueError(
            f"recall pretraining needs {needed} tokens of more than one byte, and the tokenizer "
            f"has {len(tokens_V)}: raise data.vocabulary_size or set language_model.recall_steps 0"
        )


def _shuffled(count: int, generator: torch.Generator) -> Tensor:
    """The numbers below ``count`` in a random order, for each row."""
    return torch.rand(_ROWS, count, generator=generator).argsort(dim=1)


def learn_recall_(
    model: Any,
    tokens_V: Tensor,
    *,
    recall: Recall,
    steps: int,
    generator: torch.Generator,
) -> float:
    """Pretrain on associative recall.

    Args:
        model: The language model, changed in place.
        tokens_V: Tokens that occur in the environments' text.
        recall: What is recalled.
        steps: Optimiser steps, of 32 sequences; in the second half the learning rate falls to 0.
        generator: Source of randomness.

    Returns:
        Running mean of the loss, in nats, at the end; guessing gives log(number of tokens).
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=_LR)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=_MUON_LR))
    mean = float(torch.tensor(float(len(tokens_V))).log())
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, 2.0 - 2.0 * step / steps)
        )
        for optimizer in optimizers
    ]
    for _ in range(steps):
        tokens_BT, asked = RECALLS[recall](tokens_V, generator)
        hidden = model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state[:, asked]
        logits = model.lm_head(hidden).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, tokens_BT[:, asked + 1].flatten())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
        mean = 0.95 * mean + 0.05 * float(loss.detach())
    return mean
