"""An epoch's plan, its parts and its shares, and that none of them changes the gradient."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.credit.baselines import ValueHeadBaseline
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.training.batches import ReplayBatches, split_by_length
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.plan import Plan
from tests.tiny import policy, trajectory

POLICY = policy()
TRAJECTORIES = [trajectory(seed, 1 + seed % 4) for seed in range(12)]
ENCODED = POLICY.transcript.encode_many(TRAJECTORIES)


def _plan(rows: Any, batch_size: int = 8) -> Plan:
    rows = np.asarray(rows)
    weights = 0.5 + rows % 3
    return replace(
        Plan.in_order(rows, batch_size),
        epoch=2,
        begun=8,
        weights=weights,
        value_weights=1.0 / weights,
        probabilities=weights / 100,
    )


def _load(rows: Any) -> Any:
    return [(TRAJECTORIES[row], ENCODED[row]) for row in rows]


def _batches(rows: Any, batch_size: int = 8, **settings: Any) -> ReplayBatches:
    return ReplayBatches(_plan(rows, batch_size), _load, **{"parts": 3, **settings})


def _loss(step: Any) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one gradient step, as the module computes them."""
    POLICY.zero_grad()
    evaluations = [POLICY.evaluate(part) for part in step]
    fresh_N = np.arange(12) % 2 == 0
    inputs = credit_inputs(step, evaluations, ValueHeadBaseline(), fresh_N)
    loss = PolicyGradient()(inputs, normaliser=inputs.steps_BS.sum()).loss
    loss.backward()
    gradients = [p.grad.flatten() for p in POLICY.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


@pytest.mark.parametrize("parts", [1, 2, 5, 8])
def test_parts_and_their_padding_change_nothing(parts):
    rows = [3, 0, 7, 2, 5, 11, 4, 9]
    loss, gradient = _loss(_batches(rows, parts=1).step(0))
    other_loss, other = _loss(_batches(rows, parts=parts).step(0))
    assert other_loss == pytest.approx(loss, abs=1e-5)
    assert torch.allclose(other, gradient, atol=1e-5)


def test_the_order_of_trajectories_changes_nothing():
    rows = [3, 0, 7, 2, 5, 11, 4, 9]
    loss, gradient = _loss(_batches(rows).step(0))
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(rows)
        other_loss, other = _loss(_batches(shuffled).step(0))
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert torch.allclose(other, gradient, atol=1e-5)


def test_another_trajectory_changes_something():
    _, gradient = _loss(_batches([3, 0, 7, 2, 5, 11, 4, 9]).step(0))
    _, other = _loss(_batches([3, 0, 7, 2, 5, 11, 4, 10]).step(0))
    assert not torch.allclose(other, gradient, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 5))
def test_splits_with_the_least_padding(lengths, parts):
    ordered = np.sort(np.array(lengths))
    runs = split_by_length(np.arange(len(ordered)), ordered, parts)
    assert np.concatenate(runs).tolist() == list(range(len(ordered)))
    assert 1 <= len(runs) <= parts
    assert all(len(run) for run in runs)

    def size(cuts: tuple[int, ...]) -> int:
        edges = (0, *cuts, len(ordered))
        return sum((b - a) * int(ordered[b - 1]) for a, b in itertools.pairwise(edges))

    best = min(
        size(cuts)
        for count in range(min(parts, len(ordered)))
        for cuts in itertools.combinations(range(1, len(ordered)), count)
    )
    assert sum(len(run) * int(ordered[run[-1]]) for run in runs) == best


def _rows_of(step: Any) -> list[int]:
    return sorted(row for part in step for row in part.rows_B.tolist())


def test_the_same_plan_however_often_it_is_asked_for():
    rows = np.random.default_rng(0).integers(12, size=24)
    batches = _batches(rows)
    first = [_rows_of(step) for step in batches]
    assert [_rows_of(step) for step in batches] == first
    assert first == [sorted(rows[i : i + 8].tolist()) for i in range(0, 24, 8)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_step_without_overlap(world_size):
    rows = np.random.default_rng(0).permutation(12)
    whole = _batches(rows, batch_size=6)
    shares = [
        list(_batches(rows, batch_size=6, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for number, step in enumerate(whole):
        parts = [_rows_of(share[number]) for share in shares]
        assert sorted(itertools.chain(*parts)) == _rows_of(step)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_goes_on_with_the_steps_that_are_left(start):
    rows = np.random.default_rng(0).integers(12, size=24)
    steps = [_rows_of(step) for step in _batches(rows)]
    resumed = _batches(rows, start=start)
    assert [_rows_of(step) for step in resumed] == steps[start:]
    assert len(resumed) == 3  # of the whole epoch: Lightning counts the steps already taken itself


def test_a_plan_comes_back_exactly():
    plan = _plan(np.random.default_rng(0).integers(12, size=24))
    again = Plan.from_state(plan.state_dict())
    assert (again.epoch, again.begun) == (plan.epoch, plan.begun)
    for name in ("rows", "starts", "groups", "weights", "value_weights", "probabilities"):
        assert np.array_equal(getattr(again, name), getattr(plan, name))


def test_weights_go_with_their_rows():
    for part in _batches([3, 0, 7, 2, 5, 11, 4, 9]).step(0):
        expected = 0.5 + part.rows_B % 3
        assert torch.allclose(part.weight_B, expected.float())
        assert torch.allclose(part.value_weight_B, 1.0 / expected.float())
