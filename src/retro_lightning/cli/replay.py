"""Behaviour half: the ``replay`` command and the arguments of its subcommands.

Only what a subcommand needs is imported, and never torch: a store is numpy and Arrow.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from retro_lightning.config.errors import ConfigError

_PROGRAM = "retro-lightning replay"
_BROKEN_PIPE = 128 + 13
"""What a shell says of a process that SIGPIPE has ended."""
_FORMATS_IN = (
    *("atif", "chat", "hf", "mapping", "parquet"),
    *("reflexion_alfworld", "reflexion_hotpotqa", "tau_bench"),
)
_FORMATS_OUT = ("chat", "parquet", "preference", "sft")
_START = """\
start with:
  retro-lightning replay import --format tau_bench --store logs results.json.gz
  retro-lightning replay stats --store logs --json
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.split(maxsplit=1)[1]  # the program's name stands before every complaint
        raise ConfigError(f"{command}: {message}; see {self.prog} --help")


def replay(name: str, args: Sequence[str]) -> None:
    """Carry a subcommand out and print its result, as JSON or for people.

    Args:
        name: The command's name.
        args: Words after it.
    """
    parser = _parser()
    if not args:
        parser.print_help()
        raise SystemExit(2)
    options = parser.parse_args(list(args))
    module_name, function = options.carried_out_by.split(":")
    module = importlib.import_module(f"retro_lightning.cli.{module_name}")
    run: Callable[[argparse.Namespace], dict[str, Any]] = getattr(module, function)
    show: Callable[[dict[str, Any]], None] = getattr(module, f"show_{function}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged shards stand in the result
        result = run(options)
    with _quiet_when_nobody_reads():
        if options.json:
            print(json.dumps(result, indent=1), flush=True)
        else:
            show(result)
            sys.stdout.flush()
    if result.get("mistake"):
        raise ConfigError(result["mistake"])
    if result.get("damaged"):
        raise SystemExit(1)


@contextlib.contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """``replay ... | head``: the reader has had enough, which is no mistake of anybody's."""
    try:
        yield
    except (BrokenPipeError, SystemExit):  # rich makes an exit with 1 of it, which means damaged
        # Python flushes once more at the end of the process, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Trajectories kept for years: take them in, look at them, hand them out.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = commands.add_parser
    _import(_command(add, "import", "replay_files:import_", "take in logs of other agents"))
    _export(_command(add, "export", "replay_files:export", "write trajectories for other tools"))
    _where(_command(add, "stats", "replay_look:stats", "counts, success, return and length"))
    _inspect(_command(add, "inspect", "replay_look:inspect", "page through trajectories"))
    _drift(_command(add, "drift", "replay_look:drift", "how new trajectories differ from old"))
    _filter(_command(add, "filter", "replay_keep:filter_", "copy what an expression chooses"))
    _merge(_command(add, "merge", "replay_keep:merge", "copy other stores into this one"))
    _dedupe(_command(add, "dedupe", "replay_keep:dedupe", "copy the first of equal contents"))
    _compact(_command(add, "compact", "replay_keep:compact", "merge small shards"))
    _verify(_command(add, "verify", "replay_keep:verify", "compare shards with their checksums"))
    return parser


def _command(
    add_parser: Callable[..., argparse.ArgumentParser], name: str, carried_out_by: str, text: str
) -> argparse.ArgumentParser:
    parser = add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(carried_out_by=carried_out_by)
    parser.add_argument("--store", type=Path, required=True, help="folder of the replay store")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where",
        metavar="EXPRESSION",
        default="True",
        help="which trajectories, such as 'success and like(family, \"tau*\") and length < 9'; "
        "columns: task family behaviour source success faulted truncated outcome train "
        "total_return length attempt age (days) policy_version staleness",
    )


def _import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--format", required=True, choices=_FORMATS_IN, help="format of the files")
    add("files", type=Path, nargs="+", metavar="FILE", help="files of that format")
    add("--behaviour", metavar="ID", help="which agent acted; default: what the log says")
    add("--family", help="kind of task; default: the format's name for it")
    add("--run", help="run of the records, part of their identity; default: the file's name")
    add("--mapping", type=Path, metavar="YAML", help="for the format mapping: which field is what")
    add(
        "--max-errors",
        type=int,
        default=100,
        metavar="N",
        help="stop when more than N records are rejected; default: 100",
    )
    add(
        "--rejects",
        type=Path,
        metavar="FILE",
        help="where refused records are told; default: rejects.jsonl in the store",
    )


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", required=True, choices=_FORMATS_OUT, help="format of the file")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    _where(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--row", type=int, default=0, help="begin at this one of those chosen, from 0")
    add("--count", type=int, default=10, help="show at most so many; default: 10")
    _where(parser)


def _drift(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", type=Path, required=True, help="store of the old ones")


def _filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, help="store to copy into")
    _where(parser)


def _merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", metavar="STORE", help="stores to copy")


def _dedupe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, help="store to copy into")


def _compact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--purge",
        action="store_true",
        help="delete the shards that have been replaced; checkpoints may still name them",
    )


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quarantine", action="store_true", help="move damaged shards to quarantine/"
    )
