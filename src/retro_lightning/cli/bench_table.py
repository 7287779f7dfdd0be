"""Behaviour half: the table that ``bench estimators`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_HEADINGS = (
    ("estimator", "estimator", "{}"),
    ("baseline", "baseline", "{}"),
    ("variance", "variance", "{:.3g}"),
    ("cut", "cut", "{:.2f}"),
    ("cosine", "cosine", "{:+.3f}"),
    ("bias_on_policy", "bias, own", "{:.3f}"),
    ("bias_off_policy", "bias, others'", "{:.3f}"),
    ("used", "used", "{:.0%}"),
    ("milliseconds", "ms", "{:.1f}"),
)


def show(result: Mapping[str, Any], figure: Path) -> None:
    """Print the table, what its columns mean, and what could not be measured.

    Args:
        result: What was measured, as plain data.
        figure: Where the credit map is.
    """
    caption = (
        f"{result['trajectories']} stored trajectories. variance: of a trajectory's gradient, on "
        "the estimator's own scale; cut: through the baseline. "
    )
    fresh = result["reference"]
    if fresh is not None:
        caption += (
            f"cosine: to the on-policy gradient of {fresh['episodes']} fresh episodes, whose "
            f"halves have {fresh['halves_cosine']:.3f} between them; an eighth of them has "
            f"{fresh['cosine_with_head']:.3f} to the others with the value head as baseline and "
            f"{fresh['cosine_without']:.3f} without one. There the value head cuts the "
            f"variance by {fresh['cut']:.2f}, the best constant by {fresh['constant_cut']:.2f}; "
            f"the limit for equally long scores, 1/((1-p)(1-EV)), is {fresh['limit']:.2f} "
            f"(p {fresh['step_return']:.2f}, EV {fresh['explained_variance']:.2f}, of steps). "
        )
    apart = ", ".join(f"{kind} {nats:.3f}" for kind, nats in result["divergence"].items())
    caption += (
        f"bias: on a tiny process, sine of the angle. KL of {result['distribution']} to other "
        f"distributions over valid actions, nats a step: {apart}. Credit map: {figure}"
    )
    table = Table(caption=caption)
    for key, heading, _ in _HEADINGS:
        table.add_column(heading, justify="left" if key in ("estimator", "baseline") else "right")
    for row in result["rows"]:
        told = ("-" if row[key] is None else form.format(row[key]) for key, _, form in _HEADINGS)
        table.add_row(*told)
    console = Console()
    console.print(table)
    for note in result["notes"]:
        console.print(note, markup=False, highlight=False)
