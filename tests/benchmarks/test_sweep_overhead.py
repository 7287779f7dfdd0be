"""What tracking and Optuna add to the fits of a study, what logging costs a step, what a second
worker saves.

On a machine that does other work, processor time says more than a clock: ratios are of processor
time, of a study and of the same fits run bare in turns with it, in one process. The clock's are
printed beside them. ``make bench`` runs it; some twenty minutes of processor time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro_lightning.cli.main import main
from retro_lightning.config import command
from retro_lightning.sweep import trial
from retro_lightning.sweep.fits import FitRecord, run_fit, words
from retro_lightning.tracking.mlflow import MLflowRun

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_BASE = [str(_ROOT / "conf" / "multitask.yaml"), str(_ROOT / "conf" / "study.yaml")]
_FITS = 10
"""Of about half a minute each: the study takes five minutes or more."""
_START_UP = """
import optuna
from retro_lightning.sweep import worker
from retro_lightning.tracking.study import StudyRuns
optuna.create_study(storage="sqlite:///sweeps.db")
StudyRuns("sqlite:///new.db", "new", "new")
"""


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


def write_bare() -> list[str]:
    """The command line of the study's fit without a logger and the callbacks of tracking."""
    callbacks = yaml.safe_load(Path(_BASE[-1]).read_text())["trainer"]["callbacks"]
    kept = [c for c in callbacks if not c["class_path"].startswith("retro_lightning.tracking.")]
    assert 0 < len(kept) < len(callbacks)
    Path("bare.yaml").write_text(
        yaml.safe_dump({"trainer": {"logger": False, "callbacks": kept}, "final_test": False})
    )
    return [*words([*_BASE, "bare.yaml"]), "--seed_everything", "1"]


def bare_fit(args: Sequence[str], directory: str) -> None:
    with Path("bare.log").open("a") as log, contextlib.redirect_stderr(log):
        command.build("fit", [*args, "--trainer.default_root_dir", directory]).run()


@dataclass
class Turns:
    """Marks of processor time and clock: before and after each bare fit, each followed by a trial.

    A trial takes from the end of the bare fit before it to the beginning of the next: its fit,
    and all that Optuna and MLflow do before, within and after it; the last one also pays for the
    figures and the ranking.
    """

    args: list[str]
    marks: list[tuple[float, float]] = field(default_factory=list)

    def mark(self) -> None:
        self.marks.append((time.process_time(), time.perf_counter()))

    def run_fit(self, args: Sequence[str], directory: Path, **options: Any) -> FitRecord:
        self.mark()
        bare_fit(self.args, f"runs/bare-{len(self.marks)}")
        self.mark()
        return run_fit(args, directory, **options)

    def taken(self, clock: int) -> tuple[list[float], list[float]]:
        """Seconds of the bare fits, and of the trials after them."""
        times = [mark[clock] for mark in self.marks]
        spans = [after - before for before, after in itertools.pairwise(times)]
        return spans[::2], spans[1::2]


@pytest.mark.timeout(7200)
def test_tracking_and_optuna_cost_little(workplace, monkeypatch):
    turns = Turns(write_bare())
    bare_fit(turns.args, "runs/warm")  # makes the history that all share
    monkeypatch.setattr(trial, "run_fit", turns.run_fit)
    Path("sweep.yaml").write_text(yaml.safe_dump(definition(_FITS)))
    assert main(["sweep", "--config", "sweep.yaml"]) == 0
    turns.mark()
    ratios = {}
    for clock, name in enumerate(["processor", "clock"]):
        bare, tracked = turns.taken(clock)
        assert len(bare) == len(tracked) == _FITS
        ratios[name] = sum(tracked) / sum(bare), min(tracked) / min(bare)
        each = " ".join(f"{t / b:.3f}" for b, t in zip(bare, tracked, strict=True))
        print(f"\n{name}: {_FITS} fits bare {sum(bare):.1f} s, as trials {sum(tracked):.1f} s: ")
        print(f"ratio {ratios[name][0]:.3f}, of the fastest {ratios[name][1]:.3f}, each {each}")
    assert ratios["processor"][0] <= 1.05
    assert ratios["clock"][1] <= 1.05


def test_starting_up_takes_less_than_ten_seconds(tmp_path):
    paths = os.pathsep.join([str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", _START_UP], check=True, cwd=tmp_path, env=environment)
    clock = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"\nimports and both databases: {used:.1f} s of processor time, {clock:.1f} s by the clock"
    )
    assert used <= 10.0


@pytest.mark.timeout(1800)
def test_logging_costs_little_each_step(workplace, monkeypatch):
    """All calls of ``log`` and of the logger, over the steps of a fit of the study job."""
    spent = {"Lightning": 0.0, "MLflow": 0.0}

    def timed(owner: Any, method: str, name: str) -> None:
        real = getattr(owner, method)

        def call(*args: Any, **options: Any) -> Any:
            before = time.process_time()
            try:
                return real(*args, **options)
            finally:
                spent[name] += time.process_time() - before

        monkeypatch.setattr(owner, method, call)

    from lightning.pytorch.core.module import LightningModule

    timed(LightningModule, "log", "Lightning")  # ``log_dict`` calls it
    timed(MLflowRun, "log_metrics", "MLflow")  # calls ``save`` from time to time
    record = run_fit([*words(_BASE), "--final_test", "false"], Path("runs/logged"))
    steps = record.curve[-1].step
    each = {name: 1e3 * seconds / steps for name, seconds in spent.items()}
    print(f"\nmilliseconds of processor time a step, over {steps} steps: {each}")
    assert steps == 160
    assert sum(each.values()) <= 1.0


def worker() -> subprocess.Popen[bytes]:
    """A worker of the study of the working directory."""
    paths = os.pathsep.join([str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command_line = [sys.executable, "-m", "retro_lightning", "sweep", "--config", "sweep.yaml"]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command_line, env=environment)


def study_seconds() -> float:
    """From the first trial's start to the last one's end, by the storage."""
    import optuna

    trials = optuna.load_study(study_name="overhead", storage="sqlite:///sweeps.db").trials
    starts = [t.datetime_start for t in trials if t.datetime_start]
    ends = [t.datetime_complete for t in trials if t.datetime_complete]
    return (max(ends) - min(starts)).total_seconds()


@pytest.mark.timeout(7200)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_workers_are_faster_than_one(workplace):
    """By the clock alone: it needs two cores with nothing else to do."""
    bare_fit(write_bare(), "runs/warm")
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
