"""Behaviour half: the end of a study: the best trials once more on fresh seeds, and the ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from retro_lightning.evaluation.comparison import Arm
from retro_lightning.sweep.board import best_of
from retro_lightning.sweep.leftovers import POLICY, clear_checkpoints
from retro_lightning.sweep.overlay import overlay
from retro_lightning.sweep.settings import Sweep
from retro_lightning.sweep.slots import Slots, counts, reason
from retro_lightning.sweep.study_report import draw
from retro_lightning.sweep.trial import FITS, Job
from retro_lightning.sweep.whole import whole_configuration
from retro_lightning.tracking.comparison_report import Report, make_report, show, write
from retro_lightning.tracking.reading import read_directory
from retro_lightning.tracking.study import StudyRuns

_DEFAULT = "defaults"


def confirm_definition(sweep: Sweep, slots: Slots) -> dict[str, Any]:
    """Which configurations are run on which fresh seeds: the best trials and the defaults.

    It follows from the trials of a finished study alone, so that every worker finds the same.
    """
    settings = sweep.settings
    done = [t for t in slots.settled().values() if t.state == TrialState.COMPLETE]
    default = next((t for t in slots.trials() if slots.slot(t.number) == 0), None)
    best = _best_first(done, settings.metrics)
    params: dict[str, Any] = {}
    if default is not None and settings.confirm.top:
        params[_DEFAULT] = default.system_attrs.get("fixed_params", default.params)
    for trial in best:
        if len(params) <= settings.confirm.top and trial.params not in params.values():
            params[f"trial {trial.number}"] = trial.params
    begin = max(settings.seeds) + 1
    seeds = list(range(begin, begin + settings.confirm.seeds))
    return {"params": params, "seeds": seeds}


def _best_first(trials: list[FrozenTrial], metrics: Mapping[str, str]) -> list[FrozenTrial]:
    """By the first metric; of several metrics, the Pareto front before the others."""
    signs = [1.0 if d == "maximize" else -1.0 for d in metrics.values()]

    def signed(trial: FrozenTrial) -> list[float]:
        return [s * v for s, v in zip(signs, trial.values, strict=True)]

    def beaten(trial: FrozenTrial) -> bool:
        mine = signed(trial)
        return any(
            signed(o) != mine and all(a >= b for a, b in zip(signed(o), mine, strict=True))
            for o in trials
        )

    return sorted(trials, key=lambda t: (beaten(t), -signed(t)[0], t.number))


def confirm_job(definition: Mapping[str, Any], slot: int) -> Job:
    """What a slot of the confirmation runs: seed by seed, all candidates in turn."""
    labels = list(definition["params"])
    return Job(
        params=definition["params"][labels[slot % len(labels)]],
        seeds=[definition["seeds"][slot // len(labels)]],
        test=True,
        prune=False,
    )


def report(
    sweep: Sweep,
    slots: Slots,
    fresh: Slots | None,
    definition: Mapping[str, Any],
    runs: StudyRuns | None,
    console: Console,
) -> None:
    """Write, log and print what the study has found."""
    files = draw(sweep, slots)
    fits = {} if fresh is None else _fits(fresh, definition)
    comparison = _comparison(sweep, fits, definition)
    if comparison is not None:
        files += write(comparison, sweep.directory / "confirmation")
        show(comparison, console)
    elif fits:
        console.print(
            "nothing was compared on fresh seeds: fewer than two candidates have test outcomes"
        )
    label, params = _winner(sweep, slots, definition, comparison)
    if params is None:
        console.print("no trial came to its end; see the reasons above", highlight=False)
        return
    best = _write_best(sweep, params)
    files += [best, _write_ranking(sweep, slots, label, comparison)]
    if runs is not None:
        for file in files:
            runs.log_file(file)
        best_fits = fits.get(label) or _fits_of_best(sweep, slots)
        _register(sweep, best_fits, runs, console)
    for beaten in (path for name, paths in fits.items() if name != label for path in paths):
        clear_checkpoints(beaten.parent, policies=True)
    for line in (
        f"best     {label}: {_chosen(params)}",
        f"config   {best}",
        f"run it   python -m retro_lightning fit --config {best}",
        f"figures  {sweep.directory / 'figures'}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _fits(fresh: Slots, definition: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Label of each candidate → directories of its fits on fresh seeds."""
    labels = list(definition["params"])
    found: dict[str, list[Path]] = {label: [] for label in labels}
    for slot, trial in sorted(fresh.settled().items()):
        found[labels[slot % len(labels)]] += [Path(p) for p in trial.user_attrs.get(FITS, [])]
    return found


