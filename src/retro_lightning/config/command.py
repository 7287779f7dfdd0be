"""Behaviour half: one command's configuration: parsed, merged, checked and instantiated.

Lightning's own CLI with each command as a parser of its own instead of a subcommand: keys stand at
the root of the file, so that ``${model.gamma}`` means the same in every stacked file and under
every override, and one file serves every command.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from omegaconf.errors import OmegaConfBaseException

from retro_lightning.config.errors import ConfigError, explain_parsing, refuse_unknown_keys
from retro_lightning.config.locate import check_files, config_files
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.summary import ClosingTable

Parser = LightningArgumentParser
"""The parser that a command's own arguments are added to."""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
_INVOCATION_KEYS = ("config", "ckpt_path", "policy", "final_test")
_TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,
    "reload_dataloaders_every_n_epochs": 1,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "logger": {"class_path": "retro_lightning.tracking.mlflow.MLflowRun"},
}


class Command(LightningCLI):
    """Parses a command's arguments and instantiates what they name.

    Args:
        name: The command: ``fit``, ``validate``, ``test``, ``predict`` or one of our own.
        args: The command line after the command.
        model_class: LightningModule that ``model`` configures.
        datamodule_class: LightningDataModule that ``data`` configures.
        add_arguments: Adds the arguments of a command of our own.

    Raises:
        ConfigError: If the arguments or files are wrong.
    """

    def __init__(
        self,
        name: str,
        args: Sequence[str],
        *,
        model_class: type[L.LightningModule],
        datamodule_class: type[L.LightningDataModule],
        add_arguments: Callable[[LightningArgumentParser], None] | None = None,
    ) -> None:
        _silence_chatter()
        self.name = name
        self._add_own_arguments = add_arguments
        check_files(config_files(args))
        super().__init__(
            model_class,
            datamodule_class,
            save_config_callback=SaveConfig if name in TRAINER_COMMANDS else None,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=dict(_TRAINER_DEFAULTS),
            seed_everything_default=1,
            parser_kwargs={
                "prog": f"retro-lightning {name}",
                "description": None,
                "parser_mode": "omegaconf+",
                "exit_on_error": False,
            },
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # ------------------------------------------------------------------ parsing
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what stands beside ``trainer``, ``model`` and ``data``."""
        parser.add_argument(
            "--run_name", type=str, default="default", help="Everything lands in runs/<run_name>/."
        )
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="Processor threads of a computation; null = one per core. Small models want 1.",
        )
        if self.name in TRAINER_COMMANDS:
            parser.add_argument(
                "--ckpt_path",
                type=str | None,
                default=None,
                help="Checkpoint to go on from or to evaluate: a path, or last or best of the run.",
            )
        if self.name == "fit":
            parser.add_argument(
                "--final_test",
                type=bool,
                default=True,
                help="Try the best checkpoint on the test tasks, once, when the fit has ended.",
            )
        else:
            parser.add_argument(
                "--policy",
                type=str | None,
                default=None,
                help="Policy that acts: its directory, a Hugging Face directory, or a checkpoint.",
            )
        if self._add_own_arguments is not None:
            self._add_own_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, turning every complaint into one sentence."""
        try:
            self.config = parser.parse_args(args)
        except (argparse.ArgumentError, OmegaConfBaseException) as error:
            raise explain_parsing(error, _known_keys(parser), args) from error
        refuse_unknown_keys(_known_keys(parser), args)

    def before_instantiate_classes(self) -> None:
        """Let ``threads``, ``run_name`` and ``policy`` reach PyTorch, trainer and model."""
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        if self.config.trainer.default_root_dir is None:
            self.config.trainer.default_root_dir = str(Path("runs") / self.config.run_name)
        if self.config.get("policy") is not None:
            self.config.policy = policy_directory(self.config.policy)
            self.config.model.initial_policy = self.config.policy

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer | None:  # type: ignore[override]
        """Make the trainer; commands of our own need none."""
        if self.name not in TRAINER_COMMANDS:
            return None
        trainer = super().instantiate_trainer(**kwargs)
        for logger in trainer.loggers:
            if isinstance(logger, MLflowRun):
                logger.attach(
                    self.run_dir,
                    name=self.run_name if self.name == "fit" else f"{self.run_name}-{self.name}",
                    remember=self.name == "fit",
                    resume=self.name == "fit" and self.config.ckpt_path is not None,
                )
        return trainer

    # ------------------------------------------------------------------ running
    @property
    def run_dir(self) -> Path:
        """The directory in which everything of the run lands."""
        return Path(self.config.trainer.default_root_dir)

    @property
    def run_name(self) -> str:
        """Name of the run: that of its directory."""
        return self.run_dir.name

    def checkpoint(self) -> str | None:
        """The checkpoint to load; ``last`` and ``best`` are those of the run's own directory.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
        """
        asked: str | None = self.config.ckpt_path
        if asked is None:
            return None
        path = (
            self.run_dir / "checkpoints" / f"{asked}.ckpt" if asked in ("last", "best") else asked
        )
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no checkpoint {path}: give --ckpt_path an existing file, or leave "
                "it out to start anew"
            )
        return str(path)

    def run(self) -> Any:
        """Run the trainer's method that the command names; returns what that returns.

        A ``fit`` that came to its end is followed by one test of its best checkpoint.
        """
        options = {"verbose": self._prints_results()} if self.name == "test" else {}
        method = getattr(self.trainer, self.name)
        result = method(
            self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint(), **options
        )
        if self.name == "fit" and self.config.final_test and not self.config.trainer.fast_dev_run:
            best = self.run_dir / "checkpoints" / "best.ckpt"
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=str(best) if best.is_file() else None,
                verbose=self._prints_results(),
            )
        return result

    def _prints_results(self) -> bool:
        """Whether Lightning should print test results, because no callback of ours does."""
        parts = self.trainer.callbacks  # type: ignore[attr-defined]
        return not any(isinstance(part, ClosingTable) for part in parts)


