"""The ``bench`` command: a table, a figure, JSON; and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import tiny
from retro_lightning.cli import bench as room
from retro_lightning.cli.main import main
from retro_lightning.credit.baselines import NoBaseline, ValueHeadBaseline
from retro_lightning.credit.group_baselines import LeaveOneOut

CONFIG = str(Path(__file__).parents[2] / "corridor.yaml")

pytestmark = pytest.mark.usefixtures("workplace")


def bench(*args: str) -> int:
    return main(["bench", "estimators", "--config", CONFIG, "--store", "store", *args])


@pytest.fixture
def filled(workplace) -> None:
    tiny.policy().save("policy")
    words = ["rollout", "--config", CONFIG, "--store", "store", "--episodes", "20"]
    assert main([*words, "--policy", "policy"]) == 0
    assert main([*words, "--behaviour", "retro_lightning.rollout.behaviours.Expert"]) == 0


@pytest.fixture
def few(monkeypatch) -> None:
    """Three baselines; all nine are seconds of enumeration."""
    some = [NoBaseline, LeaveOneOut, ValueHeadBaseline]
    monkeypatch.setattr(room, "_baselines", lambda: [make() for make in some])


@pytest.mark.usefixtures("filled", "few")
def test_one_batch_through_every_estimator_and_baseline(capsys):
    capsys.readouterr()
    args = ("--policy", "policy", "--trajectories", "12", "--reference", "40", "--json")
    assert bench(*args) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {(row["estimator"], row["baseline"]): row for row in result["rows"]}
    told = result["reference"]
    assert told["episodes"] == 40
    assert -1.0 <= told["halves_cosine"] <= 1.0
    # Returns are 0 or 1, so that E G^2 / E (G - V)^2 is the formula with p and EV of the steps.
    p, explained = told["step_return"], told["explained_variance"]
    assert told["limit"] == pytest.approx(1 / ((1 - p) * (1 - explained)), rel=1e-4)
    assert told["constant_cut"] >= 1.0
    assert sum(result["families"].values()) == pytest.approx(1.0)
    assert ("filtered_cloning", "") in rows  # reads no baseline: once
    assert ("rloo", "LeaveOneOut") in rows
    assert ("rloo", "NoBaseline") not in rows  # a contradictory pair
    assert ("phase 0", "") in rows
    assert rows["per_decision", "NoBaseline"]["bias_off_policy"] == pytest.approx(0.0, abs=1e-6)
    assert rows["reinforce", "NoBaseline"]["bias_on_policy"] == pytest.approx(0.0, abs=1e-6)
    assert rows["ppo", "ValueHeadBaseline"]["bias_off_policy"] > 0.1
    # The expert's steps have no ratio and are left out; REINFORCE asks for none.
    assert rows["ppo", "NoBaseline"]["used"] < 1.0
    for row in rows.values():
        assert row["variance"] >= 0
        if row["baseline"] == "NoBaseline":
            assert row["cut"] == 1.0
        assert math.isfinite(row["cosine"])
        assert row["milliseconds"] > 0
    assert Path(result["figure"]).read_bytes().startswith(b"\x89PNG")


PRESETS = "retro_lightning.credit.presets"
PHASES = f"""
model:
  phases:
  - objective: {{class_path: {PRESETS}.REINFORCE, init_args: {{kl_coef: 0.1}}}}
    until_step: 1
  - objective: {{class_path: {PRESETS}.REINFORCE, init_args: {{kl_coef: 0.1, kl_form: reward}}}}
    until_step: 2
  - objective:
      class_path: {PRESETS}.PPO
      init_args: {{ratio_level: token, unknown_behaviour: leave_out}}
    until_step: 3
  - objective: {{class_path: {PRESETS}.PPO}}
