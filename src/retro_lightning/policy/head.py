"""Behaviour half: logits from hidden states, as the model itself makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retro_lightning.policy.loading import causal_lm


class OutputHead:
    """A model's output embeddings and what it does to their product.

    Args:
        embeddings: The output embeddings.
        scale: What the product of hidden states and output embeddings is multiplied by.
        cap: Limit that logits approach, by tanh; None = they have none.
    """

    def __init__(
        self, embeddings: nn.Module, *, scale: float = 1.0, cap: float | None = None
    ) -> None:
        self.embeddings, self._scale, self._cap = embeddings, scale, cap

    @classmethod
    def of(cls, lm: nn.Module) -> OutputHead:
        """A causal LM's own.

        Some models scale their logits (Cohere, Granite) or cap them (Gemma 2), and say so in their
        configurations under different names; ``check_model`` compares the result with the model's
        own logits.
        """
        model = causal_lm(lm)
        config = model.config.get_text_config()
        scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", 1)
        return cls(
            model.get_output_embeddings(),
            scale=float(1.0 if scale is None else scale) / float(divisor),
            cap=getattr(config, "final_logit_softcapping", None),
        )

    @property
    def vocabulary(self) -> int:
        """How many logits it makes of one hidden state."""
        weight = self.embeddings.weight
        assert isinstance(weight, Tensor)
        return len(weight)

    def __call__(self, hidden_XH: Tensor) -> Tensor:
        """Logits [X, V] over the whole vocabulary."""
        return self.finished(self.embeddings(hidden_XH))

    def some(self, hidden_XH: Tensor, vocabulary_U: Tensor) -> Tensor:
        """Logits [X, U] of some tokens in float32, whatever the model computes in.

        A bfloat16 logit of 10 is only exact to 0.06.
        """
        head = self.embeddings
        if type(head) is not nn.Linear:
            return self(hidden_XH)[:, vocabulary_U]
        bias = None if head.bias is None else head.bias[vocabulary_U].float()
        weight_UH = head.weight[vocabulary_U].float()
        return self.finished(nn.functional.linear(hidden_XH.float(), weight_UH, bias))

    def finished(self, product: Tensor) -> Tensor:
        """What the model makes of the product of hidden states and output embeddings."""
        logits = product if self._scale == 1.0 else product * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)
