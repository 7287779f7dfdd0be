"""Behaviour half: forward passes of the decoder: plain, behind a soft prompt, packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from retro_lightning.policy.alone import AloneDecoder, packed_alone, reads_alone
from retro_lightning.policy.candidates import Packed
from retro_lightning.policy.loading import causal_lm, context_length

if TYPE_CHECKING:
    from retro_lightning.policy.cache import CachedDecoder


def decoder(lm: nn.Module) -> Any:
    """The model below the output embeddings; adapters are inside its layers."""
    return causal_lm(lm).base_model


def hidden_states(
    lm: nn.Module,
    tokens_BT: Tensor,
    prompts_BH: Tensor | None = None,
    packed: Packed | None = None,
) -> Tensor:
    """Hidden states of tokens, or of packed rows; a soft prompt's own are left out.

    Args:
        lm: The causal LM.
        tokens_BT: Rows of tokens; not read if there are packed rows.
        prompts_BH: Embeddings of a virtual position before each row; None = there is none.
        packed: Rows with trees behind them; None = there are none.
    """
    if packed is None and prompts_BH is None:
        plain_BTH: Tensor = decoder(lm)(input_ids=tokens_BT, use_cache=False).last_hidden_state
        return plain_BTH
    if packed is not None and reads_alone(lm):
        return packed_alone(lm, packed, prompts_BH)
    virtual = int(prompts_BH is not None)
    layout = {} if packed is None else _layout(lm, packed, virtual)
    embed = causal_lm(lm).get_input_embeddings()
    embeddings_BTH = embed(tokens_BT if packed is None else packed.tokens_BL)
    if prompts_BH is not None:
        embeddings_BTH = torch.cat([prompts_BH[:, None], embeddings_BTH], dim=1)
    hidden_BTH: Tensor = decoder(lm)(
        inputs_embeds=embeddings_BTH, use_cache=False, **layout
    ).last_hidden_state
    return hidden_BTH[:, virtual:]


def _layout(lm: nn.Module, packed: Packed, virtual: int) -> dict[str, Tensor]:
    """Positions and attention of packed rows behind virtual positions that all of them see."""
    positions_BL = nn.functional.pad(packed.positions_BL + virtual, (virtual, 0))
    mask_BLL = nn.functional.pad(packed.mask_BLL, (0, 0, virtual, 0))
    mask_BLL = nn.functional.pad(mask_BLL, (virtual, 0), value=True)
    dtype = causal_lm(lm).get_input_embeddings().weight.dtype
    bias_BLL = torch.zeros(mask_BLL.shape, dtype=dtype, device=mask_BLL.device)
    bias_BLL.masked_fill_(~mask_BLL, torch.finfo(dtype).min)
    # Actions that would go beyond the context stay at its last position.
    last = context_length(lm) - 1
    return {"position_ids": positions_BL.clamp(max=last), "attention_mask": bias_BLL[:, None]}


def turn_by_turn(lm: nn.Module, *, rows: int, max_length: int) -> CachedDecoder | AloneDecoder:
    """A decoder that is fed row by row, with a key-value cache unless rows are read alone.

    Args:
        lm: The causal LM.
        rows: How many sequences are kept at most.
        max_length: Most tokens of a sequence.
    """
    from retro_lightning.policy.cache import CachedDecoder

    if reads_alone(lm):
        return AloneDecoder(lm, rows=rows)
    layers = causal_lm(lm).config.get_text_config().num_hidden_layers
    return CachedDecoder(decoder(lm), layers=layers, rows=rows, max_length=max_length)


@torch.no_grad()
def last_hidden_states(lm: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """Hidden state [N, H] after the last token of each row, without gradient."""
    device = next(lm.parameters()).device
    last_N = torch.tensor([len(row) - 1 for row in rows], device=device)
    tokens_NT = nn.utils.rnn.pad_sequence(
        [torch.tensor(row, device=device) for row in rows], batch_first=True
    )
    return hidden_states(lm, tokens_NT)[torch.arange(len(rows), device=device), last_N]
