"""Data half: a sweep file: what is searched, by whom, how often, and how it is read."""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from jsonargparse import ArgumentParser

from retro_lightning.config.errors import ConfigError, explain_parsing
from retro_lightning.config.locate import Place, check_files, config_files, places
from retro_lightning.sweep.space import Dimension, check_space

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Confirmation:
    """How the best trials are tried again, so that the winner is not the luckiest.

    Args:
        top: How many of the best trials are run again, beside the defaults; 0 = none.
        seeds: Fresh seeds that each of them is run with; 6 is the least that a winner may be called
            from.
    """

    top: int = 2
    seeds: int = 6

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: If there are any.
        """
        if self.top < 0 or self.seeds < 1:
            raise ValueError(
                f"confirm has top {self.top} and seeds {self.seeds}; give at least 0 and 1"
            )


@dataclass(frozen=True)
class Settings:
    """What a sweep file says.

    Args:
        study: Name of the study; its runs land in runs/<study>/.
        base: Configuration files of the job, stacked; relative to the sweep file.
        space: Dotted key of the configuration → which values it may take.
        trials: Trials of the whole study, over all workers and all times it is gone on with.
        metrics: Metric of the fits → maximize or minimize; of several, the Pareto front is sought.
        seeds: Seeds that every trial is run with; the objective is the mean over them.
        storage: Where the study is kept: sqlite:///FILE, journal:FILE for many workers on one
            file system, or postgresql://USER@HOST/DATABASE.
        execution: ``process`` runs fits in the worker; ``subprocess`` starts a process for each
            trial, which costs its imports and frees all memory.
        sampler: Proposes configurations; null = Optuna's multivariate TPE, seeded.
        pruner: Stops bad trials early; null = after 5 trials, those below the median.
        confirm: How the best trials are tried again.
        experiment: MLflow experiment; null = the name of the study.
        retries: How often a trial is tried again whose worker was killed.
        heartbeat_seconds: How often a worker says that it lives. One on another machine that has
            been silent for six times as long is taken for dead.
    """

    study: str
    base: list[str]
    space: dict[str, Dimension]
    trials: int = 20
    metrics: dict[str, Direction] = field(default_factory=lambda: {"val/success_rate": "maximize"})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    storage: str = "sqlite:///sweeps.db"
    execution: Literal["process", "subprocess"] = "process"
    sampler: optuna.samplers.BaseSampler | None = None
    pruner: optuna.pruners.BasePruner | None = None
    confirm: Confirmation = field(default_factory=Confirmation)
    experiment: str | None = None
    retries: int = 2
    heartbeat_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what can't be swept.

        Raises:
            ValueError: With a sentence that names the key.
        """
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}; give at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; give at least one, each once")
        if not self.metrics:
            raise ValueError("metrics is empty; name at least one, such as val/success_rate")
        if len(self.metrics) > 1 and self.pruner is not None:
            raise ValueError(
                "pruner: a study of several metrics can't stop trials early; leave the pruner out"
            )
        if not self.base:
            raise ValueError("base is empty; name the configuration files of the job")
        check_space(self.space)


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been read.

    Attributes:
        settings: What it says.
        file: The file.
        words: Command line that it was read with, to start further workers alike.
        once: Run one trial and end.
    """

    settings: Settings
    file: str
    words: tuple[str, ...]
    once: bool

    @property
    def base_files(self) -> list[str]:
        """The job's configuration files, as seen from the working directory."""
        folder = Path(self.file).parent
        return [_from_here(folder / name) for name in self.settings.base]

    @property
    def directory(self) -> Path:
        """Where everything of the study lands."""
        return Path("runs") / self.settings.study

    def place(self, key: str) -> Place | None:
        """Where a key of the space stands in the file."""
        wanted = f"space.{key}"
        return next((p for p in places([self.file]) if p.key == wanted), None)

    def where(self, key: str) -> str:
        """``sweeps/baseline.yaml, line 12: KEY``."""
        place = self.place(key)
        return f"{place if place is not None else self.file}: {key}"

    def definition(self) -> dict[str, Any]:
        """What must stay the same while a study goes on, as primitives."""
        return {
            "space": {key: dim.definition() for key, dim in self.settings.space.items()},
            "metrics": dict(self.settings.metrics),
            "seeds": list(self.settings.seeds),
            "base": [_content(name) for name in self.base_files],
        }


def read(args: Sequence[str]) -> Sweep:
    """Read a sweep file and the options that override it.

    Raises:
        ConfigError: With one sentence that names file and key.
    """
    file = _only_file(args)
    check_files([file])
    said = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    space = said.pop("space", None) or {}
    parser = _parser()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as rest:
        yaml.safe_dump(said, rest, sort_keys=False)
        rest.flush()
        words = [word.replace(file, rest.name) for word in args]
        try:
            config = parser.parse_args(words)
            values = dict(parser.instantiate(config))
        except argparse.ArgumentError as error:
            raise explain_parsing(error, _keys(parser), args) from error
        except ValueError as error:
            raise _located(error, file) from error
    values.pop("config")
    once = values.pop("once")
    try:
        dimensions = {str(key): Dimension.read(str(key), each) for key, each in space.items()}
        settings = Settings(**{**values, "space": dimensions})
    except ValueError as error:
        raise _located(error, file) from error
    sweep = Sweep(settings, file, tuple(args), once)
    check_files(sweep.base_files)
    return sweep


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="retro-lightning sweep", exit_on_error=False)
    parser.add_argument("--config", action="config", help="The sweep file.")
    parser.add_class_arguments(Settings, as_group=False, instantiate=False, skip={"space"})
    parser.add_argument(
        "--once", type=bool, default=False, help="Run one trial, then end: for arrays of jobs."
    )
    return parser


def _keys(parser: ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest != "help"]


def _only_file(args: Sequence[str]) -> str:
    files = config_files(args)
    if len(files) != 1:
        raise ConfigError("which sweep? give one --config FILE, for instance sweeps/smoke.yaml")
    return files[0]


def _located(error: ValueError, file: str) -> ConfigError:
    """The sentence, with the line of the key that it begins with."""
    message = str(error)
    key = message.split(": ")[0].split(" ")[0]
    for place in places([file]):
        if place.key in (key, f"space.{key}"):
            return ConfigError(f"{place}: {message}")
    return ConfigError(f"{file}: {message}")


def _from_here(path: Path) -> str:
    """A path with its ``..`` taken out, relative where it lies below the working directory."""
    whole = path.resolve()
    here = Path.cwd().resolve()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def _content(file: str) -> Any:
    """What a YAML file says, its comments and layout left out."""
    return json.loads(json.dumps(yaml.safe_load(Path(file).read_text(encoding="utf-8"))))
