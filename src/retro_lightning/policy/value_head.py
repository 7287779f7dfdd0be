"""Behaviour half: the value head, an estimate of the return from a state on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ValueHeadSettings:
    """Shape of the value head.

    Attributes:
        width: Units of the hidden layer; 0 = linear. More = finer estimates, slower to learn.
        detach: Keep the value loss out of the language model: the head then learns from features
            that were shaped for acting alone.
        turns: Turns that it tells apart by their number, later ones counting as the last; 0 = none.
            Hidden states hardly tell how many turns are gone, and so how many are left of a time
            limit: near it, failure is near.
        cross_fit: Two heads, each taught by one half of the trajectories and asked about the other
            half (cross-fitting, Chernozhukov et al. 2018, arXiv 1608.00060): no estimate has
            learnt the outcome of the trajectory that it is subtracted from. False = one head,
            taught by all.
    """

    width: int = 0
    detach: bool = False
    turns: int = 0
    cross_fit: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible sizes.

        Raises:
            ValueError: If one is negative.
        """
        if self.width < 0:
            raise ValueError(f"value_head.width is {self.width}; give 0 (linear) or more units")
        if self.turns < 0:
            raise ValueError(f"value_head.turns is {self.turns}; give 0 (none) or more turns")

    def build(self, hidden_size: int, seed: int) -> ValueHead:
        """A fresh value head, the same for the same seed; the global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return ValueHead(hidden_size, self)


class ValueHead(nn.Module):
    """Maps the hidden state before an action to the expected return; starts at exactly 0.

    Args:
        hidden_size: Size of the language model's hidden states.
        settings: Its shape; None = linear.
    """

    def __init__(self, hidden_size: int, settings: ValueHeadSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings if settings is not None else ValueHeadSettings()
        self.hidden_size, width = hidden_size, settings.width
        self.heads = 2 if settings.cross_fit else 1
        self.hidden = nn.Linear(hidden_size, self.heads * width) if width else None
        self.output = nn.Linear(width or hidden_size, self.heads)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        late = self.heads * (width or 1)
        self.turn = nn.Embedding(settings.turns, late) if settings.turns else None
        if self.turn is not None:
            nn.init.zeros_(self.turn.weight)

    def forward(self, hidden_H: Tensor, turn: Tensor) -> Tensor:
        """Values by each head, in units of return, float32.

        Args:
            hidden_H: Hidden states, the last dimension being the hidden size.
            turn: Number of each one's turn, from 0; without the last dimension.

        Returns:
            The same shape, the last dimension being the heads: one, or two if cross-fitted.
        """
        features = hidden_H.detach() if self.settings.detach else hidden_H
        features = features.to(self.output.weight.dtype)
        late = 0.0 if self.turn is None else self.turn(turn.clamp(max=self.settings.turns - 1))
        if self.hidden is None:
            values: Tensor = self.output(features) + late
        else:
            units = nn.functional.gelu(self.hidden(features) + late)
            own = zip(
                units.chunk(self.heads, dim=-1),
                self.output.weight.chunk(self.heads),
                self.output.bias.chunk(self.heads),
                strict=True,
            )
            values = torch.cat([nn.functional.linear(*head) for head in own], dim=-1)
        return values.float()

    def asked(self, rows_B: Tensor) -> Tensor:
        """Which head is asked about each trajectory; of two, the other one learns from it.

        Neighbouring rows, and rows at any fixed distance, fall to both heads alike, whatever the
        order in which behaviours wrote: it is the leading bit of the row times the golden ratio.

        Args:
            rows_B: Rows of the store, which never change.

        Returns:
            Numbers of heads [B]; 0 throughout where there is one.
        """
        if self.heads == 1:
            return torch.zeros_like(rows_B)
        return (rows_B.long() * 0x9E3779B1 & 0xFFFFFFFF) >> 31
