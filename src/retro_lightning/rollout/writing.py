"""Behaviour half: free text written token by token in many conversations at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from retro_lightning.policy.alone import AloneDecoder
from retro_lightning.policy.cache import CachedDecoder
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.trie import FloatArray


class Text:
    """A text under way, and what is recorded of it.

    Attributes:
        sampling: How it is sampled.
        tokens: Its tokens so far, the one that ended it included; a text that was cut has none.
        text: What it says.
        log_prob: Log-probability of its tokens.
        kept: The tokens that each was sampled from; () = the whole vocabulary.
    """

    def __init__(self, sampling: TextSampling, limit: int, rng: np.random.Generator | None) -> None:
        self.sampling, self._limit, self._rng = sampling, limit, rng
        self.tokens: list[int] = []
        self.text = ""
        self.log_prob = 0.0
        self.kept: list[tuple[int, ...]] = []
        self.done = False

    def take(self, logits_V: FloatArray, policy: Policy) -> None:
        """Draw the next token; without a source of randomness the most probable one."""
        kept, log_probs = self.sampling.choices(logits_V)
        rng = self._rng
        drawn = int(np.argmax(log_probs)) if rng is None else sample(log_probs, rng)
        token = drawn if kept is None else int(kept[drawn])
        self.tokens.append(token)
        self.log_prob += float(log_probs[drawn])
        self.kept.append(() if kept is None else tuple(kept.tolist()))
        ended = token == policy.transcript.end_of_text
        if ended or self.sampling.stop or len(self.tokens) >= self._limit:
            said = self.tokens[:-1] if ended else self.tokens
            decoded = policy.tokenizer.decode(said, skip_special_tokens=True)
            self.text, stopped = self.sampling.cut(str(decoded).removeprefix(" "))
            self.done = ended or stopped or len(self.tokens) >= self._limit


def write(
    policy: Policy,
    decoder: CachedDecoder | AloneDecoder,
    rows: Sequence[int],
    hidden_RH: Tensor,
    *,
    sampling: TextSampling,
    limit: int,
    rngs: Sequence[np.random.Generator | None],
) -> list[Text]:
    """Write a text in every row; the last token of each has not been fed to the cache yet.

    Args:
        policy: Who writes.
        decoder: The cache of the conversations.
        rows: Distinct rows of the cache.
        hidden_RH: Hidden state after each row's last token.
        sampling: How tokens are sampled.
        limit: Most tokens of a text.
        rngs: Source of randomness of each row; None = the most probable token.

    Raises:
        LogitsNotFinite: If the logits of a row are not finite.
    """
    texts = [Text(sampling, limit, rng) for rng in rngs]
    going = list(range(len(rows)))
    hidden_GH = hidden_RH
    while going:
        logits_GV = policy.vocabulary_logits(hidden_GH, [rows[i] for i in going])
        for i, logits_V in zip(going, logits_GV, strict=True):
            texts[i].take(logits_V, policy)
        going = [i for i in going if not texts[i].done]
        if going:
            last = [np.array(texts[i].tokens[-1:], dtype=np.int32) for i in going]
            hidden_GH = decoder.feed([rows[i] for i in going], last)[:, 0]
    return texts


def sample(log_probs_C: FloatArray, rng: np.random.Generator) -> int:
    """Draw an index by inverting the cumulative distribution; one uniform number per draw."""
    cumulative = np.cumsum(np.exp(log_probs_C))
    index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return min(index, len(cumulative) - 1)
