"""Behaviour half: commands that Lightning's trainer carries out, and how they are gone on with."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retro_lightning.config.command import Command, Parser


class Interrupted(Exception):
    """A person, or whoever runs the machine, stopped the command.

    Attributes:
        resume: Command that goes on from the checkpoint written, if there is one.
        terminated: By SIGTERM, as schedulers do, and not by Ctrl-C.
    """

    def __init__(self, resume: str | None, *, terminated: bool = False) -> None:
        super().__init__(resume)
        self.resume, self.terminated = resume, terminated


def run_trainer(
    name: str,
    args: Sequence[str],
    add_arguments: Callable[[Parser], None] | None = None,
) -> tuple[Command, Any]:
    """Configure and run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        name: The command.
        args: The command line after it.
        add_arguments: Adds arguments beside the configuration of a run.

    Returns:
        The command as configured, and what the trainer returned.

    Raises:
        Interrupted: If it has been stopped.
    """
    from retro_lightning.config import command

    started = time.time()
    cli = command.build(name, args, add_arguments)
    try:
        return cli, cli.run()
    except KeyboardInterrupt as stop:
        raise Interrupted(_resume(name, args, cli.run_dir, started)) from stop
    except SystemExit as stop:  # what Lightning makes of both
        terminated = bool(cli.trainer.received_sigterm)
        if terminated or isinstance(stop.__context__, KeyboardInterrupt):
            resume = _resume(name, args, cli.run_dir, started)
            raise Interrupted(resume, terminated=terminated) from stop
        raise


def _resume(name: str, args: Sequence[str], run_dir: Path, started: float) -> str | None:
    """The command that goes on from ``last``, if this run has written it."""
    last = run_dir / "checkpoints" / "last.ckpt"
    if name != "fit" or not last.exists() or last.stat().st_mtime < started:
        return None
    words, skip = [], False
    for word in args:
        if not skip and not word.startswith("--ckpt_path"):
            words.append(word)
        skip = word == "--ckpt_path" and not skip
    return shlex.join(["python", "-m", "retro_lightning", name, *words, "--ckpt_path", "last"])
