"""Behaviour half: the ``compare`` command: which runs are better, and whether that is real."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from retro_lightning.config.errors import ConfigError
from retro_lightning.config.locate import nearest
from retro_lightning.evaluation.comparison import Arm, Run
from retro_lightning.tracking.comparison_report import make_report, show, write
from retro_lightning.tracking.logged import log_comparison
from retro_lightning.tracking.mlflow import default_uri
from retro_lightning.tracking.parameters import flatten
from retro_lightning.tracking.reading import (
    RunRecord,
    read_directory,
    read_mlflow_run,
    runs_of_experiment,
)

_OWN = ("run_name", "seed_everything", "model.seed", "data.seed", "trainer.default_root_dir")
"""Keys in which runs of one arm differ."""

_CALLBACKS = "trainer.callbacks."


def compare(name: str, args: Sequence[str]) -> None:
    """Compare runs; they are grouped into arms by configuration, or by ``--group-by``.

    Raises:
        ConfigError: If the command line is wrong.
        ValueError: If the runs can't be compared.
    """
    options = _options(name, args)
    records = _records(options)
    arms, settings, notes = _arms(records, options)
    if len(arms) < 2:
        raise ValueError(
            f"there is only one arm, {arms[0].label!r}: give runs of at least two configurations, "
            "or another --group-by"
        )
    report = make_report(
        arms,
        title=options.title or " and ".join(arm.label for arm in arms),
        split=options.split,
        reference=options.reference,
        test=options.test,
        settings=settings,
        notes=notes,
        threshold=options.threshold,
    )
    console = Console()
    show(report, console)
    files = write(report, Path(options.output))
    run_id = log_comparison(report, files, options.tracking_uri) if options.log else None
    console.print(f"page     {files[0]}", highlight=False, soft_wrap=True)
    if run_id is not None:
        console.print(f"mlflow   run {run_id}", highlight=False)


def _options(name: str, args: Sequence[str]) -> Any:
    parser = ArgumentParser(prog=f"retro-lightning {name}", exit_on_error=False)
    parser.add_argument(
        "runs", type=str, nargs="*", help="Directories of runs, or ids of MLflow runs."
    )
    parser.add_argument(
        "--experiment", type=str | None, default=None, help="All finished runs of an experiment."
    )
    parser.add_argument(
        "--group_by",
        "--group-by",
        type=str | None,
        default=None,
        help="Dotted key of the configuration: equal value = one arm. "
        "Default: all keys but seeds and names.",
    )
    parser.add_argument(
        "--reference", type=str | None, default=None, help="Arm that all others are compared with."
    )
    parser.add_argument("--split", choices=["test", "val"], default="test", help="Outcomes on.")
    parser.add_argument(
        "--test",
        choices=["sign-flip", "t"],
        default=None,
        help="Default: exact sign-flip where it can reach 0.05 after Holm, else paired t.",
    )
    parser.add_argument(
        "--threshold",
        type=float | None,
        default=None,
        help="Validation success: how many optimiser steps does each arm take to it?",
    )
    parser.add_argument("--title", type=str | None, default=None, help="Title of the page.")
    parser.add_argument("--output", type=str, default="runs/comparison", help="Where files go.")
    parser.add_argument("--log", type=bool, default=True, help="Log to MLflow.")
    parser.add_argument(
        "--tracking_uri", type=str, default=default_uri(), help="Database or server of MLflow."
    )
    try:
        return parser.parse_args(list(args))
    except argparse.ArgumentError as error:
        raise ConfigError(f"command line: {str(error).splitlines()[0]}") from error


def _records(options: Any) -> list[RunRecord]:
    names = list(options.runs or [])
    if options.experiment is not None:
        names += runs_of_experiment(options.tracking_uri, options.experiment)
    if not names:
        raise ValueError(
            "which runs? give directories such as runs/multitask, ids of MLflow runs, or "
            "--experiment NAME"
        )
    return [
        read_directory(Path(name))
        if "/" in name or Path(name).is_dir()
        else read_mlflow_run(options.tracking_uri, name)
        for name in names
    ]


def _arms(
    records: Sequence[RunRecord], options: Any
) -> tuple[list[Arm], dict[str, dict[str, str]], list[str]]:
    """Arms, what each differs in, and what a reader must know of the grouping."""
    flat = [
        {k: str(v) for k, v in flatten(r.config).items() if not _of_one_run(k)} for r in records
    ]
    if options.group_by is None:
        flat = [_callbacks_by_class(values) for values in flat]
    every = sorted({key for values in flat for key in values})
    differing = [key for key in every if len({values.get(key) for values in flat}) > 1]
    telling = _telling(flat, differing)
    labels = [_label(values, telling, options.group_by, every) for values in flat]
    groups: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        groups.setdefault(label, []).append(number)
    arms, notes = [], []
    for label, members in groups.items():
        runs = [records[i].run(options.split) for i in members]
        seeds = [run.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            if options.group_by is None:
                twice = next(seed for seed in seeds if seeds.count(seed) > 1)
                names = " and ".join(run.name for run in runs if run.seed == twice)
                raise ValueError(
                    f"{names} are of one configuration and one seed ({twice}): leave one of them "
                    "out"
                )
            notes.append(f"{label}: runs of one seed are averaged ({len(runs)} runs)")
            runs = _averaged(runs)
        arms.append(Arm(label, tuple(sorted(runs, key=lambda run: run.seed))))
    settings = {
        label: {key: flat[members[0]].get(key, "-") for key in differing}
        for label, members in groups.items()
    }
    if options.group_by is not None:
        settings = {label: {options.group_by: label} for label in groups}
    return arms, settings, notes


def _callbacks_by_class(values: Mapping[str, str]) -> dict[str, str]:
    """Keys of callbacks with the class for the place, which one more before it would shift."""
    names: dict[str, str] = {}
    for key, value in values.items():
        if key.startswith(_CALLBACKS) and key.endswith(".class_path") and key.count(".") == 3:
            name = value.rpartition(".")[2]
            again = sum(other.partition("#")[0] == name for other in names.values())
            names[key.split(".")[2]] = f"{name}#{again + 1}" if again else name
    renamed = {}
    for key, value in values.items():
        if key.startswith(_CALLBACKS):
            place, dot, rest = key.removeprefix(_CALLBACKS).partition(".")
            key = f"{_CALLBACKS}{names.get(place, place)}{dot}{rest}"
        renamed[key] = value
    return renamed


def _of_one_run(key: str) -> bool:
    return key in _OWN or key.startswith("trainer.logger")


def _telling(flat: Sequence[Mapping[str, str]], differing: Sequence[str]) -> list[str]:
    """Keys that tell arms apart: no arguments that follow from the choice of a class."""
    telling = []
    for key in differing:
        choices = [
            other
            for other in differing
            if other.endswith("class_path")
            and key.startswith(other.removesuffix("class_path") + "init_args")
        ]
        values: dict[tuple[str | None, ...], set[str | None]] = {}
        for run in flat:
            values.setdefault(tuple(run.get(c) for c in choices), set()).add(run.get(key))
        if any(len(found) > 1 for found in values.values()):
            telling.append(key)
    return telling


def _label(
    values: Mapping[str, str], telling: Sequence[str], group_by: str | None, every: Sequence[str]
) -> str:
    """Short names of what sets an arm apart; of a class the name without its modules."""
    if group_by is not None:
        of_class = f"{group_by}.class_path"
        key = of_class if of_class in every else group_by
        if key not in every:
            hint = nearest(group_by, every)
            suggestion = f"did you mean {hint}?" if hint else "check its spelling"
            raise ValueError(f"no run has a key {group_by} to group by; {suggestion}")
        return _short(values.get(key, "-"))
    parts = [
        _short(values[key])
        if key.endswith("class_path")
        else f"{key.rpartition('.')[2]}={_short(values[key])}"
        for key in telling
        if key in values
    ] or [
        f"without {key.removeprefix(_CALLBACKS).removesuffix('.class_path')}"
        for key in telling
        if key.startswith(_CALLBACKS) and key.endswith("class_path") and key not in values
    ]
    return ", ".join(parts) or "all runs"


def _short(value: str) -> str:
    return value.rpartition(".")[2] if value.startswith("retro_lightning.") else value


def _averaged(runs: Sequence[Run]) -> list[Run]:
    """One run for each seed, each task's outcomes averaged over the runs of that seed."""
    merged = []
    for seed in dict.fromkeys(run.seed for run in runs):
        group = [run for run in runs if run.seed == seed]
        outcomes = {
            family: {
                task: _mean([run.outcomes[family].get(task) for run in group]) for task in tasks
            }
            for family, tasks in group[0].outcomes.items()
        }
        merged.append(Run(f"{len(group)} runs of seed {seed}", seed, outcomes))
    return merged


def _mean(outcomes: Sequence[list[float] | None]) -> list[float] | None:
    sound = [outcome for outcome in outcomes if outcome is not None]
    if not sound:
        return None
    return [sum(column) / len(sound) for column in zip(*sound, strict=True)]
