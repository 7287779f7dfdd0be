"""The command line as a whole: what is quick, exit codes, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from retro_lightning import __version__
from retro_lightning.cli.main import main

ROOT = Path(__file__).parents[3]
CONFIG = str(ROOT / "tests" / "dummy.yaml")
CHECKPOINTING = ["--trainer.enable_checkpointing", "true", "--trainer.callbacks"]
SAVE_LAST = (
    "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
    "{dirpath: runs/dummy/checkpoints, save_last: true, save_on_exception: true}}"
)


@pytest.mark.parametrize("option", ["--help", "--version", "-h"])
def test_answers_without_importing_anything_heavy(option):
    code = (
        "import sys; from retro_lightning.cli.main import main; main([sys.argv[1]]); "
        "heavy = {'torch', 'lightning', 'numpy', 'mlflow', 'transformers', 'jsonargparse'}; "
        "sys.stderr.write(', '.join(heavy & set(sys.modules)))"
    )
    path = f"{ROOT / 'src'}"
    done = subprocess.run(
        [sys.executable, "-c", code, option],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "retro-lightning" in done.stdout


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"retro-lightning {__version__}\n"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("fit", "test", "predict", "rollout", "play"))


def test_no_command_is_answered_with_help(capsys):
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().out


def test_unknown_command(capsys):
    assert main(["fitt"]) == 2
    assert capsys.readouterr().err == (
        "retro-lightning: there is no command 'fitt'; did you mean fit?\n"
    )


@pytest.mark.usefixtures("dummy_commands", "workplace")
class TestRuns:
    def fit(self, *args: str) -> int:
        return main(["fit", "--config", CONFIG, *args])

    def status(self) -> str:
        client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        [experiment] = [e for e in client.search_experiments() if e.name == "retro_lightning"]
        [run] = client.search_runs([experiment.experiment_id])
        return run.info.status

    def test_help_of_a_command(self, capsys):
        assert main(["fit", "--help"]) == 0
        assert "--model.gamma" in capsys.readouterr().out

    def test_print_config(self, capsys):
        assert self.fit("--model.gamma", "0.5", "--print_config") == 0
        assert "gamma: 0.5" in capsys.readouterr().out

    def test_a_fit_leaves_configuration_run_and_test(self, workplace):
        assert self.fit() == 0
        assert (workplace / "runs/dummy/config.yaml").is_file()
        client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        experiment = client.get_experiment_by_name("retro_lightning")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id])
        assert (run.info.status, run.info.run_name) == ("FINISHED", "dummy")
        assert run.data.params["data.gamma"] == "0.9"
        assert run.data.metrics["test/success_rate"] == 0.5
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 3

    def test_the_final_test_can_be_left_out(self):
        assert self.fit("--final_test", "false") == 0
        client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        experiment = client.get_experiment_by_name("retro_lightning")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id])
        assert "test/success_rate" not in run.data.metrics

    def test_a_policy_is_tested_without_a_fit(self, capsys):
        Path("mine").mkdir()
        assert main(["test", "--config", CONFIG, "--policy", "mine"]) == 0

    def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(self, capsys):
        handler = signal.getsignal(signal.SIGINT)
        code = self.fit("--model.stop_at", "2", *CHECKPOINTING, SAVE_LAST)
        assert code == 130
        assert self.status() == "KILLED"
        err = capsys.readouterr().err
        assert "stopped by Ctrl-C" in err
        command = f"python -m retro_lightning fit --config {CONFIG} --model.stop_at 2"
        assert command in err
        assert err.strip().endswith("--ckpt_path last")
        assert signal.getsignal(signal.SIGINT) is handler

    def test_the_resume_command_works_and_goes_on_in_the_same_mlflow_run(self, capsys):
        assert self.fit("--model.stop_at", "2", *CHECKPOINTING, SAVE_LAST) == 130
        resumed = self.fit(*CHECKPOINTING, SAVE_LAST, "--ckpt_path", "last")
        assert resumed == 0
        assert self.status() == "FINISHED"

    def test_a_scheduler_that_stops_it_is_told_apart_from_success(self, capsys):
        handler = signal.getsignal(signal.SIGTERM)
        assert self.fit("--model.terminate_at", "1", *CHECKPOINTING, SAVE_LAST) == 143
        assert self.status() == "KILLED"
        err = capsys.readouterr().err
        assert "stopped by SIGTERM" in err
        assert err.strip().endswith("--ckpt_path last")
        assert signal.getsignal(signal.SIGTERM) is handler

    def test_ctrl_c_before_anything_was_written_promises_nothing(self, capsys):
        assert self.fit("--model.stop_at", "0") == 130
        assert self.status() == "KILLED"
        assert "go on with" not in capsys.readouterr().err

    def test_an_older_runs_checkpoint_is_not_offered(self, capsys):
        last = Path("runs/dummy/checkpoints/last.ckpt")
        last.parent.mkdir(parents=True)
        last.touch()
        os.utime(last, (1.0, 1.0))
        assert self.fit("--model.stop_at", "0") == 130
        assert "go on with" not in capsys.readouterr().err

    def test_ctrl_c_while_parsing(self, capsys, monkeypatch):
        from retro_lightning.config import command

        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "build", interrupted)
        assert self.fit() == 130
        assert "nothing was begun" in capsys.readouterr().err

    def test_an_error_closes_the_run_as_failed(self):
        assert self.fit("--model.fail_at", "1") == 2
        assert self.status() == "FAILED"
