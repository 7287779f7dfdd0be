"""A process that is killed outright goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from tests.fits import Fit, assert_same

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]


class KillIn(Callback):
    """SIGKILL when so many rollouts of the run are under way, or at an optimiser step."""

    def __init__(self, episodes: int = -1, step: int = -1) -> None:
        self.episodes, self.step = episodes, step

    def on_trajectories(self, trainer: Any, pl_module: Any, stage: str, found: Any) -> None:
        if stage == "rollout" and trainer.global_step == self.episodes:
            _die()  # published, but in no checkpoint yet

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if trainer.global_step == self.step:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("when", ["episodes=8", "step=6", "step=8"])
def test_killed(tmp_path, when):
    cache = tmp_path / "cache"
    whole = Fit(tmp_path / "whole" / "run", cache).run().result()
    script = (
        "from pathlib import Path; from tests.fits import Fit; "
        "from tests.slow.test_resume_kill import KillIn; "
        f"Fit(Path({str(tmp_path / 'part' / 'run')!r}), Path({str(cache)!r}), "
        f"callbacks=[KillIn({when})]).run()"
    )
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed = Fit(tmp_path / "part" / "run", cache)
    resumed.run(resumed.last)
    assert_same(resumed.result(), whole)
