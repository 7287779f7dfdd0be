"""What a run keeps for comparisons, and how it is read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from mlflow import MlflowClient

from retro_lightning.replay.store import ReplayStore
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.provenance import code_version, describe_store, package_versions
from retro_lightning.tracking.reading import read_directory, read_mlflow_run, runs_of_experiment
from retro_lightning.tracking.results import RunResults
from retro_lightning.trajectory import Trajectory
from tests.dummies import DummyData, DummyModule
from tests.support import random_trajectory


def attempt(task: int, success: bool, *, steps: int = 2, fault: bool = False) -> Trajectory:
    base = random_trajectory(np.random.default_rng(task), steps=steps)
    return dataclasses.replace(
        base,
        task=dataclasses.replace(base.task, family="maze", task_id=f"maze:{task}"),
        success=success,
        truncated=fault,
        terminated=not fault,
        truncation="fault" if fault else None,
        outcome_return=None,
    )


class Speaker(L.Callback):
    """Announces rollouts in every epoch and outcomes in every round; more is solved each time."""

    def __init__(self) -> None:
        self.rounds = 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._tell(trainer, pl_module, "rollout", [attempt(0, True, steps=5)])

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.rounds += 1
        solved = self.rounds != 2  # the second round is the worse one
        pl_module.log("val/success_rate", float(solved))
        found = [attempt(1, solved), attempt(2, False), attempt(3, False, fault=True)]
        self._tell(trainer, pl_module, "val", found)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._tell(trainer, pl_module, "test", [attempt(4, True)])

    def _tell(self, trainer: Any, pl_module: Any, stage: str, found: list[Trajectory]) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, RunResults):
                callback.on_trajectories(trainer, pl_module, stage, found)


class BestCheckpoint(L.Callback):
    """Saves the first epoch's end, which is the best."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint("first.ckpt")


