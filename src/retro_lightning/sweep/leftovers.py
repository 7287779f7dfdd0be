"""Behaviour half: what the fits of a study leave on disk: their record, and policies that may win.

A trial is never resumed, but begun anew under another number; so nothing goes on from a fit's
checkpoints. What is registered at the end of a study is the best policy of a winner's fit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

POLICY = "best-policy"


def clear_checkpoints(trial: Path, *, policies: bool) -> None:
    """Remove the checkpoints of a trial's fits.

    Args:
        trial: Directory of the trial; that of each fit lies in it.
        policies: Their best policies too, because the trial can't win any more.
    """
    for checkpoints in trial.glob("seed-*/checkpoints"):
        for path in checkpoints.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)
            elif policies or path.name != POLICY:
                shutil.rmtree(path, ignore_errors=True)
