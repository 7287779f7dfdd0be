"""Losses against naive float64 loops and numerical gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retro_lightning.credit.losses import (
    advantage_weighted_cloning,
    clipped_surrogate,
    filtered_cloning,
    masked_total,
    reinforce_loss,
    truncated_importance_weights,
    value_loss,
)

logs = st.floats(-4, -0.01)
advantages = st.floats(-3, 3)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(logs, logs, advantages, st.floats(0.05, 0.9))
def test_clipped_surrogate_equals_its_definition(
    logprob: float, old: float, advantage: float, clip: float
) -> None:
    ratio = math.exp(logprob) / math.exp(old)
    bounded = 1 - clip if ratio < 1 - clip else 1 + clip if ratio > 1 + clip else ratio
    expected = -min(ratio * advantage, bounded * advantage)
    result = clipped_surrogate(double(logprob), double(old), double(advantage), clip)
    assert result.item() == pytest.approx(expected)


@given(logs, logs, st.floats(1, 5))
def test_importance_weights_equal_their_definition(
    logprob: float, behaviour: float, cap: float
) -> None:
    result = truncated_importance_weights(double(logprob), double(behaviour), cap)
    assert result.item() == pytest.approx(min(cap, math.exp(logprob) / math.exp(behaviour)))


@given(logs, advantages, st.floats(0.1, 3), st.floats(1, 20))
def test_advantage_weighted_cloning_equals_its_definition(
    logprob: float, advantage: float, temperature: float, largest: float
) -> None:
    result = advantage_weighted_cloning(double(logprob), double(advantage), temperature, largest)
    assert result.item() == pytest.approx(
        -min(largest, math.exp(advantage / temperature)) * logprob
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "loss",
    [
        lambda x, a, old: reinforce_loss(x, a),
        lambda x, a, old: clipped_surrogate(x, old, a, 0.2),
        lambda x, a, old: advantage_weighted_cloning(x, a, 0.7, 3.0),
        lambda x, a, old: filtered_cloning(x, a > 0),
        lambda x, a, old: value_loss(x, a),
        lambda x, a, old: masked_total(x * old, a > 0, double(1.0, 2.0, 0.5), 7.0),
    ],
    ids=["reinforce", "clipped", "advantage_weighted", "filtered", "value", "masked_total"],
)
def test_gradients(loss: Callable[[Tensor, Tensor, Tensor], Tensor], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(3, 4, generator=rng, dtype=torch.float64) - 0.1
    a = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    x = (old + 0.3 * a).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: loss(y, a, old), x)


def test_importance_weighted_reinforce_has_no_gradient_through_the_weight() -> None:
    x = double(-0.5, -2.0).requires_grad_()
    behaviour, advantage = double(-1.0, -1.5), double(2.0, -1.0)
    weights = truncated_importance_weights(x, behaviour, 1.2)
    assert not weights.requires_grad
    reinforce_loss(x, weights * advantage).sum().backward()
    # min(1.2, e^0.5 = 1.65) * 2 = 2.4 and e^-0.5 * -1 = -0.6065; the loss has the sign turned.
    torch.testing.assert_close(x.grad, double(-2.4, math.exp(-0.5)))


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [
        (0.5, 1.0, False),  # r = 1.65 > 1.2 and pushed further up: stopped
        (0.5, -1.0, True),  # r = 1.65 > 1.2 but pushed back down
        (-0.5, -1.0, False),  # r = 0.61 < 0.8 and pushed further down: stopped
        (-0.5, 1.0, True),  # r = 0.61 < 0.8 but pushed back up
        (0.1, 1.0, True),  # r = 1.11 lies within
    ],
)
def test_clipping_is_applied(log_ratio: float, advantage: float, moves: bool) -> None:
    x = double(-1.0).requires_grad_()
    clipped_surrogate(x, double(-1.0 - log_ratio), double(advantage), 0.2).sum().backward()
    assert x.grad is not None
    assert (x.grad.item() != 0) is moves
    if moves:
        # Descending the loss moves log pi in the direction of the advantage.
        assert -x.grad.item() * advantage > 0


def test_a_ratio_of_one_gives_the_policy_gradient() -> None:
    a = double(1.5, -0.5)
    first, second = (double(-0.3, -1.2).requires_grad_() for _ in range(2))
    clipped_surrogate(first, double(-0.3, -1.2), a, 0.2).sum().backward()
    reinforce_loss(second, a).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_what_is_filtered_out_has_exactly_no_gradient() -> None:
    x = double(-0.3, -1.2).requires_grad_()
    filtered_cloning(x, torch.tensor([True, False])).sum().backward()
    torch.testing.assert_close(x.grad, double(-1.0, 0.0), rtol=0, atol=0)


def test_masked_total_by_hand() -> None:
    loss_BS = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    mask_BS = torch.tensor([[True, True], [True, False]])
    # (1 * (1 + 2) + 2 * 3) / 6 = 1.5
    result = masked_total(loss_BS, mask_BS, torch.tensor([1.0, 2.0]), 6.0)
    torch.testing.assert_close(result, torch.tensor(1.5))