def _comparison(
    sweep: Sweep, fits: Mapping[str, list[Path]], definition: Mapping[str, Any]
) -> Report | None:
    """The candidates on fresh seeds, each against the defaults.

    None without two that have outcomes on test tasks: a job that learns from logs alone has none.
    """
    metric = next(iter(sweep.settings.metrics))
    records = {label: [read_directory(path) for path in paths] for label, paths in fits.items()}
    arms = [
        Arm(label, tuple(record.run("test", metric) for record in found))
        for label, found in records.items()
        if found and all(record.results.get("test") for record in found)
    ]
    if len(arms) < 2:
        return None
    reference = _DEFAULT if any(arm.label == _DEFAULT for arm in arms) else None
    settings = {
        label: {key: _shown(value) for key, value in params.items()}
        for label, params in definition["params"].items()
    }
    title = f"{sweep.settings.study}: the best trials and the defaults on fresh seeds"
    return make_report(arms, title=title, split="test", reference=reference, settings=settings)


def _winner(
    sweep: Sweep, slots: Slots, definition: Mapping[str, Any], comparison: Report | None
) -> tuple[str, Mapping[str, Any] | None]:
    """The candidate that was best on fresh seeds; without a comparison, the best trial."""
    if comparison is not None:
        label = comparison.arms[0].label
        return label, definition["params"][label]
    best = best_of(slots.trials(), sweep.settings.metrics)
    if best is None:
        return "-", None
    candidates = (label for label, p in definition["params"].items() if p == best.params)
    return next(candidates, f"trial {best.number}"), best.params


def _write_best(sweep: Sweep, params: Mapping[str, Any]) -> Path:
    path = sweep.directory / "best.yaml"
    change = sweep.directory / "best-overlay.yaml"
    content = overlay(sweep.settings.space, params, sweep.base_files)
    change.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    text = whole_configuration([*sweep.base_files, str(change)], f"{sweep.settings.study}-best")
    head = (
        f"# The best configuration of study {sweep.settings.study}, whole.\n"
        f"#   python -m retro_lightning fit --config {path}\n"
    )
    path.write_text(head + text, encoding="utf-8")
    change.unlink()
    return path


def _write_ranking(sweep: Sweep, slots: Slots, label: str, comparison: Report | None) -> Path:
    """All trials with their values and reasons, the best first."""
    done = [t for t in slots.trials() if counts(t) and t.state.is_finished()]
    complete = [t for t in done if t.state == TrialState.COMPLETE]
    ordered = _best_first(complete, sweep.settings.metrics)
    ordered += [t for t in done if t not in complete]
    ranking = {
        "study": sweep.settings.study,
        "metrics": dict(sweep.settings.metrics),
        "best": label,
        "verdicts": [] if comparison is None else list(comparison.notes),
        "trials": [
            {
                "trial": t.number,
                "state": t.state.name,
                "values": t.values,
                "params": t.params,
                "reason": reason(t),
            }
            for t in ordered
        ],
    }
    path = sweep.directory / "ranking.json"
    path.write_text(json.dumps(ranking, indent=2) + "\n", encoding="utf-8")
    return path


def _fits_of_best(sweep: Sweep, slots: Slots) -> list[Path]:
    best = best_of(slots.trials(), sweep.settings.metrics)
    return [] if best is None else [Path(path) for path in best.user_attrs.get(FITS, [])]


def _register(sweep: Sweep, fits: list[Path], runs: StudyRuns, console: Console) -> None:
    """Put the best policy of the winning configuration into the model registry."""
    for directory in fits:
        policy = directory / "checkpoints" / POLICY
        remembered = directory / "mlflow-run.json"
        if policy.is_dir() and remembered.is_file():
            run_id = json.loads(remembered.read_text(encoding="utf-8"))["run_id"]
            version = runs.register(policy, run_id, sweep.settings.study, "best")
            console.print(
                f"model    {sweep.settings.study} version {version}, alias best", highlight=False
            )
            return


def _chosen(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {_shown(value)}" for key, value in params.items()) or "nothing"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
