"""``bench off-policy``: estimates from a log beside fresh episodes, and what is concluded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from retro_lightning.cli.main import main
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.off_policy import Log, said
from tests.support import CorridorEnv

CONFIG = str(Path(__file__).parents[2] / "corridor.yaml")

pytestmark = pytest.mark.usefixtures("workplace")


def bench(*args: str) -> int:
    return main(["bench", "off-policy", "--config", CONFIG, "--store", "store", *args])


@pytest.fixture
def filled(workplace: Path) -> None:
    for number, kind in enumerate(("llama", "gpt2")):
        policy = tiny.policy(kind, context=2048)
        policy.version = number
        policy.save(f"policy-{number}")
    words = ["rollout", "--config", CONFIG, "--store", "store"]
    behaviours = "retro_lightning.rollout.behaviours"
    assert main([*words, "--episodes", "60", "--behaviour", f"{behaviours}.RandomWalker"]) == 0
    assert main([*words, "--episodes", "20", "--behaviour", f"{behaviours}.Expert"]) == 0


@pytest.mark.usefixtures("filled")
def test_estimates_stand_beside_the_truth(capsys) -> None:
    capsys.readouterr()
    policies = ("--policies", "policy-0", "policy-1")
    assert bench(*policies, "--horizons", "1", "--episodes", "60", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["trajectories"], result["with_ratios"]) == (80, 60)  # the expert has no ratio
    longest = max(row["horizon"] for row in result["rows"])
    log = Log.of(ReplayStore("store").read(range(80)))
    assert longest == log.steps_BS.shape[1] > 1
    for row in result["rows"]:
        if row["horizon"] == 1 and row["estimator"] in ("weighted IS", "per decision"):
            # One step by hand: sum of pi / mu * reward over sum of pi / mu, of the random walker.
            policy = Policy.load(row["policy"]).eval()
            weights, total = 0.0, 0.0
            for trajectory in log.trajectories:
                if trajectory.behaviour_id == "random":
                    step, log_probs = trajectory.steps[0], policy.action_log_probs(trajectory)[0]
                    chosen = step.valid_actions.index(step.action)
                    weight = np.exp(log_probs[chosen] - step.log_prob)
                    weights, total = weights + weight, total + weight * step.reward
            assert row["value"] == pytest.approx(total / weights, abs=1e-6)
            assert row["low"] <= row["value"] <= row["high"]
    assert len(result["evidence"]) == 2 * 4
    assert not any(row["trusted"] for row in result["evidence"])  # two policies are not twenty
    for row in result["evidence"]:
        assert row["judged"] + row["refused"] == 2


@pytest.mark.usefixtures("filled")
def test_the_truth_is_the_mean_of_fresh_episodes_within_the_horizon(capsys, monkeypatch) -> None:
    monkeypatch.setattr(CorridorEnv, "step", lambda self, action: _pay(self))
    capsys.readouterr()
    assert bench("--policies", "policy-0", "--horizons", "2", "--episodes", "8", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    # Every step pays 0.5 and the third is the last, whatever is done.
    assert {(row["horizon"] > 2, row["truth"], row["truth_error"]) for row in rows} == {
        (False, 1.0, 0.0),
        (True, 1.5, 0.0),
    }


def _pay(env: CorridorEnv):
    env.steps += 1
    info = {**env._info(), "success": False}
    return env._observation(), 0.5, env.steps == 3, False, info


@pytest.mark.usefixtures("filled")
def test_policies_are_asked_turn_by_turn_as_one_by_one() -> None:
    log = Log.of(ReplayStore("store").read(range(0, 80, 5)))
    policy = Policy.load("policy-1").eval()
    found = said(policy, log)
    for row, trajectory in enumerate(log.trajectories):
        every = policy.action_log_probs(trajectory)
        for s, step in enumerate(trajectory.steps):
            chosen = step.valid_actions.index(step.action)
            assert found.logprobs_BS[row, s] == pytest.approx(every[s][chosen], abs=1e-5)
            # Last of the features: the family's own column of how probable the action is found.
            p = np.exp(every[s])
            assert found.features_BSF[row, s].sum() - found.policy_features_BSF[row, s].sum() == (
                pytest.approx(p[chosen] - p @ p, abs=1e-5)
            )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policies", "x", "--episodes", "1"], "--episodes is 1"),
        (["--policies", "x", "--horizons", "0"], "--horizons has 0"),
        (["--policies", "x"], "no replay store at store"),
    ],
)
def test_what_is_wrong_is_told(args: list[str], message: str, capsys) -> None:
    assert bench(*args) == 2
    assert message in capsys.readouterr().err
