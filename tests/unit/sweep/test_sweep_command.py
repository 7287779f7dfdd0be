"""The sweep command from end to end on the dummy job: trials, MLflow, Ctrl-C, bad input."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from retro_lightning.cli.main import main
from retro_lightning.sweep import trial as trial_module
from retro_lightning.sweep import worker
from tests.dummies import DummyModule
from tests.unit.sweep.conftest import definition, leave_checkpoints, left, runs, study, sweep


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a study of the dummy."""
    monkeypatch.setattr("retro_lightning.sweep.confirm.draw", lambda sweep, slots: [])


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of the dummy leave checkpoints too."""
    real = trial_module.run_fit

    def leaves(args: Any, directory: Path, **options: Any) -> Any:
        record = real(args, directory, **options)
        leave_checkpoints(directory)
        return record

    monkeypatch.setattr(trial_module, "run_fit", leaves)


pytestmark = pytest.mark.usefixtures("dummy_job")


def test_a_study_from_end_to_end(capsys):
    assert sweep(seeds=[1, 2]) == 0
    trials = study().get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 2
    assert {t.value for t in trials} == {0.25}
    # the first trial is the job's own configuration
    assert trials[0].params == {
        "model.part": "strong",
        "model.part.init_args.coefficient": 0.2,
        "model.gamma": 0.9,
    }
    out = capsys.readouterr().out
    assert "trial 1  done  0.250  (2/2)  best: trial 0 0.250" in out
    assert "python -m retro_lightning fit --config runs/dummies/best.yaml" in out
    _check_runs()
    best = yaml.safe_load(Path("runs/dummies/best.yaml").read_text())
    assert best["model"]["gamma"] == 0.9
    assert best["data"]["gamma"] == "${model.gamma}"  # references are kept
    assert main(["fit", "--config", "runs/dummies/best.yaml"]) == 0
    assert Path("runs/dummies-best/config.yaml").is_file()
    _check_going_on(capsys)


def _check_runs() -> None:
    found = runs()
    by_parent = Counter(run.data.tags.get("mlflow.parentRunId", "top") for run in found)
    [top] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    # one run for the study, in it one for each trial, in each of these one for each of 2 seeds
    assert sorted(by_parent.values()) == [1, 2, 2, 2]
    assert by_parent[top.info.run_id] == 2
    assert {run.info.status for run in found} == {"FINISHED"}
    assert top.data.params["seeds"] == "[1, 2]"
    child = next(r for r in found if r.data.tags.get("mlflow.parentRunId") == top.info.run_id)
    assert "model.gamma" in child.data.params
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    steps = [m.step for m in client.get_metric_history(child.info.run_id, "val/success_rate")]
    assert steps == [1, 2, 2]  # both seeds' validation, and the trial's end
    artifacts = {a.path for a in client.list_artifacts(top.info.run_id)}
    figures = {"history.png", "slices.png", "parallel_coordinates.png", "learning_curves.png"}
    assert {"sweep.yaml", "best.yaml", "ranking.json"} | figures <= artifacts


def _check_going_on(capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again runs nothing; more trials are added to those there are."""
    capsys.readouterr()
    assert sweep(seeds=[1, 2]) == 0
    assert len(study().trials) == 2
    assert "the study is done" in capsys.readouterr().out
    assert sweep("--trials", "3", seeds=[1, 2]) == 0
    assert len(study().trials) == 3
    assert "RUNNING" not in {run.info.status for run in runs()}


