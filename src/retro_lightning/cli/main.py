"""Behaviour half: ``main``: dispatches on the first word, before anything heavy is imported."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence

from retro_lightning import __version__
from retro_lightning.cli.trainer import Interrupted, run_trainer
from retro_lightning.config.errors import ConfigError, explain_run
from retro_lightning.config.locate import nearest

_PROGRAM = "retro-lightning"
_COMMANDS = {
    "fit": "train a policy on its history and on fresh rollouts",
    "validate": "try a policy on the validation tasks",
    "test": "try a policy, trained or not, on the test tasks",
    "predict": "write a policy's log-probability of every stored action",
    "rollout": "collect trajectories with a policy or a scripted behaviour into a store",
    "replay": "take in, look at and hand out stored trajectories (replay --help)",
    "bench": "measure estimators on a stored batch, asked against achieved returns, off-policy",
    "sweep": "search a space of configurations by many fits, and confirm what won",
    "compare": "say which runs are better, and whether the difference is real",
    "retries": "put together what reflecting gains over the seeds of a Retroformer job",
    "export": "write a trained policy as a Hugging Face directory with a model card",
    "play": "watch an agent step by step in the terminal, or play yourself",
}
_HELP = f"""\
usage: {_PROGRAM} COMMAND --config FILE [--config FILE ...] [--key.subkey VALUE ...]

{__doc__ and "Trains language-model agents by policy gradient on their own past trajectories."}

commands:
{chr(10).join(f"  {name:<10}{text}" for name, text in _COMMANDS.items())}

options:
  --help     this text; COMMAND --help lists the arguments of a command
  --version  the version
  --verbose  show where an error was raised

start with:
  {_PROGRAM} fit --config conf/multitask.yaml
"""
_USERS_ERRORS = (ValueError, OSError, KeyError, ArithmeticError, NotImplementedError)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: Words of the command line; None = those of this process.

    Returns:
        Exit code: 0 done, 2 a mistake in configuration or input, 130 stopped by Ctrl-C, 143 by
        SIGTERM.
    """
    words = list(sys.argv[1:] if args is None else args)
    verbose = "--verbose" in words
    words = [word for word in words if word != "--verbose"]
    if not words or words[0] in ("--help", "-h"):
        print(_HELP, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"{_PROGRAM} {__version__}")
        return 0
    if words[0] not in _COMMANDS:
        hint = nearest(words[0], _COMMANDS)
        suggestion = f"did you mean {hint}?" if hint else f"choose one of {', '.join(_COMMANDS)}"
        return _complain(f"there is no command {words[0]!r}; {suggestion}")
    with _interrupt_handler_kept():
        return _run(words[0], words[1:], verbose)


def _run(name: str, args: list[str], verbose: bool) -> int:
    try:
        _command(name)(name, args)
    except Interrupted as stop:
        how, code = ("SIGTERM", 143) if stop.terminated else ("Ctrl-C", 130)
        print(f"\n{_PROGRAM}: stopped by {how}", file=sys.stderr)
        if stop.resume is not None:
            print(f"go on with:\n  {stop.resume}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print(f"\n{_PROGRAM}: stopped by Ctrl-C; nothing was begun", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except _USERS_ERRORS as error:
        if verbose:
            traceback.print_exc()
        return _complain(str(error) if isinstance(error, ConfigError) else explain_run(error, args))
    return 0


def _complain(sentence: str) -> int:
    print(f"{_PROGRAM}: {sentence}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _interrupt_handler_kept() -> Iterator[None]:
    """Lightning ignores further Ctrl-C once it has seen one; undo that for whoever called us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _command(name: str) -> Callable[[str, list[str]], object]:
    """The function that carries a command out; imports what only that command needs."""
    if name == "rollout":
        from retro_lightning.cli.rollout import rollout

        return rollout
    if name == "replay":
        from retro_lightning.cli.replay import replay

        return replay
    if name == "bench":
        from retro_lightning.cli.bench import bench

        return bench
    if name == "play":
        from retro_lightning.cli.play import play

        return play
    if name == "sweep":
        from retro_lightning.cli.sweep import sweep

        return sweep
    if name == "compare":
        from retro_lightning.cli.compare import compare

        return compare
    if name == "retries":
        from retro_lightning.cli.retries import retries

        return retries
    if name == "export":
        from retro_lightning.cli.export import export

        return export
    if name == "predict":
        from retro_lightning.cli.predict import predict

        return predict
    return run_trainer
