"""What a configuration means: stacked files, overrides, references, directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from retro_lightning.config import command
from retro_lightning.config.command import Command
from retro_lightning.config.errors import ConfigError

CONFIG = str(Path(__file__).parents[2] / "dummy.yaml")

pytestmark = pytest.mark.usefixtures("dummy_commands", "workplace")


def build(*args: str, name: str = "fit") -> Command:
    return command.build(name, ["--config", CONFIG, *args])


def overlay(values: dict[str, Any]) -> list[str]:
    path = Path("overlay.yaml")
    path.write_text(yaml.safe_dump(values))
    return ["--config", str(path)]


def gammas(cli: Command) -> tuple[float, float]:
    return cli.model.gamma, cli.datamodule.gamma


def test_a_reference_is_resolved():
    assert gammas(build()) == (0.9, 0.9)


def test_an_override_reaches_every_reference():
    # The trap of plain omegaconf mode: 0.5 here and 0.9 there, silently.
    assert gammas(build("--model.gamma", "0.5")) == (0.5, 0.5)


def test_a_stacked_file_reaches_every_reference():
    assert gammas(build(*overlay({"model": {"gamma": 0.4}}))) == (0.4, 0.4)


def test_an_override_wins_over_a_stacked_file():
    assert gammas(build(*overlay({"model": {"gamma": 0.4}}), "--model.gamma=0.3")) == (0.3, 0.3)


def test_a_reference_in_a_stacked_file_and_inside_a_part_is_resolved():
    part = {
        "class_path": "tests.dummies.Coefficient",
        "init_args": {"coefficient": "${data.gamma}"},
    }
    cli = build(*overlay({"model": {"part": part, "parts": [part]}}), "--model.gamma", "0.7")
    assert cli.model.part.coefficient == cli.model.parts[0].coefficient == 0.7


def test_a_stacked_file_keeps_the_arguments_it_does_not_name():
    environments = {"maze": {"class_path": "tests.dummies.Corridor", "init_args": {"level": "x"}}}
    cli = build(*overlay({"model": {"gamma": 0.4}, "data": {"environments": environments}}))
    assert cli.model.part.coefficient == 0.2
    assert cli.datamodule.environments["maze"]().level == "x"


def test_everything_lands_in_the_directory_of_the_run():
    cli = build("--run_name", "first")
    assert cli.run_dir == Path("runs/first")
    assert cli.trainer.default_root_dir == "runs/first"


def test_a_directory_of_ones_own_takes_its_place():
    cli = build("--trainer.default_root_dir", "elsewhere/mine")
    assert (cli.run_dir, cli.run_name) == (Path("elsewhere/mine"), "mine")


def test_threads_reach_pytorch(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    build()
    assert asked == []  # PyTorch's own choice stands
    build("--threads", "3")
    assert asked == [3]
    with pytest.raises(ConfigError, match="threads"):
        build("--threads", "0")


def test_policy_becomes_the_initial_policy():
    Path("mine").mkdir()
    assert build("--policy", "mine", name="test").model.initial_policy == "mine"


def test_a_checkpoint_stands_for_the_policy_beside_it():
    Path("best.ckpt").touch()
    Path("best-policy").mkdir()
    cli = build("--policy", "best.ckpt", name="test")
    assert cli.model.initial_policy == "best-policy"


@pytest.mark.parametrize("asked", ["nowhere", "lonely.ckpt"])
def test_a_policy_that_is_not_there_is_named(asked):
    Path("lonely.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=asked.removesuffix(".ckpt")):
        build("--policy", asked, name="test")


def test_defaults_avoid_the_known_traps():
    trainer = build().config.trainer
    assert trainer.use_distributed_sampler is False
    assert trainer.reload_dataloaders_every_n_epochs == 1


@pytest.mark.parametrize("asked", ["last", "best", "elsewhere.ckpt"])
def test_a_missing_checkpoint_is_named_instead_of_starting_anew(asked):
    with pytest.raises(FileNotFoundError, match=asked):
        build("--ckpt_path", asked).checkpoint()


def test_last_is_that_of_the_run():
    path = Path("runs/dummy/checkpoints/last.ckpt")
    path.parent.mkdir(parents=True)
    path.touch()
    assert build("--ckpt_path", "last").checkpoint() == str(path)


def test_the_saved_configuration_repeats_the_run_under_any_command():
    build("--model.gamma", "0.5", "--run_name", "saved").run()
    saved = Path("runs/saved/config.yaml")
    assert "ckpt_path" not in yaml.safe_load(saved.read_text())
    again = command.build("test", ["--config", str(saved)])
    assert gammas(again) == (0.5, 0.5)
    assert again.run_dir == Path("runs/saved")
