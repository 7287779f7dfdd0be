"""A process for each trial: one runs out of memory, one is killed, and the study goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from retro_lightning.cli.main import main
from retro_lightning.sweep import worker

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_WIDTH = "model.language_model.init_args.intermediate_size"
_TOO_WIDE = 2**40  # matrices of 32 times that many numbers: 128 TiB


def trials() -> list[Any]:
    return optuna.load_study(study_name="apart", storage="sqlite:///sweeps.db").trials


def kill_at_work(pid: int) -> None:
    """Kill a process as the system does when memory runs out, once its trial is under way."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any(t.user_attrs.get("worker", {}).get("pid") == pid for t in trials()):
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.1)


@pytest.mark.timeout(900)
def test_a_process_for_each_trial(workplace, monkeypatch, capsys):
    started: list[int] = []

    class Process(subprocess.Popen[bytes]):
        """A process for a trial; the third one is killed."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self.pid)
            if len(started) == 3:
                threading.Thread(target=kill_at_work, args=(self.pid,), daemon=True).start()

    monkeypatch.setattr(worker, "subprocess", SimpleNamespace(Popen=Process))
    paths = os.pathsep.join([str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)
    said = {
        "study": "apart",
        "base": [str(_ROOT / "conf" / "smoke.yaml"), str(_ROOT / "sweeps" / "smoke" / "job.yaml")],
        "trials": 3,
        "seeds": [1],
        "execution": "subprocess",
        "confirm": {"top": 0},
        "space": {_WIDTH: {"choices": {"narrow": 64, "wide": _TOO_WIDE}, "default": "narrow"}},
        "sampler": {
            "class_path": "optuna.samplers.PartialFixedSampler",
            "init_args": {
                "fixed_params": {_WIDTH: "wide"},
                "base_sampler": {"class_path": "optuna.samplers.RandomSampler"},
            },
        },
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(said))
    assert main(["sweep", "--config", "sweep.yaml"]) == 0
    assert len(set(started)) == 3
    states = [t.state for t in trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    shown = capsys.readouterr().out
    for trial, words in enumerate(["allocate memory", "signal 9 (out of memory?)"], 1):
        [entry] = [
            t
            for t in json.loads(Path("runs/apart/ranking.json").read_text())["trials"]
            if t["trial"] == trial
        ]
        assert words in entry["reason"]
        assert f"trial {trial}  failed: {entry['reason']}" in shown
    left = {path.name for path in Path("runs/apart").glob("*/seed-*/checkpoints/*")}
    assert left == {"best-policy"}
