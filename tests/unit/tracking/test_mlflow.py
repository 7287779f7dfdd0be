"""The MLflow logger: what is written, when, and how a run ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from mlflow import MlflowClient
from mlflow.entities import Run

from retro_lightning.tracking.mlflow import MLflowRun, absolute_uri
from retro_lightning.tracking.parameters import flatten


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def run_of(logger: MLflowRun) -> Run:
    assert logger.version is not None
    return client().get_run(logger.version)


def attached(resume: bool = False, remember: bool = True) -> MLflowRun:
    logger = MLflowRun(flush_seconds=60.0)
    logger.attach(Path("runs/one"), name="one", remember=remember, resume=resume)
    return logger


@pytest.mark.usefixtures("workplace")
class TestRun:
    def test_metrics_are_written_in_batches(self, monkeypatch):
        logger = attached()
        batches = []
        monkeypatch.setattr(
            type(logger.client),
            "log_batch",
            lambda self, run, metrics: batches.append(len(metrics)),
        )
        for step in range(600):
            logger.log_metrics({"train/loss": 1.0, "train/entropy": 2.0}, step)
        # Two metrics a step: 1,000 wait after 500 steps and are written; 200 more at the end.
        assert batches == [1000]
        logger.finalize()
        assert batches == [1000, 200]

    def test_all_metrics_arrive_in_order(self):
        logger = attached()
        for step in range(5):
            logger.log_metrics({"train/loss": float(step * step)}, step)
        logger.finalize()
        history = client().get_metric_history(logger.version, "train/loss")
        assert [(m.step, m.value) for m in history] == [(s, float(s * s)) for s in range(5)]

    def test_metrics_do_not_wait_longer_than_asked(self):
        logger = MLflowRun(flush_seconds=0.0)
        logger.log_metrics({"x": 1.0}, 0)
        assert run_of(logger).data.metrics == {"x": 1.0}

    def test_nan_and_odd_names_are_accepted(self):
        logger = attached()
        logger.log_metrics({"val/success_rate/go to (local)": float("nan")}, 1)
        logger.finalize()
        assert list(run_of(logger).data.metrics) == ["val/success_rate/go to _local_"]

    def test_a_parameter_is_logged_once_even_if_its_value_changes(self):
        logger = attached()
        logger.log_hyperparams({"model": {"gamma": 0.9}})
        logger.log_hyperparams({"model": {"gamma": 0.5, "lr": 0.1}})
        assert run_of(logger).data.params == {"model.gamma": "0.9", "model.lr": "0.1"}

    def test_many_and_long_parameters(self):
        logger = attached()
        logger.log_hyperparams({f"p{i}": "x" * 900 for i in range(250)})
        params = run_of(logger).data.params
        assert len(params) == 250
        assert {len(value) for value in params.values()} == {500}

    def test_a_resumed_run_goes_on_in_the_same_mlflow_run(self):
        first = attached()
        first.log_config("model: {gamma: 0.9}\n")
        first.log_metrics({"x": 1.0}, 1)
        first.finalize("failed")
        second = attached(resume=True)
        second.log_config("model: {gamma: 0.5}\n")
        second.log_metrics({"x": 2.0}, 2)
        assert run_of(first).info.status == "RUNNING"
        second.finalize()
        assert second.version == first.version
        assert run_of(first).info.status == "FINISHED"
        assert len(client().get_metric_history(first.version, "x")) == 2

    def test_a_run_that_starts_anew_is_a_new_mlflow_run(self):
        first = attached()
        first.log_metrics({"x": 1.0}, 1)
        first.finalize()
        second = attached()
        second.log_metrics({"x": 1.0}, 1)
        second.finalize()
        assert first.version != second.version
        remembered = json.loads(Path("runs/one/mlflow-run.json").read_text())
        assert remembered["run_id"] == second.version

    def test_a_test_does_not_take_the_place_of_the_fit(self):
        fit, test = attached(), attached(remember=False)
        for logger in (fit, test):
            logger.log_metrics({"x": 1.0}, 1)
            logger.finalize()
        assert json.loads(Path("runs/one/mlflow-run.json").read_text())["run_id"] == fit.version

    def test_a_run_whose_database_is_gone_starts_a_new_one(self, empty_database):
        logger = attached()
        logger.log_metrics({"x": 1.0}, 1)
        logger.finalize()
        file = Path("runs/one/mlflow-run.json")
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "run_id": "0" * 32}))
        again = attached(resume=True)
        again.log_metrics({"x": 1.0}, 1)
        again.finalize()
        assert run_of(again).info.status == "FINISHED"

    @pytest.mark.parametrize(
        ("raised", "status"),
        [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED")],
    )
    def test_how_a_run_ends(self, raised, status):
        logger = attached()
        logger.log_metrics({"x": 1.0}, 1)
        try:
            raise raised
        except BaseException:  # as Lightning does
            logger.finalize("failed")
        assert run_of(logger).info.status == status
        assert run_of(logger).data.metrics == {"x": 1.0}

    def test_nothing_logged_makes_no_run(self):
        logger = attached()
        logger.finalize()
        assert logger.version is None

    def test_artifacts(self, tmp_path):
        logger = attached()
        logger.log_config("model: {gamma: 0.9}\n")
        logger.log_rows([{"a": 1, "b": "x"}], "t.json")
        logger.log_rows([{"a": 2, "b": "y"}], "t.json")
        logger.log_rows([], "t.json")
        (tmp_path / "f.png").write_bytes(b"png")
        logger.log_file(tmp_path / "f.png", "figures")
        names = {a.path for a in client().list_artifacts(logger.version)}
        assert names == {"config.yaml", "figures", "packages.json", "t.json"}
        path = client().download_artifacts(logger.version, "t.json")
        assert json.loads(Path(path).read_text())["data"] == [[1, "x"], [2, "y"]]

    def test_logging_costs_little(self):
        logger = attached()
        logger.log_metrics({"warm": 1.0}, 0)
        started = time.perf_counter()
        for step in range(1000):
            logger.log_metrics({f"train/m{i}": 1.0 for i in range(10)}, step)
        logger.save()
        # 10,000 metrics in 10 writes; 1 ms a training step, logged every step, is the budget.
        assert (time.perf_counter() - started) / 1000 < 0.005


NAMES = st.sampled_from(["a", "b", "c"])
TREES = st.recursive(
    st.integers(0, 9) | st.none(),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(tree=st.dictionaries(NAMES, TREES, max_size=3))
def test_flattening_loses_no_leaf(tree):
    def leaves(value: object) -> int:
        if isinstance(value, dict):
            return sum(leaves(inner) for inner in value.values())
        return 1

    flat = flatten(tree)
    assert len(flat) == leaves(tree)
    for key, leaf in flat.items():
        value = tree
        for name in key.split("."):
            value = value[name]
        assert value == leaf


def test_flattening_numbers_the_entries_of_lists_of_mappings():
    values = {"phases": [{"class_path": "x"}, {"class_path": "y"}], "betas": [0.9, 0.99]}
    assert flatten(values) == {
        "phases.0.class_path": "x",
        "phases.1.class_path": "y",
        "betas": [0.9, 0.99],
    }


def test_addresses_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("sqlite:////a/mlflow.db") == "sqlite:////a/mlflow.db"
    assert absolute_uri("http://tracking:5000") == "http://tracking:5000"


def test_the_environment_variable_names_the_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert MLflowRun()._tracking_uri == "http://tracking:5000"
