"""Behaviour half: success by retries over several runs, and what reflecting gains, seed by seed.

For each way of reflecting (*arm*) and number of retries a run is one number: the mean over families
of the share of its test tasks that were solved. Arms are compared by the differences of these
numbers between arms of one seed; tasks are nested within seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from retro_lightning.evaluation import holm, paired_t_interval, paired_t_test
from retro_lightning.tracking.retries import BEFORE, RESULTS_FILE, SHUFFLED, TRAINED

Curve = npt.NDArray[np.float64]
Curves = Mapping[str, Mapping[int, Curve]]
"""Arm → seed → share of tasks solved within 0, 1, … retries."""

_PLAIN = "plain"


@dataclass(frozen=True)
class RetryRun:
    """What one run has kept of its retries.

    Attributes:
        name: Its directory.
        seed: Its seed.
        reward: What its reflector was rewarded by.
        curves: (arm, family) → share of tasks solved within 0, 1, … retries.
        held_out: Families that were kept out of its training.
    """

    name: str
    seed: int
    reward: str
    curves: Mapping[tuple[str, str], Curve]
    held_out: tuple[str, ...]

    @property
    def families(self) -> list[str]:
        """All families, those kept out last."""
        every = dict.fromkeys(family for _, family in self.curves)
        return sorted(every, key=lambda family: family in self.held_out)


@dataclass(frozen=True)
class Difference:
    """A paired difference between two arms.

    Attributes:
        arms: The one that is subtracted from, and the other.
        tasks: Which tasks.
        retries: Within how many retries.
        mean: Mean over seeds, a share of tasks.
        low: Lower limit of Student's 95 % interval over seeds.
        high: Upper limit.
        p_value: Of the paired t-test, Holm-corrected over all differences that are told.
    """

    arms: tuple[str, str]
    tasks: str
    retries: int
    mean: float
    low: float
    high: float
    p_value: float


def read_retries(path: Path) -> RetryRun:
    """A run's directory.

    Raises:
        FileNotFoundError: If it has kept no retries.
        ValueError: If its configuration has no seed or trains no reflector.
    """
    results, config = path / RESULTS_FILE, path / "config.yaml"
    for file in (results, config):
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no {file}: give the directory of a run, such as runs/retroformer, whose "
                "fit has the callback retro_lightning.tracking.retries.RetryCurves"
            )
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    record = json.loads(results.read_text(encoding="utf-8"))
    return RetryRun(
        name=str(path),
        seed=_seed(settings, path),
        reward=_reward(settings, path),
        curves={
            (arm["arm"], arm["family"]): np.mean(arm["solved"], axis=0) for arm in record["solved"]
        },
        held_out=tuple(record["held_out"]),
    )


def _seed(settings: Mapping[str, Any], path: Path) -> int:
    seed = settings.get("seed_everything")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"{path / 'config.yaml'} has no seed: set seed_everything in it")
    return seed


def _reward(settings: Mapping[str, Any], path: Path) -> str:
    arguments = [each.get("init_args", {}) for each in settings["data"]["environments"].values()]
    rewards = sorted({each["reward"] for each in arguments if "reward" in each})
    if not rewards:
        raise ValueError(f"{path}: none of its environments rewards a reflection")
    return " and ".join(rewards)


def curves_of(runs: Sequence[RetryRun], families: Sequence[str]) -> Curves:
    """Curves of every arm over the mean of some families.

    What a reward has taught (``before`` by imitation, ``trained`` and its ``shuffled``) is an arm
    for each reward, where the runs have several; all other arms are taken from the runs of the
    reward that is named first.

    Raises:
        ValueError: If two runs are of one reward and seed, or seeds lack runs.
    """
    rewards = list(dict.fromkeys(run.reward for run in runs))
    curves: dict[str, dict[int, Curve]] = {}
    for run in runs:
        for arm in dict.fromkeys(arm for arm, _ in run.curves):
            taught = arm in (BEFORE, TRAINED, SHUFFLED)
            if not taught and run.reward != rewards[0]:
                continue
            name = f"{arm}, {run.reward}" if taught and len(rewards) > 1 else arm
            seeds = curves.setdefault(name, {})
            if run.seed in seeds:
                raise ValueError(
                    f"{run.name}: there are two runs of seed {run.seed} and reward {run.reward}: "
                    "leave one of them out"
                )
            seeds[run.seed] = np.mean([run.curves[arm, family] for family in families], axis=0)
    every = {seed for seeds in curves.values() for seed in seeds}
    for name, seeds in curves.items():
        if missing := sorted(every - set(seeds)):
            raise ValueError(
                f"arm {name!r} has no run of seed {missing[0]}, which other arms have: arms are "
                "compared seed by seed, give runs of the same seeds"
            )
    return curves


def differences(curves: Mapping[str, Curves]) -> list[Difference]:
    """What is gained over plain retry and by policy gradient, after one retry and after all.

    Args:
        curves: Name of the tasks → the curves on them.
    """
    asked = [
        (pair, tasks, retries)
        for tasks, arms in curves.items()
        for pair in _pairs(list(arms))
        for retries in sorted({1, len(next(iter(arms[_PLAIN].values()))) - 1})
    ]
    values = [
        [float(x) for x in _gains(curves[tasks], pair)[:, retries]]
        for pair, tasks, retries in asked
    ]
    p_values = holm([paired_t_test(each) for each in values])
    return [
        Difference(pair, tasks, retries, *paired_t_interval(each), p_value)
        for (pair, tasks, retries), each, p_value in zip(asked, values, p_values, strict=True)
    ]


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    trained = [arm for arm in arms if arm.startswith(TRAINED)]
    pairs = [(arm, _PLAIN) for arm in arms if arm != _PLAIN]
    befores = [(arm, arm.replace(TRAINED, BEFORE, 1)) for arm in trained]
    pairs += [pair for pair in befores if pair[1] in arms]
    return pairs + [(trained[0], other) for other in trained[1:]]


def _gains(curves: Curves, pair: tuple[str, str]) -> Curve:
    """One arm minus the other [seeds, retries + 1]."""
    one, other = (curves[arm] for arm in pair)
    return np.stack([one[seed] - other[seed] for seed in sorted(one)])


def bands(curves: Curves) -> dict[str, list[tuple[float, float, float]]]:
    """Mean over seeds with Student's 95 % interval after each number of retries."""
    drawn: dict[str, list[tuple[float, float, float]]] = {}
    for arm, seeds in curves.items():
        columns = np.stack(list(seeds.values())).T
        limits = [paired_t_interval([float(x) for x in column]) for column in columns]
        drawn[arm] = [(mean, max(0.0, low), min(1.0, high)) for mean, low, high in limits]
    return drawn
