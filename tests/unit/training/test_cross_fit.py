"""A cross-fitted value head: no estimate has learnt the outcome of what it is subtracted from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from retro_lightning.credit.baselines import ValueHeadBaseline
from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.credit.estimators import Objective, PolicyGradient, VTraceActorCritic
from retro_lightning.policy.batch import collate
from retro_lightning.policy.evaluation import Evaluation
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.value_head import ValueHead, ValueHeadSettings
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.trajectory import Trajectory
from tests.tiny import acted, policy, trajectory

ROWS = [3, 4, 5, 8, 9, 11]
SHAPES = [
    ValueHeadSettings(detach=True, cross_fit=True),
    ValueHeadSettings(detach=True, cross_fit=True, turns=2),
    ValueHeadSettings(width=5, detach=True, cross_fit=True, turns=2),
]
OBJECTIVES = [
    FilteredCloning(),
    PolicyGradient(),
    PolicyGradient(value_target="current"),
    VTraceActorCritic(unknown_behaviour="as_present"),
]


def fitted(settings: ValueHeadSettings) -> Policy:
    """A tiny policy with a fresh head of that shape, not zero anywhere."""
    tiny = policy()
    head = ValueHead(32, settings)
    torch.manual_seed(1)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    tiny.value_head = head
    return tiny


def episodes(acting: Policy) -> list[Trajectory]:
    """Some end, some are cut by us and bootstrapped."""
    limits = [None, "collector_limit", None, "collector_limit", "collector_limit", None]
    return [
        acted(acting, trajectory(seed, 1 + seed % 3, truncation=limit))
        for seed, limit in enumerate(limits)
    ]


def told(acting: Policy, told_of: list[Trajectory]) -> Evaluation:
    return acting.evaluate(collate(acting.transcript.encode_many(told_of), told_of, ROWS))


def learn(acting: Policy, told_of: list[Trajectory], objective: Objective) -> Tensor:
    """Values after the head, and it alone, has learnt for some steps."""
    batch = collate(acting.transcript.encode_many(told_of), told_of, ROWS)
    optimizer = torch.optim.SGD(acting.value_head.parameters(), lr=0.05)
    fresh_N = np.ones(max(ROWS) + 1, dtype=np.bool_)
    for _ in range(4):
        said = [acting.evaluate(batch)]
        inputs = credit_inputs([batch], said, ValueHeadBaseline(), fresh_N)
        optimizer.zero_grad()
        objective(inputs, normaliser=objective.count(inputs)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        return acting.evaluate(batch).values_BS


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.name}-{o.value_target}")
@pytest.mark.parametrize("settings", SHAPES, ids=["linear", "turns", "hidden"])
def test_a_trajectory_never_moves_its_own_baseline(
    settings: ValueHeadSettings, objective: Objective
) -> None:
    before = episodes(fitted(settings))
    values_BS = learn(fitted(settings), before, objective)
    single = dataclasses.replace(settings, cross_fit=False)
    for changed, one in enumerate(before):
        rewards = [dataclasses.replace(step, reward=step.reward + 1.0) for step in one.steps]
        after = [*before[:changed], dataclasses.replace(one, steps=tuple(rewards))]
        after += before[changed + 1 :]
        moved_BS = learn(fitted(settings), after, objective)
        assert torch.equal(moved_BS[changed], values_BS[changed])
        assert not torch.equal(moved_BS, values_BS)  # others' baselines do move
    one_BS = learn(fitted(single), before, objective)
    assert not torch.equal(learn(fitted(single), after, objective)[-1], one_BS[-1])


def test_both_heads_are_asked_and_learn() -> None:
    said = told(fitted(SHAPES[2]), episodes(policy()))
    asked_B = fitted(SHAPES[2]).value_head.asked(torch.tensor(ROWS))
    assert 0 < asked_B.sum() < len(ROWS)
    differ = said.values_BS != said.learner_values_BS
    assert bool(differ.any(dim=1).all())
    assert not torch.equal(said.final_values_B, said.learner_final_values_B)


def test_a_single_head_is_asked_and_learns_alike() -> None:
    said = told(policy(), episodes(policy()))
    assert torch.equal(said.values_BS, said.learner_values_BS)
    assert torch.equal(said.final_values_B, said.learner_final_values_B)


@given(start=st.integers(0, 10**9), stride=st.integers(1, 64))
def test_rows_at_any_distance_fall_to_both_heads_alike(start: int, stride: int) -> None:
    """A history may write its behaviours in turns; each has to teach both heads."""
    rows = start + stride * torch.arange(1000)
    share = ValueHead(4, SHAPES[0]).asked(rows).double().mean().item()
    assert 0.45 < share < 0.55


def test_two_heads_are_as_far_from_each_other_as_two_modules() -> None:
    """Oracle: two heads of their own with the halves of the weights."""
    both = fitted(SHAPES[2]).value_head
    assert both.hidden is not None
    assert both.turn is not None
    hidden_BH, turn_B = torch.randn(7, 32), torch.arange(7) % 4
    values_BV = both(hidden_BH, turn_B)
    for head in range(2):
        alone = ValueHead(32, dataclasses.replace(SHAPES[2], cross_fit=False))
        assert alone.hidden is not None
        assert alone.turn is not None
        with torch.no_grad():
            alone.hidden.weight.copy_(both.hidden.weight.view(2, 5, 32)[head])
            alone.hidden.bias.copy_(both.hidden.bias.view(2, 5)[head])
            alone.output.weight.copy_(both.output.weight[head : head + 1])
            alone.output.bias.copy_(both.output.bias[head : head + 1])
            alone.turn.weight.copy_(both.turn.weight.view(2, 2, 5)[:, head])
        torch.testing.assert_close(values_BV[:, head], alone(hidden_BH, turn_B)[:, 0])
