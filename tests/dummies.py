"""A module and a datamodule small enough to fit in milliseconds, with parts to configure."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Part:
    """A part that a user chooses."""


class Coefficient(Part):
    """A part with a number.

    Args:
        coefficient: Some strength, at least 0.
    """

    def __init__(self, coefficient: float = 0.1) -> None:
        if coefficient < 0:
            raise ValueError(f"coefficient is {coefficient}; give at least 0")
        self.coefficient = coefficient


class Corridor(gymnasium.Env[str, str]):
    """An environment that is only ever configured."""

    def __init__(self, level: str, size: int = 5) -> None:
        self.level, self.size = level, size


@dataclass(frozen=True)
class Shade:
    """Settings that are a class."""

    depth: int = 1


class Shaded(Part):
    """A part with such settings.

    Args:
        shade: The settings.
    """

    def __init__(self, shade: Shade | None = None) -> None:
        self.shade = shade


class DummyModule(L.LightningModule):
    """One weight.

    Args:
        gamma: Discount.
        part: A part.
        parts: More parts.
        stop_at: Batch at which Ctrl-C is pressed.
        terminate_at: Batch at which a scheduler sends SIGTERM.
        fail_at: Batch at which something breaks.
        initial_policy: Where weights would come from.
    """

    def __init__(
        self,
        gamma: float = 1.0,
        part: Part | None = None,
        parts: list[Part] | None = None,
        stop_at: int | None = None,
        terminate_at: int | None = None,
        fail_at: int | None = None,
        initial_policy: str | None = None,
    ) -> None:
        super().__init__()
        self.gamma, self.part, self.parts = gamma, part, parts
        self.stop_at, self.terminate_at, self.fail_at = stop_at, terminate_at, fail_at
        self.initial_policy = initial_policy
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if batch_idx == self.stop_at:
            raise KeyboardInterrupt
        if batch_idx == self.terminate_at:
            signal.raise_signal(signal.SIGTERM)
        if batch_idx == self.fail_at:
            raise ValueError("the batch is empty; give a store with trajectories")
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val/success_rate", 0.25)
        self.log("val/success_rate/corridor", 0.25)

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("test/success_rate", 0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class DummyData(L.LightningDataModule):
    """Six ones.

    Args:
        environments: The task families.
        gamma: Discount.
        batch_size: Ones in a batch.
        patience: Seconds to wait before there is data.
    """

    def __init__(
        self,
        environments: dict[str, Callable[[], gymnasium.Env[str, str]]],
        gamma: float = 1.0,
        batch_size: int = 2,
        patience: float = 0.0,
    ) -> None:
        super().__init__()
        self.environments, self.gamma = environments, gamma
        self.batch_size, self.patience = batch_size, patience

    def _loader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        time.sleep(self.patience)
        return DataLoader(TensorDataset(torch.ones(6, 1)), batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = _loader
