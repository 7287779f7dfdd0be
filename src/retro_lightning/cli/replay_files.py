"""Behaviour half: ``replay import`` and ``export``: files come in, files go out."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from retro_lightning.cli.replay_progress import counting
from retro_lightning.replay.expression import choose
from retro_lightning.replay.formats import exporting, mapping
from retro_lightning.replay.formats.importing import ImportReport, import_files
from retro_lightning.replay.formats.items import Options
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.store import ReplayStore

_SHOWN = 20


def import_(options: argparse.Namespace) -> dict[str, Any]:
    """Take files in.

    Raises:
        ValueError: If ``--max-errors`` is negative, or more records are rejected.
        OSError: If a file cannot be read, or that of ``--rejects`` not be written.
    """
    if options.max_errors < 0:
        raise ValueError(f"--max-errors is {options.max_errors}; give a whole number from 0 on")
    made = Options(options.behaviour, options.family, options.run, options.mapping)
    if options.format == "mapping":
        mapping.load(made)
    sizes = {file: Source(file).size for file in options.files}  # refuses missing files first
    if options.rejects is not None:
        _refuse_unwritable(options.rejects, "--rejects")
    store = ReplayStore(options.store, create=True)
    console = Console(stderr=True)
    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=sum(sizes.values()))
        places: dict[str, int] = {}

        def advance(source: Source) -> None:
            places[str(source.path)] = source.position
            progress.update(bar, completed=sum(places.values()))

        report = import_files(
            store,
            options.files,
            options.format,
            READERS[options.format],
            made,
            rejects=options.rejects or store.path / "rejects.jsonl",
            max_errors=options.max_errors,
            on_progress=advance,
        )
    damaged = {"damaged": list(store.damaged.values())} if store.damaged else {}
    return {**report.as_dict(), **damaged, **_mistake(report)}


def _mistake(report: ImportReport) -> dict[str, str]:
    """The sentence on an import that took nothing in; records that the store has are no mistake."""
    sums = report.totals
    if sums["imported"] or sums["duplicates"]:
        return {}
    if sums["rejected"]:
        why = f"{sums['rejected']} rejected, see {report.rejects}"
    else:
        why = f"there is no record of format {report.format} in the files, give another --format"
    return {"mistake": f"nothing was imported: {why}"}


def show_import_(result: dict[str, Any]) -> None:
    """The report for people."""
    for file in result["files"]:
        print(
            f"{file['file']}: {file['imported']} imported, {file['successes']} of them successes, "
            f"{file['duplicates']} refused as duplicates, {file['rejected']} rejected"
        )
        for check in file["checks"]:
            agrees = "agrees" if check["told"] == check["found"] else "DIFFERS"
            print(f"  {check['what']}: log {check['told']}, found {check['found']}: {agrees}")
        for remark in file["remarks"][:_SHOWN]:
            print(f"  line {remark['line']}: {remark['text']}")
        if len(file["remarks"]) > _SHOWN:
            print(f"  and {len(file['remarks']) - _SHOWN} more remarks: see them all with --json")
    mean = "" if result["mean_return"] is None else f", mean return {result['mean_return']:.3f}"
    print(f"{result['imported']} trajectories into {result['store']}{mean}")
    if result["duplicates"] or result["rejected"]:
        print(f"what was refused, and why, stands in {result['rejects']}")
    for sentence in result.get("damaged", ()):
        print(f"the store is damaged: {sentence}")


def export(options: argparse.Namespace) -> dict[str, Any]:
    """Write trajectories to a file.

    Raises:
        OSError: If the file cannot be written.
    """
    _refuse_unwritable(options.output, "--output")
    store = ReplayStore(options.store)
    rows = choose(options.where, store.index)
    with counting("writing", int(rows.sum())) as advance:
        done = exporting.export(store, rows, options.format, options.output, advance)
    return {"output": str(options.output), "format": options.format, **asdict(done)}


def show_export(result: dict[str, Any]) -> None:
    """What was written."""
    print(f"{result['written']} records written to {result['output']}")
    if result["left_out"]:
        print(f"{result['left_out']} trajectories without steps were left out")
    for sentence in result["damaged"]:
        print(f"left out: {sentence}")


def _refuse_unwritable(file: Path, option: str) -> None:
    """Before long work: a file that cannot be written at its end."""
    if file.is_dir():
        raise IsADirectoryError(f"{option} {file} is a folder: name a file in it")
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f"{option} {file}: there is no folder {file.parent}: make it, or name another file"
        )
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(f"{option} {file} must not be written: name another file")
