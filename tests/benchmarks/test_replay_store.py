"""The replay store from ten thousand trajectories to a million: open, batch, reweight, memory.

Stores are made on the fly in a temporary folder (3.2 GiB for the largest, removed at once) and
measured each in a fresh process. What is asserted is processor time: wall clock, printed beside it,
also has what else the machine is doing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from retro_lightning.replay.content import CONTENT, content_hashes
from retro_lightning.replay.records import encode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.replay.store import ReplayStore
from tests.benchmarks.measuring import interleaved, show
from tests.benchmarks.replay_scale import trajectory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIZES = (10_000, 100_000, 1_000_000)


def run(*words: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.replay_scale", *words],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(1200)
def test_from_ten_thousand_to_a_million(tmp_path: Path) -> None:
    found: dict[int, dict[str, float]] = {}
    for size in SIZES:
        folder = tmp_path / str(size)
        try:
            run("make", str(folder), str(size))
            found[size] = json.loads(run("measure", str(folder)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    names = list(found[SIZES[0]])
    print(f"\n{'':32}", *(f"{size:>12,}" for size in SIZES), f"   (load {os.getloadavg()[0]:.1f})")
    for name in names:
        print(f"{name:32}", *(f"{found[size][name]:12.2f}" for size in SIZES))
    largest = found[SIZES[-1]]
    assert largest["open_cpu_ms"] <= 2000
    assert largest["batch_cpu_ms"] <= 5
    assert largest["reweight_cpu_ms"] <= 100
    assert largest["anonymous_mib"] <= 300e6 / 2**20


def test_append_beside_plain_arrow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [trajectory(rng, number) for number in range(500)]
    columns = encode(made)
    rows, content = columns.to_pylist(), [columns.column(name) for name in CONTENT]
    store = ReplayStore(tmp_path / "store", create=True)

    def plain() -> None:
        file = tmp_path / f"{time.perf_counter_ns()}.arrow"
        with file.open("wb") as sink:
            with pa.ipc.new_file(sink, SCHEMA) as writer:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            sink.flush()
            os.fsync(sink.fileno())

    candidates = {
        "from_pylist + IPC write + fsync": plain,
        "append": lambda: store.append(made),
        "of which columns, hashes included": lambda: encode(made),
        "of which content hashes": lambda: content_hashes(content),
    }
    timings = interleaved(candidates, 7)()
    show("append of 500 trajectories of 10 steps", timings, "from_pylist + IPC write + fsync")
