"""Run by ``test_sweep_kills.py``: workers of one study, twenty of them killed at random moments.

Fits are played: each makes an MLflow run as a fit does, waits a moment and reports. Workers are
forked from a process that has imported everything, so that a kill can come at any moment of theirs.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from retro_lightning.sweep import confirm, trial, worker
from retro_lightning.sweep.fits import FitRecord
from retro_lightning.sweep.settings import read
from retro_lightning.tracking.mlflow import MLflowRun, default_uri
from retro_lightning.tracking.results import Point

KILLS, WORKERS = 20, 2
# A fit ends with one of these, and each kill adds one: with fewer than 30 - 20 of them at first,
# a study of 30 trials is not over before its twentieth kill, however fast the machine.
_ends = multiprocessing.Semaphore(8)


def played_fit(
    args: Any,
    directory: Path,
    *,
    listen: Callable[[Point], bool] | None = None,
    prepare: Callable[[MLflowRun], None] | None = None,
) -> FitRecord:
    """What ``run_fit`` does, without the fit."""
    Path(f"busy-{os.getpid()}").touch()
    logger = MLflowRun(flush_seconds=0.0)
    logger.attach(directory, name=directory.name, remember=False, resume=False)
    if prepare is not None:
        prepare(logger)
    curve = []
    for step in range(2):
        time.sleep(0.15)
        point = Point(step + 1, step + 1, 0, {"val/success_rate": random.random()})
        logger.log_metrics(point.metrics, step)
        curve.append(point)
        if listen is not None and listen(point):
            break
    _ends.acquire()
    logger.finalize()
    return FitRecord(tuple(curve), logger.version)


class PlayedLogger:
    """Where a job's logger would say that it writes."""

    tracking_uri = default_uri()


def main(file: str) -> None:
    """Keep workers alive until the study is done, killing some."""
    first = {"model.gamma": 0.9}
    trial.run_fit = played_fit  # type: ignore[assignment]
    worker._begin = lambda sweep, storage, console: first  # type: ignore[assignment]
    worker.check_base = lambda sweep: None  # type: ignore[assignment,return-value]
    worker.mlflow_loggers = lambda cli: [PlayedLogger()]  # type: ignore[assignment,list-item]
    confirm.draw = lambda sweep, slots: []  # type: ignore[assignment]
    confirm._write_best = lambda sweep, params: Path(file)  # type: ignore[assignment]
    sweep = read(["--config", file])
    rng, killed, living = random.Random(0), 0, set()
    until = time.monotonic() + 500
    finished = False
    while living or not finished:
        while len(living) < WORKERS and not finished:
            living.add(_fork(sweep))
        if killed < KILLS and living and not finished:
            victim = rng.choice(sorted(living))
            if rng.random() < 0.7:  # at work; else whenever it may be, often while it starts
                _wait_for(lambda victim=victim: Path(f"busy-{victim}").exists())
            time.sleep(rng.uniform(0.0, 0.8))
            os.kill(victim, signal.SIGKILL)
            killed += 1
            for _ in range(1 if killed < KILLS else 1000):
                _ends.release()
        time.sleep(0.1)
        for pid in sorted(living):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                living.remove(pid)
                finished |= os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        assert time.monotonic() < until, "the study does not come to its end"
    print(f"killed {killed}")


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 15
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)


def _fork(sweep: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open("workers.log", "a", encoding="utf-8") as log:
            sys.stderr = log
            random.seed(os.getpid())
            worker.run(sweep, Console(file=log))
            code = 0
    except BaseException:
        import traceback

        with open("workers.log", "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
