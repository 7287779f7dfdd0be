"""The check that ratios are 1 before the first update."""

from __future__ import annotations

import dataclasses
import functools
import re

import pytest
import torch

from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.training.agreement import (
    LOW_PRECISION_TOLERANCE,
    ROUNDING,
    TOLERANCE,
    check_agreement,
)
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv
from tests.tiny import KINDS, policy
from tests.unit.retrospection.scenes import Counting, scene


def _rollouts(
    kind: str, dtype: torch.dtype = torch.float32, record: bool = False
) -> tuple[Policy, list[Trajectory]]:
    acting = policy(kind)
    acting.lm.to(dtype)
    make = functools.partial(CorridorEnv, length=9)
    jobs = [Job(task, 0) for task in make_tasks("corridor", make, "train", 8)]
    return acting, list(
        collect(
            acting,
            {"corridor": make},
            jobs,
            run="run",
            seed=1,
            batch_size=3,
            record_distribution=record,
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_rollouts_agree_even_from_training_mode(kind):
    acting, trajectories = _rollouts(kind)
    acting.train()  # gpt2 here has dropout
    assert check_agreement(acting, trajectories) <= TOLERANCE
    assert acting.training


def test_a_changed_weight_is_named_with_task_and_step():
    acting, trajectories = _rollouts("llama")
    with torch.no_grad():
        acting.lm.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
    with pytest.raises(ValueError, match=r"rollout and training disagree") as caught:
        check_agreement(acting, trajectories)
    assert "the log-probabilities of its action differ" in str(caught.value)
    found = re.search(r"task (corridor:\w+), step (\d+)", str(caught.value))
    assert found is not None
    lengths = {t.task.task_id: t.length for t in trajectories}
    assert int(found[2]) < lengths[found[1]]


def test_dropout_that_ignores_evaluation_mode_is_found():
    acting, trajectories = _rollouts("gpt2")
    torch.manual_seed(0)
    acting.lm.transformer.drop.register_forward_hook(
        lambda module, arguments, output: torch.nn.functional.dropout(output, 0.2, training=True)
    )
    with pytest.raises(ValueError, match="dropout"):
        check_agreement(acting, trajectories)


def test_an_unknown_log_probability_is_no_agreement():
    import dataclasses

    acting, trajectories = _rollouts("llama")
    first = trajectories[0]
    blank = dataclasses.replace(first.steps[0], log_prob=None)
    blanked = dataclasses.replace(first, steps=(blank, *first.steps[1:]))
    with pytest.raises(ValueError, match=f"{first.task.task_id}, step 0"):
        check_agreement(acting, [blanked, *trajectories[1:]])


def test_nothing_to_check_is_fine():
    assert check_agreement(policy(), []) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_agrees_within_its_own_tolerance(kind):
    acting, trajectories = _rollouts(kind, torch.bfloat16)
    assert TOLERANCE < check_agreement(acting, trajectories) <= LOW_PRECISION_TOLERANCE


def test_a_distribution_that_was_not_the_policys_is_named_with_task_and_step():
    acting, trajectories = _rollouts("llama", record=True)
    assert check_agreement(acting, trajectories) <= TOLERANCE
    first = trajectories[0]
    step = first.steps[0]
    assert step.log_probs is not None
    # The probability of the action taken is right; those of the others are not.
    taken = step.valid_actions.index(step.action)
    others = [p if i == taken else p - 1.0 for i, p in enumerate(step.log_probs)]
    told = dataclasses.replace(step, log_probs=tuple(others))
    broken = dataclasses.replace(first, steps=(told, *first.steps[1:]))
    with pytest.raises(ValueError, match=rf"task {first.task.task_id}, step 0") as caught:
        check_agreement(acting, [broken])
    assert "the probabilities of its valid actions differ" in str(caught.value)


def test_what_is_allowed_grows_with_the_length_of_a_text():
    acting = policy(context=1024)
    make = scene(Counting("agreement"), unusable=-1.0)
    jobs = [Job(task, 0) for task in make_tasks("door", make, "train", 4)]
    texts = list(collect(acting, {"door": make}, jobs, run="run", seed=1))
    longest = min(texts, key=lambda t: t.steps[0].log_prob)
    log_prob = longest.steps[0].log_prob
    assert log_prob < -150  # tens of tokens, several nats each

    def shifted(by: float) -> Trajectory:
        step = dataclasses.replace(longest.steps[0], log_prob=log_prob + by)
        return dataclasses.replace(longest, steps=(step, *longest.steps[1:]))

    check_agreement(acting, [shifted(TOLERANCE + 0.5 * ROUNDING * -log_prob)])
    with pytest.raises(ValueError, match="disagree"):
        check_agreement(acting, [shifted(TOLERANCE + 2.0 * ROUNDING * -log_prob)])
