"""Variance of the gradient: against autograd, and where a baseline reaches its limit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.credit.diagnostics import explained_variance
from retro_lightning.credit.variance import (
    best_constant_cut,
    gradient_variance,
    score_norms,
    variance_cut_limit,
)


def test_score_norms_are_the_squared_lengths_of_the_scores() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask_DC = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])
    logprobs_DC = logits.masked_fill(~mask_DC, -torch.inf).log_softmax(1)
    chosen_D = torch.tensor([2, 0, 1])
    found_D = score_norms(logprobs_DC.detach(), chosen_D, mask_DC)
    for d in range(3):
        (score,) = torch.autograd.grad(logprobs_DC[d, chosen_D[d]], logits, retain_graph=True)
        torch.testing.assert_close(found_D[d], score.square().sum())


def test_gradient_variance_is_the_mean_squared_length_by_the_logits() -> None:
    """Two trajectories with logits of their own: the gradients written out and measured."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)  # B, S, two actions
    chosen_BS = torch.tensor([[0, 1, 1], [1, 0, 0]])
    steps_BS = torch.tensor([[True, True, True], [True, True, False]])
    credits_BS = torch.randn(2, 3, dtype=torch.float64)
    table = logits.log_softmax(-1)
    taken_BS = table.gather(-1, chosen_BS[..., None]).squeeze(-1)
    lengths = []
    for b in range(2):
        loss = (credits_BS[b] * taken_BS[b])[steps_BS[b]].sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        lengths.append(gradient.square().sum())
    flat = table.detach().reshape(6, 2)
    norms_BS = score_norms(flat, chosen_BS.flatten(), torch.ones(6, 2, dtype=torch.bool))
    found = gradient_variance(credits_BS, norms_BS.view(2, 3), steps_BS)
    torch.testing.assert_close(found, torch.stack(lengths).mean())


@pytest.mark.parametrize(("p", "unexplained"), [(0.3, 1.0), (0.5, 0.5), (0.7, 0.75)])
def test_the_cut_in_variance_reaches_its_limit_where_scores_are_equally_long(
    p: float, unexplained: float
) -> None:
    """Returns of 0 and 1, and values that explain a given share of their variance.

    With success rates q that differ between states, V = q explains Var(q) of p (1 - p). Half of the
    states at p - d and half at p + d: Var(q) = d^2, so d^2 = (1 - unexplained) p (1 - p).
    """
    d = math.sqrt((1 - unexplained) * p * (1 - p))
    rates = torch.tensor([p - d, p + d], dtype=torch.float64)
    # Every outcome as often as it is likely, in whole numbers of ten thousand.
    ones = (rates * 10_000).round().long()
    returns = torch.cat(
        [torch.cat([torch.ones(n), torch.zeros(10_000 - n)]) for n in ones.tolist()]
    )
    values = rates.repeat_interleave(10_000).float()
    returns_BS, values_BS = returns[:, None], values[:, None]
    steps_BS = torch.ones_like(returns_BS, dtype=torch.bool)
    norms_BS = torch.full_like(returns_BS, 0.5)
    bare = gradient_variance(returns_BS, norms_BS, steps_BS)
    ours = gradient_variance(returns_BS - values_BS, norms_BS, steps_BS)
    explained = explained_variance(values_BS, returns_BS, steps_BS)
    limit = 1.0 / ((1.0 - p) * (1.0 - explained))
    assert explained.item() == pytest.approx(1 - unexplained, abs=1e-3)
    assert (bare / ours).item() == pytest.approx(limit.item(), rel=1e-3)
    assert variance_cut_limit(returns_BS, values_BS, steps_BS).item() == pytest.approx(
        limit.item(), rel=1e-3
    )


def test_a_bias_of_the_values_counts_against_the_limit() -> None:
    # Returns 1 1 1 0, p = 3/4; values 1/4 throughout: E (G - V)^2 = (3 * 9 + 1) / 64 = 7/16, and
    # the limit is (3/4) / (7/16) = 12/7. Without their bias they would be as good as p: 4.
    returns_BS = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    steps_BS = torch.ones(4, 1, dtype=torch.bool)
    values_BS = torch.full((4, 1), 0.25)
    found = variance_cut_limit(returns_BS, values_BS, steps_BS)
    assert found.item() == pytest.approx(12 / 7)
    best = variance_cut_limit(returns_BS, torch.full((4, 1), 0.75), steps_BS)
    assert best.item() == pytest.approx(4.0)


