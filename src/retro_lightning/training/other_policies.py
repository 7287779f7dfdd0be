"""Behaviour half: what other policies than the present one say of a gradient step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from retro_lightning.policy.batch import Batch
from retro_lightning.policy.evaluation import Evaluation
from retro_lightning.policy.policy import Policy


class Proximal:
    """The policy as it was when the epoch began: what the clipped surrogate is clipped against.

    It is a copy of the trainable parameters alone, which change places with the present ones while
    they are asked; it is part of the checkpoint, so that a fit resumed in mid-epoch is clipped
    against the same policy. Asking costs one more forward pass per gradient step.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, Tensor] = {}

    def take(self, policy: Policy) -> None:
        """Remember the policy as it is now."""
        self._parameters = {
            name: parameter.detach().clone() for name, parameter in _trainable(policy)
        }

    def evaluate(self, policy: Policy, parts: Sequence[Batch]) -> list[Evaluation]:
        """What the remembered policy says, in evaluation mode and without gradients.

        It must be asked before the present policy's graph is built, whose parameters it borrows.

        Raises:
            RuntimeError: If none is remembered.
        """
        if not self._parameters:
            raise RuntimeError("no policy is remembered: call take at the epoch's start")
        with self._exchanged(policy):
            return evaluate(policy, parts)

    @contextmanager
    def _exchanged(self, policy: Policy) -> Iterator[None]:
        def exchange() -> None:
            for name, parameter in _trainable(policy):
                present = parameter.data
                parameter.data = self._parameters[name]
                self._parameters[name] = present

        exchange()
        try:
            yield
        finally:
            exchange()

    def state_dict(self) -> dict[str, Tensor]:
        """The remembered parameters; empty if there are none."""
        return dict(self._parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state."""
        self._parameters = dict(state)


class Reference:
    """The policy that a KL is taken to; loaded when it is first asked, and no part of the module.

    Args:
        path: Its policy directory; None = the model without its adapters, where adapters are
            trained.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._policy: Policy | None = None

    def exists(self, policy: Policy) -> bool:
        """Whether there is one."""
        return self._path is not None or policy.has_reference

    def evaluate(self, policy: Policy, parts: Sequence[Batch]) -> list[Evaluation]:
        """What the reference says, in evaluation mode and without gradients.

        Raises:
            ValueError: If there is none, or its tokenizer is not the policy's.
        """
        if self._path is None and policy.has_reference:
            with policy.reference():
                return evaluate(policy, parts)
        if self._path is None:
            raise ValueError(
                "an objective has kl_coef above 0, but there is no reference policy: set "
                "model.reference_policy to a policy directory, or train adapters"
            )
        if self._policy is None:
            device = next(policy.parameters()).device
            self._policy = Policy.load(Path(self._path), device).requires_grad_(False)
            if self._policy.transcript.fingerprint != policy.transcript.fingerprint:
                raise ValueError(
                    f"the reference policy {self._path} reads other tokens than the policy that is "
                    "trained: give one with the same tokenizer"
                )
        return evaluate(self._policy, parts)


@torch.no_grad()
def evaluate(policy: Policy, parts: Sequence[Batch]) -> list[Evaluation]:
    """What a policy says of some parts, in evaluation mode and without gradients."""
    training = policy.training
    policy.eval()
    try:
        return [policy.evaluate(part) for part in parts]
    finally:
        policy.train(training)


def _trainable(policy: Policy) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in policy.named_parameters() if p.requires_grad)
