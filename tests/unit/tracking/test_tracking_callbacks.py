"""Callbacks of tracking: curves, sample trajectories and the closing table, in small fits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from retro_lightning.evaluation import EvaluationCounts, FamilyCount
from retro_lightning.tracking.curves import Figures
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.samples import SampleTrajectories, table_row, transcript
from retro_lightning.tracking.summary import (
    ClosingTable,
    closing_table,
    directions,
    macro_rate,
    success_rows,
)
from retro_lightning.trajectory import Step, Task, Trajectory
from tests.dummies import DummyData, DummyModule
from tests.support import random_trajectory


def episode(**changes: Any) -> Trajectory:
    steps = (
        Step(
            observation="a door", valid_actions=("open",), action="open", reward=0.0, log_prob=-0.5
        ),
        Step(observation="it is open", valid_actions=("go",), action="go", reward=1.0),
    )
    fields = {
        "task": Task(task_id="t:1", family="maze", instruction="go", seed=1, split="val"),
        "steps": steps,
        "final_observation": "outside",
        "final_valid_actions": (),
        "terminated": True,
        "truncated": False,
        "truncation": None,
        "success": True,
        "source": "rollout",
        "behaviour_id": "policy-7",
        "run": "r",
        "attempt": 0,
    }
    return Trajectory(**{**fields, **changes})


def fit(
    *callbacks: L.Callback, module: L.LightningModule | None = None, **options: Any
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=MLflowRun(),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir="runs/one",
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module or DummyModule(), datamodule=DummyData({}))
    return trainer


def artifacts(trainer: L.Trainer, folder: str | None = None) -> set[str]:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    assert isinstance(trainer.logger, MLflowRun)
    return {a.path for a in client.list_artifacts(str(trainer.logger.version), folder)}


@pytest.mark.usefixtures("workplace")
class TestFigures:
    def test_are_drawn_into_the_run_and_logged(self):
        trainer = fit(Figures())
        names = {path.name for path in Path("runs/one/figures").iterdir()}
        assert names == {"success.png", "loss.png"}
        assert artifacts(trainer, "figures") == {"figures/success.png", "figures/loss.png"}

    def test_curves_have_one_point_a_step_and_one_a_validation(self):
        figures = Figures()
        fit(figures)
        curves = figures.state_dict()["curves"]
        # 6 ones in batches of 2 are 3 steps an epoch, over 2 epochs.
        assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4, 5, 6]
        assert curves["val/success_rate"] == [[3, 0.25], [6, 0.25]]

    def test_an_epoch_without_validation_repeats_no_old_point(self):
        figures = Figures()
        fit(figures, check_val_every_n_epoch=2)
        assert figures.state_dict()["curves"]["val/success_rate"] == [[6, 0.25]]

    def test_state_is_primitive_and_comes_back(self):
        figures, again = Figures(), Figures()
        fit(figures)
        again.load_state_dict(json.loads(json.dumps(figures.state_dict())))
        assert again.state_dict() == figures.state_dict()

    def test_are_drawn_after_ctrl_c(self):
        with pytest.raises(SystemExit):
            fit(Figures(), module=DummyModule(stop_at=2))
        assert Path("runs/one/figures/loss.png").is_file()


@pytest.mark.usefixtures("workplace")
class TestSamples:
    class Speaker(L.Callback):
        """Announces the same three episodes in every validation, and maybe one in every epoch."""

        def __init__(self, rollouts: bool = False) -> None:
            self.rollouts = rollouts

        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if self.rollouts:
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, SampleTrajectories):
                        callback.on_trajectories(trainer, pl_module, "rollout", [episode()])

        def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            other = Task(task_id="t:2", family="tools", instruction="go", seed=1, split="val")
            episodes = [episode(), episode(attempt=1), episode(task=other)]
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, SampleTrajectories):
                    callback.on_trajectories(trainer, pl_module, "val", episodes)

    @staticmethod
    def column(trainer: L.Trainer, name: str) -> list[str]:
        client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        assert isinstance(trainer.logger, MLflowRun)
        path = client.download_artifacts(str(trainer.logger.version), "trajectories.json")
        table = json.loads(Path(path).read_text())
        return [row[table["columns"].index(name)] for row in table["data"]]

    def test_one_of_each_family_and_round_is_logged(self):
        trainer = fit(self.Speaker(), SampleTrajectories())
        assert self.column(trainer, "family") == ["maze", "tools"] * 2

    def test_rollouts_wait_for_the_next_validation(self):
        trainer = fit(self.Speaker(rollouts=True), SampleTrajectories(), check_val_every_n_epoch=2)
        # of two epochs the first one's
        assert self.column(trainer, "stage") == ["rollout", "val", "val"]

    def test_zero_of_each_family_is_refused(self):
        with pytest.raises(ValueError, match="per_family is 0"):
            SampleTrajectories(0)


def test_transcript_is_what_happened():
    assert transcript(episode()) == (
        "task: go\n"
        "[1] a door\n"
        "    > open  (log-prob -0.50)\n"
        "[2] it is open\n"
        "    > go  (reward 1)\n"
        "[end] outside"
    )


def test_rows_are_json_whatever_the_trajectory():
    rng = np.random.default_rng(0)
    rows = [table_row(random_trajectory(rng, i), "val", 3) for i in range(50)]
    assert len({tuple(row) for row in rows}) == 1
    json.dumps(rows)


COLUMNS = {
    "random": {"maze": (1, 10)},
    "policy": {"maze": (9, 10), "tools": (3, 10)},
}


def test_mean_counts_every_family_alike():
    # (1/10 + 90/100) / 2, not 91/110.
    assert macro_rate({"a": (1, 10), "b": (90, 100)}) == pytest.approx(0.5)


def test_a_family_that_only_faulted_stays_in_the_mean_and_is_named():
    counts = {"a": (8, 10), "broken": (0, 0)}
    assert macro_rate(counts) == pytest.approx(0.4)  # (0.8 + 0) / 2
    console = Console(record=True, width=120)
    console.print(closing_table({"policy": counts}, list(counts), {"broken": 10}))
    assert "10 of broken" in console.export_text()


def test_rows_leave_out_what_was_not_tried():
    rows = success_rows(COLUMNS, ["maze", "tools"])
    assert [(r.family, r.behaviour, r.success_rate) for r in rows] == [
        ("maze", "random", 0.1),
        ("maze", "policy", 0.9),
        ("tools", "policy", 0.3),
    ]
    assert all(r.low < r.success_rate < r.high for r in rows)


def test_table_shows_rates_intervals_and_means():
    console = Console(record=True, width=120)
    console.print(closing_table(COLUMNS, ["maze", "tools"]))
    text = console.export_text()
    # Wilson interval of 9 in 10 at 95 %: [0.596, 0.982].
    maze = next(line for line in text.splitlines() if "maze" in line)
    assert maze.split("│")[2:5] == ["   0.10 ", "   0.90 ", " 0.60 to 0.98 "]
    tools = next(line for line in text.splitlines() if "tools" in line)
    assert "-" in tools
    mean = next(line for line in text.splitlines() if "mean over families" in line)
    assert "0.10" in mean
    assert "0.60" in mean


@pytest.mark.usefixtures("workplace")
class TestClosingTable:
    def trainer_and_module(self) -> tuple[Any, Any]:
        store = SimpleNamespace(
            index=SimpleNamespace(
                success_table=lambda: {("maze", "expert"): (9, 10), ("maze", "random"): (1, 10)}
            )
        )
        trainer = SimpleNamespace(
            is_global_zero=True,
            default_root_dir="runs/one",
            loggers=[],
            datamodule=SimpleNamespace(history_store=store),
        )
        counts = EvaluationCounts({"maze": FamilyCount(episodes=10, successes=8)})
        return trainer, SimpleNamespace(counts=counts)

    def test_is_printed_drawn_and_kept(self, capsys):
        ClosingTable().on_test_end(*self.trainer_and_module())
        assert json.loads(Path("runs/one/test.json").read_text()) == {"maze": [8, 10]}
        assert Path("runs/one/figures/test_success.png").is_file()
        out = capsys.readouterr().out
        assert out.index("random") < out.index("expert") < out.index("policy")
        assert "mlflow ui" in out

    def test_other_runs_stand_beside_it_if_they_have_results(self, capsys):
        other = Path("runs/cloning/test.json")
        other.parent.mkdir(parents=True)
        other.write_text('{"maze": [5, 10]}')
        beside = {"cloning": "runs/cloning", "absent": "runs/absent"}
        ClosingTable(beside).on_test_end(*self.trainer_and_module())
        out = capsys.readouterr().out
        assert "cloning" in out
        assert "absent" not in out

    def test_directions_name_the_policy_and_how_to_watch_it(self):
        Path("runs/one/checkpoints/best-policy").mkdir(parents=True)
        text = "\n".join(directions(Path("runs/one")))
        assert (
            "play --config runs/one/config.yaml --policy runs/one/checkpoints/best-policy" in text
        )
