"""The ``bench`` command: a table, a figure, JSON; and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

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
