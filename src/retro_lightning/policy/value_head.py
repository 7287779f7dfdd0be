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
    """

    width: int = 0
    detach: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible sizes.

        Raises:
            ValueError: If the width is negative.
        """
        if self.width < 0:
            raise ValueError(f"value_head.width is {self.width}; give 0 (linear) or more units")

    def build(self, hidden_size: int, seed: int) -> ValueHead:
        """A fresh value head, the same for the same seed; the global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return ValueHead(hidden_size, self.width, detach=self.detach)


class ValueHead(nn.Module):
    """Maps the hidden state before an action to the expected return; starts at exactly 0.

    Args:
        hidden_size: Size of the language model's hidden states.
        width: Units of the hidden layer; 0 = linear.
        detach: Whether gradients stop at the hidden states.
    """

    def __init__(self, hidden_size: int, width: int = 0, *, detach: bool = False) -> None:
        super().__init__()
        self.hidden_size, self.width, self.detach = hidden_size, width, detach
        self.hidden = nn.Linear(hidden_size, width) if width else None
        self.output = nn.Linear(width or hidden_size, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden_H: Tensor) -> Tensor:
        """Values, in units of return, float32.

        Args:
            hidden_H: Hidden states, the last dimension being the hidden size.

        Returns:
            The same shape without the last dimension.
        """
        features = hidden_H.detach() if self.detach else hidden_H
        features = features.to(self.output.weight.dtype)
        if self.hidden is not None:
            features = nn.functional.gelu(self.hidden(features))
        value: Tensor = self.output(features)
        return value.squeeze(-1).float()
