"""The shipped Retroformer job: its actor as it is trained there, and the smoke job as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retro_lightning.cli.main import main
from retro_lightning.config import command
from retro_lightning.environments.base import make_tasks
from retro_lightning.retrospection.curves import measure
from retro_lightning.retrospection.environment import RetrospectionEnv

pytestmark = pytest.mark.slow
CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.timeout(900)  # beside other work the actor's fit takes minutes
def test_the_actor_follows_what_helps_and_nothing_else(workplace: Path) -> None:
    cli = command.build("fit", ["--config", str(CONF / "retroformer.yaml")])
    placebo_gains = []
    for family, make in cli.datamodule.environments.items():
        make().actor.prepare()
        tasks = make_tasks(family, make, "test", 500)
        envs = [make() for _ in tasks]
        RetrospectionEnv.reset_many(envs, [task.seed for task in tasks])
        rng = np.random.default_rng(0)
        oracle = {env.task.seed: [env.write_reflection("helpful", rng)] for env in envs}
        measured = measure(family, make, oracle, samples=6)
        told, placebo, nothing = (
            float(np.mean([getattr(each, name) for each in measured]))
            for name in ("told", "placebo", "nothing")
        )
        assert nothing < 0.35
        assert told - nothing >= 0.40
        placebo_gains.append(placebo - nothing)
    # A placebo's label is as often the secret as a guess would be. Even for an actor that followed
    # it blindly the standard error is below 0.2 / sqrt(1500) = 0.005, and retries add as much.
    assert np.mean(placebo_gains) <= 0.02


def test_the_smoke_job_goes_all_the_way(workplace: Path) -> None:
    assert main(["fit", "--config", str(CONF / "retroformer_smoke.yaml")]) == 0
    run = workplace / "runs" / "retroformer_smoke"
    record = json.loads((run / "retries.json").read_text())
    assert {entry["arm"] for entry in record["solved"]} == {
        *("plain", "placebo", "oracle", "before", "trained", "shuffled")
    }
    assert (run / "figures" / "retries.png").is_file()
    assert (run / "checkpoints" / "best-policy" / "policy.json").is_file()
