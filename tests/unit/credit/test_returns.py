"""Returns and advantages against hand computation and naive float64 loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.credit.returns import (
    gae,
    lambda_returns,
    n_step_returns,
    per_decision_returns,
    returns_to_go,
    vtrace,
)
from retro_lightning.credit.scales import ADVANTAGE_STD_FLOOR, advantage_moments, advantage_std

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


Batch = list[tuple[list[float], list[float], float]]


def ratios_of(batch: Batch) -> list[list[float]]:
    """Made-up log-ratios, on both sides of 0."""
    return [[math.sin(3.0 * s + b) for s in range(len(r))] for b, (r, _, _) in enumerate(batch)]


def padded_ratios(batch: Batch, like: torch.Tensor) -> torch.Tensor:
    result = torch.full_like(like, 1e3)
    for b, row in enumerate(ratios_of(batch)):
        result[b, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return result


def naive_vtrace(
    rewards: list[float],
    values: list[float],
    ratios: list[float],
    gamma: float,
    after: float,
    rho_cap: float,
    c_cap: float,
) -> tuple[list[float], list[float]]:
    """Eq. 1 of the paper as it is printed: a sum of products, without recursion."""
    n = len(rewards)
    following = [*values, after][1:]
    rho = [min(rho_cap, math.exp(x)) for x in ratios]
    c = [min(c_cap, math.exp(x)) for x in ratios]
    delta = [rho[t] * (rewards[t] + gamma * following[t] - values[t]) for t in range(n)]
    targets = [
        values[s] + sum(gamma ** (t - s) * math.prod(c[s:t]) * delta[t] for t in range(s, n))
        for s in range(n)
    ]
    return targets, [r + gamma * v for r, v in zip(rewards, [*targets, after][1:], strict=True)]


@given(episodes(), shares, st.floats(0.2, 2), st.floats(0.2, 2))
def test_vtrace_equals_the_printed_equation(
    batch: Batch, gamma: float, rho_cap: float, c_cap: float
) -> None:
    rewards_BS, values_BS, steps_BS, after_B = padded(batch)
    targets_BS, returns_BS = vtrace(
        rewards_BS,
        values_BS,
        padded_ratios(batch, rewards_BS),
        steps_BS,
        gamma,
        rho_cap=rho_cap,
        c_cap=c_cap,
        bootstrap_value_B=after_B,
    )
    assert (targets_BS[~steps_BS] == 0).all()
    assert (returns_BS[~steps_BS] == 0).all()
    for b, (rewards, values, after) in enumerate(batch):
        naive = naive_vtrace(rewards, values, ratios_of(batch)[b], gamma, after, rho_cap, c_cap)
        for result_BS, expected in zip((targets_BS, returns_BS), naive, strict=True):
            torch.testing.assert_close(
                result_BS[b, : len(rewards)], torch.tensor(expected, dtype=torch.float64)
            )


@given(episodes(), shares)
def test_vtrace_of_the_behaviour_itself_is_the_return(batch: Batch, gamma: float) -> None:
    rewards_BS, values_BS, steps_BS, after_B = padded(batch)
    targets_BS, _ = vtrace(
        rewards_BS,
        values_BS,
        torch.zeros_like(rewards_BS),
        steps_BS,
        gamma,
        bootstrap_value_B=after_B,
    )
    torch.testing.assert_close(targets_BS, returns_to_go(rewards_BS, steps_BS, gamma, after_B))


@given(episodes(), shares, st.integers(1, 8))
def test_n_step_returns_equal_the_written_out_sum(batch: Batch, gamma: float, n: int) -> None:
    rewards_BS, values_BS, steps_BS, after_B = padded(batch)
    result_BS = n_step_returns(rewards_BS, values_BS, steps_BS, gamma, n, after_B)
    assert (result_BS[~steps_BS] == 0).all()
    for b, (rewards, values, after) in enumerate(batch):
        behind = [*values, after]
        for s in range(len(rewards)):
            end = min(s + n, len(rewards))
            expected = sum(gamma ** (k - s) * rewards[k] for k in range(s, end))
            expected += gamma ** (end - s) * behind[end]
            assert result_BS[b, s].item() == pytest.approx(expected, abs=1e-9)


@given(episodes(), shares, shares)
def test_lambda_returns_mix_the_n_step_returns(batch: Batch, gamma: float, lam: float) -> None:
    """``(1 - lam) * sum of lam^(n-1) G^(n)``, the last n with all the weight that is left."""
    rewards_BS, values_BS, steps_BS, after_B = padded(batch)
    result_BS = lambda_returns(rewards_BS, values_BS, steps_BS, gamma, lam, after_B)
    longest = rewards_BS.shape[1]
    by_n = [
        n_step_returns(rewards_BS, values_BS, steps_BS, gamma, n + 1, after_B)
        for n in range(longest)
    ]
    for b, (rewards, _, _) in enumerate(batch):
        for s in range(len(rewards)):
            left = len(rewards) - s
            expected = sum(
                (1 - lam) * lam ** (n - 1) * by_n[n - 1][b, s].item() for n in range(1, left)
            )
            expected += lam ** (left - 1) * by_n[left - 1][b, s].item()
            assert result_BS[b, s].item() == pytest.approx(expected, abs=1e-8)


@given(episodes(), shares)
def test_per_decision_returns_equal_the_written_out_sum(batch: Batch, gamma: float) -> None:
    rewards_BS, _, steps_BS, after_B = padded(batch)
    ratios = ratios_of(batch)
    result_BS = per_decision_returns(
        rewards_BS, padded_ratios(batch, rewards_BS), steps_BS, gamma, after_B
    )
    assert (result_BS[~steps_BS] == 0).all()
    for b, (rewards, _, after) in enumerate(batch):
        n = len(rewards)
        for s in range(n):
            weight = [math.exp(sum(ratios[b][s + 1 : k + 1])) for k in range(s, n)]
            expected = sum(gamma ** (k - s) * weight[k - s] * rewards[k] for k in range(s, n))
            expected += gamma ** (n - s) * weight[-1] * after
            assert result_BS[b, s].item() == pytest.approx(expected, abs=1e-8)


def test_gae_and_vtrace_agree_with_torchrl() -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    lengths = torch.tensor([1, 4, 7, 7, 3])
    B, S = 5, 7
    steps_BS = torch.arange(S)[None, :] < lengths[:, None]
    rewards_BS, values_BS, log_ratio_BS = normal(B, S), normal(B, S), normal(B, S)
    ended_B = torch.tensor([True, False, True, False, True])  # else: cut by us, bootstrapped
    after_B = torch.where(ended_B, 0.0, normal(B))
    rows = torch.arange(B)
    following_BS = torch.cat([values_BS[:, 1:], after_B[:, None]], dim=1)
    following_BS[rows, lengths - 1] = after_B
    done_BS = torch.zeros(B, S, dtype=torch.bool)
    done_BS[rows, lengths - 1] = True
    ended_BS = done_BS & ended_B[:, None]
    theirs = [x[..., None] for x in (values_BS, following_BS, rewards_BS, done_BS, ended_BS)]
    advantages, _ = functional.generalized_advantage_estimate(0.9, 0.8, *theirs)
    ours_BS = gae(rewards_BS, values_BS, steps_BS, 0.9, 0.8, after_B)
    torch.testing.assert_close(ours_BS[steps_BS], advantages[..., 0][steps_BS], rtol=0, atol=1e-5)
    weighted, targets = functional.vtrace_advantage_estimate(
        0.9, log_ratio_BS[..., None], torch.zeros(B, S, 1), *theirs, rho_thresh=1.2, c_thresh=0.9
    )
    targets_BS, returns_BS = vtrace(
        rewards_BS,
        values_BS,
        log_ratio_BS,
        steps_BS,
        0.9,
        rho_cap=1.2,
        c_cap=0.9,
        bootstrap_value_B=after_B,
    )
    rho_BS = log_ratio_BS.exp().clamp(max=1.2)
    for ours_BS, theirs_BS1 in (
        (targets_BS, targets),
        (rho_BS * (returns_BS - values_BS), weighted),
    ):
        torch.testing.assert_close(
            ours_BS[steps_BS], theirs_BS1[..., 0][steps_BS], rtol=0, atol=1e-5
        )