class Module(DummyModule):
    seed = 7

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing but what the speaker says."""


def trainer(results: RunResults, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=MLflowRun(),
        callbacks=[Speaker(), results],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir="runs/one",
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **options,
    )


def fit(results: RunResults) -> L.Trainer:
    made = trainer(results)
    made.fit(Module(), datamodule=DummyData({}))
    return made


@pytest.mark.usefixtures("workplace")
class TestRunResults:
    def test_outcomes_and_curve_are_kept(self):
        heard: list[Any] = []
        results = RunResults()
        results.listeners.append(heard.append)
        made = fit(results)
        made.test(made.lightning_module, datamodule=DummyData({}), verbose=False)
        said = json.loads(Path("runs/one/results.json").read_text())
        # 3 gradient steps an epoch; 5 environment steps each
        points = [(p["step"], p["epoch"], p["environment_steps"]) for p in said["curve"]]
        assert points == [(3, 1, 5), (6, 2, 10)]
        assert [p["metrics"]["val/success_rate"] for p in said["curve"]] == [1.0, 0.0]
        assert (said["run"], said["seed"], said["store"]) == ("one", 7, None)
        # the outcomes are those of the first round, which was the best
        assert {task: o and o[0] for task, o in said["val"]["maze"].items()} == {
            "maze:1": 1.0,
            "maze:2": 0.0,
            "maze:3": None,
        }
        assert list(said["test"]["maze"]) == ["maze:4"]
        assert [point.step for point in heard] == [3, 6]
        assert "train/loss" in heard[0].metrics

    def test_environment_steps_are_a_metric(self):
        made = fit(RunResults())
        assert isinstance(made.logger, MLflowRun)
        client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        name = "rollout/environment_steps"
        history = client.get_metric_history(str(made.logger.version), name)
        assert [(m.step, m.value) for m in history] == [(3, 5.0), (6, 10.0)]

    def test_state_is_primitive_and_comes_back(self):
        results, again = RunResults(), RunResults()
        fit(results)
        again.load_state_dict(json.loads(json.dumps(results.state_dict())))
        assert again.state_dict() == results.state_dict()

    def test_the_test_of_an_earlier_checkpoint_keeps_the_whole_curve(self):
        results = RunResults()
        made = trainer(results)
        made.callbacks.append(BestCheckpoint())
        made.fit(Module(), datamodule=DummyData({}))
        module = made.lightning_module
        made.test(module, datamodule=DummyData({}), ckpt_path="first.ckpt", verbose=False)
        said = json.loads(Path("runs/one/results.json").read_text())
        assert [point["step"] for point in said["curve"]] == [3, 6]
        assert list(said["test"]["maze"]) == ["maze:4"]

    def test_a_new_fit_of_the_name_forgets_the_old_one_but_a_test_does_not(self):
        made = fit(RunResults())
        curve = json.loads(Path("runs/one/results.json").read_text())["curve"]
        module = made.lightning_module
        trainer(RunResults()).test(module, datamodule=DummyData({}), verbose=False)
        after = json.loads(Path("runs/one/results.json").read_text())
        assert after["curve"] == curve
        assert list(after["test"]["maze"]) == ["maze:4"]
        fit(RunResults())
        assert "test" not in json.loads(Path("runs/one/results.json").read_text())

    def test_a_run_is_read_back_from_its_directory_and_from_mlflow(self):
        made = fit(RunResults())
        assert isinstance(made.logger, MLflowRun)
        Path("runs/one/config.yaml").write_text("seed_everything: 3\nmodel: {gamma: 0.5}\n")
        made.logger.client.log_artifact(str(made.logger.version), "runs/one/config.yaml")
        record = read_directory(Path("runs/one"))
        assert record.seed == 3
        run = record.run("val")
        assert run.curve == ((3, 5, 1.0), (6, 10, 0.0))
        assert (run.scores(["maze"]), run.faults) == ([0.5], 1)
        with pytest.raises(ValueError, match="no outcomes on test tasks"):
            record.run("test")
        uri = made.logger.tracking_uri
        [run_id] = runs_of_experiment(uri, "retro_lightning")
        assert read_mlflow_run(uri, run_id).run("val").outcomes == run.outcomes

    def test_what_is_no_run_is_said(self):
        with pytest.raises(FileNotFoundError, match=r"there is no runs/none/results\.json"):
            read_directory(Path("runs/none"))
        uri = f"sqlite:///{Path.cwd()}/mlflow.db"
        with pytest.raises(ValueError, match="neither a run's directory nor the id"):
            read_mlflow_run(uri, "0" * 32)
        with pytest.raises(ValueError, match="there is no experiment 'none'"):
            runs_of_experiment(uri, "none")


def test_a_store_is_named_by_what_it_holds(tmp_path):
    store = ReplayStore(tmp_path / "history", create=True)
    rng = np.random.default_rng(0)
    store.append([random_trajectory(rng, i, steps=3) for i in range(4)])
    store.refresh()
    first = describe_store(store)
    assert (first.name, first.trajectories, first.steps) == ("history", 4, 12)
    assert describe_store(ReplayStore(tmp_path / "history")) == first
    store.append([random_trajectory(rng, 9, steps=3)])
    store.refresh()
    assert describe_store(store).digest != first.digest


@pytest.mark.usefixtures("workplace")
def test_runs_name_code_packages_and_data(tmp_path):
    logger = MLflowRun()
    logger.attach(Path("runs/one"), name="one", remember=False, resume=False)
    store = ReplayStore(tmp_path / "history", create=True)
    store.append([random_trajectory(np.random.default_rng(0), steps=3)])
    store.refresh()
    logger.log_dataset(describe_store(store))
    logger.finalize()
    run = logger.client.get_run(logger.version)
    assert run.data.tags["retro_lightning.version"] == code_version()[0]
    [given] = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("history", describe_store(store).digest)
    assert json.loads(given.dataset.profile) == {"trajectories": 1, "steps": 3}
    path = logger.client.download_artifacts(logger.version, "packages.json")
    assert json.loads(Path(path).read_text()) == package_versions()
    assert "python" in package_versions()
