"""Behaviour half: stacked configuration files as one that says the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from retro_lightning.config import command
from retro_lightning.config.locate import places
from retro_lightning.sweep.fits import words
from retro_lightning.sweep.space import look_up

_INVOCATION = ("config", "ckpt_path", "final_test")


def whole_configuration(files: Sequence[str], run_name: str) -> str:
    """The files merged as ``fit`` merges them, with references such as ``${seed_everything}`` kept.

    A printed configuration has its references filled in; another ``--seed_everything`` would then
    no longer reach the data. So they are put back wherever the last file that sets the key has one.

    Args:
        files: Configuration files, stacked.
        run_name: Name of the run that the result describes.
    """
    cli = command.build("fit", [*words(files), "--trainer.logger", "false"])
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_validation=True))
    logger = look_up(_raw_layers(files), "trainer.logger")
    config["trainer"].pop("logger", None)
    if logger is not None:
        config["trainer"]["logger"] = logger
    for key in _INVOCATION:
        config.pop(key, None)
    config["run_name"] = run_name
    config["trainer"]["default_root_dir"] = None
    for key, text in _references(files).items():
        _put_back(config, key.split("."), text)
    return str(yaml.safe_dump(config, sort_keys=False))


def _raw_layers(files: Sequence[str]) -> dict[str, Any]:
    """The last file's own word on the logger, which is not made here."""
    merged: dict[str, Any] = {}
    for file in files:
        with open(file, encoding="utf-8") as text:
            logger = look_up(yaml.safe_load(text) or {}, "trainer.logger")
        if logger is not None:
            merged = {"trainer": {"logger": logger}}
    return merged


def _references(files: Sequence[str]) -> dict[str, str]:
    """Keys whose last word is a reference."""
    last: dict[str, str] = {}
    for place in places(files):
        if place.value is not None:
            last[place.key] = place.value
        else:  # a mapping or a list: what stood below may be replaced
            continue
    return {key: text for key, text in last.items() if text.startswith("${")}


def _put_back(node: Any, parts: list[str], text: str) -> None:
    for name in parts[:-1]:
        node = look_up(node, name)
        if node is None:
            return
    if isinstance(node, dict) and parts[-1] in node:
        node[parts[-1]] = text
