"""200 kills at random moments of writing, importing and compacting lose nothing acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_KILLS = 200


def test_nothing_acknowledged_is_lost(tmp_path):
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.slow.replay_kills", str(tmp_path / "s"), str(_KILLS), "1"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)
    print(f"\n{counts}")
    assert counts["kills"] == _KILLS
    # The kills must not all have come before the work: many were in the midst of it.
    for work in ("write", "take_in", "merge"):
        assert counts[f"{work} killed after acknowledging"] >= 10
