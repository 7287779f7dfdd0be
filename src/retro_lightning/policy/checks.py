"""Behaviour half: what a language model must be like to be the policy."""

from __future__ import annotations

import torch
from torch import nn

from retro_lightning.policy.forward import decoder
from retro_lightning.policy.loading import causal_lm


@torch.no_grad()
def check_model(lm: nn.Module, tokens: int) -> None:
    """Refuse models whose logits cannot be computed from hidden states and output embeddings.

    Args:
        lm: The causal LM.
        tokens: How many tokens its tokenizer has.

    Raises:
        ValueError: If they are not the model's own logits, or the tokenizer has more tokens than
            the model has embeddings.
    """
    model = causal_lm(lm)
    known = model.get_input_embeddings().num_embeddings
    if tokens > known:
        raise ValueError(
            f"the tokenizer has {tokens} tokens but {type(model).__name__} has embeddings for "
            f"{known}: use the model's own tokenizer, or resize its embeddings"
        )
    training = lm.training
    lm.eval()
    probe = torch.arange(3, device=next(lm.parameters()).device)[None]
    hidden = decoder(lm)(input_ids=probe, use_cache=False).last_hidden_state
    ours = model.get_output_embeddings()(hidden)
    theirs = lm(input_ids=probe, use_cache=False).logits
    lm.train(training)
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(model).__name__} does more to its logits than multiply hidden states by the "
            "output embeddings (scaling or capping); it cannot be the policy"
        )
