"""Composed estimators: against enumeration, naive loops, gradcheck, and what they refuse."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retro_lightning.credit.advantages import Lambda, NStep, PerDecision, ReturnToGo, VTrace
from retro_lightning.credit.baselines import (
    Baseline,
    BatchMean,
    Constant,
    NoBaseline,
    ValueHeadBaseline,
)
from retro_lightning.credit.cloning import (
    AdvantageWeightedCloning,
    FilteredCloning,
    ReturnConditioned,
)
from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.enumeration import (
    BEHAVIOUR,
    PATHS,
    POLICY,
    batch,
    expected_gradient,
    state_values,
    terms,
    true_gradient,
)
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.credit.group_baselines import AnchorStates, GroupMean, LeaveOneOut
from retro_lightning.credit.losses import exact_kl
from retro_lightning.credit.objective import Objective, check_pair
from retro_lightning.credit.presets import (
    GRPO,
    PPO,
    REINFORCE,
    RLOO,
    PerDecisionImportanceSampling,
    VTraceActorCritic,
)
from retro_lightning.credit.terms import CreditInputs
from retro_lightning.credit.weightings import (
    Clipped,
    Cumulative,
    Exponential,
    Kept,
    Truncated,
    Unweighted,
)

Make = Callable[..., CreditInputs]
ON_POLICY: list[tuple[Objective, Baseline]] = [
    (REINFORCE(), NoBaseline()),
    (REINFORCE(), Constant(0.7)),
    (REINFORCE(), BatchMean()),
    (REINFORCE(), AnchorStates()),
    (RLOO(), LeaveOneOut()),
    (GRPO(), LeaveOneOut()),
    (PPO(), ValueHeadBaseline()),
    (PPO(lam=0.0), ValueHeadBaseline()),
    (VTraceActorCritic(), ValueHeadBaseline()),
    (PerDecisionImportanceSampling(), NoBaseline()),
    (Estimator(NStep(1), Unweighted(), loss_normalisation="constant"), ValueHeadBaseline()),
    (Estimator(ReturnToGo(), Truncated(), loss_normalisation="constant"), NoBaseline()),
]


def named(pair: Any) -> str:
    return pair.name if isinstance(pair, Objective) else type(pair).__name__


# ---------------------------------------------------------------------- enumeration
@pytest.mark.parametrize(("objective", "baseline"), ON_POLICY, ids=named)
def test_on_the_policys_own_trajectories_it_is_the_gradient_of_the_mean_return(
    objective: Objective, baseline: Baseline
) -> None:
    torch.testing.assert_close(expected_gradient(objective, baseline), true_gradient())


@pytest.mark.parametrize(
    "baseline", [NoBaseline(), Constant(0.7), LeaveOneOut(), ValueHeadBaseline()], ids=named
)
def test_per_decision_importance_sampling_is_it_whoever_acted(baseline: Baseline) -> None:
    found = expected_gradient(PerDecisionImportanceSampling(), baseline, behaviour=BEHAVIOUR)
    torch.testing.assert_close(found, true_gradient())


@pytest.mark.parametrize(
    ("objective", "baseline"),
    [
        (REINFORCE(), NoBaseline()),
        (GRPO(), LeaveOneOut()),
        (PPO(), ValueHeadBaseline()),
        (VTraceActorCritic(), ValueHeadBaseline()),
        # One factor of three left uncorrected each: past, future.
        (Estimator(PerDecision(), Truncated(1e9)), NoBaseline()),
        (Estimator(ReturnToGo(), Cumulative()), NoBaseline()),
    ],
    ids=named,
)
def test_the_others_are_biased_on_other_peoples_trajectories(
    objective: Objective, baseline: Baseline
) -> None:
    found, exact = expected_gradient(objective, baseline, behaviour=BEHAVIOUR), true_gradient()
    assert (found - exact).norm() > 0.1 * exact.norm()


def test_uncapped_vtrace_values_correct_the_future() -> None:
    """With present and past corrected too, nothing is left: the target is the policy's value."""
    objective = Estimator(
        VTrace(1e9, 1e9), Cumulative(), value_target="current", loss_normalisation="constant"
    )
    found = expected_gradient(objective, ValueHeadBaseline(), behaviour=BEHAVIOUR)
    torch.testing.assert_close(found, true_gradient())


