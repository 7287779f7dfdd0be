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
    """

    width: int = 0
    detach: bool = False
    turns: int = 0

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
            return ValueHead(hidden_size, self.width, detach=self.detach, turns=self.turns)


class ValueHead(nn.Module):
    """Maps the hidden state before an action to the expected return; starts at exactly 0.

    Args:
        hidden_size: Size of the language model's hidden states.
        width: Units of the hidden layer; 0 = linear.
        detach: Whether gradients stop at the hidden states.
        turns: Turns told apart; 0 = none.
    """

    def __init__(
        self, hidden_size: int, width: int = 0, *, detach: bool = False, turns: int = 0
    ) -> None:
        super().__init__()
        self.hidden_size, self.settings = hidden_size, ValueHeadSettings(width, detach, turns)
        self.hidden = nn.Linear(hidden_size, width) if width else None
        self.output = nn.Linear(width or hidden_size, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.turn = nn.Embedding(turns, width or 1) if turns else None
        if self.turn is not None:
            nn.init.zeros_(self.turn.weight)

    def forward(self, hidden_H: Tensor, turn: Tensor) -> Tensor:
        """Values, in units of return, float32.

        Args:
            hidden_H: Hidden states, the last dimension being the hidden size.
            turn: Number of each one's turn, from 0; without the last dimension.

        Returns:
            The same shape without the last dimension.
        """
        features = hidden_H.detach() if self.settings.detach else hidden_H
        features = features.to(self.output.weight.dtype)
        late = 0.0 if self.turn is None else self.turn(turn.clamp(max=self.settings.turns - 1))
        if self.hidden is None:
            value: Tensor = self.output(features) + late
        else:
            value = self.output(nn.functional.gelu(self.hidden(features) + late))
        return value.squeeze(-1).float()
