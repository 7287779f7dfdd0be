"""Behaviour half: sampling of free text: thoughts, and actions that are not chosen from a list."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retro_lightning.policy.actions import log_softmax_numpy
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.trie import FloatArray, IntArray

_LOGITS_AT_ONCE = 2**25
"""Most vocabulary logits that are kept at a time (128 MiB in float32); more are computed anew in
the backward pass."""


@dataclass(frozen=True)
class TextSampling:
    """How free text is sampled. What is learnt is the distribution that was sampled from.

    Args:
        temperature: What logits are divided by, above 0. Lower = closer to the most probable token.
        top_p: Sample among the most probable tokens that together have this probability, in (0, 1];
            1 = the whole vocabulary. The set is recorded with each token, and training
            normalises over it.
        max_tokens: Most tokens of an action that is free text. A text cut here has no end token.
        thought_tokens: Most tokens of a thought, written before every action; 0 = no thoughts.
        stop: Texts that end an action or a thought; what the environment gets is cut before them.

    Raises:
        ValueError: If a number is impossible.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    thought_tokens: int = 0
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < np.inf:
            raise ValueError(f"text.temperature is {self.temperature}; give a number above 0")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"text.top_p is {self.top_p}; give a number above 0, at most 1")
        if self.max_tokens < 1:
            raise ValueError(f"text.max_tokens is {self.max_tokens}; give at least 1")
        if self.thought_tokens < 0:
            raise ValueError(f"text.thought_tokens is {self.thought_tokens}; give 0 or more")
        if "" in self.stop:
            raise ValueError("text.stop lists an empty text; remove it")

    def choices(self, logits_V: FloatArray) -> tuple[IntArray | None, FloatArray]:
        """The tokens sampled from and their log-probabilities.

        Args:
            logits_V: Logits of the whole vocabulary, float64.

        Returns:
            The tokens, ascending, None = the whole vocabulary; and their log-probabilities, whose
            exponentials add up to 1.
        """
        scaled = logits_V / self.temperature
        every = log_softmax_numpy(scaled)
        if self.top_p >= 1.0:
            return None, every
        order = np.argsort(-every, kind="stable")
        enough = int(np.searchsorted(np.cumsum(np.exp(every[order])), self.top_p)) + 1
        kept = np.sort(order[:enough]).astype(np.int32)
        return kept, log_softmax_numpy(scaled[kept])

    def cut(self, text: str) -> tuple[str, bool]:
        """The text up to the first stop text, and whether there was one."""
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)


def token_log_probs(
    hidden_FH: Tensor,
    head: OutputHead,
    token_F: Tensor,
    temperature_F: Tensor,
    kept_FK: Tensor,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens of free text, and entropies, with gradient.

    Args:
        hidden_FH: Hidden state that each token is drawn after.
        head: Makes logits.
        token_F: The tokens.
        temperature_F: What the logits are divided by.
        kept_FK: Tokens that each was sampled from, padded with -1; a row of -1 alone means the
            whole vocabulary.

    Returns:
        Log-probability of each token and entropy, in nats, of the distribution it was drawn from
        [F], both float32.
    """
    rows = max(1, _LOGITS_AT_ONCE // head.vocabulary)
    parts = []
    for start in range(0, len(token_F), rows):
        part = slice(start, start + rows)
        inputs = (hidden_FH[part], head, token_F[part], temperature_F[part], kept_FK[part])
        if len(token_F) <= rows:
            parts.append(_token_log_probs(*inputs))
        else:
            parts.append(checkpoint(_token_log_probs, *inputs, use_reentrant=False))
    if not parts:
        nothing = hidden_FH.new_zeros(0, dtype=torch.float32)
        return nothing, nothing
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _token_log_probs(
    hidden_FH: Tensor, head: OutputHead, token_F: Tensor, temperature_F: Tensor, kept_FK: Tensor
) -> tuple[Tensor, Tensor]:
    logits_FV = head(hidden_FH).float() / temperature_F[:, None]
    if kept_FK.shape[1]:
        allowed_FV = torch.zeros(
            len(token_F), logits_FV.shape[1] + 1, dtype=torch.bool, device=logits_FV.device
        )
        allowed_FV.scatter_(1, torch.where(kept_FK < 0, logits_FV.shape[1], kept_FK), True)
        whole_F = (kept_FK < 0).all(dim=1)
        allowed_FV = allowed_FV[:, :-1] | whole_F[:, None]
        logits_FV = logits_FV.masked_fill(~allowed_FV, -torch.inf)
    logprobs_FV = torch.log_softmax(logits_FV, dim=1)
    safe_FV = logprobs_FV.masked_fill(logprobs_FV == -torch.inf, 0.0)
    entropy_F = -(safe_FV.exp() * safe_FV * (logprobs_FV > -torch.inf)).sum(dim=1)
    return logprobs_FV.gather(1, token_F[:, None]).squeeze(1), entropy_F
