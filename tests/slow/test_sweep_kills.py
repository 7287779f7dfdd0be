"""Twenty workers killed outright: no trial lost, none counted twice, no MLflow run left open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from retro_lightning.sweep.slots import Slots, counts
from tests.slow import postgresql

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_TRIALS = 30


@pytest.fixture(params=["sqlite:///sweeps.db", "journal:journal.log", "postgresql"])
def storage(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a storage; that of PostgreSQL is a server of its own."""
    if request.param != "postgresql":
        yield request.param
        return
    if postgresql.binaries() is None:
        pytest.skip("there is no PostgreSQL server (Debian: apt install postgresql)")
    with postgresql.server() as address:
        yield address


def test_killed_workers(workplace, storage):
    Path("base.yaml").write_text("model: {gamma: 0.9}\n")
    said = {
        "study": "killed",
        "base": ["base.yaml"],
        "trials": _TRIALS,
        "seeds": [1],
        "storage": storage,
        "retries": 50,
        "heartbeat_seconds": 0.5,
        "confirm": {"top": 0},
        "space": {"model.gamma": {"low": 0.0, "high": 1.0}},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(said))
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(_ROOT / "tests" / "slow" / "killed_workers.py"), "sweep.yaml"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    said_by_workers = Path("workers.log").read_text()[-3000:]
    assert done.returncode == 0, done.stderr[-3000:] + said_by_workers
    assert "killed 20" in done.stdout
    kept = (
        storage
        if not storage.startswith("journal")
        else optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend("journal.log")
        )
    )
    study = optuna.load_study(study_name="killed", storage=kept)
    slots = Slots(
        study,
        nullcontext,
        count=_TRIALS,
        retries=50,
        heartbeat_seconds=1.0,
        on_buried=lambda number: None,
    )
    ended = [t for t in study.trials if counts(t) and t.state != TrialState.FAIL]
    assert {t.state for t in ended} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert Counter(slots.slot(t.number) for t in ended) == dict.fromkeys(range(_TRIALS), 1)
    assert study.trials[0].params in ({}, {"model.gamma": 0.9})  # {}: killed before it chose
    replaced = [t for t in study.trials if not counts(t)]
    print(f"{storage}: {len(study.trials)} trials, {len(replaced)} of them killed and repeated")
    assert replaced  # else the kills hit nobody at work
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("killed")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    assert Counter(run.info.status for run in runs)["RUNNING"] == 0
    finished = [
        run
        for run in runs
        if run.info.status == "FINISHED" and run.info.run_name.startswith("trial-")
    ]
    assert len(finished) == _TRIALS
