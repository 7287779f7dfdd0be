"""Diagnostics against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.credit.diagnostics import (
    advantage_warning,
    approximate_kl,
    clip_fraction,
    effective_sample_size,
    explained_variance,
    gradient_shares,
)


def all_of(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def test_explained_variance_by_hand() -> None:
    targets = torch.tensor([[0.0, 1.0], [2.0, 99.0]])
    steps = torch.tensor([[True, True], [True, False]])
    assert explained_variance(targets, targets, steps).item() == pytest.approx(1.0)
    constant = torch.full_like(targets, 5.0)
    assert explained_variance(constant, targets, steps).item() == pytest.approx(0.0)
    # Residuals 0, 1, 2 have the variance of the targets 0, 1, 2 turned round: -2 * t leaves 3 t.
    assert explained_variance(-2 * targets, targets, steps).item() == pytest.approx(1 - 9.0)
    assert math.isnan(explained_variance(targets, constant, steps).item())


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8))
def test_effective_sample_size_lies_between_one_and_the_count(weights: list[float]) -> None:
    tensor = torch.tensor(weights, dtype=torch.float64)
    result = effective_sample_size(tensor, all_of(len(weights))).item()
    assert result == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert 1 - 1e-9 <= result <= len(weights) + 1e-9


def test_effective_sample_size_counts_equal_weights_and_ignores_the_rest() -> None:
    weights = torch.tensor([2.0, 2.0, 2.0, 1e9])
    assert effective_sample_size(weights, torch.tensor([True, True, True, False])) == 3
    assert effective_sample_size(weights, torch.zeros(4, dtype=torch.bool)) == 0


def test_clip_fraction_counts_only_stopped_gradients() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0, 1.5])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    mask = torch.tensor([True, True, True, True, True, False])
    # Stopped: the first (up and above) and the fourth (down and below), of five.
    assert clip_fraction(ratio, advantages, 0.2, mask).item() == pytest.approx(2 / 5)
    assert clip_fraction(ratio, advantages, 0.2, torch.zeros(6, dtype=torch.bool)) == 0


def test_approximate_kl_is_unbiased_and_not_negative() -> None:
    old = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    new = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64)
    estimates = approximate_kl(new.log() - old.log())
    assert (estimates >= 0).all()
    exact = (old * (old.log() - new.log())).sum()
    torch.testing.assert_close((old * estimates).sum(), exact)


def test_gradient_shares_add_up() -> None:
    shares = gradient_shares({"a": torch.tensor(3.0), "b": torch.tensor(1.0)})
    assert {k: v.item() for k, v in shares.items()} == {"a": 0.75, "b": 0.25}
    assert gradient_shares({"a": torch.tensor(0.0)})["a"] == 0


def test_equal_advantages_are_warned_of_by_name() -> None:
    advantages = torch.tensor([[0.3, 0.3], [0.3, 7.0]])
    steps = torch.tensor([[True, True], [True, False]])
    warning = advantage_warning(advantages, steps, curriculum="BestFirst", baseline="PerTask")
    assert warning is not None
    assert "BestFirst" in warning
    assert "PerTask" in warning
    varied = advantage_warning(advantages, all_of(2, 2), curriculum="BestFirst", baseline="x")
    assert varied is None
    assert advantage_warning(None, steps, curriculum="x", baseline="y") is None
    empty = torch.zeros(2, 2, dtype=torch.bool)
    assert "no step" in str(advantage_warning(advantages, empty, curriculum="x", baseline="y"))
