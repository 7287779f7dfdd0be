"""Behaviour half: how logits become probabilities of valid actions; the default distribution.

By default the distribution is *trie-constrained*. At every node of the valid actions' token trie
with more than one child the logits of the children, and of nothing else, are normalised; a node
with a single child is forced and contributes log-probability 0 and no computation. The
log-probability of an action is the sum over the decisions on its path, so that the valid actions'
probabilities sum to one exactly.

This is not the language model's conditional given "the action is valid": a shared first token is
weighed once against its siblings, however many actions lie below it. Distributions that weigh whole
actions stand in ``scoring.py``; ``docs/distributions.md`` compares them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from retro_lightning.policy.trie import FloatArray, IntArray, TokenTrie


class ActionDistribution(ABC):
    """How a language model's logits become probabilities of the valid actions.

    Attributes:
        kind: Its name in a policy directory.
        whole: Whether every action is scored as a whole, which needs all actions' tokens fed to the
            model; False = decisions are made token by token.
    """

    kind: ClassVar[str]
    whole: ClassVar[bool]

    @abstractmethod
    def trie(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, end: int, bare: IntArray
    ) -> TokenTrie:
        """The structure that a set of valid actions is drawn from.

        Args:
            texts: The valid actions.
            ids: Their tokens.
            end: The end-of-action token.
            bare: Tokens that come before an action in a transcript that says nothing.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as they are saved."""


class TrieConstrained(ActionDistribution):
    """Locally normalised over the trie of the valid actions; the default distribution.

    Args:
        uniform_prior: Start with every action equally likely: to the logit of a token the logarithm
            of the number of actions that go on with it is added. False = a token is weighed once,
            however many actions lie below it.
    """

    kind = "trie_constrained"
    whole = False

    def __init__(self, uniform_prior: bool = False) -> None:
        self.uniform_prior = uniform_prior

    def settings(self) -> dict[str, Any]:
        """See ``ActionDistribution``."""
        return {"uniform_prior": self.uniform_prior}

    def trie(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]], *, end: int, bare: IntArray
    ) -> TokenTrie:
        """See ``ActionDistribution``."""
        return TokenTrie(ids, end, uniform_prior=self.uniform_prior)


def log_softmax(logits_DC: Tensor, mask_DC: Tensor, prior_DC: Tensor | None = None) -> Tensor:
    """Log-probabilities of the children of each decision.

    Args:
        logits_DC: Their logits; what stands where the mask is False is ignored.
        mask_DC: True where there is a child.
        prior_DC: Added to the logits; None = nothing is.

    Returns:
        Natural logarithms, -inf where the mask is False.
    """
    weighed_DC = logits_DC.float() if prior_DC is None else logits_DC.float() + prior_DC
    return torch.log_softmax(weighed_DC.masked_fill(~mask_DC, -torch.inf), dim=-1).masked_fill(
        ~mask_DC, -torch.inf
    )


def log_softmax_numpy(logits_C: FloatArray) -> FloatArray:
    """Logarithms of a softmax, in float64."""
    shifted: FloatArray = logits_C - logits_C.max()
    result: FloatArray = shifted - np.log(np.exp(shifted).sum())
    return result


class LogitsNotFinite(ValueError):
    """The language model's logits are no numbers.

    Attributes:
        row: The first row, of those computed together, in which they aren't.
    """

    def __init__(self, row: int) -> None:
        super().__init__(
            "the language model's logits are not finite: training has diverged, or the weights are "
            "damaged; go back to an earlier checkpoint and lower the learning rate"
        )
        self.row = row


def check_finite(values_D: FloatArray, row_D: Sequence[int]) -> None:
    """Refuse logits or scores that are no numbers.

    Args:
        values_D: Logits, or rows of them.
        row_D: Row that each belongs to.

    Raises:
        LogitsNotFinite: If one is not finite.
    """
    finite_D = np.isfinite(values_D.reshape(len(values_D), -1)).all(axis=1)
    if not finite_D.all():
        raise LogitsNotFinite(int(row_D[int(np.argmin(finite_D))]))


def first_not_finite(logprobs_BS: Tensor, steps_BS: Tensor) -> tuple[int, int] | None:
    """Row and step of the first log-probability that is no number; None = all are.

    Args:
        logprobs_BS: Log-probabilities of actions.
        steps_BS: True at real steps.
    """
    places = (steps_BS & ~torch.isfinite(logprobs_BS)).nonzero()
    if not len(places):
        return None
    row, step = places[0].tolist()
    return row, step
