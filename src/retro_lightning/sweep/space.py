"""Data half: a space of configurations: dotted keys and the values they may take."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from retro_lightning.config.locate import nearest

Value = Any
"""A value as YAML gives it: number, text, boolean, list or mapping."""


@dataclass(frozen=True)
class Dimension:
    """Which values a key may take: a range of numbers, or choices.

    Args:
        low: Least value of a range.
        high: Largest value of a range.
        type: ``float`` or ``int``, of a range.
        log: Search the range on a logarithmic scale.
        step: Distance of the values of a range; null = any.
        choices: Name → value as the configuration would have it, a class with ``class_path`` and
            ``init_args`` included; or a list of plain values.
        when: Other keys of the space → name of their choice, or names, under which this key exists.
        default: Value of the first trial; null = what the job's configuration says. Of choices:
            the name of one.
    """

    low: float | None = None
    high: float | None = None
    type: Literal["float", "int"] = "float"
    log: bool = False
    step: float | None = None
    choices: dict[str, Any] | list[Any] | None = None
    when: dict[str, Any] | None = None
    default: Any = None

    @classmethod
    def read(cls, key: str, said: Value) -> Dimension:
        """What a sweep file says of a key.

        Not read by the parser of configurations, which would make instances of the choices.

        Raises:
            ValueError: If it says something else; begins with the key.
        """
        if not isinstance(said, Mapping):
            raise ValueError(f"{key} says {_short(said)}; give choices, or low and high")
        for name in said:
            if name not in cls.__dataclass_fields__:
                hint = nearest(str(name), cls.__dataclass_fields__)
                known = ", ".join(cls.__dataclass_fields__)
                suggestion = f"did you mean {hint}?" if hint else f"there are {known}"
                raise ValueError(f"{key}: {name} says nothing about a range; {suggestion}")
        values = dict(said)
        for name in ("low", "high", "step"):
            if values.get(name) is not None:
                values[name] = _number(f"{key}: {name}", values[name])
        if values.get("type", "float") not in ("float", "int"):
            raise ValueError(f"{key}: type is {values['type']!r}; give float or int")
        if not isinstance(values.get("choices") or {}, dict | list):
            raise ValueError(f"{key}: choices are {_short(said['choices'])}; give names or a list")
        if not isinstance(values.get("when") or {}, dict):
            raise ValueError(f"{key}: when is {_short(said['when'])}; give another key: its choice")
        return cls(**values)

    @property
    def named(self) -> dict[str, Value]:
        """Choices by name; empty for a range."""
        if isinstance(self.choices, dict):
            return self.choices
        return {} if self.choices is None else {str(choice): choice for choice in self.choices}

    def definition(self) -> dict[str, Any]:
        """What makes it the same dimension again, as primitives."""
        names = ("low", "high", "type", "log", "step", "choices", "when", "default")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def suggest(self, trial: optuna.Trial, key: str) -> Value:
        """What Optuna chooses: the name of a choice, or a number."""
        if self.choices is not None:
            return trial.suggest_categorical(key, list(self.named))
        assert self.low is not None
        assert self.high is not None
        if self.type == "int":
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(key, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def wanted(self, choice: str) -> list[str]:
        """Names of another key's choices under which this one exists."""
        value = (self.when or {})[choice]
        return [str(v) for v in value] if isinstance(value, list) else [str(value)]

    def exists(self, params: Mapping[str, Value]) -> bool:
        """Whether the key exists beside what has been chosen for others."""
        return all(params.get(key) in self.wanted(key) for key in self.when or {})

    def extremes(self) -> list[Value]:
        """Every choice, or both ends of the range."""
        return list(self.named) if self.choices is not None else [self.low, self.high]

    def value(self, param: Value) -> Value:
        """What the configuration gets for what Optuna has chosen."""
        if self.choices is not None:
            return copy.deepcopy(self.named[param])
        return int(param) if self.type == "int" else float(param)


Space = Mapping[str, Dimension]


def check_space(space: Space) -> None:
    """Refuse a space that can't be searched.

    Raises:
        ValueError: With a sentence that begins with the key.
    """
    if not space:
        raise ValueError("space is empty; name at least one key of the configuration")
    for number, (key, dimension) in enumerate(space.items()):
        _check_range(key, dimension)
        before = list(space)[:number]
        for other in dimension.when or {}:
            if other not in before:
                raise ValueError(
                    f"{key}: when names {other}, which is no key of the space above it; put "
                    f"{other} before {key}"
                )
            known = list(space[other].named)
            for name in dimension.wanted(other):
                if name not in known:
                    raise ValueError(
                        f"{key}: when names {name!r}, which is no choice of {other}; it has "
                        f"{', '.join(known) or 'none, but a range'}"
                    )


