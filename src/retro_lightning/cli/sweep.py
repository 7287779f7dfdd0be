"""Behaviour half: the ``sweep`` command: a study of many fits, gone on with by the same words."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from retro_lightning.cli.trainer import Interrupted
from retro_lightning.sweep.fits import Terminated
from retro_lightning.sweep.settings import read
from retro_lightning.sweep.worker import run


def sweep(name: str, args: Sequence[str]) -> None:
    """Take part in the study of a sweep file until it is done.

    Raises:
        Interrupted: If a person or a scheduler stopped this worker; the same command goes on.
    """
    study = read(args)
    console = Console(file=sys.stdout)
    try:
        run(study, console)
    except KeyboardInterrupt as stop:
        resume = shlex.join(["python", "-m", "retro_lightning", name, *args])
        raise Interrupted(resume, terminated=isinstance(stop, Terminated)) from stop
