"""Behaviour half: a comparison as a terminal table, figures, JSON and one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from retro_lightning.evaluation.comparison import (
    LEAST_SEEDS,
    LEVEL,
    Arm,
    ArmSummary,
    Comparison,
    Test,
    compare_arms,
    summarise,
)
from retro_lightning.evaluation.speed import Speed, learning_speed
from retro_lightning.tracking.comparison_figures import differences, reached, sample_efficiency
from retro_lightning.tracking.page import page
from retro_lightning.tracking.speed_table import HEADINGS, caption, rows, speed_table, title


@dataclass(frozen=True)
class Report:
    """A comparison and all that is said of it.

    Attributes:
        title: What is compared.
        split: Tasks that outcomes are of.
        arms: The arms.
        summaries: What each reached.
        comparisons: What was tested.
        settings: Label of the arm → the keys in which its configuration differs from others.
        notes: What a reader must know.
        speeds: How fast each arm learnt, the reference first; empty = not asked for.
    """

    title: str
    split: str
    arms: Sequence[Arm]
    summaries: Sequence[ArmSummary]
    comparisons: Sequence[Comparison]
    settings: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]
    speeds: Sequence[Speed] = ()


def make_report(
    arms: Sequence[Arm],
    *,
    title: str,
    split: str,
    reference: str | None = None,
    test: Test | None = None,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
    threshold: float | None = None,
) -> Report:
    """Compare arms and write down what may be said; see ``compare_arms``, ``learning_speed``."""
    comparisons = compare_arms(arms, reference=reference, test=test)
    rng = np.random.default_rng(0)
    ordered = sorted(arms, key=lambda arm: -float(arm.scores_SF.mean()))
    return Report(
        title,
        split,
        ordered,
        [summarise(arm, rng) for arm in ordered],
        comparisons,
        settings or {},
        [*verdicts(comparisons), *notes],
        [] if threshold is None else _speeds(ordered, threshold, reference),
    )


def _speeds(arms: Sequence[Arm], threshold: float, reference: str | None) -> list[Speed]:
    """The reference first, or the best arm where there is none."""
    first = sorted(arms, key=lambda arm: arm.label != reference)
    return learning_speed(first, threshold)


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """One sentence for each comparison: who is better, or why that can't be said."""
    return [_verdict(c, len(comparisons)) for c in comparisons]


def _verdict(c: Comparison, family: int) -> str:
    pair = f"{c.first} and {c.second}"
    if len(c.seeds) < LEAST_SEEDS:
        least = f"the smallest p they could give is {c.smallest:.3g}"
        return (
            f"{pair}: {len(c.seeds)} paired seeds; no winner is called below {LEAST_SEEDS} "
            f"({least})"
        )
    corrected = f"p = {c.adjusted:.3g}" + (f" after Holm over {family}" if family > 1 else "")
    interval = f"{c.mean:+.3f}, 95 % t interval {c.low:+.3f} to {c.high:+.3f}"
    if c.winner is not None:
        loser = c.second if c.winner == c.first else c.first
        return f"{c.winner} is better than {loser} ({interval}; {corrected})"
    reachable = min(1.0, c.smallest * family)
    hint = "" if reachable <= LEVEL else f"; no less than {reachable:.3g} could be reached"
    return f"{pair} do not differ, as far as can be told ({interval}; {corrected}{hint})"


# ---------------------------------------------------------------------- shown and written
def show(report: Report, console: Console) -> None:
    """Print both tables and the sentences."""
    console.print(arms_table(report))
    if report.comparisons:
        console.print(comparisons_table(report.comparisons))
    if report.speeds:
        console.print(speed_table(report.speeds))
    for note in report.notes:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)


def arms_table(report: Report) -> Table:
    """What each arm reached."""
    table = Table(
        title=f"{report.title}: share of {report.split} tasks solved",
        caption="IQM: interquartile mean over seeds and families, with a bootstrap interval that "
        "describes and tests nothing",
    )
    table.add_column("arm")
    for heading in ("seeds", "mean", "IQM", "interval", "faults"):
        table.add_column(heading, justify="right")
    for s in report.summaries:
        interval = f"{s.low:.3f} to {s.high:.3f}"
        row = (str(s.seeds), f"{s.mean:.3f}", f"{s.interquartile:.3f}", interval, str(s.faults))
        table.add_row(s.label, *row)
    return table


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """What was tested."""
    table = Table(
        title="Differences, paired by seed",
        caption=f"test: {comparisons[0].test} over seeds, tasks nested within seeds; p after "
        f"Holm over {len(comparisons)}; better: from {LEAST_SEEDS} paired seeds and p at most "
        f"{LEVEL:g} on",
    )
    table.add_column("pair")
    for heading in ("seeds", "difference", "95 % t interval", "p", "P(better)", "better"):
        table.add_column(heading, justify="right")
    for c in comparisons:
        table.add_row(
            f"{c.first} - {c.second}",
            str(len(c.seeds)),
            f"{c.mean:+.3f}",
            f"{number(c.low)} to {number(c.high)}",
            number(c.adjusted, sign=False),
            f"{c.improvement:.2f}",
            c.winner or "-",
        )
    return table


