"""The shipped Retroformer job: its actor as it is trained there, and the smoke job as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro_lightning.cli.main import main
from retro_lightning.config import command
from retro_lightning.environments.base import make_tasks
from retro_lightning.retrospection.curves import scripted_arm

pytestmark = pytest.mark.slow
CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.timeout(900)
def test_the_actor_follows_what_helps_and_nothing_else(workplace: Path) -> None:
    cli = command.build("fit", ["--config", str(CONF / "retroformer.yaml")])
    gains: dict[str, list[float]] = {"oracle": [], "placebo": []}
    for family, make in cli.datamodule.environments.items():
        make().actor.prepare()
        tasks = make_tasks(family, make, "test", 300)
        arms = {
            name: scripted_arm(name, family, make, tasks, retries=1, seed=1)
            for name in ("plain", "placebo", "oracle")
        }
        # Of the tasks whose first attempt failed, what share does the retry solve?
        retried = {
            name: float(arm.solved[~arm.solved[:, 0], 1].mean()) for name, arm in arms.items()
        }
        for name, gain in gains.items():
            gain.append(retried[name] - retried["plain"])
        assert retried["plain"] < 0.35
        assert retried["oracle"] - retried["plain"] >= 0.40
    assert sum(gains["placebo"]) / len(gains["placebo"]) <= 0.02


def test_the_smoke_job_goes_all_the_way(workplace: Path) -> None:
    assert main(["fit", "--config", str(CONF / "retroformer_smoke.yaml")]) == 0
    run = workplace / "runs" / "retroformer_smoke"
    record = json.loads((run / "retries.json").read_text())
    assert {entry["arm"] for entry in record["solved"]} == {
        *("plain", "placebo", "oracle", "before", "trained", "shuffled")
    }
    assert (run / "figures" / "retries.png").is_file()
    assert (run / "checkpoints" / "best-policy" / "policy.json").is_file()
