"""Behaviour half: ``replay filter``, ``merge``, ``dedupe``, ``compact`` and ``verify``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import numpy as np

from retro_lightning.cli.replay_progress import counting
from retro_lightning.replay.copying import copy, first_of_each
from retro_lightning.replay.expression import choose
from retro_lightning.replay.index import Mask
from retro_lightning.replay.store import ReplayStore


def filter_(options: argparse.Namespace) -> dict[str, Any]:
    """Copy what an expression chooses into another store."""
    store = ReplayStore(options.store)
    return _copy(store, ReplayStore(options.to, create=True), choose(options.where, store.index))


def merge(options: argparse.Namespace) -> dict[str, Any]:
    """Copy other stores into this one."""
    sources = [ReplayStore(path) for path in options.sources]
    target = ReplayStore(options.store, create=True)
    parts = [_copy(source, target, np.ones(len(source), dtype=np.bool_)) for source in sources]
    names = ("copied", "duplicates", "conflicts")
    return {
        "store": str(target.path),
        **{name: sum(part[name] for part in parts) for name in names},
        "trajectories": len(target),
        "damaged": [sentence for part in parts for sentence in part["damaged"]],
    }


def dedupe(options: argparse.Namespace) -> dict[str, Any]:
    """Copy the first of every content into another store."""
    store = ReplayStore(options.store)
    mask = first_of_each(store)
    result = _copy(store, ReplayStore(options.to, create=True), mask)
    return {**result, "left_out": int(len(mask) - mask.sum())}


def compact(options: argparse.Namespace) -> dict[str, Any]:
    """Merge small shards."""
    store = ReplayStore(options.store)
    return {"store": str(store.path), **asdict(store.compact(purge=options.purge))}


def verify(options: argparse.Namespace) -> dict[str, Any]:
    """Compare every shard with its checksum."""
    store = ReplayStore(options.store)
    damaged = store.quarantine() if options.quarantine else store.verify()
    return {
        "store": str(store.path),
        "trajectories": len(store),
        "files": [str(file) for file in store.files],
        "quarantined": options.quarantine,
        "damaged": damaged,
    }


def show_filter_(result: dict[str, Any]) -> None:
    """What was copied."""
    print(f"{result['copied']} trajectories copied to {result['store']}", _refused(result))
    for sentence in result["damaged"]:
        print(f"left out: {sentence}")


def show_merge(result: dict[str, Any]) -> None:
    """What was copied."""
    show_filter_(result)


def show_dedupe(result: dict[str, Any]) -> None:
    """What was copied, and how much was a repetition."""
    show_filter_(result)
    print(f"{result['left_out']} repeat the content of an earlier one and were left out")


def show_compact(result: dict[str, Any]) -> None:
    """Shards before and after."""
    print(f"{result['store']}: {result['before']} shards before, {result['after']} now")
    if result["replaced"]:
        print(
            f"{result['replaced']} replaced shards ({result['replaced_bytes'] / 2**20:.1f} MiB) "
            "are kept for checkpoints that name them; --purge deletes them"
        )
    if result["purged"]:
        print(f"{result['purged']} replaced shards deleted")
    for sentence in result["damaged"]:
        print(f"left as it is: {sentence}")


def show_verify(result: dict[str, Any]) -> None:
    """One sentence per damaged shard, or that all is well."""
    for sentence in result["damaged"]:
        print(f"{'quarantined' if result['quarantined'] else 'damaged'}: {sentence}")
    found = f"{len(result['damaged'])} damaged" if result["damaged"] else "all as published"
    print(f"{result['store']}: {result['trajectories']} trajectories are served; {found}")


def _copy(source: ReplayStore, target: ReplayStore, rows: Mask) -> dict[str, Any]:
    with counting("copying", len(source)) as advance:
        done = asdict(copy(source, target, rows, advance))
    return {"store": str(target.path), **done, "trajectories": len(target)}


def _refused(result: dict[str, Any]) -> str:
    duplicates, conflicts = result["duplicates"], result["conflicts"]
    parts = [f"{duplicates} were there already"] if duplicates else []
    parts += [f"{conflicts} have the identity of another one there"] if conflicts else []
    return f"({', '.join(parts)})" if parts else ""