@pytest.mark.slow
def test_the_best_trials_run_again_on_fresh_seeds(no_figures, checkpoints, capsys):
    assert sweep(confirm={"top": 1, "seeds": 2}) == 0
    assert "nothing was compared on fresh seeds" in capsys.readouterr().out  # no test outcomes
    found = study("dummies/confirmation after 2").trials
    assert len(found) == 4  # the defaults and the best, 2 seeds each
    said = json.loads(study("dummies/confirmation after 2").user_attrs["definition"])
    assert said["seeds"] == [2, 3]
    assert list(said["params"]) == ["defaults", "trial 1"]
    # all trials are equal, so that the first one wins; candidates take turns, seed by seed
    assert json.loads(Path("runs/dummies/ranking.json").read_text())["best"] == "defaults"
    assert left() == {"confirm-0000/seed-2/best-policy", "confirm-0002/seed-3/best-policy"}


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(capsys, monkeypatch, no_figures):
    real, calls = trial_module.run_fit, []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(trial_module, "run_fit", interrupted)
    assert sweep() == 130
    err = capsys.readouterr().err
    assert "stopped by Ctrl-C" in err
    assert "python -m retro_lightning sweep --config sweep.yaml" in err
    assert "RUNNING" not in {run.info.status for run in runs()}
    assert sweep() == 0
    trials = study().get_trials()
    assert Counter(t.state for t in trials) == {TrialState.COMPLETE: 2, TrialState.FAIL: 1}
    assert trials[2].params == trials[1].params
    assert "RUNNING" not in {run.info.status for run in runs()}