"""
ON_BATCH = ("variance", "cut", "cosine", "used", "milliseconds")
BIASES = ("bias_on_policy", "bias_off_policy")


def measured(capsys, *args: str) -> tuple[dict[tuple[str, str], dict[str, float | None]], list]:
    Path("phases.yaml").write_text(PHASES)
    capsys.readouterr()
    words = ("--policy", "policy", "--trajectories", "20", "--reference", "40", "--json")
    assert bench("--config", "phases.yaml", *words, *args) == 0
    result = json.loads(capsys.readouterr().out)
    return {(row["estimator"], row["baseline"]): row for row in result["rows"]}, result["notes"]


@pytest.mark.usefixtures("filled", "few")
def test_what_a_configuration_asks_for_is_given_to_its_phases(capsys):
    other = tiny.policy()
    with torch.no_grad():
        other.lm.lm_head.weight.mul_(0.5)
    other.save("other")
    rows, notes = measured(capsys, "--model.reference_policy", "other")
    for baseline in ("NoBaseline", "ValueHeadBaseline"):
        plain, action = rows["reinforce", baseline], rows["ppo", baseline]
        exact, reward = rows["phase 0", baseline], rows["phase 1", baseline]
        token = rows["phase 2", baseline]
        # The cost of an exact KL has a gradient of its own, beside that of the actions' scores; the
        # reward form changes what actions are credited with.
        assert exact["variance"] == pytest.approx(plain["variance"])
        assert reward["variance"] != pytest.approx(plain["variance"], rel=1e-3)
        assert all(math.isfinite(reward[name]) for name in ON_BATCH)
        # At the epoch's start all ratios are 1, of tokens and of actions.
        for name in ("variance", "cosine", "used", *BIASES):
            assert token[name] == pytest.approx(action[name], rel=1e-4)
        assert all(exact[name] is None and reward[name] is None for name in BIASES)
    assert any(note.startswith("phase 0: ") and "exact" in note for note in notes)
    assert any(note.startswith("phase 1: ") and "no reference policy" in note for note in notes)
    assert not any(note.startswith("phase 2: ") for note in notes)


@pytest.mark.usefixtures("filled", "few")
def test_what_cannot_be_measured_is_left_empty_and_said(capsys, monkeypatch):
    # No reference policy; and of the expert's steps, whose probability nobody has stated, phase 3
    # refuses to learn.
    rows, notes = measured(capsys)
    for phase in ("phase 0", "phase 1", "phase 3"):
        assert all(rows[phase, "NoBaseline"][name] is None for name in ON_BATCH)
    assert rows["phase 3", "NoBaseline"]["bias_on_policy"] == pytest.approx(
        rows["ppo", "NoBaseline"]["bias_on_policy"]
    )
    assert rows["reinforce", "NoBaseline"]["variance"] > 0
    assert any(n.startswith("phase 1: ") and "model.reference_policy" in n for n in notes)
    [refusal] = [note for note in notes if note.startswith("phase 3: ")]
    assert "(task corridor/" in refusal
    assert "unknown_behaviour" in refusal
    assert len(notes) == len(set(notes))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(room, "_baselines", lambda: [NoBaseline()])
    words = ("--policy", "policy", "--trajectories", "20", "--reference", "0")
    assert bench("--config", "phases.yaml", *words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(note.split()) in out for note in notes)


@pytest.mark.usefixtures("filled")
def test_the_table_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(room, "_baselines", lambda: [ValueHeadBaseline()])
    monkeypatch.setenv("COLUMNS", "200")
    assert bench("--policy", "policy", "--trajectories", "4", "--reference", "0") == 0
    out = capsys.readouterr().out
    assert "ValueHeadBaseline" in out
    assert "4 stored trajectories" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "what should be measured"),
        (["speed"], "what should be measured"),
        (["estimators", "--config", CONFIG, "--store", "none"], "at which policy"),
    ],
)
def test_what_is_missing_is_asked_for(args, message, capsys):
    assert main(["bench", *args]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("filled")
def test_more_than_there_is_is_refused(capsys):
    assert bench("--policy", "policy", "--trajectories", "500") == 2
    assert "the store has" in capsys.readouterr().err
