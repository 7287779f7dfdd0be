"""Behaviour half: the ``replay`` command and the arguments of its subcommands.

Only what a subcommand needs is imported, and never torch: a store is numpy and Arrow.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from retro_lightning.config.errors import ConfigError

_PROGRAM = "retro-lightning replay"
_FORMATS_IN = (
    *("atif", "chat", "hf", "mapping", "parquet"),
    *("reflexion_alfworld", "reflexion_hotpotqa", "tau_bench"),
)
_START = """\
start with:
  retro-lightning replay import --format tau_bench --store logs results.json.gz
  retro-lightning replay stats --store logs --json
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help")


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
    result = run(options)
    if options.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        show(result)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Trajectories kept for years: take them in, look at them, hand them out.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _import(_command(commands, "import", "replay_files:import_", "take in logs of other agents"))
    _command(commands, "stats", "replay_stats:stats", "counts, success, return and length")
    return parser


def _command(commands: Any, name: str, carried_out_by: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(carried_out_by=carried_out_by)
    parser.add_argument("--store", type=Path, required=True, help="folder of the replay store")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--format", required=True, choices=_FORMATS_IN, help="format of the files")
    add("files", type=Path, nargs="+", metavar="FILE", help="files of that format")
    add("--behaviour", metavar="ID", help="which agent acted; default: what the log says")
    add("--family", help="kind of task; default: the format's name for it")
    add(
        "--run",
        help="which run the records are of, part of their identity; default: the file's name",
    )
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
