"""Behaviour half: the ``retries`` command: what reflecting gains, over the seeds of a job."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from retro_lightning.config.errors import ConfigError
from retro_lightning.tracking.figures import retry_curves
from retro_lightning.tracking.retries import TRAINED
from retro_lightning.tracking.retry_study import (
    Curves,
    Difference,
    bands,
    curves_of,
    differences,
    read_retries,
)

_TRAINED_KINDS = "trained kinds"
_BANDS = "95 % Student interval over seeds"


def retries(name: str, args: Sequence[str]) -> None:
    """Success after retries over several runs, as tables, figures and JSON.

    Raises:
        ConfigError: If the command line is wrong.
        FileNotFoundError: If a run has kept no retries.
        ValueError: If the runs cannot be put together.
    """
    options = _options(name, args)
    runs = [read_retries(Path(run)) for run in options.runs]
    if len({run.seed for run in runs}) < 2:
        raise ValueError(
            "retries speaks of several seeds: give the directories of runs of at least two, such "
            "as runs/retroformer-1 runs/retroformer-2"
        )
    families = runs[0].families
    trained_on = [family for family in families if family not in runs[0].held_out]
    curves = {_TRAINED_KINDS: curves_of(runs, trained_on)}
    curves |= {family: curves_of(runs, [family]) for family in families}
    gains = differences(curves)
    console = Console()
    for tasks, arms in curves.items():
        console.print(_success(tasks, arms))
        console.print(_gains(tasks, [gain for gain in gains if gain.tasks == tasks]))
    _write(Path(options.output), curves, gains)
    console.print(f"written  {options.output}", highlight=False, soft_wrap=True)


def _options(name: str, args: Sequence[str]) -> Any:
    parser = ArgumentParser(prog=f"retro-lightning {name}", exit_on_error=False)
    parser.add_argument(
        "runs", type=str, nargs="+", help="Directories of runs, some seeds of each reward."
    )
    parser.add_argument("--output", type=str, default="runs/retries", help="Where files go.")
    try:
        return parser.parse_args(list(args))
    except argparse.ArgumentError as error:
        raise ConfigError(f"command line: {str(error).splitlines()[0]}") from error


def _success(tasks: str, arms: Curves) -> Table:
    seeds = len(next(iter(arms.values())))
    shown = Table(
        title=f"Share of test tasks solved after retries: {tasks}, mean of {seeds} seeds",
        caption="last column: lowest and highest seed after the last retry",
        padding=(0, 0),
    )
    shown.add_column("reflections", no_wrap=True)
    points = bands(arms)
    for number in range(len(next(iter(points.values())))):
        shown.add_column(f"@{number}", justify="right", no_wrap=True)
    shown.add_column("seeds", no_wrap=True)
    for arm, curve in points.items():
        last = [float(values[-1]) for values in arms[arm].values()]
        rates = [f"{rate:.3f}" for rate, _, _ in curve]
        shown.add_row(arm, *rates, f"{min(last):.3f} to {max(last):.3f}")
    return shown


def _gains(tasks: str, gains: Sequence[Difference]) -> Table:
    shown = Table(
        title=f"Differences in points, seed by seed: {tasks}",
        caption="@: after how many retries; 95 % Student interval over seeds; p: paired t, Holm "
        "over all kinds",
        padding=(0, 0),
    )
    shown.add_column("difference")
    for title in ("@", "mean", "interval", "p"):
        shown.add_column(title, justify="right", no_wrap=True)
    for gain in gains:
        mean, low, high = (f"{100 * value:.1f}" for value in (gain.mean, gain.low, gain.high))
        pair = " - ".join(gain.arms)
        shown.add_row(pair, str(gain.retries), mean, f"{low} to {high}", f"{gain.p_value:.2g}")
    return shown


def _write(output: Path, curves: Mapping[str, Curves], gains: Sequence[Difference]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for tasks, arms in curves.items():
        emphasised = next((arm for arm in arms if arm.startswith(TRAINED)), "")
        title = f"Success by retries: {tasks}"
        figure = retry_curves(bands(arms), title=title, emphasised=emphasised, bands=_BANDS)
        figure.savefig(output / f"{tasks.replace('/', '_').replace(' ', '_')}.png")
    record = {
        "success": {
            tasks: {
                arm: {str(seed): values.tolist() for seed, values in seeds.items()}
                for arm, seeds in arms.items()
            }
            for tasks, arms in curves.items()
        },
        "differences": [asdict(gain) for gain in gains],
    }
    (output / "retries.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
