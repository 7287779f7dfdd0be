"""Behaviour half: ``replay stats``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from retro_lightning.replay.statistics import statistics
from retro_lightning.replay.store import ReplayStore

_COUNTS = ("trajectories", "successes", "failures", "truncated", "faulted", "outcome_records")
_MEANS = ("success_rate", "mean_return", "mean_length")
_WIDTH = 12


def stats(options: argparse.Namespace) -> dict[str, Any]:
    """Counts and means of a store; the keys are told in ``docs/replay.md``."""
    return {"store": str(options.store), **statistics(ReplayStore(options.store).index)}


def show_stats(result: dict[str, Any]) -> None:
    """The numbers as a table."""
    rows = list(_rows(result))
    width = max(len(name) for name, _ in rows)
    names = (name.replace("_records", "s").replace("_rate", "") for name in (*_COUNTS, *_MEANS))
    print(" " * width, *(f"{name.replace('_', ' '):>{_WIDTH}}" for name in names))
    for name, counts in rows:
        means = ("-" if counts[key] is None else f"{counts[key]:.3f}" for key in _MEANS)
        cells = (*(str(counts[key]) for key in _COUNTS), *means)
        print(f"{name:<{width}}", *(f"{cell:>{_WIDTH}}" for cell in cells))


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield result["store"], result
    for name, counts in result["by_family"].items():
        yield f"family {name}", counts
    for name, counts in result["by_attempt"].items():
        yield f"attempt {name}", counts
    for behaviour, table in result["by_behaviour"].items():
        yield behaviour, table
        for name, counts in table["by_attempt"].items():
            yield f"  attempt {name}", counts
