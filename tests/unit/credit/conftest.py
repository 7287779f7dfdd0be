"""Batches of made-up trajectories for the tests of credit assignment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from retro_lightning.credit.estimators import CreditInputs


def random_inputs(seed: int, lengths: tuple[int, ...] = (3, 5, 1, 4, 2, 5, 3, 4)) -> CreditInputs:
    """A batch in float64 that has steps of every source: fresh, stale, expert and unknown."""
    rng = torch.Generator().manual_seed(seed)
    B, S = len(lengths), max(lengths)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    steps_BS = torch.arange(S)[None, :] < torch.tensor(lengths)[:, None]
    logprobs_BS = torch.where(steps_BS, -normal(B, S).abs() - 0.1, 0.0)
    behaviour_BS = logprobs_BS + 0.5 * normal(B, S)
    kind_B = torch.arange(B) % 4  # 0 fresh, 1 stale, 2 expert (log-prob 0), 3 unknown
    behaviour_BS[kind_B == 2] = 0.0
    behaviour_BS[kind_B == 3] = torch.nan
    behaviour_BS[~steps_BS] = torch.nan
    return CreditInputs(
        logprobs_BS=logprobs_BS.requires_grad_(),
        entropies_BS=normal(B, S).abs().requires_grad_(),
        values_BS=normal(B, S).requires_grad_(),
        steps_BS=steps_BS,
        rewards_BS=torch.where(steps_BS, normal(B, S), 0.0),
        behaviour_logprobs_BS=behaviour_BS,
        baseline_BS=normal(B, S),
        fresh_B=kind_B == 0,
        supported_BS=(kind_B < 2)[:, None].expand(B, S),
        bootstrap_B=torch.arange(B) % 3 == 0,
        final_values_B=normal(B),
        success_B=torch.arange(B) % 2 == 0,
        weight_B=normal(B).abs() + 0.5,
        value_weight_B=normal(B).abs() + 0.5,
    )


def part_of(inputs: CreditInputs, rows: slice) -> CreditInputs:
    """Some trajectories of a batch."""
    return replace(
        inputs,
        **{name: value[rows] for name, value in vars(inputs).items() if value is not None},
    )


@pytest.fixture
def make_inputs() -> Callable[..., CreditInputs]:
    return random_inputs


@pytest.fixture
def take() -> Callable[[CreditInputs, Any], CreditInputs]:
    return part_of
