"""Whole fits in which actions are written: cloning, then policy gradient on fresh rollouts."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.environments import check
from retro_lightning.environments.spaces import UnicodeText
from retro_lightning.policy.batch import collate
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import Expert
from retro_lightning.rollout.history import BehaviourShare, ScriptedHistory
from retro_lightning.training.phases import Phase
from tests.fits import Fit

NAMES = ("ana", "ben", "cleo", "dan", "eva", "finn", "gina", "hugo")
WORDS = tuple(f"{one} {two}" for one, two in itertools.product(("hello", "bye"), NAMES))


class Say(gymnasium.Env[str, str]):
    """Write a given text; the reward is 1 for it, 0.5 for its first word."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = UnicodeText()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        rng = np.random.default_rng(seed)
        self._wanted = WORDS[int(rng.integers(len(WORDS)))]
        self._left = 2
        place = NAMES[int(rng.integers(len(NAMES)))]
        return f"you meet {place}", {"instruction": f"say {self._wanted}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        said = action.strip() == self._wanted
        reward = float(said) or 0.5 * action.strip().startswith(self._wanted.split()[0])
        info = {"instruction": f"say {self._wanted}", "success": said}
        return "they listen", reward, said or not self._left, False, info

    def expert_action(self) -> str:
        return self._wanted


def test_the_environment_keeps_the_contract():
    assert check(Say).has_expert


@pytest.mark.parametrize(
    ("text", "trained"),
    [
        (TextSampling(max_tokens=4), None),
        (TextSampling(max_tokens=4, thought_tokens=3, top_p=0.9, temperature=0.8), "action"),
    ],
)
def test_a_fit_on_free_text_runs_through_with_the_agreement_check_on(
    make_fit, tmp_path, text, trained
):
    history = ScriptedHistory(tasks_per_family=12, behaviours=[BehaviourShare(Expert())])
    fit: Fit = make_fit(
        "run",
        data={"environments": {"say": Say}, "history": history},
        model={"text": text, "trained": trained},
    )
    fit.run()
    own = ReplayStore(fit.run_dir / "store")
    rollouts = own.read(range(len(own)))
    assert len(rollouts) == 16  # two rounds of eight: for the epochs after cloning
    for step in (step for trajectory in rollouts for step in trajectory.steps):
        assert step.valid_actions is None
        assert step.log_prob is not None
        assert (step.thought is not None) == (text.thought_tokens > 0)
        assert 1 <= len(step.generation.action_ids) - step.generation.thought_length <= 4
    assert fit.module.counts is not None
    policy = fit.module.require_policy()
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy")
    assert (again.text, again.transcript.trained) == (text, trained or "all")


def expert_log_prob(policy: Policy, fit: Fit) -> float:
    """Mean log-probability of what the expert wrote, per text."""
    store = fit.datamodule.history_store
    trajectories = store.read(range(len(store)))
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    with torch.no_grad():
        return float(policy.eval().evaluate(batch).logprobs_BS[batch.steps_BS].mean())


def test_cloning_learns_what_the_expert_writes(make_fit):
    history = ScriptedHistory(tasks_per_family=12, behaviours=[BehaviourShare(Expert())])
    fit: Fit = make_fit(
        "run",
        make_phases=lambda: [Phase(FilteredCloning())],
        data={"environments": {"say": Say}, "history": history},
        trainer_options={"max_epochs": 2},
    ).run()
    trained = fit.module.require_policy()
    fresh = Policy.build(fit.module.language_model, trained.tokenizer, seed=fit.module.seed)
    # A random model writes each of 4 or more tokens with probability about 1/300: below -20 nats.
    assert expert_log_prob(fresh, fit) < -20.0
    assert expert_log_prob(trained, fit) > expert_log_prob(fresh, fit) + 2.0
