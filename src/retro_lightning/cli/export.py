"""Behaviour half: the ``export`` command: a policy as a Hugging Face directory with a card."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from retro_lightning.config.errors import ConfigError
from retro_lightning.policy.directory import anchored
from retro_lightning.policy.policy import Policy
from retro_lightning.tracking.model_card import Weights, model_card
from retro_lightning.tracking.reading import RunRecord, read_directory

_CARD = "README.md"


def export(name: str, args: Sequence[str]) -> None:
    """Write the directory: model or adapters, tokenizer, value head, card.

    Raises:
        ConfigError: If the command line is wrong.
        FileNotFoundError: If the run has no policy.
        ValueError: If the target exists.
    """
    options = _options(name, args)
    run, target = Path(options.run), Path(options.output)
    policy_path = run / "checkpoints" / f"{options.checkpoint}-policy"
    if not policy_path.is_dir():
        raise FileNotFoundError(
            f"there is no policy {policy_path}: give --run the directory of a fit, and "
            "--checkpoint best or last"
        )
    if target.exists():
        raise ValueError(f"{target} exists already: give --output a new directory")
    policy = Policy.load(policy_path)
    adapter = is_adapter(policy_path)
    if adapter and options.merge:
        merged: Any = policy.lm
        policy.lm = merged.merge_and_unload()
        adapter = False
    if options.merge:
        policy.save(target)
    else:
        shutil.copytree(policy_path, target)
    if adapter:
        _anchor(target / "adapter_config.json")
    weights = Weights(
        adapter=adapter,
        base_model=base_model(policy_path),
        parameters=sum(p.numel() for p in policy.lm.parameters()),
        version=policy.version,
    )
    card = model_card(target.name, weights, _record(run))
    (target / _CARD).write_text(card, encoding="utf-8")
    console = Console()
    console.print(f"written  {target}", highlight=False, soft_wrap=True)
    console.print(f"card     {target / _CARD}", highlight=False, soft_wrap=True)


def is_adapter(path: Path) -> bool:
    """Whether a directory holds adapters for another model."""
    return (path / "adapter_config.json").is_file()


def base_model(path: Path) -> str | None:
    """The model that a directory's adapters belong to; None if it has none."""
    if not is_adapter(path):
        return None
    said = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    return anchored(said["base_model_name_or_path"])


def _anchor(path: Path) -> None:
    """Make the base model's path absolute in an adapter's configuration, if it is a path."""
    said = json.loads(path.read_text(encoding="utf-8"))
    said["base_model_name_or_path"] = anchored(said["base_model_name_or_path"])
    path.write_text(json.dumps(said, indent=2, sort_keys=True), encoding="utf-8")


def _options(name: str, args: Sequence[str]) -> Any:
    parser = ArgumentParser(prog=f"retro-lightning {name}", exit_on_error=False)
    parser.add_argument("--run", type=str, required=True, help="Directory of the run.")
    parser.add_argument("--output", type=str, required=True, help="Directory to write.")
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], default="best", help="Which of its policies."
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="Merge adapters into the model, so that it loads without peft.",
    )
    try:
        return parser.parse_args(list(args))
    except argparse.ArgumentError as error:
        raise ConfigError(f"command line: {str(error).splitlines()[0]}") from error


def _record(run: Path) -> RunRecord | None:
    try:
        return read_directory(run)
    except FileNotFoundError:
        return None