def test_ctrl_c_within_a_fit_is_seen_as_one(monkeypatch, capsys):
    def stopped(self: DummyModule, batch: Any, batch_idx: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retro_lightning.sweep.worker.rehearse", lambda *args: None)
    monkeypatch.setattr(DummyModule, "training_step", stopped)
    assert sweep() == 130
    assert {run.info.status for run in runs()} == {"KILLED"}


def test_a_scheduler_that_stops_a_worker_is_told_apart(monkeypatch, capsys):
    real = DummyModule.training_step

    def stopped(self: DummyModule, batch: Any, batch_idx: int) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(self, batch, batch_idx)

    monkeypatch.setattr("retro_lightning.sweep.worker.rehearse", lambda *args: None)
    monkeypatch.setattr(DummyModule, "training_step", stopped)
    assert sweep() == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert {run.info.status for run in runs()} == {"KILLED"}


def test_a_trial_that_fails_is_kept_with_its_reason_and_the_study_goes_on(
    monkeypatch, capsys, no_figures, checkpoints
):
    real = trial_module.run_fit  # leaves checkpoints

    def fails(args: Any, directory: Path, **options: Any) -> Any:
        record = real(args, directory, **options)
        if "trial-0000" in str(directory):
            raise MemoryError("CUDA out of memory")
        return record

    monkeypatch.setattr(trial_module, "run_fit", fails)
    assert sweep() == 0
    states = [t.state for t in study().trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    assert "failed: CUDA out of memory" in capsys.readouterr().out
    ranking = json.loads(Path("runs/dummies/ranking.json").read_text())
    assert ranking["trials"][-1]["reason"] == "CUDA out of memory"
    assert {run.info.status for run in runs()} == {"FINISHED", "FAILED"}
    assert left() == {"trial-0001/seed-1/best-policy"}


def test_nan_is_a_failure(monkeypatch):
    def nan(self: DummyModule, batch: Any, batch_idx: int) -> None:
        self.log("val/success_rate", float("nan"))

    monkeypatch.setattr(DummyModule, "validation_step", nan)
    assert sweep(trials=1) == 0
    [trial] = study().trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "val/success_rate is nan"


def test_a_bad_trial_is_stopped_early_and_left_out_of_comparisons():
    pruner = {
        "class_path": "optuna.pruners.ThresholdPruner",
        "init_args": {"lower": 0.5, "n_warmup_steps": 2},
    }
    assert sweep(pruner=pruner, trials=1, seeds=[1, 2]) == 0
    [trial] = study().trials
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.25, 2: 0.25}
    pruned = [run for run in runs() if "retro_lightning.pruned" in run.data.tags]
    assert [run.info.run_name for run in pruned] == ["seed-2"]


@pytest.mark.slow
def test_two_metrics_make_a_front():
    metrics = {"val/success_rate": "maximize", "rollout/environment_steps": "minimize"}
    assert sweep(metrics=metrics) == 0
    assert [t.values for t in study().trials] == [[0.25, 0.0]] * 2
    assert Path("runs/dummies/figures/pareto_front.png").is_file()


def test_one_trial_at_a_time_in_a_journal():
    assert sweep("--once", "true", storage="journal:journal.log") == 0
    assert Path("journal.log").is_file()
    assert Path("runs/dummies/trial-0000/seed-1/results.json").is_file()
    assert not Path("runs/dummies/trial-0001").exists()
    assert not Path("runs/dummies/best.yaml").exists()


def test_processes_that_come_to_no_trial_are_not_started_for_ever(monkeypatch, capsys):
    class Stillborn:
        pid = -1

        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def wait(self) -> int:
            return 3

    monkeypatch.setattr("retro_lightning.sweep.worker.rehearse", lambda *args: None)
    monkeypatch.setattr(worker, "subprocess", SimpleNamespace(Popen=Stillborn))
    assert sweep(execution="subprocess") == 2
    err = capsys.readouterr().err
    assert "a worker process ended with exit code 3 before it began a trial; see runs/dumm" in err


GOOD = definition()["space"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"space": {"model.gama": {"low": 0.5, "high": 1.0}}},
            "sweep.yaml, line 8: model.gama is not a known key; did you mean model.gamma?",
        ),
        (
            {"space": {"model.part.init_args.coeficient": {"low": 0.5, "high": 1.0}}},
            "sweep.yaml, line 8: model.part.init_args.coeficient is not an argument of "
            "tests.dummies.Coefficient; did you mean coefficient?",
        ),
        (
            {"space": {"model.gamma": {"low": 1.0, "high": 0.5}}},
            "sweep.yaml, line 8: model.gamma ranges from 1 up to 0.5; give low at most high",
        ),
        (
            {"space": {"model.part.init_args.coefficient": {"low": -1.0, "high": 1.0}}},
            "sweep.yaml, line 8: model.part.init_args.coefficient: coefficient is -1.0; give at "
            "least 0",
        ),
        (
            {"space": {"model.part": {"choices": ["tests.dummies.Koefficient"]}}},
            "there is no class tests.dummies.Koefficient; did you mean tests.dummies.Coefficient?",
        ),
        (
            {"metrics": {"val/sucess_rate": "maximize"}},
            "sweep.yaml: metrics: the job never logs val/sucess_rate; did you mean "
            "val/success_rate?",
        ),
        ({"metrics": {"val/success_rate": "up"}}, "sweep.yaml, line"),
        ({"seeds": []}, "sweep.yaml, line 5: seeds is []; give at least one, each once"),
        ({"base": ["dumy.yaml"]}, "dumy.yaml does not exist; did you mean"),
        ({"trails": 3}, "sweep.yaml, line"),
        (
            {"storage": "postgresql://me:secret@localhost:1/none"},
            "sweep.yaml: storage postgresql://me:***@localhost:1/none can't be reached",
        ),
        ({"storage": "nowhere"}, "sweep.yaml: storage nowhere can't be reached"),
        (
            {
                "metrics": {"val/success_rate": "maximize", "val/return": "maximize"},
                "pruner": {"class_path": "optuna.pruners.NopPruner"},
            },
            "pruner: a study of several metrics can't stop trials early",
        ),
    ],
)
def test_bad_input_is_answered_in_one_sentence_before_the_first_trial(changes, sentence, capsys):
    assert sweep(**changes) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert "secret" not in err
    assert not list(Path("runs").glob("dummies/trial-*"))


def test_a_study_whose_space_has_changed_is_not_gone_on_with(capsys, no_figures):
    assert sweep(trials=1) == 0
    space = {**GOOD, "model.gamma": {"low": 0.25, "high": 1.0}}
    assert sweep(trials=2, space=space) == 2
    assert (
        "sweep.yaml, line 18: model.gamma is another since study 'dummies' began; give the study "
        "another name, or say again what it began with" in capsys.readouterr().err
    )
    assert sweep(trials=2, seeds=[4]) == 2
    assert "sweep.yaml: seeds has changed since the study began" in capsys.readouterr().err
    assert len(study().trials) == 1


def test_an_unreachable_tracking_server(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@localhost:1")
    assert sweep() == 2
    err = capsys.readouterr().err
    assert "the tracking server http://localhost:1 can't be reached" in err
    assert "secret" not in err


def test_which_sweep(capsys):
    assert main(["sweep"]) == 2
    assert "give one --config FILE" in capsys.readouterr().err
