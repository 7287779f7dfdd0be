"""Returns and advantages against hand computation and naive float64 loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.credit.returns import (
    ADVANTAGE_STD_FLOOR,
    advantage_moments,
    advantage_std,
    gae,
    returns_to_go,
)

numbers = st.floats(-5, 5, allow_subnormal=False)
shares = st.floats(0, 1)


@st.composite
def episodes(draw: st.DrawFn) -> list[tuple[list[float], list[float], float]]:
    """Rewards and values of each step, and what comes after the last, of one to four episodes."""
    batch = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(0, 6))
        rewards = draw(st.lists(numbers, min_size=length, max_size=length))
        values = draw(st.lists(numbers, min_size=length, max_size=length))
        batch.append((rewards, values, draw(numbers)))
    return batch


def padded(batch: list[tuple[list[float], list[float], float]]) -> tuple[torch.Tensor, ...]:
    S = max(len(rewards) for rewards, _, _ in batch)
    # Padding is filled with numbers that would show up at once if they were read.
    rewards_BS = torch.full((len(batch), S), 1e6, dtype=torch.float64)
    values_BS = rewards_BS.clone()
    steps_BS = torch.zeros(len(batch), S, dtype=torch.bool)
    for b, (rewards, values, _) in enumerate(batch):
        rewards_BS[b, : len(rewards)] = torch.tensor(rewards, dtype=torch.float64)
        values_BS[b, : len(values)] = torch.tensor(values, dtype=torch.float64)
        steps_BS[b, : len(rewards)] = True
    after_B = torch.tensor([after for _, _, after in batch], dtype=torch.float64)
    return rewards_BS, values_BS, steps_BS, after_B


def naive_returns(rewards: list[float], gamma: float, after: float) -> list[float]:
    """Discounted sums written out, without recursion."""
    n = len(rewards)
    return [
        sum(gamma ** (k - s) * rewards[k] for k in range(s, n)) + gamma ** (n - s) * after
        for s in range(n)
    ]


def naive_gae(
    rewards: list[float], values: list[float], gamma: float, lam: float, after: float
) -> list[float]:
    """Sum of discounted one-step errors written out, without recursion."""
    following = [*values, after][1:]
    deltas = [r + gamma * w - v for r, w, v in zip(rewards, following, values, strict=True)]
    n = len(rewards)
    return [sum((gamma * lam) ** (k - s) * deltas[k] for k in range(s, n)) for s in range(n)]


def test_returns_by_hand() -> None:
    rewards_BS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 9.0, 9.0]])
    steps_BS = torch.tensor([[True, True, True], [True, False, False]])
    # Row 0: 2; 0 + 0.5 * 2 = 1; 1 + 0.5 * 1 = 1.5. Row 1: 3 + 0.5 * 4 (bootstrap) = 5.
    expected = torch.tensor([[1.5, 1.0, 2.0], [5.0, 0.0, 0.0]])
    result = returns_to_go(rewards_BS, steps_BS, 0.5, torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(result, expected)


def test_gae_by_hand() -> None:
    rewards_BS = torch.tensor([[0.0, 1.0]])
    values_BS = torch.tensor([[0.5, 0.25]])
    steps_BS = torch.ones(1, 2, dtype=torch.bool)
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0 + 1 * 0.25 - 0.5 = -0.25; A_0 = -0.25 + 0.5 * 0.75.
    expected = torch.tensor([[0.125, 0.75]])
    torch.testing.assert_close(gae(rewards_BS, values_BS, steps_BS, 1.0, 0.5), expected)


@given(episodes(), shares)
def test_returns_equal_the_written_out_sum(
    batch: list[tuple[list[float], list[float], float]], gamma: float
) -> None:
    rewards_BS, _, steps_BS, after_B = padded(batch)
    result = returns_to_go(rewards_BS, steps_BS, gamma, after_B)
    assert result.shape == rewards_BS.shape
    assert (result[~steps_BS] == 0).all()
    for b, (rewards, _, after) in enumerate(batch):
        expected = torch.tensor(naive_returns(rewards, gamma, after), dtype=torch.float64)
        torch.testing.assert_close(result[b, : len(rewards)], expected)


@given(episodes(), shares, shares)
def test_gae_equals_the_written_out_sum(
    batch: list[tuple[list[float], list[float], float]], gamma: float, lam: float
) -> None:
    rewards_BS, values_BS, steps_BS, after_B = padded(batch)
    result = gae(rewards_BS, values_BS, steps_BS, gamma, lam, after_B)
    assert (result[~steps_BS] == 0).all()
    for b, (rewards, values, after) in enumerate(batch):
        expected = naive_gae(rewards, values, gamma, lam, after)
        torch.testing.assert_close(
            result[b, : len(rewards)], torch.tensor(expected, dtype=torch.float64)
        )


@given(episodes(), shares)
def test_gae_with_lambda_one_is_return_minus_value(
    batch: list[tuple[list[float], list[float], float]], gamma: float
) -> None:
    rewards_BS, values_BS, steps_BS, after_B = padded(batch)
    excess_BS = returns_to_go(rewards_BS, steps_BS, gamma, after_B) - values_BS
    result = gae(rewards_BS, values_BS, steps_BS, gamma, 1.0, after_B)
    torch.testing.assert_close(result[steps_BS], excess_BS[steps_BS])


def test_an_episode_that_ended_is_not_continued() -> None:
    rewards_BS, steps_BS = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert (returns_to_go(rewards_BS, steps_BS, 1.0) == 0).all()
    assert (gae(rewards_BS, torch.zeros(2, 3), steps_BS, 1.0, 1.0) == 0).all()


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_impossible_discounts_are_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma is"):
        returns_to_go(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), gamma)
    with pytest.raises(ValueError, match="lam is"):
        gae(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), 1.0, gamma)


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    advantages_BS = torch.randn(6, 4, dtype=torch.float64)
    steps_BS = torch.rand(6, 4) < 0.7
    whole = advantage_moments(advantages_BS, steps_BS)
    parts = [advantage_moments(advantages_BS[i : i + 2], steps_BS[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), whole)
    torch.testing.assert_close(advantage_std(whole), advantages_BS[steps_BS].std(correction=0))


def test_advantages_that_do_not_vary_are_not_blown_up() -> None:
    moments = advantage_moments(torch.full((2, 2), 0.3), torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(advantage_std(moments), torch.tensor(ADVANTAGE_STD_FLOOR))
    assert torch.isfinite(advantage_std(torch.zeros(3)))