def _check_range(key: str, dimension: Dimension) -> None:
    low, high = dimension.low, dimension.high
    if dimension.choices is not None:
        if low is not None or high is not None:
            raise ValueError(f"{key} has both choices and a range; keep one of them")
        if not dimension.named:
            raise ValueError(f"{key} has no choices; give at least one")
        return
    if low is None or high is None:
        raise ValueError(f"{key} has neither choices nor a range; give choices, or low and high")
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"{key} ranges from {low:g} up to {high:g}; give low at most high")
    if dimension.log and low <= 0:
        raise ValueError(f"{key} has a logarithmic range from {low:g}; give low above 0")
    if dimension.log and dimension.step is not None:
        raise ValueError(f"{key} has a step on a logarithmic scale; leave out step or log")
    if dimension.type == "int" and not (low == int(low) and high == int(high)):
        raise ValueError(f"{key} ranges over whole numbers but has an end that is none")


# ---------------------------------------------------------------------- trials
def suggest(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """What Optuna chooses, for the keys that exist in this trial."""
    params: dict[str, Value] = {}
    for key, dimension in space.items():
        if dimension.exists(params):
            params[key] = dimension.suggest(trial, key)
    return params


def defaults(space: Space, config: Mapping[str, Any]) -> dict[str, Value]:
    """What the job's own configuration chooses, as the study's first trial.

    Args:
        space: The space.
        config: The job's whole configuration, nested, as primitives.

    Raises:
        ValueError: If the configuration's value lies outside; begins with the key.
    """
    params: dict[str, Value] = {}
    for key, dimension in space.items():
        if not dimension.exists(params):
            continue
        own = look_up(config, key) if dimension.default is None else dimension.default
        params[key] = _as_param(key, dimension, own, named=dimension.default is not None)
    return params


def _as_param(key: str, dimension: Dimension, own: Value, *, named: bool) -> Value:
    if dimension.choices is not None:
        if named and str(own) in dimension.named:
            return str(own)
        for name, value in dimension.named.items():
            if not named and covers(own, value):
                return name
        raise ValueError(
            f"{key}: the job's own value {_short(own)} is none of the choices; add it, or give "
            f"default: one of {', '.join(dimension.named)}"
        )
    low, high = dimension.low, dimension.high
    number = isinstance(own, int | float) and not isinstance(own, bool)
    if not number or not (low is not None and high is not None and low <= own <= high):
        raise ValueError(
            f"{key}: the job's own value {_short(own)} lies outside its range {low:g} to "
            f"{high:g}; widen the range, or give default: a value inside"
        )
    return int(own) if dimension.type == "int" else float(own)


def covers(whole: Value, part: Value) -> bool:
    """Whether a full configuration says all that a choice says; a bare class name = its path."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(name in whole and covers(whole[name], part[name]) for name in part)
    if isinstance(whole, Mapping) and "class_path" in whole:
        return bool(whole["class_path"] == part)
    if isinstance(part, list) and isinstance(whole, list | tuple):
        return len(part) == len(whole) and all(map(covers, whole, part))
    return bool(whole == part)


def look_up(config: Any, key: str) -> Value:
    """The value at a dotted key, list positions included; None where there is none."""
    for name in key.split("."):
        if isinstance(config, list) and name.isdecimal() and int(name) < len(config):
            config = config[int(name)]
        elif isinstance(config, Mapping) and name in config:
            config = config[name]
        else:
            return None
    return config


def probes(space: Space) -> Iterator[tuple[str, dict[str, Value]]]:
    """Each key with each of its choices or ends, and what it needs in order to exist."""
    for key, dimension in space.items():
        for extreme in dimension.extremes():
            yield key, {**_conditions(space, key), key: extreme}


def packed(
    tried: Iterable[tuple[str, dict[str, Value]]],
) -> list[list[tuple[str, dict[str, Value]]]]:
    """Probes that do not contradict each other together, so that few configurations try all."""
    bins: list[tuple[dict[str, Value], list[tuple[str, dict[str, Value]]]]] = []
    for key, params in tried:
        for taken, members in bins:
            if all(taken.get(name, value) == value for name, value in params.items()):
                taken.update(params)
                members.append((key, params))
                break
        else:
            bins.append((dict(params), [(key, params)]))
    return [members for _, members in bins]


def _conditions(space: Space, key: str) -> dict[str, Value]:
    """Choices of other keys under which a key exists."""
    fixed: dict[str, Value] = {}
    for other in space[key].when or {}:
        fixed |= _conditions(space, other) | {other: space[key].wanted(other)[0]}
    return fixed


def _number(what: str, value: Value) -> float:
    """A number; YAML takes 1e-3 for text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {_short(value)}; give a number") from None


def _short(value: Value) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
