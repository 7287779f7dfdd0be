"""Behaviour half: ``bench returns``: asked against achieved, for a return-conditioned policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from retro_lightning.config import command
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore
from retro_lightning.tracking.calibration_figure import calibration
from retro_lightning.training.calibration import asked_levels, calibrate, slope

if TYPE_CHECKING:
    from retro_lightning.config.command import Parser


def add_arguments(parser: Parser) -> None:
    """The command's own arguments, beside the configuration of a run."""
    parser.add_argument(
        "--store", type=str, required=True, help="Replay store whose returns are asked for."
    )
    parser.add_argument(
        "--split", type=Literal["val", "test"], default="val", help="Whose tasks are tried."
    )
    parser.add_argument("--episodes", type=int, default=100, help="Episodes of each level.")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")


def bench_returns(args: Sequence[str]) -> None:
    """Ask for quantiles of each family's returns, and for more than there is.

    Raises:
        ValueError: If no policy is named, or too few episodes are wanted.
    """
    cli = command.build("bench", list(args), add_arguments)
    config, data = cli.config_init, cli.datamodule
    if config.policy is None:
        raise ValueError("which policy is asked? give --policy DIRECTORY")
    if config.episodes < 2:
        raise ValueError(f"--episodes is {config.episodes}; give a whole number of at least 2")
    index = ReplayStore(config.store).index
    sound = ~index.faulted & (index.length > 0)
    levels = {
        family: asked_levels(index.returns[sound & (index.family == code)])
        for code, family in enumerate(index.families)
        if family in data.environments and (sound & (index.family == code)).any()
    }
    if not levels:
        raise ValueError(f"the store {config.store} has no trajectory of a configured family")
    results = calibrate(
        Policy.load(config.policy).eval(),
        data.environments,
        data.tasks(config.split),
        levels,
        episodes=config.episodes,
        seed=data.seed,
    )
    of = {family: [r for r in results if r.family == family] for family in levels}
    path = cli.run_dir / "asked_and_achieved.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    points = {f: [(r.asked, r.achieved, r.low, r.high, r.beyond) for r in of[f]] for f in of}
    calibration(points, title="Asked and achieved returns").savefig(path)
    slopes = {family: slope(found) for family, found in of.items()}
    rows = [dataclasses.asdict(row) for row in results]
    if config.json:
        print(json.dumps({"slopes": slopes, "rows": rows, "figure": str(path)}, indent=1))
    else:
        _show(rows, slopes, path)


def _show(rows: Sequence[dict[str, Any]], slopes: dict[str, float], path: Path) -> None:
    told = ", ".join(f"{family} {value:.2f}" for family, value in slopes.items())
    table = Table(caption=f"slope of achieved on asked: {told}. Figure: {path}")
    for heading in ("family", "asked", "achieved", "95 % interval", "error", "solved", "episodes"):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for row in rows:
        beyond = " (beyond data)" if row["beyond"] else ""
        table.add_row(
            row["family"],
            f"{row['asked']:.2f}{beyond}",
            f"{row['achieved']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            f"{row['error']:.2f}",
            f"{row['success_rate']:.0%}",
            str(row["episodes"]),
        )
    Console().print(table)