def test_state_values_are_those_of_all_paths() -> None:
    for logits in (POLICY, BEHAVIOUR):
        chances = [terms(logits, path)[0].sum().exp() for path in PATHS]
        start = sum(c * terms(logits, p)[1].sum() for c, p in zip(chances, PATHS, strict=True))
        torch.testing.assert_close(state_values(logits)[0], start)


# ---------------------------------------------------------------------- KL to a reference
REFERENCE = torch.tensor([[-0.2, 0.1], [0.5, -0.5], [0.0, 1.0]], dtype=torch.float64)


def kl_gradient(form: Any) -> Tensor:
    """Expected gradient of the KL's part of the loss, at a cost of 1 per nat."""
    total = torch.zeros_like(POLICY)
    for path in PATHS:
        logits = POLICY.detach().requires_grad_()
        inputs = batch(logits, POLICY, (path,), NoBaseline(), current=False)
        states = torch.tensor([0, 1 + path[0]])
        mask = torch.ones(2, 2, dtype=torch.bool)
        kl_S = exact_kl(
            logits.log_softmax(dim=1)[states], REFERENCE.log_softmax(dim=1)[states], mask
        )
        inputs = dataclasses.replace(
            inputs,
            rewards_BS=torch.zeros_like(inputs.rewards_BS),
            reference_logprobs_BS=terms(REFERENCE, path)[0][None],
            reference_kl_BS=kl_S[None],
        )
        objective = REINFORCE(kl_coef=1.0, kl_form=form, value_coef=0.0)
        loss = objective(inputs, normaliser=1.0).loss
        chance = terms(POLICY, path)[0].sum().exp()
        total = total + chance * torch.autograd.grad(loss, logits)[0]
    return total


def trajectory_kl(logits: Tensor, fixed: Tensor | None) -> Tensor:
    """KL of both steps summed over everything that happens; ``fixed`` = logits that visit."""
    ours, theirs = logits.log_softmax(dim=1), REFERENCE.log_softmax(dim=1)
    by_state = (ours.exp() * (ours - theirs)).sum(dim=1)
    first = (logits if fixed is None else fixed).softmax(dim=1)[0]
    return by_state[0] + (first * by_state[1:]).sum()


def test_the_exact_and_the_k2_gradient_are_those_of_the_kl_at_fixed_visits() -> None:
    logits = POLICY.detach().requires_grad_()
    (expected,) = torch.autograd.grad(trajectory_kl(logits, POLICY), logits)
    for form in ("exact", "k2"):
        torch.testing.assert_close(kl_gradient(form), expected)


def test_the_gradient_of_the_kl_in_the_reward_is_that_of_the_whole_trajectorys_kl() -> None:
    logits = POLICY.detach().requires_grad_()
    (expected,) = torch.autograd.grad(trajectory_kl(logits, None), logits)
    found = kl_gradient("reward")
    torch.testing.assert_close(found, expected)
    assert (found - kl_gradient("exact")).norm() > 0.05  # that visits change is seen here alone


def test_k3_is_no_regulariser() -> None:
    """Its value is right and its gradient is not: the reason why it is a metric only."""
    logits = POLICY[:1].detach().requires_grad_()
    ours, theirs = logits.log_softmax(dim=1), REFERENCE[:1].log_softmax(dim=1)
    chance = ours.detach().exp()
    k3 = (chance * (torch.expm1(theirs - ours) - (theirs - ours))).sum()
    kl = (ours.exp() * (ours - theirs)).sum()
    torch.testing.assert_close(k3, kl)
    one, other = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (k3, kl))
    assert (one - other).norm() > 0.02


