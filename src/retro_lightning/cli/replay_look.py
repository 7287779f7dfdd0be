"""Behaviour half: ``replay stats``, ``inspect`` and ``drift``: a store is only looked at.

Texts from a store are shown without the control characters that could steer a terminal.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from retro_lightning.replay import drift as drifting
from retro_lightning.replay.expression import choose
from retro_lightning.replay.statistics import statistics
from retro_lightning.replay.store import ReplayStore

_COUNTS = ("trajectories", "successes", "failures", "truncated", "faulted", "outcome_records")
_MEANS = ("success_rate", "mean_return", "mean_length")
_WIDTH = 12
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def stats(options: argparse.Namespace) -> dict[str, Any]:
    """Counts and means of a store; the keys are told in ``docs/replay.md``."""
    store = ReplayStore(options.store)
    numbers = statistics(store.index, choose(options.where, store.index))
    return {"store": str(options.store), **numbers, **_damage(store)}


def show_stats(result: dict[str, Any]) -> None:
    """The numbers as a table."""
    rows = list(_rows(result))
    width = max(len(name) for name, _ in rows)
    names = (name.replace("_records", "s").replace("_rate", "") for name in (*_COUNTS, *_MEANS))
    print(" " * width, *(f"{name.replace('_', ' '):>{_WIDTH}}" for name in names))
    for name, counts in rows:
        means = ("-" if counts[key] is None else f"{counts[key]:.3f}" for key in _MEANS)
        cells = (*(str(counts[key]) for key in _COUNTS), *means)
        print(f"{name:<{width}}", *(f"{cell:>{_WIDTH}}" for cell in cells))


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield result["store"], result
    for name, counts in result["by_family"].items():
        yield f"family {name}", counts
    for name, counts in result["by_attempt"].items():
        yield f"attempt {name}", counts
    for behaviour, table in result["by_behaviour"].items():
        yield behaviour, table
        for name, counts in table["by_attempt"].items():
            yield f"  attempt {name}", counts


def inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Trajectories as they are stored.

    Raises:
        ValueError: If none is to be shown, or an option is negative.
    """
    if options.row < 0 or options.count < 1:
        raise ValueError("--row counts from 0, and --count must be at least 1")
    store = ReplayStore(options.store)
    chosen = np.flatnonzero(choose(options.where, store.index))
    rows = chosen[options.row : options.row + options.count].tolist()
    if not rows:
        raise ValueError(
            f"--where {options.where!r} chooses {len(chosen)} of {len(store)} trajectories in "
            f"{options.store}: none from --row {options.row} on"
        )
    shown, damaged = [], list(store.damaged.values())
    for row in rows:
        try:
            shown.append({"row": row, **_plain(asdict(store.read([row])[0]))})
        except ValueError as error:
            if str(error) not in damaged:
                damaged.append(str(error))
    result = {"chosen": len(chosen), "trajectories": shown}
    return {**result, "damaged": damaged} if damaged else result


def show_inspect(result: dict[str, Any]) -> None:
    """One trajectory after the other; in a terminal, Enter goes on and q stops."""
    console = Console(soft_wrap=True)
    for number, made in enumerate(result["trajectories"]):
        paging = number > 0 and console.is_terminal and sys.stdin.isatty()
        if paging and input("[Enter: next, q: quit] ").strip().lower() == "q":
            return
        console.rule(f"row {made['row']}")
        for line in _lines(made):
            console.print(line)


def drift(options: argparse.Namespace) -> dict[str, Any]:
    """How the store differs from an older one."""
    old, new = ReplayStore(options.against), ReplayStore(options.store)
    return drifting.drift(old, new)


def show_drift(result: dict[str, Any]) -> None:
    """What differs, and by how much chance alone would."""
    counts, tasks, returns = result["trajectories"], result["tasks"], result["returns"]
    print(f"trajectories: {counts['old']} old, {counts['new']} new")
    share = "-" if tasks["known_share"] is None else f"{tasks['known_share']:.2f}"
    print(f"tasks: {tasks['old']} old, {tasks['new']} new; share of the new that is known: {share}")
    for what, shares in (("families", tasks["families"]), ("actions", result["actions"])):
        print(f"{what}: {_distance(shares)}")
        for change in shares["changes"]:
            print(f"  {_clean(change['name'])}: {change['old']:.3f} -> {change['new']:.3f}")
    print(f"returns: {_distance(returns)}")
    for family, table in returns["families"].items():
        for what in ("success_rate", "mean_return"):
            if numbers := table[what]:
                error = numbers["standard_error"]
                change = f"{numbers['old']:.3f} -> {numbers['new']:.3f}"
                print(f"  {_clean(family)}, {what.replace('_', ' ')}: {change} (+- {error:.3f})")
    print("differs by more than twice chance:", ", ".join(result["drifted"]) or "nothing")


def _distance(shares: dict[str, Any]) -> str:
    if shares["distance"] is None:
        return "nothing to compare"
    return f"distance {shares['distance']:.3f}, chance alone gives {shares['chance']:.3f}"


def _damage(store: ReplayStore) -> dict[str, Any]:
    return {"damaged": list(store.damaged.values())} if store.damaged else {}


def _plain(value: Any) -> Any:
    """Plain data without numbers that JSON lacks: minus infinity becomes null."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _lines(made: dict[str, Any]) -> Iterator[Text]:
    task, total = made["task"], math.fsum(step["reward"] for step in made["steps"])
    if made["outcome_return"] is not None:
        total = made["outcome_return"]
    ending = made["truncation"] or ("solved" if made["success"] else "failed")
    yield _text(f"{task['task_id']} ({task['split']})", "bold")
    yield _text(f"{made['source']} by {made['behaviour_id']}, run {made['run']}", "dim")
    yield _text(
        f"attempt {made['attempt']}, {len(made['steps'])} steps, return {total:g}, {ending}",
        "green" if made["success"] else "red",
    )
    yield _text(task["instruction"], "bold")
    for reflection in made["reflections"]:
        yield _text(f"told: {reflection}", "magenta")
    for number, step in enumerate(made["steps"]):
        yield _text(f"[{number}] {step['observation']}", "")
        if step["thought"]:
            yield _text(f"    thought: {step['thought']}", "italic dim")
        yield _action(step)
    yield _text(f"[end] {made['fault'] or made['final_observation']}", "")


def _action(step: dict[str, Any]) -> Text:
    line = Text("    > ").append(_clean(step["action"]), style="cyan")
    if step["log_prob"] is not None:
        probability = math.exp(step["log_prob"])
        shade = "green" if probability > 0.5 else "yellow" if probability > 0.1 else "red"
        line.append(f"  p={probability:.3f}", style=shade)
    if step["reward"]:
        line.append(f"  {step['reward']:+g}", style="green" if step["reward"] > 0 else "red")
    return line


def _text(value: str, style: str) -> Text:
    return Text(_clean(value), style=style)