def number(value: float, *, sign: bool = True) -> str:
    """Three decimals, or ``?`` for what could not be computed."""
    if not math.isfinite(value):
        return "?"
    return f"{value:+.3f}" if sign else f"{value:.3g}"


def figures(report: Report) -> dict[str, Figure]:
    """All figures of a comparison, by name."""
    drawn = {"reached": reached(report.arms, report.summaries)}
    if report.comparisons:
        drawn["differences"] = differences(report.comparisons)
    if any(run.curve for arm in report.arms for run in arm.runs):
        drawn["over_optimiser_steps"] = sample_efficiency(report.arms, environment_steps=False)
        if any(p[1] for arm in report.arms for run in arm.runs for p in run.curve):
            drawn["over_environment_steps"] = sample_efficiency(report.arms, environment_steps=True)
    return drawn


def write(report: Report, directory: Path) -> list[Path]:
    """Write ``comparison.html``, ``comparison.json`` and the figures; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = figures(report)
    files = []
    for name, figure in drawn.items():
        files.append(directory / f"{name}.png")
        figure.savefig(files[-1])
    html = directory / "comparison.html"
    pictures = {name: (directory / f"{name}.png").read_bytes() for name in drawn}
    html.write_text(page(_content(report), pictures), encoding="utf-8")
    data = directory / "comparison.json"
    data.write_text(json.dumps(_json(report), indent=2) + "\n", encoding="utf-8")
    return [html, data, *files]


def _content(report: Report) -> dict[str, object]:
    """What the page says, as titles, sentences and tables of text."""
    arms = [
        [
            s.label,
            str(s.seeds),
            f"{s.mean:.3f}",
            f"{s.interquartile:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            str(s.faults),
        ]
        for s in report.summaries
    ]
    pairs = [
        [
            f"{c.first} - {c.second}",
            str(len(c.seeds)),
            f"{c.mean:+.3f}",
            f"{number(c.low)} to {number(c.high)}",
            number(c.p, sign=False),
            number(c.adjusted, sign=False),
            number(c.smallest, sign=False),
            f"{c.improvement:.2f}",
            c.winner or "-",
        ]
        for c in report.comparisons
    ]
    keys = sorted({key for values in report.settings.values() for key in values})
    settings = [
        [label, *(values.get(key, "-") for key in keys)]
        for label, values in report.settings.items()
    ]
    families = report.arms[0].families
    by_family = [
        [arm.label, *(f"{score:.3f}" for score in arm.scores_SF.mean(axis=0))]
        for arm in report.arms
    ]
    pair_heads = ["pair", "seeds", "difference", "95 % t interval", "p", "p, Holm"]
    pair_heads += ["smallest p", "P(better)", "better"]
    speeds = []
    if report.speeds:
        heading = f"{title(report.speeds)}; {caption(report.speeds)}"
        speeds = [(heading, HEADINGS, rows(report.speeds))]
    return {
        "title": report.title,
        "lead": f"Share of {report.split} tasks solved; mean over families, each counting alike.",
        "notes": list(report.notes),
        "tables": [
            ("Arms", ["arm", "seeds", "mean", "IQM", "interval of the IQM", "faults"], arms),
            ("Differences, paired by seed", pair_heads, pairs),
            *speeds,
            ("By family, mean over seeds", ["arm", *families], by_family),
            ("What the arms differ in", ["arm", *keys], settings),
        ],
    }


def _json(report: Report) -> dict[str, object]:
    def finite(values: Mapping[str, object]) -> dict[str, object]:
        return {name: _finite(value) for name, value in values.items()}

    return {
        "title": report.title,
        "split": report.split,
        "arms": [finite(asdict(summary)) for summary in report.summaries],
        "comparisons": [finite(asdict(c)) | {"winner": c.winner} for c in report.comparisons],
        "speeds": [finite(asdict(speed)) for speed in report.speeds],
        "runs": {arm.label: [run.name for run in arm.runs] for arm in report.arms},
        "notes": list(report.notes),
    }


def _finite(value: object) -> object:
    """JSON knows no NaN."""
    if isinstance(value, tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
