"""Diagnostics against their definitions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.credit.collapse import CollapseWatch
from retro_lightning.credit.diagnostics import (
    advantage_warning,
    approximate_kl,
    clip_fraction,
    diagnose,
    effective_sample_size,
    explained_variance,
    gradient_shares,
    step_gradients,
    unreached,
)
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.credit.objective import returns_and_advantages
from retro_lightning.credit.terms import LossTerms


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


# ---------------------------------------------------------------------- of a whole gradient step
def test_diagnosis_of_a_batch_by_hand(make_inputs) -> None:  # type: ignore[no-untyped-def]
    inputs = make_inputs(0)
    terms = PolicyGradient()(inputs, normaliser=27.0)
    returns_BS, advantages_BS = returns_and_advantages(inputs, 1.0)
    norms_BS = torch.rand(8, 5, dtype=torch.float64)
    age_B = torch.tensor([0, 4, -1, -1, 0, 8, -1, -1])
    found = diagnose(inputs, terms, returns_BS, norms_BS, torch.arange(8) // 2, age_B)
    # Of the four trajectories of policies of ours the ages are 0, 4, 0 and 8.
    assert found["staleness_mean"].item() == pytest.approx(3.0)
    assert found["staleness_max"].item() == 8.0
    # Rows 0, 1, 4 and 5 have a ratio to take (see random_inputs).
    known_BS = inputs.steps_BS & torch.isin(torch.arange(8), torch.tensor([0, 1, 4, 5]))[:, None]
    ratios = (inputs.logprobs_BS.detach() - inputs.behaviour_logprobs_BS)[known_BS].exp()
    assert found["largest_ratio"].item() == pytest.approx(ratios.max().item())
    share = ratios.sum() ** 2 / ratios.square().sum() / len(ratios)
    assert found["ratio_sample_share"].item() == pytest.approx(share.item())
    assert found["advantage_coverage"] == 1.0
    assert found["zero_advantage_groups"] == 0.0
    square = (advantages_BS.square() * norms_BS)[inputs.steps_BS].sum() / 8
    assert found["gradient_variance"].item() == pytest.approx(square.item())


def test_steps_that_no_gradient_reached_are_found(make_inputs) -> None:  # type: ignore[no-untyped-def]
    inputs = make_inputs(0)
    terms = PolicyGradient()(inputs, normaliser=27.0)
    silent = LossTerms(
        loss=terms.loss,
        metrics={},
        advantages_BS=terms.advantages_BS,
        excluded_BS=torch.zeros_like(inputs.steps_BS),
    )
    gradient_BS = torch.ones_like(inputs.logprobs_BS)
    assert not unreached(silent, inputs, gradient_BS).any()
    gradient_BS[5, 2] = 0.0
    assert unreached(silent, inputs, gradient_BS).nonzero().tolist() == [[5, 2]]
    unsaid = dataclasses.replace(silent, excluded_BS=None)
    assert not unreached(unsaid, inputs, gradient_BS).any()  # it does not say what it leaves out
    inputs.logprobs_BS.grad, terms.loss.grad = None, None
    terms.loss.backward()
    assert not unreached(terms, inputs, step_gradients(inputs)).any()


def test_the_pull_at_a_step_is_that_on_its_action_and_its_tokens(make_inputs) -> None:  # type: ignore[no-untyped-def]
    inputs = make_inputs(0)
    assert not step_gradients(inputs).any()
    token_D = torch.tensor([-0.1, -0.2, -0.3], dtype=torch.float64, requires_grad=True)
    place = {"token_row_D": torch.tensor([0, 0, 5]), "token_step_D": torch.tensor([1, 1, 2])}
    inputs = dataclasses.replace(inputs, token_logprobs_D=token_D, **place)
    (inputs.logprobs_BS[3, 0] * -2.0 + (token_D * torch.tensor([1.0, -3.0, 5.0])).sum()).backward()
    found = step_gradients(inputs)
    assert found[3, 0] == 2.0
    assert found[0, 1] == 4.0
    assert found[5, 2] == 5.0
    assert found.count_nonzero() == 3


# ---------------------------------------------------------------------- collapse
HEALTHY = {
    "entropy": 0.4,
    "approximate_kl": 0.01,
    "clip_fraction": 0.1,
    "largest_ratio": 3.0,
    "effective_sample_share": 0.8,
    "explained_variance": 0.5,
    "zero_advantage_groups": 0.3,
}


@pytest.mark.parametrize(
    ("metric", "value", "knob"),
    [
        ("entropy", 1e-3, "entropy_coef"),
        ("approximate_kl", 2.0, "learning rate"),
        ("clip_fraction", 0.9, "clip"),
        ("largest_ratio", 1e6, "importance_cap"),
        ("effective_sample_share", 0.01, "batch_size"),
        ("explained_variance", -5.0, "value_coef"),
        ("zero_advantage_groups", 0.95, "task_curriculum"),
    ],
)
def test_each_collapse_is_warned_of_once_by_symptom_and_knob(
    metric: str, value: float, knob: str
) -> None:
    watch = CollapseWatch()
    sick = {**HEALTHY, metric: value}
    assert watch(HEALTHY, 0.5) == []
    assert watch(sick, 0.5) == watch(sick, 0.5) == []  # twice may be chance
    assert watch(HEALTHY, 0.5) == []  # and it is over: the count begins anew
    told = [sentence for _ in range(6) for sentence in watch(sick, 0.5)]
    assert len(told) == 1
    assert told[0].startswith(f"{metric} is ")
    assert knob in told[0]


def test_a_policy_that_has_learnt_its_tasks_may_be_sure_of_itself() -> None:
    watch = CollapseWatch()
    assert [watch({**HEALTHY, "entropy": 1e-4}, 0.95) for _ in range(5)] == [[]] * 5
