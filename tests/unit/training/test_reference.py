"""The bench's gradients: scores against autograd, and the reference against a naive sum."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from retro_lightning.credit.baselines import NoBaseline
from retro_lightning.credit.presets import PPO, REINFORCE
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.batch import collate
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.training.bench import Pair, coefficients
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.reference import reference_gradient
from retro_lightning.training.stored_batch import stored_batch, trainable
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv
from tests.tiny import policy


def episodes(count: int) -> list[Trajectory]:
    make = functools.partial(CorridorEnv, length=6)
    tasks = make_tasks("corridor", make, "train", count)
    jobs = [Job(task, 0) for task in tasks]
    return list(collect(policy(context=2048), {"corridor": make}, jobs, run="r", seed=1))


def flat(loss: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    grads = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in grads])


def test_pushes_times_scores_are_the_gradient_of_the_loss() -> None:
    acting, trajectories = policy(context=2048), episodes(5)
    batch = stored_batch(acting, trajectories, list(range(5)), [False] * 5)
    pair = Pair(REINFORCE(value_coef=0.0), NoBaseline(), "reinforce")
    push_BS = coefficients(batch, pair)
    each = [p[: len(s)] @ s for p, s in zip(push_BS, batch.scores, strict=True)]
    found = torch.stack(each).mean(dim=0)
    # The loss written out: minus return-to-go times log-probability, over the number of steps.
    together = collate(acting.transcript.encode_many(trajectories), trajectories)
    logprobs_BS = acting.evaluate(together).logprobs_BS
    going_BS = together.rewards_BS.flip(1).cumsum(1).flip(1)
    loss = -(going_BS * logprobs_BS)[together.steps_BS].sum() / together.steps_BS.sum()
    torch.testing.assert_close(found, -flat(loss, trainable(acting)), rtol=1e-3, atol=1e-6)
    assert found.abs().max() > 1e-4


def test_pushes_of_tokens_are_those_of_their_actions() -> None:
    """The loss of token ratios, differentiated through the policy itself."""
    acting, trajectories = policy(context=2048), episodes(5)
    batch = stored_batch(acting, trajectories, list(range(5)), [True] * 5)
    objective = PPO(ratio_level="token", value_coef=0.0, lam=1.0)
    push_BS = coefficients(batch, Pair(objective, NoBaseline(), "ppo"))
    each = [p[: len(s)] @ s for p, s in zip(push_BS, batch.scores, strict=True)]
    together = collate(acting.transcript.encode_many(trajectories), trajectories)
    said = acting.evaluate(together)
    known = credit_inputs(
        [together], [said], NoBaseline(), np.ones(5, dtype=np.bool_), proximal=[said], tokens=True
    )
    loss = objective(known, normaliser=objective.count(known)).loss
    found = torch.stack(each).mean(dim=0)
    torch.testing.assert_close(found, -flat(loss, trainable(acting)), rtol=1e-3, atol=1e-6)
    assert found.abs().max() > 1e-4
    assert len(together.chosen_D) > int(together.steps_BS.sum())  # actions of several choices


def test_the_reference_equals_a_naive_sum_over_episodes() -> None:
    torch.manual_seed(0)
    acting, trajectories = policy(context=2048), episodes(7)
    reference = reference_gradient(acting, trajectories, {"corridor": 1.0})
    parameters = trainable(acting)
    told = []
    for trajectory in trajectories:
        said = acting.evaluate(collate([acting.transcript.encode(trajectory)], [trajectory]))
        told.append((said.logprobs_BS[0], said.values_BS[0].detach()))
    ours: list[torch.Tensor] = []
    with_head: list[torch.Tensor] = []
    without: list[torch.Tensor] = []
    for i, (logprobs_S, values_S) in enumerate(told):
        others = [trajectories[j].total_return - float(told[j][1][0]) for j in range(7) if j != i]
        rewards = [step.reward for step in trajectories[i].steps]
        going = torch.tensor([sum(rewards[s:]) for s in range(len(rewards))])
        advantages_S = going - values_S - sum(others) / len(others)
        for push_S, sums in ((advantages_S, ours), (going - values_S, with_head), (going, without)):
            sums.append(flat((push_S * logprobs_S).sum(), parameters).double())
    total = torch.stack(ours).sum(dim=0)
    torch.testing.assert_close(reference.gradient, total / 7, rtol=1e-3, atol=1e-6)
    # Fewer episodes than parts: each is a part, compared with the gradient of the six others.
    for found, sums in (
        (reference.cosine_with_head, with_head),
        (reference.cosine_without, without),
    ):
        cosines = [
            torch.cosine_similarity(g, total - o, dim=0) for g, o in zip(sums, ours, strict=True)
        ]
        assert found == pytest.approx(float(sum(cosines)) / 7, abs=1e-4)
    assert reference.cosine_with_head != pytest.approx(reference.cosine_without, abs=1e-3)
    assert reference.episodes == 7
    assert reference.success_rate == pytest.approx(sum(t.success for t in trajectories) / 7)
    assert -1.0 <= reference.halves_cosine <= 1.0