@pytest.mark.parametrize("errors", [1, 2, 5, 8])
def test_a_sure_policy_stays_below_the_limit_even_with_a_perfect_value(errors: int) -> None:
    """All that one state with a right and a wrong action can bring, each as often as it is likely.

    The wrong one is taken with chance e and costs the return of 1. Squared scores are 2 e^2 for the
    right action and 2 (1 - e)^2 for the wrong one. Without a baseline only the right one is pushed:
    E n G^2 = 2 (1 - e) e^2. With the perfect V = 1 - e, whose residuals are e and 1 - e:
    E n (G - V)^2 = 2 (1 - e) e^4 + 2 e (1 - e)^4. So the cut is e / (e^3 + (1 - e)^3), while the
    formula, with EV = 0, says 1 / (1 - p) = 1 / e. The best constant is E n G / E n = e and leaves
    2 e^2 (1 - e)^2: it cuts by 1 / (1 - e), and as there is one state, no baseline cuts more.
    """
    e = errors / 10
    returns_BS = torch.tensor([0.0] * errors + [1.0] * (10 - errors), dtype=torch.float64)[:, None]
    table = torch.tensor([[1 - e, e]], dtype=torch.float64).log().expand(10, 2)
    chosen = (returns_BS[:, 0] == 0).long()
    norms_BS = score_norms(table, chosen, torch.ones(10, 2, dtype=torch.bool))[:, None]
    steps_BS = torch.ones(10, 1, dtype=torch.bool)
    values_BS = torch.full_like(returns_BS, 1 - e)
    bare = gradient_variance(returns_BS, norms_BS, steps_BS)
    cut = (bare / gradient_variance(returns_BS - values_BS, norms_BS, steps_BS)).item()
    limit = variance_cut_limit(returns_BS, values_BS, steps_BS).item()
    best = best_constant_cut(returns_BS, norms_BS, steps_BS).item()
    assert limit == pytest.approx(1 / e)
    assert cut == pytest.approx(e / (e**3 + (1 - e) ** 3))
    assert best == pytest.approx(1 / (1 - e))
    # Reached where both actions are as likely; at one error in ten a perfect V makes things worse.
    assert (cut >= 0.8 * limit) == (errors >= 5)
    assert errors > 2 or cut < 1.0 < best < 0.3 * limit


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0.01, 2.0)), min_size=2))
def test_no_constant_cuts_more_than_the_best_one(steps: list[tuple[float, float]]) -> None:
    returns_BS = torch.tensor([[g for g, _ in steps]], dtype=torch.float64)
    norms_BS = torch.tensor([[n for _, n in steps]], dtype=torch.float64)
    steps_BS = torch.ones_like(returns_BS, dtype=torch.bool)
    best = best_constant_cut(returns_BS, norms_BS, steps_BS).item()
    bare = gradient_variance(returns_BS, norms_BS, steps_BS).item()
    for constant in (0.0, 0.2, 0.5, 0.9):
        left = gradient_variance(returns_BS - constant, norms_BS, steps_BS).item()
        assert bare <= best * left * (1 + 1e-9) + 1e-12


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0), st.floats(0.01, 2.0)), min_size=1))
def test_the_cut_is_the_limit_times_what_scores_tell_of_the_outcome(
    steps: list[tuple[bool, float, float]],
) -> None:
    """cut = limit * (E n G^2 / E G^2) / (E n (G - V)^2 / E (G - V)^2), whatever the batch."""
    returns = torch.tensor([1.0, *(float(g) for g, _, _ in steps)], dtype=torch.float64)
    values = torch.tensor([0.4, *(v for _, v, _ in steps)], dtype=torch.float64)
    norms = torch.tensor([0.7, *(n for _, _, n in steps)], dtype=torch.float64)
    left = returns - values
    told = (norms * returns**2).sum() / (returns**2).sum()
    told = told / ((norms * left**2).sum() / (left**2).sum())
    mask = torch.ones(1, len(returns), dtype=torch.bool)
    bare = gradient_variance(returns[None], norms[None], mask)
    ours = gradient_variance(left[None], norms[None], mask)
    limit = variance_cut_limit(returns[None], values[None], mask)
    torch.testing.assert_close(bare / ours, limit * told)