class SaveConfig(SaveConfigCallback):
    """Writes the merged configuration into the run's directory and to the loggers that take it.

    Lightning's own assumes a local log directory, which an MLflow database has not.
    """

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write ``config.yaml``, without the arguments that belong to one invocation."""
        config = self.config.clone()
        for key in _INVOCATION_KEYS:
            config.pop(key, None)
        text = self.parser.dump(config, skip_validation=True)
        if stage == "fit":
            directory = Path(trainer.default_root_dir)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "config.yaml").write_text(text, encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, MLflowRun):
                logger.log_config(text)


def policy_directory(asked: str) -> str:
    """The directory of the policy that was asked for; beside a checkpoint stands its policy's.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(asked)
    if path.is_file() and path.suffix == ".ckpt":
        path = path.with_name(f"{path.stem}-policy")
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no policy directory {path}: give --policy the directory that a run has "
            "written beside its checkpoint, or one that Hugging Face's save_pretrained has written"
        )
    return str(path)


def build(
    name: str,
    args: Sequence[str],
    add_arguments: Callable[[LightningArgumentParser], None] | None = None,
) -> Command:
    """The command with the project's own module and datamodule.

    Raises:
        ConfigError: If the arguments or files are wrong, in one sentence.
    """
    from retro_lightning.training.datamodule import ReplayDataModule
    from retro_lightning.training.module import PolicyGradientModule

    try:
        return Command(
            name,
            args,
            model_class=PolicyGradientModule,
            datamodule_class=ReplayDataModule,
            add_arguments=add_arguments,
        )
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error


def _known_keys(parser: LightningArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest != "help"]


def _silence_chatter() -> None:
    """Drop advertising, lists of absent hardware and advice that must not be taken."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (r"`isinstance\(treespec", ".*does not have many workers", ".*is smaller than"):
        warnings.filterwarnings("ignore", message=message)
