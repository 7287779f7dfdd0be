"""Shared by the benchmarks: interleaved repetitions, medians, a printed table."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Medians over the repetitions of one candidate, in milliseconds."""

    processor: float
    wall: float


def interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int
) -> Callable[[], dict[str, Timing]]:
    """What measures candidates in turn, so that a busy spell of the machine hits all alike.

    Processor time is what ratios are taken of: on one thread it is wall-clock time without the
    machine's other work.
    """

    def measure() -> dict[str, Timing]:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
        for run in candidates.values():
            run()
        for _ in range(rounds):
            for name, run in candidates.items():
                processor, wall = time.process_time(), time.perf_counter()
                run()
                taken = time.process_time() - processor, time.perf_counter() - wall
                times[name].append(taken)
        return {
            name: Timing(*(1e3 * statistics.median(column) for column in zip(*rows, strict=True)))
            for name, rows in times.items()
        }

    return measure


def show(title: str, timings: Mapping[str, Timing], reference: str) -> None:
    """Print a table of medians, each also as a multiple of the reference."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{title} (load {load} on {os.cpu_count()} cores)")
    print(f"{'':44} {'processor ms':>12} {'wall ms':>9} {'ratio':>6}")
    for name, timing in timings.items():
        ratio = timing.processor / timings[reference].processor
        print(f"{name:44} {timing.processor:12.1f} {timing.wall:9.1f} {ratio:6.2f}")
