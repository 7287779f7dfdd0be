"""The MLflow user interface in a real browser: runs are listed, curves drawn, spans shown.

Set ``SCREENSHOTS`` to a folder to keep what was seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from retro_lightning.cli.main import main
from tests.unit.cli.test_smoke_fit import cut_down

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium"),
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def server() -> Iterator[str]:
    """``mlflow ui`` on the working directory's database."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with Path("server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def _wait_for(address: str) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(1)
    raise TimeoutError(Path("server.log").read_text()[-2000:])


def page(url: str, picture: str | None = None) -> str:
    """The page as the browser has it after its scripts have run."""
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--window-size=1400,900", "--virtual-time-budget=400000", "--timeout=140000"]
    folder = os.environ.get("SCREENSHOTS")
    if folder is not None and picture is not None:
        target = Path(folder) / f"{picture}.png"
        subprocess.run(
            [BROWSER, *options, f"--screenshot={target}", url],
            capture_output=True,
            timeout=240,
            check=False,
        )
    done = subprocess.run(
        [BROWSER, *options, "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.stdout


def runs() -> list[Any]:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("retro_lightning")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_runs_curves_and_spans_are_shown(workplace):
    config = cut_down()
    callbacks = config["trainer"]["callbacks"]
    callbacks.append({"class_path": "retro_lightning.tracking.traces.RolloutTraces"})
    seen = {json.dumps(c): c for c in callbacks}
    config["trainer"]["callbacks"] = list(seen.values())
    Path("job.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert main(["fit", "--config", "job.yaml", "--final_test", "false"]) == 0
    [run] = runs()
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = run.info.experiment_id
    traces = client.search_traces(locations=[experiment], run_id=run.info.run_id)
    assert traces
    trace = max(traces, key=lambda t: len(t.data.spans))
    with server() as address:
        base = f"{address}/#/experiments/{experiment}"
        assert run.info.run_name in page(f"{base}/runs", "mlflow_runs")
        metrics = page(f"{base}/runs/{run.info.run_id}/model-metrics", "mlflow_curves")
        assert "success_rate" in metrics
        assert "scatterlayer" in metrics  # drawn by Plotly, which is loaded late
        shown = page(f"{base}/traces?selectedEvaluationId={trace.info.trace_id}", "mlflow_trace")
        assert trace.data.spans[1].name in shown
        assert "valid actions" in shown or trace.data.spans[-1].name in shown
