"""Objectives: what each source contributes, invariances, and arguments they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from retro_lightning.credit.baselines import NoBaseline, ValueHeadBaseline
from retro_lightning.credit.estimators import (
    AdvantageWeightedCloning,
    CreditInputs,
    FilteredCloning,
    Objective,
    PolicyGradient,
    check_pair,
    sources,
)
from retro_lightning.credit.scales import advantage_moments, advantage_std

Make = Callable[..., CreditInputs]
OBJECTIVES: list[Objective] = [
    PolicyGradient(gamma=0.9),
    PolicyGradient(gamma=0.9, normalise_advantages=False, cloning_coef=0.3),
    FilteredCloning(gamma=0.9),
    FilteredCloning(min_return=0.1),
    AdvantageWeightedCloning(gamma=0.9),
]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)


def naive_policy_loss(
    inputs: CreditInputs, objective: PolicyGradient, normaliser: float
) -> tuple[float, dict[str, float]]:
    """The default objective written out step by step, and the size of each source's gradient."""
    x = {k: v.detach().tolist() for k, v in vars(inputs).items() if v is not None}
    lengths = [sum(row) for row in x["steps_BS"]]
    advantages, targets = [], []
    for b, length in enumerate(lengths):
        carry = x["final_values_B"][b] if x["bootstrap_B"][b] else 0.0
        row = []
        for s in reversed(range(length)):
            carry = x["rewards_BS"][b][s] + objective.gamma * carry
            row.insert(0, carry)
        targets.append(row)
        advantages.append([g - x["baseline_BS"][b][s] for s, g in enumerate(row)])
    flat = [a for row in advantages for a in row]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat))
    total, sizes = 0.0, {"fresh": 0.0, "stale": 0.0, "cloning": 0.0}
    for b, length in enumerate(lengths):
        for s in range(length):
            logprob, behaviour = x["logprobs_BS"][b][s], x["behaviour_logprobs_BS"][b][s]
            raw, weight = advantages[b][s], x["weight_B"][b]
            a = raw / std if objective.normalise_advantages else raw
            if x["fresh_B"][b] and not math.isnan(behaviour):
                ratio = math.exp(logprob - behaviour)
                bounded = min(max(ratio, 1 - objective.clip), 1 + objective.clip)
                loss = -min(ratio * a, bounded * a)
                size = 0.0 if bounded * a < ratio * a else ratio * abs(a)
                source = "fresh"
            elif x["supported_BS"][b][s] and not math.isnan(behaviour):
                ratio = min(objective.importance_cap, math.exp(logprob - behaviour))
                loss, size, source = -ratio * a * logprob, ratio * abs(a), "stale"
            else:
                copy = math.exp(raw / objective.cloning_temperature)
                size = objective.cloning_coef * min(copy, objective.cloning_max_weight)
                loss, source = -size * logprob, "cloning"
            error = (x["values_BS"][b][s] - targets[b][s]) ** 2
            total += weight * (loss - objective.entropy_coef * x["entropies_BS"][b][s])
            total += x["value_weight_B"][b] * objective.value_coef * error
            sizes[source] += weight * size
    return total / normaliser, sizes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objective", OBJECTIVES[:2])
def test_the_default_objective_equals_a_naive_loop(
    make_inputs: Make, objective: PolicyGradient, seed: int
) -> None:
    inputs = make_inputs(seed)
    expected, sizes = naive_policy_loss(inputs, objective, 27.0)
    terms = objective(inputs, normaliser=27.0)
    assert terms.loss.item() == pytest.approx(expected)
    for name, size in sizes.items():
        share = terms.metrics[f"gradient_share/{name}"].item()
        assert share == pytest.approx(size / sum(sizes.values()))


@pytest.mark.parametrize("seed", range(3))
def test_gradient_shares_are_the_sizes_of_the_derivatives(make_inputs: Make, seed: int) -> None:
    inputs = make_inputs(seed)
    terms = PolicyGradient(gamma=0.9)(inputs, normaliser=27.0)
    (derivative_BS,) = torch.autograd.grad(terms.loss, inputs.logprobs_BS)
    size = derivative_BS.abs().sum()
    for name, mask_BS in sources(inputs).items():
        expected = derivative_BS[mask_BS].abs().sum() / size
        torch.testing.assert_close(terms.metrics[f"gradient_share/{name}"], expected)


