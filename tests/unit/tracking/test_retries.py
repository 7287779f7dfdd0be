"""The callback that measures what reflections are worth, with a policy that writes nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger

from retro_lightning.evaluation import wilson
from retro_lightning.retrospection.curves import Arm
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.retries import RetryCurves, oracle_share, pooled
from tests.support import CorridorEnv
from tests.tiny import policy
from tests.unit.retrospection.scenes import Counting, scene


def environment(name: str) -> Any:
    return scene(Counting(name), reward="lift", controls=2, unusable=-1.0)


class Recorder(MLflowRun):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.rows: list[Any] = []
        self.files: list[str] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics |= metrics

    def log_rows(self, rows: Any, name: str) -> None:
        self.rows += rows

    def log_file(self, path: Path, folder: str) -> None:
        self.files.append(path.name)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path, str]:
    """What was logged, the run's directory and what was printed."""
    run_dir = tmp_path_factory.mktemp("run")
    policy().save(run_dir / "checkpoints" / "phase-0-policy")
    logger = Recorder()
    trainer: Any = SimpleNamespace(
        is_global_zero=True,
        default_root_dir=str(run_dir),
        global_step=9,
        loggers=[logger],
        datamodule=SimpleNamespace(
            environments={"retro/a": environment("a"), "retro/b": environment("b")}
        ),
    )
    module: Any = SimpleNamespace(require_policy=policy, seed=1)
    callback = RetryCurves(
        retries=2, tasks=12, held_out={"retro/new": environment("new")}, shown=2, lift_samples=3
    )
    callback.on_test_end(trainer, module)
    assert isinstance(logger, Logger)
    return logger, run_dir, ""


ARMS = {"plain", "placebo", "oracle", "before", "trained", "shuffled"}


def test_metrics_of_every_arm_and_number_of_retries(tested: Any) -> None:
    metrics = tested[0].metrics
    for arm in ARMS:
        for retries in range(3):
            families = [metrics[f"test/success@{retries}/{arm}/retro/{f}"] for f in "ab"]
            # The mean is over the families that were trained on; the new one stands apart.
            assert metrics[f"test/success@{retries}/{arm}"] == pytest.approx(np.mean(families))
            assert f"test/success@{retries}/{arm}/retro/new" in metrics
    assert metrics["test/success@1/oracle"] == 1.0
    gain = metrics["test/success@2/trained"] - metrics["test/success@2/plain"]
    ceiling = metrics["test/success@2/oracle"] - metrics["test/success@2/plain"]
    assert metrics["test/oracle_share@2"] == pytest.approx(gain / ceiling)
    assert metrics["test/success@2/plain"] < 1.0
    first = {metrics[f"test/success@0/{arm}"] for arm in ARMS}
    assert len(first) == 1


def test_outcomes_of_every_task_are_kept(tested: Any) -> None:
    logger, run_dir, _ = tested
    record = json.loads((run_dir / "retries.json").read_text())
    assert record["held_out"] == ["retro/new"]
    assert {(entry["arm"], entry["family"]) for entry in record["solved"]} == {
        (arm, f"retro/{family}") for arm in ARMS for family in ("a", "b", "new")
    }
    for entry in record["solved"]:
        solved = np.array(entry["solved"])
        assert solved.shape == (12, 3)
        for retries in range(3):
            name = f"test/success@{retries}/{entry['arm']}/{entry['family']}"
            assert logger.metrics[name] == pytest.approx(solved[:, retries].mean())


def test_figures(tested: Any) -> None:
    logger, run_dir, _ = tested
    assert logger.files == ["retries.png", "retries_held_out.png"]
    assert (run_dir / "figures" / "retries.png").stat().st_size > 10_000


def test_reflections_before_and_after_stand_side_by_side_with_their_lift(tested: Any) -> None:
    rows = tested[0].rows
    assert [row["family"] for row in rows] == [
        *("retro/a", "retro/a", "retro/b", "retro/b", "retro/new", "retro/new")
    ]
    for row in rows:
        for arm in ("before", "trained"):
            lift = row[f"return told {arm}"] - row["return told a placebo"]
            assert row[f"lift, {arm}"] == pytest.approx(lift)
            assert isinstance(row[arm], str)
        assert list(row)[3:7] == ["before", "trained", "lift, before", "lift, trained"]
        assert row["attempt"].endswith("return 0")


def test_families_are_looked_at_before_anything_is_trained() -> None:
    trainer: Any = SimpleNamespace()
    with pytest.raises(ValueError, match="family 'x' is a CorridorEnv; reflections are written"):
        RetryCurves(held_out={"x": CorridorEnv}).setup(trainer, trainer, "fit")


def test_pooled_curves_have_wilson_intervals() -> None:
    arms = [
        Arm("plain", "a", np.array([[0, 1], [1, 1]], dtype=bool), (), 0),
        Arm("plain", "b", np.array([[0, 0]], dtype=bool), (), 0),
    ]
    [[first, second]] = pooled(arms).values()
    assert first == (1 / 3, *wilson(1, 3))
    assert second == (2 / 3, *wilson(2, 3))


def test_share_of_the_oracle() -> None:
    means = {"success@1/plain": 0.4, "success@1/trained": 0.7, "success@1/oracle": 0.8}
    assert oracle_share(means, 1) == pytest.approx(0.75)
    assert oracle_share({**means, "success@1/oracle": 0.4}, 1) is None


def test_impossible_numbers() -> None:
    with pytest.raises(ValueError, match="retries is 0; give at least 1"):
        RetryCurves(retries=0)
