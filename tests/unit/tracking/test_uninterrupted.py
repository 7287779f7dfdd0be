"""Ctrl-C in the middle of a write waits for its end."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from mlflow import MlflowClient

from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.uninterrupted import uninterrupted


@pytest.fixture(autouse=True)
def heeded():
    """Ctrl-C as a shell's foreground process has it; one in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_comes_when_the_write_is_over():
    done = []

    @uninterrupted()
    def write() -> None:
        ctrl_c()
        done.append("first")
        with uninterrupted():  # one write within another
            ctrl_c()
            done.append("second")
        done.append("third")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["first", "second", "third"]
    with pytest.raises(KeyboardInterrupt):  # as ever
        ctrl_c()


def test_other_threads_have_no_ctrl_c_to_wait_for():
    found = []

    def write() -> None:
        with uninterrupted():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_a_run_that_is_stopped_while_it_writes_is_closed_as_killed(workplace, monkeypatch):
    run = MLflowRun(flush_seconds=0.0)
    run.attach(workplace / "run", name="run", remember=False, resume=False)
    write = MlflowClient.log_batch

    def stopped(self, *args, **kwargs):
        ctrl_c()
        write(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", stopped)

    def fit() -> None:
        try:
            run.log_metrics({"train/loss": 0.5}, 1)
        except KeyboardInterrupt:
            monkeypatch.undo()
            run.finalize("failed")
            raise

    with pytest.raises(KeyboardInterrupt):
        fit()
    client = MlflowClient(run.tracking_uri)
    found = client.get_run(str(run.version))
    assert (found.info.status, found.data.metrics) == ("KILLED", {"train/loss": 0.5})
