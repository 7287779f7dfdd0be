"""One small fit with the shipped smoke configuration, and what is done with its policy after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from retro_lightning.cli.main import main
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore

SMOKE = Path(__file__).parents[3] / "conf" / "smoke.yaml"
FAMILIES = ("babyai/go-to", "maze/partial", "tools/service-desk")


def cut_down() -> dict:
    """The smoke configuration with less of everything and nothing else changed."""
    config = yaml.safe_load(SMOKE.read_text(encoding="utf-8"))
    config["trainer"] |= {"max_epochs": 2, "log_every_n_steps": 1}
    for callback in config["trainer"]["callbacks"]:
        if callback["class_path"].endswith("FreshRollouts"):
            callback["init_args"] = {"trajectories": 6}
    config["model"]["phases"][0]["until_step"] = 3  # the second epoch collects, and learns from it
    config["model"]["language_model"]["init_args"]["recall_steps"] = 2
    config["data"] |= {
        "batch_size": 6,
        "batches_per_epoch": 3,
        "train_tasks_per_family": 6,
        "val_tasks_per_family": 3,
        "test_tasks_per_family": 3,
    }
    config["data"]["history"]["init_args"]["tasks_per_family"] = 6
    return config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A directory in which the fit has been run."""
    directory = tmp_path_factory.mktemp("smoke")
    shutil.copy(empty_database, directory / "mlflow.db")
    (directory / "smoke.yaml").write_text(yaml.safe_dump(cut_down(), sort_keys=False))
    with chdir(directory):
        assert main(["fit", "--config", "smoke.yaml"]) == 0
    return directory


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def runs(name: str) -> list[Run]:
    experiment = client().get_experiment_by_name("retro_lightning")
    assert experiment is not None
    found = client().search_runs([experiment.experiment_id])
    return [run for run in found if run.info.run_name == name]


def policy_directory() -> Path:
    return Path("runs/smoke/checkpoints/best-policy")


def test_the_run_is_finished_with_its_metrics():
    [run] = runs("smoke")
    assert run.info.status == "FINISHED"
    metrics = run.data.metrics
    assert set(metrics) >= {
        "train/loss",
        "train/phase",
        "val/success_rate",
        "test/success_rate",
        *(f"val/success_rate/{family}" for family in FAMILIES),
        *(f"test/success_rate/{family}" for family in FAMILIES),
    }
    for prefix in ("rollout/", "curriculum/"):
        assert any(name.startswith(prefix) for name in metrics), prefix
    assert metrics["train/phase"] == 1.0
    # The headline is the mean over families, each with the same number of tasks.
    means = [metrics[f"test/success_rate/{family}"] for family in FAMILIES]
    assert metrics["test/success_rate"] == pytest.approx(np.mean(means))


def test_every_optimiser_step_was_logged():
    [run] = runs("smoke")
    losses = client().get_metric_history(run.info.run_id, "train/loss")
    # Two epochs of three steps; Lightning numbers steps from 0.
    assert len(losses) == 6


def test_the_run_has_its_configuration_samples_and_figures():
    [run] = runs("smoke")
    top = {item.path for item in client().list_artifacts(run.info.run_id)}
    assert top >= {"config.yaml", "figures", "trajectories.json"}
    figures = {item.path for item in client().list_artifacts(run.info.run_id, "figures")}
    assert {"figures/success.png", "figures/test_success.png", "figures/loss.png"} <= figures
    for name in ("success", "test_success", "loss"):
        assert Path(f"runs/smoke/figures/{name}.png").stat().st_size > 10_000
    assert run.data.params["data.batch_size"] == "6"


def test_results_are_kept_by_family():
    results = json.loads(Path("runs/smoke/test.json").read_text())
    assert {family: episodes for family, (_, episodes) in results.items()} == dict.fromkeys(
        FAMILIES, 3
    )


def test_fresh_rollouts_went_to_the_store_of_the_run():
    store = ReplayStore("runs/smoke/store")
    trajectories = store.read(range(len(store)))
    assert len(trajectories) >= 6
    assert {t.source for t in trajectories} == {"rollout"}
    assert {t.task.split for t in trajectories} == {"train"}
    assert {t.run for t in trajectories} == {"smoke"}


def test_the_policy_directory_loads_without_lightning():
    policy = Policy.load(policy_directory())
    assert 0 < policy.version <= 6


def test_the_policy_is_tested_without_a_fit(capsys):
    command = ["test", "--config", "smoke.yaml", "--policy", str(policy_directory())]
    assert main(command) == 0
    [run] = runs("smoke-test")
    assert run.info.status == "FINISHED"
    # The same policy on the same tasks with the same seed: the fit's own closing test repeated.
    [fit] = runs("smoke")
    for family in FAMILIES:
        name = f"test/success_rate/{family}"
        assert run.data.metrics[name] == fit.data.metrics[name]


def test_the_policy_plays(capsys):
    command = ["play", "--config", "smoke.yaml", "--policy", str(policy_directory())]
    assert main([*command, "--family", "tools/service-desk", "--greedy"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tools/service-desk: ")
    assert "return" in out


def test_the_policy_fills_a_store(tmp_path, capsys):
    command = ["rollout", "--config", "smoke.yaml", "--policy", str(policy_directory())]
    assert main([*command, "--store", str(tmp_path / "store"), "--episodes", "3"]) == 0
    store = ReplayStore(tmp_path / "store")
    assert len(store) == 3
    assert sorted(t.task.family for t in store.read(range(3))) == list(FAMILIES)


def test_the_policy_predicts_every_stored_action(capsys):
    command = ["predict", "--config", "smoke.yaml", "--policy", str(policy_directory())]
    assert main(command) == 0
    rows = pq.read_table("runs/smoke/predictions.parquet").to_pylist()
    # 6 tasks of 3 families, each tried once by expert and noisy expert and twice at random.
    assert len(rows) == 72
    assert all(log_prob <= 1e-6 for row in rows for log_prob in row["log_probs"])
