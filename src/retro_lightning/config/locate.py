"""Data half: where in which YAML file a key or a class stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Place:
    """One key of a YAML file.

    Attributes:
        file: The file, as it was named on the command line.
        line: Line of the key, from 1.
        key: Dotted key, list positions included: ``model.phases.0.objective``.
        value: Text of a scalar value; None where the value is a mapping or a list.
    """

    file: str
    line: int
    key: str
    value: str | None

    def __str__(self) -> str:
        """``conf/multitask.yaml, line 12``."""
        return f"{self.file}, line {self.line}"


def config_files(args: Sequence[str]) -> list[str]:
    """The files named by ``--config FILE``, ``--config=FILE`` or ``-c FILE``, in order."""
    files = []
    for position, word in enumerate(args):
        if word in ("--config", "-c") and position + 1 < len(args):
            files.append(args[position + 1])
        elif word.startswith("--config="):
            files.append(word.removeprefix("--config="))
    return files


def check_files(files: Iterable[str]) -> None:
    """Refuse configuration files that can't be read, before anything heavy is imported.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is not a YAML mapping.
    """
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"the configuration file {file} does not exist{_sibling_hint(path)}"
            )
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f", line {mark.line + 1}" if mark is not None else ""
            raise ValueError(f"{file}{line}: not valid YAML ({error.problem})") from None
        except (UnicodeDecodeError, yaml.YAMLError):
            raise ValueError(f"{file} is not a YAML text file: check the path") from None
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{file} must hold `key: value` pairs, not a list or a single value")


def _sibling_hint(path: Path) -> str:
    siblings = sorted(str(other) for other in path.parent.glob("*.yaml"))
    hint = nearest(str(path), siblings)
    return f"; did you mean {hint}?" if hint else ": check the path"


def places(files: Iterable[str]) -> Iterator[Place]:
    """All keys of YAML files, in order; files that can't be read are passed over."""
    for file in files:
        try:
            node = yaml.compose(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if node is not None:
            yield from _walk(file, "", node)


def _walk(file: str, prefix: str, node: yaml.Node) -> Iterator[Place]:
    children: list[tuple[str, int, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(k.value), k.start_mark.line, value) for k, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(i), v.start_mark.line, v) for i, v in enumerate(node.value)]
    for name, line, value in children:
        key = f"{prefix}.{name}" if prefix else name
        scalar = str(value.value) if isinstance(value, yaml.ScalarNode) else None
        yield Place(file, line + 1, key, scalar)
        yield from _walk(file, key, value)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most like ``name``, if one is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None