def test_the_kl_over_children_adds_up_to_that_of_the_actions() -> None:
    """A tree: root with children 0 and 1; below 1 a second decision of three. Four actions."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, dtype=torch.float64)
    others = torch.randn(2, 3, dtype=torch.float64)
    mask_DC = torch.tensor([[True, True, False], [True, True, True]])
    ours, theirs = (x.masked_fill(~mask_DC, -torch.inf).log_softmax(1) for x in (logits, others))
    kl_D = exact_kl(ours, theirs, mask_DC)
    actions = [(0, None), (1, 0), (1, 1), (1, 2)]

    def logprob(table: Tensor, action: tuple[int, int | None]) -> Tensor:
        return table[0, action[0]] + (0.0 if action[1] is None else table[1, action[1]])

    chances = [logprob(ours, a).exp() for a in actions]
    expected = sum(
        c * (logprob(ours, a) - logprob(theirs, a)) for c, a in zip(chances, actions, strict=True)
    )
    visited = sum(
        c * (kl_D[0] + (0.0 if a[1] is None else kl_D[1]))
        for c, a in zip(chances, actions, strict=True)
    )
    torch.testing.assert_close(visited, expected)


# ---------------------------------------------------------------------- naive loops
def with_options(inputs: CreditInputs) -> CreditInputs:
    """Every optional input, of numbers that would show up if they were mixed up."""
    B, S = inputs.steps_BS.shape
    rng = torch.Generator().manual_seed(5)
    decisions_BS = torch.randint(1, 4, (B, S), generator=rng) * inputs.steps_BS
    place = torch.repeat_interleave(torch.arange(B * S), decisions_BS.flatten())
    tokens = len(place)
    raw_D = -torch.rand(tokens, generator=rng, dtype=torch.float64)
    noise_D = 0.6 * torch.randn(tokens, generator=rng, dtype=torch.float64)
    proximal_BS = inputs.logprobs_BS.detach() + 0.3 * torch.sin(7.0 * torch.arange(B * S)).view(
        B, S
    )
    return dataclasses.replace(
        inputs,
        supported_BS=torch.ones_like(inputs.supported_BS),
        behaviour_logprobs_BS=inputs.behaviour_logprobs_BS.nan_to_num(-0.7),
        proximal_logprobs_BS=proximal_BS,
        reference_logprobs_BS=proximal_BS - 0.4,
        reference_kl_BS=inputs.entropies_BS.detach().square().requires_grad_(),
        decisions_BS=decisions_BS,
        token_row_D=place // S,
        token_step_D=place % S,
        token_logprobs_D=raw_D.requires_grad_(),
        token_proximal_logprobs_D=raw_D.detach() + noise_D,
        scale_B=torch.rand(B, generator=rng, dtype=torch.float64) + 0.5,
    )


def naive_loss(inputs: CreditInputs, e: Estimator, normaliser: float) -> float:
    """An estimator written out step by step, with Monte Carlo returns and the clipped weighting."""
    x = {k: v.detach().tolist() for k, v in vars(inputs).items() if v is not None}
    assert isinstance(e.weighting, Clipped)
    total = 0.0
    for b in range(len(x["rewards_BS"])):
        length = sum(x["steps_BS"][b])
        tail = x["final_values_B"][b] if x["bootstrap_B"][b] else 0.0
        share = 1 / length if e.loss_normalisation == "episode" else 1.0
        for s in reversed(range(length)):
            cost = x["logprobs_BS"][b][s] - x["reference_logprobs_BS"][b][s]
            reward = x["rewards_BS"][b][s]
            if e.kl_form == "reward":
                reward -= e.kl_coef * cost
            tail = reward + e.gamma * tail
            a = (tail - x["baseline_BS"][b][s]) / x["scale_B"][b]
            old, clip = x["proximal_logprobs_BS"][b][s], e.weighting.clip
            ratios = [math.exp(x["logprobs_BS"][b][s] - old)]
            if e.ratio_level == "length_normalised":
                ratios = [ratios[0] ** (1 / x["decisions_BS"][b][s])]
            if e.ratio_level == "token":
                pairs = zip(x["token_row_D"], x["token_step_D"], strict=True)
                here = [i for i, at in enumerate(pairs) if at == (b, s)]
                news, olds = x["token_logprobs_D"], x["token_proximal_logprobs_D"]
                ratios = [math.exp(news[i] - olds[i]) for i in here]
            loss = sum(-min(r * a, min(max(r, 1 - clip), 1 + clip) * a) for r in ratios)
            behind = math.exp(old - x["behaviour_logprobs_BS"][b][s])
            loss *= min(e.weighting.importance_cap, behind)
            loss -= e.entropy_coef * x["entropies_BS"][b][s]
            if e.kl_form == "exact":
                loss += e.kl_coef * x["reference_kl_BS"][b][s]
            if e.kl_form == "k2":
                loss += e.kl_coef * 0.5 * cost**2
            error = (x["values_BS"][b][s] - tail) ** 2
            total += share * x["weight_B"][b] * loss
            total += share * x["value_weight_B"][b] * e.value_coef * error
    return total / normaliser


@pytest.mark.parametrize("level", ["action", "token", "length_normalised"])
@pytest.mark.parametrize("form", ["exact", "k2", "reward"])
@pytest.mark.parametrize("normalisation", ["step", "episode"])
def test_an_estimator_equals_a_naive_loop(
    make_inputs: Make, level: Any, form: Any, normalisation: Any
) -> None:
    estimator = Estimator(
        ReturnToGo(),
        Clipped(0.1, 1.5),
        entropy_coef=0.2,
        kl_coef=0.3,
        kl_form=form,
        gamma=0.9,
        ratio_level=level,
        loss_normalisation=normalisation,
    )
    for seed in range(2):
        inputs = with_options(make_inputs(seed))
        expected = naive_loss(inputs, estimator, 27.0)
        assert estimator(inputs, normaliser=27.0).loss.item() == pytest.approx(expected)


def test_what_the_loss_is_divided_by(make_inputs: Make) -> None:
    inputs = with_options(make_inputs(0))
    tokens = int(inputs.decisions_BS.sum())  # type: ignore[union-attr]
    # Lengths 3, 5, 1, 4, 2, 5, 3, 4: 27 steps of 8 trajectories.
    for normalisation, count in (("step", 27), ("constant", 8), ("episode", 8), ("token", tokens)):
        assert REINFORCE(loss_normalisation=normalisation).count(inputs).item() == count
    without = dataclasses.replace(inputs, decisions_BS=None)
    with pytest.raises(ValueError, match="needs decisions_BS"):
        REINFORCE(loss_normalisation="token").count(without)


def test_vtrace_actor_critic_equals_a_naive_loop(make_inputs: Make) -> None:
    inputs = with_options(make_inputs(1))
    objective = VTraceActorCritic(rho_cap=1.1, c_cap=0.9, gamma=0.8, value_coef=0.4)
    x = {k: v.detach().tolist() for k, v in vars(inputs).items() if v is not None}
    total = 0.0
    for b in range(8):
        length = sum(x["steps_BS"][b])
        after = x["final_values_B"][b] if x["bootstrap_B"][b] else 0.0
        next_value = next_target = after
        for s in reversed(range(length)):
            log_prob, value = x["logprobs_BS"][b][s], x["values_BS"][b][s]
            ratio = math.exp(log_prob - x["behaviour_logprobs_BS"][b][s])
            reward = x["rewards_BS"][b][s]
            a = (reward + 0.8 * next_target - x["baseline_BS"][b][s]) / x["scale_B"][b]
            total -= x["weight_B"][b] * min(1.1, ratio) * a * log_prob
            delta = min(1.1, ratio) * (reward + 0.8 * next_value - value)
            target = value + delta + 0.8 * min(0.9, ratio) * (next_target - next_value)
            total += 0.4 * x["value_weight_B"][b] * (value - target) ** 2
            next_value, next_target = value, target
    assert objective(inputs, normaliser=27.0).loss.item() == pytest.approx(total / 27.0)


# ---------------------------------------------------------------------- gradients
@pytest.mark.parametrize(
    "objective",
    [
        REINFORCE(entropy_coef=0.1),
        GRPO(clip=0.3, kl_coef=0.1, kl_form="k2"),
        PPO(lam=1.0, ratio_level="length_normalised"),
        FilteredCloning(),
        AdvantageWeightedCloning(),
        ReturnConditioned(),
    ],
    ids=named,
)
def test_gradcheck_of_each_loss(make_inputs: Make, objective: Objective) -> None:
    inputs = with_options(make_inputs(2, lengths=(2, 3, 1)))

    def loss(logprobs_BS: Tensor, entropies_BS: Tensor, values_BS: Tensor) -> Tensor:
        changed = dataclasses.replace(
            inputs, logprobs_BS=logprobs_BS, entropies_BS=entropies_BS, values_BS=values_BS
        )
        return objective(changed, normaliser=6.0).loss

    leaves = (inputs.logprobs_BS, inputs.entropies_BS, inputs.values_BS)
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("weighting", [Truncated(1.2), Cumulative(), Exponential(), Kept()])
def test_gradcheck_of_weights_that_are_held_fixed(make_inputs: Make, weighting: Any) -> None:
    inputs = with_options(make_inputs(3, lengths=(2, 3, 1)))
    ratio_BS = torch.sin(torch.arange(9, dtype=torch.float64)).view(3, 3)
    assert torch.autograd.gradcheck(
        lambda x: weighting.losses(x, ratio_BS, inputs.baseline_BS, inputs), (inputs.logprobs_BS,)
    )


def test_gradcheck_of_tokens_and_of_the_kl(make_inputs: Make) -> None:
    inputs = with_options(make_inputs(4, lengths=(2, 1)))
    objective = PPO(lam=1.0, ratio_level="token")
    assert torch.autograd.gradcheck(
        lambda x: objective(dataclasses.replace(inputs, token_logprobs_D=x), normaliser=3.0).loss,
        (inputs.token_logprobs_D,),
    )
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(3, 4, dtype=torch.float64).log_softmax(1)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])
    assert torch.autograd.gradcheck(
        lambda x: exact_kl(x.masked_fill(~mask, -1e30).log_softmax(1), reference, mask), (logits,)
    )


def test_at_the_level_of_tokens_a_step_stops_when_all_its_tokens_have(make_inputs: Make) -> None:
    inputs = with_options(make_inputs(6))
    objective = PPO(ratio_level="token")
    result = objective(inputs, normaliser=27.0)
    assert inputs.token_logprobs_D is not None
    (gradient_D,) = torch.autograd.grad(result.loss, inputs.token_logprobs_D)
    moved = torch.zeros_like(inputs.logprobs_BS)
    clipped = torch.zeros_like(moved)
    for d, (row, step) in enumerate(zip(inputs.token_row_D, inputs.token_step_D, strict=True)):  # type: ignore[arg-type]
        moved[row, step] += gradient_D[d] != 0
        clipped[row, step] += (gradient_D[d] == 0) / inputs.decisions_BS[row, step]  # type: ignore[index]
    assert result.excluded_BS is not None
    assert torch.equal(moved > 0, inputs.steps_BS & ~result.excluded_BS)
    share = clipped[inputs.steps_BS].mean()
    assert 0.0 < share < 1.0
    torch.testing.assert_close(result.metrics["clip_fraction"], share)


def test_every_step_that_is_not_excluded_has_a_gradient(make_inputs: Make) -> None:
    for objective in (REINFORCE(), PPO(), GRPO(), VTraceActorCritic(), PolicyGradient()):
        inputs = with_options(make_inputs(6))
        result = objective(inputs, normaliser=27.0)
        (gradient_BS,) = torch.autograd.grad(result.loss, inputs.logprobs_BS)
        assert result.excluded_BS is not None
        moved_BS = gradient_BS != 0
        assert torch.equal(moved_BS, inputs.steps_BS & ~result.excluded_BS)


# ---------------------------------------------------------------------- refusals
def test_unknown_behaviours_are_refused_left_out_or_taken_for_the_present_policy(
    make_inputs: Make,
) -> None:
    inputs = with_options(make_inputs(0))
    unknown_BS = inputs.behaviour_logprobs_BS.clone()
    unknown_BS[1, 2] = torch.nan
    broken = dataclasses.replace(inputs, behaviour_logprobs_BS=unknown_BS)
    for make in (PPO, GRPO, VTraceActorCritic, PerDecisionImportanceSampling):
        with pytest.raises(ValueError, match=r"step 2 of trajectory 1.*unknown_behaviour"):
            make()(broken, normaliser=1.0)
    left_out = PPO(unknown_behaviour="leave_out")(broken, normaliser=1.0)
    # Trajectory 1 has 5 of the 27 steps.
    assert left_out.metrics["left_out_share"].item() == pytest.approx(5 / 27)
    (gradient_BS,) = torch.autograd.grad(left_out.loss, inputs.logprobs_BS)
    assert (gradient_BS[1] == 0).all()
    # A value of the present policy is not learnt from it either; one of the behaviour's return is.
    for make, taught in ((VTraceActorCritic, False), (PPO, True)):
        objective = make(unknown_behaviour="leave_out", entropy_coef=0.1)
        loss = objective(broken, normaliser=1.0).loss
        values_BS, entropies_BS = torch.autograd.grad(loss, (broken.values_BS, broken.entropies_BS))
        assert bool((values_BS[1] != 0).any()) == taught
        assert (values_BS[2] != 0).any()
        assert (entropies_BS[1] == 0).all()
        assert (entropies_BS[2] != 0).any()
    known_BS = inputs.behaviour_logprobs_BS.clone()
    known_BS[1, 2] = inputs.proximal_logprobs_BS[1, 2]  # type: ignore[index]
    as_known = dataclasses.replace(inputs, behaviour_logprobs_BS=known_BS)
    present = PPO(unknown_behaviour="as_present")(broken, normaliser=1.0)
    torch.testing.assert_close(present.loss, PPO()(as_known, normaliser=1.0).loss)
    REINFORCE()(broken, normaliser=1.0)  # takes no ratio and asks for none


def test_a_behaviour_that_excluded_actions_gives_no_ratio(make_inputs: Make) -> None:
    inputs = with_options(make_inputs(0))
    supported_BS = inputs.supported_BS.clone()
    supported_BS[2, 0] = False
    with pytest.raises(ValueError, match="step 0 of trajectory 2"):
        PPO()(dataclasses.replace(inputs, supported_BS=supported_BS), normaliser=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Estimator(weighting=Truncated(), ratio_level="token"), "ratio_level token.*Trunc"),
        (lambda: REINFORCE(ratio_level="length_normalised"), "Unweighted takes"),
        (
            lambda: Estimator(weighting=Exponential(), normalise_advantages=True),
            "normalise_advantages.*Exponential",
        ),
        (lambda: Estimator(Lambda(0.9), Kept()), "Kept reads no advantage.*Lambda"),
        (lambda: Estimator(VTrace(), Exponential()), "VTrace.*Exponential imitates"),
        (
            lambda: Estimator(weighting=Kept(), kl_coef=0.1, kl_form="reward"),
            "Kept reads no advantage, so a KL in the reward would have no effect",
        ),
        (lambda: REINFORCE(kl_coef=0.1, kl_form="k3"), "kl_form is 'k3'; give exact or k2 or rew"),
        (lambda: PPO(value_coef=0.0), "Lambda reads the value head"),
        (lambda: Estimator(NStep(), value_coef=0.0), "NStep reads the value head"),
        (lambda: REINFORCE(kl_coef=-1.0), "kl_coef is -1"),
        (lambda: REINFORCE(gamma=2.0), "gamma is 2"),
        (lambda: NStep(0), "n is 0"),
        (lambda: Lambda(1.5), "lam is 1.5"),
        (lambda: VTrace(rho_cap=0.0), "rho_cap is 0"),
        (lambda: Clipped(clip=0.0), "clip is 0"),
        (lambda: Clipped(importance_cap=0.5), "importance_cap is 0.5"),
        (lambda: Truncated(-1.0), "cap is -1"),
        (lambda: Kept(float("nan")), "min_return is nan"),
    ],
)
def test_contradictions_are_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_pairs_that_do_not_go_together_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="rloo goes with the baseline LeaveOneOut, not Constant"):
        check_pair(RLOO(), Constant())
    with pytest.raises(ValueError, match="grpo goes with the baseline GroupMean or LeaveOneOut"):
        check_pair(GRPO(), NoBaseline())
    with pytest.raises(ValueError, match=r"AnchorStates discounts by gamma 1.0 and .* by 0.9"):
        check_pair(REINFORCE(gamma=0.9), AnchorStates())
    check_pair(GRPO(), GroupMean())
    check_pair(REINFORCE(gamma=0.9), AnchorStates(0.9))


def test_what_a_batch_lacks_is_named(make_inputs: Make) -> None:
    full = with_options(make_inputs(0))
    lacking = {
        "proximal_logprobs_BS": PPO(),
        "decisions_BS": PPO(ratio_level="length_normalised"),
        "token_logprobs_D": PPO(ratio_level="token"),
        "reference_logprobs_BS": REINFORCE(kl_coef=0.1, kl_form="k2"),
    }
    for name, objective in lacking.items():
        with pytest.raises(ValueError, match=f"{objective.name}.*needs {name}"):
            objective(dataclasses.replace(full, **{name: None}), normaliser=1.0)
    text = dataclasses.replace(full, reference_kl_BS=None)
    with pytest.raises(ValueError, match=r"kl_form exact sums over valid actions.*set it to k2 or"):
        REINFORCE(kl_coef=0.1)(text, normaliser=1.0)
    nobody = dataclasses.replace(text, reference_logprobs_BS=None)
    with pytest.raises(ValueError, match="needs reference_kl_BS"):
        REINFORCE(kl_coef=0.1)(nobody, normaliser=1.0)


def test_the_kl_to_the_reference_is_told_exactly_or_by_its_k3(make_inputs: Make) -> None:
    full = with_options(make_inputs(0))
    exact = REINFORCE()(full, normaliser=1.0).metrics["reference_kl"]
    assert full.reference_kl_BS is not None
    assert full.reference_logprobs_BS is not None
    torch.testing.assert_close(exact, full.reference_kl_BS[full.steps_BS].mean().detach())
    text = dataclasses.replace(full, reference_kl_BS=None)
    k3 = REINFORCE()(text, normaliser=1.0).metrics["reference_kl"]
    r = (full.reference_logprobs_BS - full.logprobs_BS.detach())[full.steps_BS]
    torch.testing.assert_close(k3, (r.exp() - 1 - r).mean())


def test_what_presets_ask_of_a_run() -> None:
    asks = {
        o.name: (o.needs_fresh, o.needs_proximal, o.needs_tokens, o.needs_reference)
        for o in (REINFORCE(), PPO(ratio_level="token"), GRPO(kl_coef=0.1), FilteredCloning())
    }
    assert asks == {
        "reinforce": (True, False, False, False),
        "ppo": (True, True, True, False),
        "grpo": (True, True, False, True),
        "filtered_cloning": (False, False, False, False),
    }


def test_enumerated_batches_are_all_there_is() -> None:
    chance = sum(
        torch.stack([terms(POLICY, p)[0].sum() for p in paths]).sum().exp().item()
        for paths in itertools.product(PATHS, repeat=2)
    )
    assert chance == pytest.approx(1.0)
