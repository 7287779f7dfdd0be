"""Behaviour half: the clipped surrogate by single tokens, added up over the steps they make."""

from __future__ import annotations

import torch
from torch import Tensor

from retro_lightning.credit.terms import CreditInputs
from retro_lightning.credit.weightings import Clipped


def token_losses(weighting: Clipped, inputs: CreditInputs, scaled_BS: Tensor) -> Tensor:
    """Loss of each step [B, S], its tokens' losses added up.

    Args:
        weighting: The weighting.
        inputs: The batch, with its tokens.
        scaled_BS: Advantages.
    """
    logprobs_D, log_ratio_D, place = _tokens(inputs)
    return _by_step(weighting.losses(logprobs_D, log_ratio_D, scaled_BS[place], inputs), inputs)


def stopped_share(weighting: Clipped, inputs: CreditInputs, scaled_BS: Tensor) -> Tensor:
    """Share of each step's tokens [B, S] whose gradient the clip has stopped; 1 if it has none.

    Args:
        weighting: The weighting.
        inputs: The batch, with its tokens.
        scaled_BS: Advantages.
    """
    _, log_ratio_D, place = _tokens(inputs)
    moving_D = ~weighting.stopped(log_ratio_D.detach(), scaled_BS[place])
    moving_BS = _by_step(moving_D.to(scaled_BS), inputs)
    return 1.0 - moving_BS / _by_step(torch.ones_like(log_ratio_D), inputs).clamp(min=1.0)


def _tokens(inputs: CreditInputs) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Log-probability of each token, its log-ratio to the epoch's start, and its step."""
    logprobs_D, old_D = inputs.token_logprobs_D, inputs.token_proximal_logprobs_D
    row_D, step_D = inputs.token_row_D, inputs.token_step_D
    assert logprobs_D is not None
    assert old_D is not None
    assert row_D is not None
    assert step_D is not None
    return logprobs_D, logprobs_D - old_D.detach(), (row_D, step_D)


def _by_step(value_D: Tensor, inputs: CreditInputs) -> Tensor:
    """Values of tokens, added up over those of each step [B, S]."""
    _, _, place = _tokens(inputs)
    zeros_BS = value_D.new_zeros(inputs.steps_BS.shape)
    return zeros_BS.index_put(place, value_D, accumulate=True)
