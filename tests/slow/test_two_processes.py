"""DDP with two processes on the CPU: one epoch, every task counted once, equal parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fits import Fit

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = """
import json, os, sys, torch
from pathlib import Path
from tests.fits import Fit, phases
folder = Path(sys.argv[1])
fit = Fit(folder / "run", folder / "cache", make_phases=lambda: phases(None), trainer_options={
    "devices": 2, "strategy": "ddp", "max_epochs": 2})
fit.run()
rank = fit.trainer.global_rank
torch.save(fit.module.require_policy().state_dict(), folder / f"{rank}.pt")
counts = {name: count.episodes for name, count in fit.module.counts.families.items()}
mine = [t.task.task_id for t in fit.module.judgement.trajectories]
(folder / f"{rank}.json").write_text(json.dumps([counts, mine]))
"""


def test_two_processes(tmp_path):
    Fit(tmp_path / "first" / "run", tmp_path / "cache").datamodule.prepare_data()
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    script = tmp_path / "two.py"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0][0] == found[1][0] == {"corridor/short": 3, "corridor/long": 3}
    tasks = found[0][1] + found[1][1]
    assert len(tasks) == len(set(tasks)) == 6
