"""Scripted behaviours: the probabilities they state are those they act with."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.environments.base import make_tasks
from retro_lightning.rollout.behaviours import (
    Behaviour,
    Expert,
    NoisyExpert,
    RandomWalker,
    run_behaviour,
)
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv, HopelessCorridor

(TASK,) = make_tasks("corridor", CorridorEnv, "train", 1)
BEHAVIOURS = (RandomWalker(), NoisyExpert(0.4), Expert())


def play(behaviour: Behaviour, attempt: int = 0, env: CorridorEnv | None = None) -> Trajectory:
    rng = generator("test", attempt)
    return run_behaviour(behaviour, TASK, env or CorridorEnv(), run="r", attempt=attempt, rng=rng)


def probabilities(behaviour: Behaviour) -> dict[str, float]:
    """At a cell with both neighbours, where the expert goes right."""
    env = CorridorEnv()
    env.reset(seed=0)
    env.cell, env.goal = 2, 4
    menu = tuple(env._valid())
    return dict(zip(menu, behaviour.probabilities(env, menu), strict=True))


def test_probabilities_by_hand() -> None:
    assert probabilities(RandomWalker()) == {"left": 1 / 3, "right": 1 / 3, "stop": 1 / 3}
    assert probabilities(Expert()) == {"left": 0.0, "right": 1.0, "stop": 0.0}
    # Noise 0.3 over three actions: 0.1 each, and the expert's 0.7 on top of its own.
    assert probabilities(NoisyExpert(0.3)) == pytest.approx(
        {"left": 0.1, "right": 0.8, "stop": 0.1}
    )


@given(st.floats(0, 1))
def test_a_mixture_adds_up_to_one(epsilon: float) -> None:
    assert sum(probabilities(NoisyExpert(epsilon)).values()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.name)
def test_actions_come_as_often_as_stated(behaviour: Behaviour) -> None:
    """First actions of 2,000 attempts, within 4.5 standard errors of what was stated."""
    runs = [play(behaviour, attempt).steps[0] for attempt in range(2_000)]
    counts = Counter(step.action for step in runs)
    assert runs[0].valid_actions is not None
    assert runs[0].log_probs is not None
    for action, log_prob in zip(runs[0].valid_actions, runs[0].log_probs, strict=True):
        p = math.exp(log_prob)
        assert abs(counts[action] / 2_000 - p) <= 4.5 * math.sqrt(p * (1 - p) / 2_000)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.name)
def test_records(behaviour: Behaviour) -> None:
    made = [play(behaviour, attempt) for attempt in range(30)]
    assert made == [play(behaviour, attempt) for attempt in range(30)]
    for trajectory in made:
        assert trajectory.source == f"scripted:{behaviour.name}"
        assert trajectory.behaviour_id == behaviour.behaviour_id
        assert trajectory.policy_version is None
        for step in trajectory.steps:
            assert step.valid_actions is not None
            assert step.log_probs is not None
            assert math.fsum(map(math.exp, step.log_probs)) == pytest.approx(1.0)
            assert step.log_prob == step.log_probs[step.valid_actions.index(step.action)]
            assert step.log_prob > -math.inf
    assert len({t.trajectory_id for t in made}) == 30


def test_the_expert_always_succeeds_and_the_walker_does_not() -> None:
    assert all(play(Expert(), attempt).success for attempt in range(5))
    rates = [np.mean([play(b, attempt).success for attempt in range(200)]) for b in BEHAVIOURS]
    assert rates[0] < rates[1] < rates[2] == 1.0


def test_names_tell_parameters_apart() -> None:
    assert NoisyExpert(0.3).behaviour_id == "noisy_expert(epsilon=0.3)"
    assert len({b.behaviour_id for b in (*BEHAVIOURS, NoisyExpert(0.3))}) == 4


def test_no_expert_is_an_error_that_names_the_family() -> None:
    with pytest.raises(
        ValueError, match=r"family 'corridor': HopelessCorridor has no expert_action"
    ):
        play(Expert(), env=HopelessCorridor())
    assert play(RandomWalker(), env=HopelessCorridor()).fault is None


def test_an_expert_that_errs_is_a_fault() -> None:
    class Confused(CorridorEnv):
        def expert_action(self) -> str:
            return "fly"

    class Mute(CorridorEnv):
        def expert_action(self) -> str:
            raise KeyError("lost my voice")

    assert "the expert wants 'fly'" in str(play(Expert(), env=Confused()).fault)
    assert "expert raised KeyError: 'lost my voice'" in str(play(Expert(), env=Mute()).fault)


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_an_impossible_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon is"):
        NoisyExpert(epsilon)


def test_the_smallest_random_number_chooses_nothing_impossible() -> None:
    class Smallest(np.random.Generator):
        def random(self, *_: Any, **__: Any) -> Any:
            return 0.0

    made = run_behaviour(
        Expert(), TASK, CorridorEnv(), run="r", attempt=0, rng=Smallest(np.random.PCG64(0))
    )
    assert made.success
    assert {step.log_prob for step in made.steps} == {0.0}


class Written(CorridorEnv):
    """A corridor whose actions are free text."""

    def _info(self) -> dict[str, Any]:
        return {"instruction": f"stop at cell {self.goal}"}


def test_the_expert_writes_where_the_action_is_free_text_and_claims_no_ratio():
    made = play(Expert(), env=Written())
    assert made.success
    assert [step.action for step in made.steps] == [step.action for step in play(Expert()).steps]
    assert all(step.valid_actions is None and step.log_prob is None for step in made.steps)


@pytest.mark.parametrize("behaviour", BEHAVIOURS[:2])
def test_who_chooses_from_lists_cannot_write(behaviour: Behaviour):
    with pytest.raises(ValueError, match="family 'corridor' takes free text, which"):
        play(behaviour, env=Written())
