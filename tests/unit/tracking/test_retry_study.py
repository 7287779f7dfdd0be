"""Several runs of a Retroformer job put together, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retro_lightning.cli.main import main
from retro_lightning.evaluation import holm, paired_t_interval, paired_t_test
from retro_lightning.tracking.retry_study import bands, curves_of, differences, read_retries

TASKS = 10


def solved(at_once: int, after_one: int) -> list[list[int]]:
    """So many of ten tasks solved without and within one retry."""
    return [[int(task < at_once), int(task < after_one)] for task in range(TASKS)]


def write_run(
    place: Path, seed: int, reward: str, trained: int, arms: dict[str, int] | None = None
) -> Path:
    """A run on two kinds of task; ``b`` is kept out, and all arms solve 3 tasks of it."""
    path = place / f"{reward}-{seed}"
    path.mkdir()
    others = arms if arms is not None else {"plain": 3, "before": 4, "shuffled": 3, "oracle": 10}
    record = {
        "held_out": ["b"],
        "solved": [
            {"arm": arm, "family": family, "solved": solved(2, after if family == "a" else 3)}
            for arm, after in {**others, "trained": trained}.items()
            for family in ("a", "b")
        ],
    }
    (path / "retries.json").write_text(json.dumps(record))
    environments = {"a": {"class_path": "x", "init_args": {"reward": reward}}}
    config: dict[str, Any] = {"seed_everything": seed, "data": {"environments": environments}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three seeds of ``lift``, which solve 8, 9 and 7 of 10, and as many of another reward."""
    lift = [write_run(tmp_path, s, "lift", n) for s, n in ((1, 8), (2, 9), (3, 7))]
    other = {"plain": 0, "before": 0, "shuffled": 5, "oracle": 0}
    change = [
        write_run(tmp_path, s, "return_change", n, other) for s, n in ((1, 7), (2, 5), (3, 8))
    ]
    return lift + change


def test_what_runs_share_is_that_of_the_first_reward(paths: list[Path]) -> None:
    runs = [read_retries(path) for path in paths]
    assert [(run.seed, run.reward) for run in runs[:1]] == [(1, "lift")]
    assert runs[0].families == ["a", "b"]
    curves = curves_of(runs, ["a"])
    assert set(curves) == {
        *("plain", "oracle", "before, lift", "trained, lift", "shuffled, lift"),
        *("before, return_change", "trained, return_change", "shuffled, return_change"),
    }
    assert {seed: c.tolist() for seed, c in curves["trained, lift"].items()} == {
        1: [0.2, 0.8],
        2: [0.2, 0.9],
        3: [0.2, 0.7],
    }
    assert curves["plain"][1].tolist() == [0.2, 0.3]
    assert curves["shuffled, return_change"][1].tolist() == [0.2, 0.5]
    # One reward alone needs no telling apart; families are averaged: (0.8 + 0.3) / 2.
    assert curves_of(runs[:3], ["a", "b"])["trained"][1].tolist() == [0.2, 0.55]


def test_differences_are_paired_by_seed_and_corrected_over_all(paths: list[Path]) -> None:
    curves = curves_of([read_retries(path) for path in paths], ["a"])
    gains = {(gain.arms, gain.retries): gain for gain in differences({"a": curves})}
    gain = gains[("trained, lift", "plain"), 1]
    # 0.5, 0.6 and 0.4: mean 0.5, deviation 0.1, Student's t with 2 degrees of freedom 4.303.
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    # Each is compared with the imitation it began with: 4 of 10, and of the other reward 0.
    assert gains[("trained, lift", "before, lift"), 1].mean == pytest.approx(0.4)
    began = gains[("trained, return_change", "before, return_change"), 1]
    assert began.mean == pytest.approx((0.7 + 0.5 + 0.8) / 3)
    gain = gains[("trained, lift", "trained, return_change"), 1]
    # Seed by seed 0.8 - 0.7, 0.9 - 0.5 and 0.7 - 0.8.
    assert (gain.mean, gain.low, gain.high) == pytest.approx(paired_t_interval([0.1, 0.4, -0.1]))
    assert gains[("shuffled, lift", "plain"), 1].mean == 0.0
    values = [
        [float(curves[one][seed][1] - curves[other][seed][1]) for seed in (1, 2, 3)]
        for one, other in (arms for arms, _ in gains)
    ]
    expected = holm([paired_t_test(each) for each in values])
    assert [gain.p_value for gain in gains.values()] == pytest.approx(expected)


def test_bands_are_students_intervals_within_the_possible(paths: list[Path]) -> None:
    drawn = bands(curves_of([read_retries(path) for path in paths[:3]], ["a"]))
    mean, low, high = paired_t_interval([0.8, 0.9, 0.7])
    assert high > 1.0
    assert drawn["trained"][1] == pytest.approx((mean, low, 1.0))


def test_the_command_prints_keeps_and_draws(paths: list[Path], capsys: Any) -> None:
    output = paths[0].parent / "out"
    assert main(["retries", *map(str, paths), "--output", str(output)]) == 0
    record = json.loads((output / "retries.json").read_text())
    assert record["success"]["b"]["trained, lift"]["2"] == [0.2, 0.3]
    assert {path.name for path in output.iterdir()} == {
        *("retries.json", "trained_kinds.png", "a.png", "b.png")
    }
    assert "mean of 3 seeds" in capsys.readouterr().out.replace("\n", " ")


def test_runs_that_do_not_fit_together(paths: list[Path], tmp_path: Path, capsys: Any) -> None:
    for chosen, complaint in (
        (paths[:1], "give the directories of runs of at least two"),
        ([*paths[:2], paths[3]], "return_change' has no run of seed 2"),
        ([*paths[:2], paths[0]], "there are two runs of seed 1 and reward lift"),
        ([*paths[:2], tmp_path], "retries.json: give the directory of a run"),
    ):
        assert main(["retries", *map(str, chosen)]) == 2
        assert complaint in " ".join(capsys.readouterr().err.split())
