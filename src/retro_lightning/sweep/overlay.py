"""Behaviour half: what a configuration file says that makes a trial of a job."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from retro_lightning.sweep.space import Space, Value, look_up


def overlay(space: Space, params: Mapping[str, Value], base_files: Sequence[str]) -> dict[str, Any]:
    """What a configuration file must say to make a trial of the job.

    Later files replace lists as a whole: a key that leads through a list brings the whole list, as
    the last of the job's files that has it says.

    Args:
        space: The space.
        params: What was chosen.
        base_files: The job's configuration files, stacked.
    """
    raw = [yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {} for file in base_files]
    result: dict[str, Any] = {}
    for key, param in params.items():
        _put(result, key.split("."), space[key].value(param), raw)
    return result


def _put(result: dict[str, Any], parts: list[str], value: Value, raw: list[Any]) -> None:
    number = next((i for i, name in enumerate(parts) if i and name.isdecimal()), None)
    if number is None:
        _set(result, parts, value)
        return
    head = parts[:number]
    whole = look_up(result, ".".join(head))
    if whole is None:
        found = [v for layer in raw if (v := look_up(layer, ".".join(head))) is not None]
        whole = copy.deepcopy(found[-1]) if found else []
        _set(result, head, whole)
    if not isinstance(whole, list) or int(parts[number]) >= len(whole):
        raise ValueError(
            f"{'.'.join(parts)}: the job's files have no entry {parts[number]} in a list "
            f"{'.'.join(head)}"
        )
    _set(whole, parts[number:], value)


def _set(node: Any, parts: list[str], value: Value) -> None:
    """Set a nested value; another class loses the arguments of the one it replaces."""
    for name in parts[:-1]:
        if isinstance(node, list):
            node = node[int(name)]
            continue
        if not isinstance(node.get(name), dict | list):
            node[name] = {} if node.get(name) is None else {"class_path": node[name]}
        node = node[name]
    last = int(parts[-1]) if isinstance(node, list) else parts[-1]
    node[last] = value