def test_every_step_has_exactly_one_source(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    masks = sources(inputs)
    counts_BS = torch.stack([mask.long() for mask in masks.values()]).sum(dim=0)
    assert torch.equal(counts_BS, inputs.steps_BS.long())
    # By construction rows 0 and 4 are fresh, 1 and 5 stale, 2 and 6 expert, 3 and 7 unknown.
    for name, rows in (("fresh", [0, 4]), ("stale", [1, 5]), ("cloning", [2, 3, 6, 7])):
        assert masks[name].any(dim=1).nonzero().flatten().tolist() == rows


def test_an_unknown_or_impossible_behaviour_is_never_given_a_ratio(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    everyone = torch.ones_like(inputs.supported_BS)
    for value in (torch.nan, -torch.inf):
        unknown = torch.full_like(inputs.behaviour_logprobs_BS, value)
        masks = sources(replace(inputs, behaviour_logprobs_BS=unknown, supported_BS=everyone))
        assert torch.equal(masks["cloning"], inputs.steps_BS)


@each_objective
def test_one_times_eight_equals_eight_times_one(
    make_inputs: Make, take: Callable[[CreditInputs, Any], CreditInputs], objective: Objective
) -> None:
    inputs = make_inputs(1)
    leaves = [inputs.logprobs_BS, inputs.entropies_BS, inputs.values_BS]
    normaliser = inputs.steps_BS.sum()
    whole = objective(inputs, normaliser=normaliser)
    parts = [take(inputs, slice(b, b + 1)) for b in range(8)]
    scale = None
    if whole.advantages_BS is not None:
        one_by_one = [objective(part, normaliser=normaliser).advantages_BS for part in parts]
        moments = [
            advantage_moments(a, p.steps_BS)
            for a, p in zip(one_by_one, parts, strict=True)
            if a is not None
        ]
        scale = advantage_std(torch.stack(moments).sum(dim=0))
    losses = [objective(p, normaliser=normaliser, advantage_scale=scale).loss for p in parts]
    total = torch.stack(losses).sum()
    torch.testing.assert_close(total, whole.loss)
    for one, eight in zip(gradients(whole.loss, leaves), gradients(total, leaves), strict=True):
        torch.testing.assert_close(one, eight)


def gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


@each_objective
def test_padding_has_exactly_no_gradient_and_no_influence(
    make_inputs: Make, objective: Objective
) -> None:
    inputs = make_inputs(2)
    leaves = [inputs.logprobs_BS, inputs.entropies_BS, inputs.values_BS]
    loss = objective(inputs, normaliser=10.0).loss
    found = gradients(loss, leaves)
    for gradient_BS in found:
        assert torch.isfinite(gradient_BS).all()
        assert (gradient_BS[~inputs.steps_BS] == 0).all()
    dirty = {
        name: torch.where(inputs.steps_BS, value, 1e3)
        for name, value in vars(inputs).items()
        if name.endswith("_BS") and name not in ("steps_BS", "supported_BS") and value is not None
    }
    torch.testing.assert_close(objective(replace(inputs, **dirty), normaliser=10.0).loss, loss)


@each_objective
def test_no_log_probability_at_padding_poisons_the_gradient(
    make_inputs: Make, objective: Objective
) -> None:
    inputs = make_inputs(2)
    unknown_BS = torch.where(inputs.steps_BS, inputs.logprobs_BS.detach(), torch.nan)
    inputs = replace(inputs, logprobs_BS=unknown_BS.requires_grad_())
    (gradient_BS,) = gradients(objective(inputs, normaliser=10.0).loss, [inputs.logprobs_BS])
    assert torch.isfinite(gradient_BS).all()


@each_objective
def test_whole_objectives_pass_gradcheck(make_inputs: Make, objective: Objective) -> None:
    inputs = make_inputs(3, lengths=(2, 3, 1, 2))
    # The weights of stale steps are detached on purpose, so numerical differences would see them
    # move: stale rows are taken out, and tested against the closed form elsewhere.
    inputs = replace(inputs, supported_BS=torch.zeros_like(inputs.supported_BS))

    def loss(logprobs_BS: Tensor, entropies_BS: Tensor, values_BS: Tensor) -> Tensor:
        given = {"logprobs_BS": logprobs_BS, "entropies_BS": entropies_BS, "values_BS": values_BS}
        return objective(replace(inputs, **given), normaliser=5.0).loss

    leaves = (inputs.logprobs_BS, inputs.entropies_BS, inputs.values_BS)
    assert torch.autograd.gradcheck(loss, leaves)


def test_only_what_went_well_is_cloned_but_all_values_are_learnt(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    leaves = [inputs.logprobs_BS, inputs.values_BS]
    policy_BS, value_BS = gradients(FilteredCloning()(inputs, normaliser=1.0).loss, leaves)
    kept_BS = inputs.steps_BS & inputs.success_B[:, None]
    expected_BS = torch.where(kept_BS, -inputs.weight_B[:, None], 0.0)
    torch.testing.assert_close(policy_BS, expected_BS)
    assert (value_BS[inputs.steps_BS] != 0).all()


def test_filtering_by_return_keeps_what_reaches_it(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    returns_B = inputs.rewards_BS.sum(dim=1)
    threshold = float(returns_B.median())
    terms = FilteredCloning(min_return=threshold, value_coef=0.0)(inputs, normaliser=1.0)
    (policy_BS,) = gradients(terms.loss, [inputs.logprobs_BS])
    assert torch.equal((policy_BS != 0).any(dim=1), returns_B >= threshold)
    # The median of eight is the fourth smallest: five reach it.
    assert terms.metrics["kept_share"].item() == pytest.approx(5 / 8)


def test_only_what_we_cut_is_bootstrapped(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    objective = PolicyGradient(normalise_advantages=False)
    before = objective(inputs, normaliser=1.0).advantages_BS
    moved = replace(inputs, final_values_B=inputs.final_values_B + 1.0)
    after = objective(moved, normaliser=1.0).advantages_BS
    assert before is not None
    assert after is not None
    # With gamma = 1 a bootstrap value higher by one raises every return-to-go by one.
    raised_BS = inputs.steps_BS & inputs.bootstrap_B[:, None]
    torch.testing.assert_close(after - before, raised_BS.double())


def test_fresh_steps_at_ratio_one_give_the_plain_policy_gradient(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    inputs = replace(
        inputs,
        behaviour_logprobs_BS=inputs.logprobs_BS.detach(),
        fresh_B=torch.ones_like(inputs.fresh_B),
    )
    terms = PolicyGradient(normalise_advantages=False)(inputs, normaliser=1.0)
    (policy_BS,) = gradients(terms.loss, [inputs.logprobs_BS])
    assert terms.advantages_BS is not None
    torch.testing.assert_close(policy_BS, -terms.advantages_BS * inputs.weight_B[:, None])
    assert terms.metrics["clip_fraction"] == 0
    assert terms.metrics["approximate_kl"] == 0
    assert terms.metrics["gradient_share/fresh"] == 1


def test_the_normalised_objective_only_rescales(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    inputs = replace(inputs, fresh_B=torch.zeros_like(inputs.fresh_B))
    inputs = replace(inputs, supported_BS=torch.ones_like(inputs.supported_BS))
    known = torch.where(inputs.steps_BS, inputs.logprobs_BS.detach(), torch.nan)
    inputs = replace(inputs, behaviour_logprobs_BS=known)
    plain = PolicyGradient(normalise_advantages=False, value_coef=0.0, entropy_coef=0.0)
    scaled = PolicyGradient(normalise_advantages=True, value_coef=0.0, entropy_coef=0.0)
    terms = plain(inputs, normaliser=1.0)
    loss = scaled(inputs, normaliser=1.0).loss
    torch.testing.assert_close(loss * terms.metrics["advantage_std"], terms.loss)


@each_objective
def test_metrics_are_detached_scalars(make_inputs: Make, objective: Objective) -> None:
    terms = objective(make_inputs(0), normaliser=1.0)
    assert terms.loss.requires_grad
    for name, value in terms.metrics.items():
        assert value.shape == (), name
        assert not value.requires_grad, name
        assert torch.isfinite(value), name


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (PolicyGradient, {"clip": 0.0}, "clip is 0"),
        (PolicyGradient, {"clip": math.nan}, "clip is nan"),
        (PolicyGradient, {"importance_cap": 0.9}, "importance_cap is 0.9"),
        (PolicyGradient, {"importance_cap": math.inf}, "importance_cap is inf"),
        (PolicyGradient, {"cloning_coef": -1.0}, "cloning_coef is -1"),
        (PolicyGradient, {"cloning_temperature": 0.0}, "cloning_temperature is 0"),
        (PolicyGradient, {"cloning_max_weight": 0.5}, "cloning_max_weight is 0.5"),
        (PolicyGradient, {"entropy_coef": -0.1}, "entropy_coef is -0.1"),
        (PolicyGradient, {"gamma": 1.5}, "gamma is 1.5"),
        (FilteredCloning, {"value_coef": -1.0}, "value_coef is -1"),
        (AdvantageWeightedCloning, {"temperature": -1.0}, "temperature is -1"),
        (AdvantageWeightedCloning, {"max_weight": 0.0}, "max_weight is 0"),
    ],
)
def test_impossible_arguments_are_refused_by_name(
    make: type[Objective], arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_value_baseline_that_is_never_trained_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ValueHeadBaseline.*value_coef 0"):
        check_pair(FilteredCloning(value_coef=0.0), ValueHeadBaseline())
    check_pair(FilteredCloning(), ValueHeadBaseline())
    check_pair(FilteredCloning(value_coef=0.0), NoBaseline())


def test_shapes_that_do_not_fit_are_refused(make_inputs: Make) -> None:
    inputs = make_inputs(0)
    with pytest.raises(ValueError, match=r"weight_B has shape \(3,\)"):
        replace(inputs, weight_B=torch.ones(3))
    with pytest.raises(ValueError, match="rewards_BS has shape"):
        replace(inputs, rewards_BS=inputs.rewards_BS[:, 1:])


def test_the_value_head_learns_the_present_policys_value_where_that_is_asked(
    make_inputs: Make,
) -> None:
    """V-trace written out from the last step on (Espeholt et al. 2018, eq. 1, caps of 1)."""
    inputs = make_inputs(3)
    objective = PolicyGradient(gamma=0.9, value_coef=1.0, value_target="current")
    terms = objective(inputs, normaliser=27.0)
    x = {k: v.detach().tolist() for k, v in vars(inputs).items() if v is not None}
    total = 0.0
    for b in (0, 1, 4, 5):  # fresh or stale; the others' ratios are unknown
        following = correction = 0.0
        if x["bootstrap_B"][b]:
            following = x["final_values_B"][b]
        for s in reversed(range(sum(x["steps_BS"][b]))):
            value = x["values_BS"][b][s]
            ratio = math.exp(x["logprobs_BS"][b][s] - x["behaviour_logprobs_BS"][b][s])
            error = min(1.0, ratio) * (x["rewards_BS"][b][s] + 0.9 * following - value)
            correction = error + 0.9 * min(1.0, ratio) * correction
            total += correction**2 / 27.0  # target less value; sampling is not undone
            following = value
    assert terms.metrics["loss_value"].item() == pytest.approx(total)
    (gradient_BS,) = torch.autograd.grad(terms.loss, inputs.values_BS)
    assert not gradient_BS[[2, 3, 6, 7]].any()
    assert gradient_BS[[0, 1, 4, 5]][inputs.steps_BS[[0, 1, 4, 5]]].all()


def test_a_value_head_weighed_by_scores_learns_the_baseline_of_least_variance(
    make_inputs: Make,
) -> None:
    """One value for all steps: the loss is least at ``E n G / E n``, and it is n (V - G)^2."""
    norms_BS = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shared = torch.zeros((), dtype=torch.float64, requires_grad=True)
    inputs = replace(
        make_inputs(2),
        values_BS=shared.expand(8, 5),
        value_weight_B=None,
        bootstrap_B=torch.zeros(8, dtype=torch.bool),
        score_norms_BS=norms_BS,
    )
    objective = PolicyGradient(value_coef=1.0, value_weighting="score")
    assert objective.needs_scores
    terms = objective(inputs, normaliser=27.0)
    going_BS = inputs.rewards_BS.flip(1).cumsum(1).flip(1)
    n, g = norms_BS[inputs.steps_BS], going_BS[inputs.steps_BS]
    assert terms.metrics["loss_value"].item() == pytest.approx((n * g**2).sum().item() / 27)
    (slope,) = torch.autograd.grad(terms.loss, shared)
    # d/dV sum n (V - G)^2 = 2 (V sum n - sum n G), at V = 0; its root is the best constant.
    assert slope.item() == pytest.approx(-2 * (n * g).sum().item() / 27)
    best = (n * g).sum() / n.sum()
    left = [(n * (g - b) ** 2).sum() for b in (best, best + 0.1, best - 0.1)]
    assert left[0] == min(left)


def test_scores_of_free_text_are_unknown(make_inputs: Make) -> None:
    objective = PolicyGradient(value_weighting="score")
    with pytest.raises(ValueError, match="this batch has free text: set it to steps"):
        objective(make_inputs(0), normaliser=27.0)
