"""Data half: how fast arms learnt, as a table for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from retro_lightning.evaluation.speed import Interval, Speed

HEADINGS = ["arm", "reached", "steps", "ratio", "fewer steps", "area", "larger area"]


def speed_table(speeds: Sequence[Speed]) -> Table:
    """The table for the terminal; the first arm is the one that the others are paired with."""
    table = Table(title=title(speeds), caption=caption(speeds))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for row in rows(speeds):
        table.add_row(*row)
    return table


def title(speeds: Sequence[Speed]) -> str:
    """What the table is of."""
    return f"Optimiser steps to a validation success of {speeds[0].threshold:g}"


def caption(speeds: Sequence[Speed]) -> str:
    """How its numbers are to be read."""
    return (
        "a run that never reached it counts with all its steps; area: mean validation success over "
        f"the steps; differences to {speeds[0].label}, paired by seed, 95 % t interval"
    )


def rows(speeds: Sequence[Speed]) -> list[list[str]]:
    """One row for each arm, in the order of ``HEADINGS``."""
    return [
        [
            s.label,
            f"{s.reached} of {s.seeds}",
            f"{s.steps:.0f}",
            f"{s.ratio:.2f}",
            _shown(s.fewer, "+.0f") if place else "-",
            f"{s.area:.3f}",
            _shown(s.larger, "+.3f") if place else "-",
        ]
        for place, s in enumerate(speeds)
    ]


def _shown(interval: Interval, form: str) -> str:
    mean, low, high = (f"{v:{form}}" if math.isfinite(v) else "?" for v in interval)
    return f"{mean} ({low} to {high})"
