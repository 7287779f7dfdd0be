"""Behaviour half: what the processes of a fit know together, equal on each of them afterwards."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import lightning as L
import torch
from torch import Tensor

Item = TypeVar("Item")


def reduced(trainer: L.Trainer, values: Tensor, operation: Literal["sum", "mean"]) -> Tensor:
    """Values over all processes. DDP averages gradients, so their normalisers are means.

    Args:
        trainer: Knows the processes.
        values: Tensor of one shape on every process.
        operation: ``sum`` or ``mean``, entry by entry.
    """
    if trainer.world_size == 1:
        return values
    over: Tensor = trainer.strategy.reduce(values, reduce_op=operation)
    return over


def gathered(trainer: L.Trainer, item: Item) -> list[Item]:
    """An object of every process, in the order of their ranks."""
    if trainer.world_size == 1:
        return [item]
    items: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(items, item)
    return items
