"""The ``compare`` command: which runs are one arm, what arms are called, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro_lightning.cli.main import main

CALLBACKS = "retro_lightning.training.callbacks"
QUIET = ("--log", "false")


def a_run(place: Path, seed: int, solved: int = 5, **model: Any) -> str:
    """A run's directory with ten test tasks; ``callbacks`` are classes with their arguments."""
    callbacks = model.pop("callbacks", {})
    place.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "run_name": place.name,
        "model": model,
        "trainer": {
            "callbacks": [
                {"class_path": f"{CALLBACKS}.{name}", "init_args": args}
                for name, args in callbacks.items()
            ]
        },
    }
    outcomes = {"maze": {f"t{i}": [float(i < solved), 0.0, 1.0] for i in range(10)}}
    results = {"test": outcomes, "curve": [], "seed": seed}
    (place / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (place / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return f"./{place.name}"


def arms(*runs: str, options: tuple[str, ...] = ()) -> dict[str, int]:
    """Labels of the arms and how many seeds each has."""
    assert main(["compare", *runs, *QUIET, *options]) == 0
    [file] = Path().rglob("comparison.json")
    return {arm["label"]: arm["seeds"] for arm in json.loads(file.read_text())["arms"]}


def baseline(name: str, **args: float) -> dict[str, Any]:
    return {"class_path": f"retro_lightning.credit.baselines.{name}", "init_args": args}


def test_runs_that_differ_in_their_seed_are_one_arm(workplace: Path) -> None:
    runs = [
        a_run(workplace / f"{name}{seed}", seed, baseline=baseline(name))
        for name in ("PerTask", "NoBaseline")
        for seed in (1, 2)
    ]
    assert arms(*runs) == {"PerTask": 2, "NoBaseline": 2}


def test_arguments_that_follow_from_a_class_are_not_named(workplace: Path) -> None:
    first = a_run(workplace / "a", 1, baseline=baseline("MovingAverage", decay=0.9))
    second = a_run(workplace / "b", 1, baseline=baseline("NoBaseline"))
    assert set(arms(first, second)) == {"MovingAverage", "NoBaseline"}


def test_arguments_of_one_class_tell_arms_apart(workplace: Path) -> None:
    runs = [
        a_run(workplace / "a", 1, baseline=baseline("MovingAverage", decay=0.9)),
        a_run(workplace / "b", 1, baseline=baseline("MovingAverage", decay=0.5)),
        a_run(workplace / "c", 1, baseline=baseline("NoBaseline")),
    ]
    assert arms(*runs) == {
        "MovingAverage, decay=0.9": 1,
        "MovingAverage, decay=0.5": 1,
        "NoBaseline": 1,
    }


def test_a_callback_more_is_the_one_difference(workplace: Path) -> None:
    late = {"progress.RunProgress": {}, "checkpoint.PolicyCheckpoint": {}}
    rollouts = {"rollouts.FreshRollouts": {"trajectories": 8}}
    first = a_run(workplace / "a", 1, callbacks={**rollouts, **late})
    second = a_run(workplace / "b", 1, callbacks=late)
    assert set(arms(first, second)) == {"FreshRollouts", "without FreshRollouts"}


def test_two_callbacks_of_one_class_are_two(workplace: Path) -> None:
    def twice(count: int) -> dict[str, Any]:
        return {"x.Rollouts": {"trajectories": 8}, "y.Rollouts": {"trajectories": count}}

    first = a_run(workplace / "a", 1, callbacks=twice(1))
    second = a_run(workplace / "b", 1, callbacks=twice(2))
    assert set(arms(first, second)) == {"trajectories=1", "trajectories=2"}


def test_arms_are_grouped_by_a_key_as_the_configuration_has_it(workplace: Path) -> None:
    runs = [
        a_run(
            workplace / f"r{i}", i // 2, callbacks={"rollouts.FreshRollouts": {"attempts": i % 2}}
        )
        for i in range(4)
    ]
    key = "trainer.callbacks.0.init_args.attempts"
    assert arms(*runs, options=("--group-by", key)) == {"0": 2, "1": 2}


def test_what_cannot_be_compared_is_refused(workplace: Path, capsys: Any) -> None:
    first = a_run(workplace / "a", 1, gamma=0.9)
    again = a_run(workplace / "b", 1, gamma=0.9)
    other = a_run(workplace / "c", 1, gamma=0.5)
    for args, sentence in (
        ([first], "there is only one arm, 'all runs'"),
        ([first, again, other], "are of one configuration and one seed (1)"),
        ([first, other, "--group-by", "model.gama"], "did you mean model.gamma?"),
        (["./nowhere", other], "there is no nowhere/results.json"),
    ):
        assert main(["compare", *args, *QUIET]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("split", ["val", "test"])
def test_outcomes_are_those_of_the_split_asked_for(
    workplace: Path, capsys: Any, split: str
) -> None:
    first, second = (a_run(workplace / n, 1, gamma=g) for n, g in (("a", 0.9), ("b", 0.5)))
    code = main(["compare", first, second, *QUIET, "--split", split])
    assert code == (0 if split == "test" else 2)
    if split == "val":
        assert "a has no outcomes on val tasks" in capsys.readouterr().err
