"""Behaviour half: Muon for the weight matrices of the blocks, AdamW for everything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn

_NOT_MATRICES = ("embed", "lm_head", "value_head", "wte", "wpe")


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on the blocks' matrices and AdamW on the other parameters.

    Muon orthogonalises the momentum of a matrix before it steps, so that all directions are learnt
    at the same pace; embeddings, heads, norms and biases are no linear maps between hidden states
    and are left to AdamW. Both are ``torch.optim``'s own.

    Args:
        named_parameters: Parameters with their names, as ``Module.named_parameters`` gives them.
        lr: Learning rate of AdamW. Higher = faster and less stable.
        muon_lr: Learning rate of Muon: size of a step, in spectral norm, of a square matrix.
        momentum: Momentum of Muon. Higher = smoother.
        betas: Decay of AdamW's running means of gradient and squared gradient.
        weight_decay: Decay of all matrices per step, times the learning rate.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float = 3e-3,
        muon_lr: float = 8e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        named = list(named_parameters)
        matrices = [p for name, p in named if p.ndim == 2 and not _is_other(name)]
        others = [p for name, p in named if p.ndim != 2 or _is_other(name)]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=muon_lr,
                    momentum=momentum,
                    weight_decay=weight_decay,
                )
            )
        if others:
            self._parts.append(
                torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay)
            )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        # The very same dictionaries, so that a schedule on this optimiser reaches the parts.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """States of both."""
        return {"parts": [part.state_dict() for part in self._parts], "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Return to a state."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def scheduled(
    optimizer: torch.optim.Optimizer, *, total: float, warmup: int, decay_from: float, final: float
) -> OptimizerLRSchedulerConfig:
    """An optimiser whose learning rate follows ``learning_rate_share``, as Lightning takes it."""
    share = functools.partial(
        learning_rate_share, total=total, warmup=warmup, decay_from=decay_from, final=final
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    schedule: LRSchedulerConfigType = {"scheduler": scheduler, "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def learning_rate_share(
    step: int, *, total: float, warmup: int, decay_from: float, final: float
) -> float:
    """Share of the full learning rate: a linear rise, the full rate, a linear fall.

    Args:
        step: Optimiser steps taken.
        total: Optimiser steps of the whole fit.
        warmup: Steps of the rise.
        decay_from: Share of all steps after which it falls.
        final: Share that it falls to.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = decay_from * total
    if step <= start or total <= start:
        return 1.0
    gone = min((step - start) / (total - start), 1.0)
    return 1.0 - gone * (1.0 - final)


def _is_other(name: str) -> bool:
    return any(word in name for word in _NOT_MATRICES)
