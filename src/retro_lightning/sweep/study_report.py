"""Behaviour half: the figures of a study, from Optuna's trials."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from retro_lightning.sweep.settings import Sweep
from retro_lightning.sweep.slots import Slots, counts
from retro_lightning.sweep.trial import FITS
from retro_lightning.tracking.comparison_figures import band, learning_bands
from retro_lightning.tracking.reading import read_directory
from retro_lightning.tracking.study_figures import (
    TrialPoint,
    history,
    importances,
    parallel_coordinates,
    pareto_front,
    slices,
)

_CURVES = 6


def draw(sweep: Sweep, slots: Slots) -> list[Path]:
    """Draw everything into ``figures/`` of the study; returns the files."""
    directory = sweep.directory / "figures"
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in _figures(sweep, slots).items():
        files.append(directory / f"{name}.png")
        figure.savefig(files[-1])
    return files


def _figures(sweep: Sweep, slots: Slots) -> dict[str, Figure]:
    metrics = sweep.settings.metrics
    points = trial_points(slots)
    complete = [point for point in points if not point.pruned]
    if not complete:
        return {}
    metric = next(iter(metrics))
    up = metrics[metric] == "maximize"
    keys = list(sweep.settings.space)
    drawn = {
        "history": history(points, metric, maximize=up),
        "slices": slices(points, keys, metric),
        "parallel_coordinates": parallel_coordinates(points, keys, metric, maximize=up),
    }
    if shares := importance_shares(slots):
        drawn["importances"] = importances(shares)
    if len(metrics) > 1:
        directions = [direction == "maximize" for direction in metrics.values()]
        drawn["pareto_front"] = pareto_front(points, list(metrics), directions)
    if curves := _curves(slots, complete, metric, up):
        drawn["learning_curves"] = learning_bands(curves, metric)
    return drawn


def trial_points(slots: Slots) -> list[TrialPoint]:
    """Trials that have ended with values, as the figures see them."""
    points = []
    for trial in slots.trials():
        if not counts(trial) or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        if trial.values:
            pruned = trial.state == TrialState.PRUNED
            points.append(TrialPoint(trial.number, trial.params, tuple(trial.values), pruned))
    return points


def importance_shares(slots: Slots) -> dict[str, float]:
    """Share of the first metric's variance that each key explains; empty where that is unknown."""
    up = slots.study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    sign = -1.0 if up else 1.0  # PED-ANOVA asks what makes the target low
    found: dict[str, float] = {}
    with contextlib.suppress(ValueError, RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = optuna.importance.get_param_importances(
            slots.study, target=lambda trial: sign * trial.values[0]
        )
    return found


def _curves(
    slots: Slots, complete: list[TrialPoint], metric: str, up: bool
) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Mean validation curve over seeds of the first trial and the best ones."""
    order = sorted(complete, key=lambda p: -p.values[0] if up else p.values[0])
    chosen = dict.fromkeys([p.number for p in complete[:1]] + [p.number for p in order[:_CURVES]])
    trials = {t.number: t for t in slots.trials()}
    result = {}
    for number in chosen:
        curves = []
        for path in trials[number].user_attrs.get(FITS, []):
            with contextlib.suppress(FileNotFoundError):
                points = read_directory(Path(path)).results["curve"]
                curve = [
                    (p["step"], p["environment_steps"], p["metrics"].get(metric)) for p in points
                ]
                curves.append([point for point in curve if point[2] is not None])
        if curves and all(curves):
            steps, mean, half = band(curves, environment_steps=False)
            result[f"trial {number}"] = (steps.tolist(), mean.tolist(), half.tolist())
    return result
