"""What tracking and Optuna add to the fits of a study, and what a second worker saves.

Needs a quiet machine for ten minutes or more; ``make bench`` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro_lightning.sweep.fits import run_fit, words

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_BASE = [str(_ROOT / "conf" / "multitask.yaml"), str(_ROOT / "conf" / "study.yaml")]


def definition(trials: int, **changes: Any) -> dict[str, Any]:
    """A study of equal trials: the space has one point."""
    return {
        "study": "overhead",
        "base": _BASE,
        "trials": trials,
        "seeds": [1],
        "confirm": {"top": 0},
        "pruner": {"class_path": "optuna.pruners.NopPruner"},
        "space": {"model.warmup_steps": {"low": 30, "high": 30, "type": "int"}},
        **changes,
    }


def worker() -> subprocess.Popen[bytes]:
    """A worker of the study of the working directory."""
    paths = os.pathsep.join([str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "retro_lightning", "sweep", "--config", "sweep.yaml"]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment)


def study_seconds() -> float:
    """From the first trial's start to the last one's end, by the storage."""
    import optuna

    trials = optuna.load_study(study_name="overhead", storage="sqlite:///sweeps.db").trials
    starts = [t.datetime_start for t in trials if t.datetime_start]
    ends = [t.datetime_complete for t in trials if t.datetime_complete]
    return (max(ends) - min(starts)).total_seconds()


@pytest.mark.timeout(3600)
def test_tracking_and_optuna_cost_little(workplace):
    bare = [*words(_BASE), "--trainer.logger", "false", "--final_test", "false"]
    bare += ["--seed_everything", "1"]
    run_fit(bare, Path("runs/warm"))  # makes the history that all share
    count = 8
    started = time.perf_counter()
    for number in range(count):
        run_fit(bare, Path(f"runs/bare-{number}"))
    alone = time.perf_counter() - started
    Path("sweep.yaml").write_text(yaml.safe_dump(definition(count)))
    assert worker().wait() == 0
    tracked = study_seconds()
    print(f"{count} fits: bare {alone:.0f} s, in a study {tracked:.0f} s: {tracked / alone:.3f}")
    assert tracked <= 1.05 * alone


@pytest.mark.timeout(3600)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_workers_are_faster_than_one(workplace):
    bare = [*words(_BASE), "--trainer.logger", "false", "--final_test", "false"]
    run_fit([*bare, "--seed_everything", "1"], Path("runs/warm"))
    seconds = {}
    for workers in (1, 2):
        Path("sweep.yaml").write_text(yaml.safe_dump(definition(8)))
        processes = [worker() for _ in range(workers)]
        assert [process.wait() for process in processes] == [0] * workers
        seconds[workers] = study_seconds()
        for name in ("sweeps.db", "sweep.yaml"):
            Path(name).unlink()
    print(f"8 equal trials: one worker {seconds[1]:.0f} s, two {seconds[2]:.0f} s")
    assert seconds[2] <= 0.65 * seconds[1]
