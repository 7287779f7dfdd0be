"""Behaviour half: how new logs differ from old ones: tasks, actions, returns.

Shares are compared by total variation: half the sum of the absolute differences, in [0, 1]; 0 = the
same, 1 = nothing in common. Beside it stands what chance alone would give two samples of these
sizes from one distribution: E|X| of a normal difference of shares, summed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np

from retro_lightning.replay.index import StoreIndex
from retro_lightning.replay.store import ReplayStore

_HEAD = re.compile(r"[\w.:-]+(?=[(\[])")
_SHOWN = 10
_LONGEST_ACTION = 40


def drift(old: ReplayStore, new: ReplayStore) -> dict[str, Any]:
    """Compare two stores.

    Returns:
        ``tasks``: trajectories of each, share of the new ones' tasks that the old store knows, and
        families by total variation. ``actions``: tools and short actions by total variation, and
        those that changed most. ``returns``: per family, success and mean return of each with the
        standard error of the difference, and the Kolmogorov-Smirnov distance of all returns.
        ``drifted`` names what differs by more than twice what chance would give, ``damaged``
        shards that were left out, of ``actions`` alone where only their steps are damaged.
    """
    damaged = [*old.damaged.values(), *new.damaged.values()]
    families = _shares(_names(old.index), _names(new.index))
    actions = _shares(_heads(old, damaged), _heads(new, damaged))
    returns = _returns(old.index, new.index)
    known = set(old.index.task_ids)
    shared = [name in known for name in new.index.task_ids]
    flags = {
        "families": _exceeds(families),
        "actions": _exceeds(actions),
        "returns": returns["distance"] > 2 * returns["chance"],
    }
    return {
        "trajectories": {"old": len(old), "new": len(new)},
        "tasks": {
            "old": len(old.index.task_ids),
            "new": len(new.index.task_ids),
            "known_share": sum(shared) / len(shared) if shared else None,
            "families": families,
        },
        "actions": actions,
        "returns": returns,
        "drifted": [name for name, flag in flags.items() if flag],
        "damaged": damaged,
    }


def _names(index: StoreIndex) -> Counter[str]:
    counts = np.bincount(index.family, minlength=len(index.families))
    return Counter(dict(zip(index.families, counts.tolist(), strict=True)))


def _heads(store: ReplayStore, damaged: list[str]) -> Counter[str]:
    heads: Counter[str] = Counter()
    for _, batch in store.batches(damaged):
        steps = batch.column("steps").flatten()
        for entry in steps.field("action").value_counts().to_pylist():
            heads[_kind(entry["values"])] += entry["counts"]
    return heads


def _kind(action: str) -> str:
    """A tool's name, the action itself if it is short, else that it is free text."""
    head = _HEAD.match(action)
    return head[0] if head else action if len(action) <= _LONGEST_ACTION else "(free text)"


def _shares(old: Counter[str], new: Counter[str]) -> dict[str, Any]:
    """Total variation of two counts, what chance gives, and the largest changes."""
    n, m = old.total(), new.total()
    if not n or not m:
        return {"distance": None, "chance": None, "changes": []}
    changes = sorted(
        ((name, old[name] / n, new[name] / m) for name in old | new),
        key=lambda change: (-abs(change[1] - change[2]), change[0]),
    )
    pooled = [(old[name] + new[name]) / (n + m) for name in old | new]
    spread = math.fsum(math.sqrt(p * (1 - p)) for p in pooled)
    return {
        "distance": 0.5 * math.fsum(abs(was - now) for _, was, now in changes),
        "chance": 0.5 * spread * math.sqrt((1 / n + 1 / m) * 2 / math.pi),
        "changes": [{"name": name, "old": was, "new": now} for name, was, now in changes[:_SHOWN]],
    }


def _exceeds(shares: dict[str, Any]) -> bool:
    return shares["distance"] is not None and shares["distance"] > 2 * shares["chance"]


def _returns(old: StoreIndex, new: StoreIndex) -> dict[str, Any]:
    families: dict[str, Any] = {}
    for name in sorted({*old.families, *new.families}):
        columns = {}
        for when, index in (("old", old), ("new", new)):
            code = index.families.index(name) if name in index.families else -1
            rows = (index.family == code) & ~index.faulted
            columns[when] = index.returns[rows], index.success[rows]
        families[name] = _difference(columns["old"], columns["new"])
    was, now = old.returns[~old.faulted], new.returns[~new.faulted]
    distance = _kolmogorov_smirnov(was, now) if len(was) and len(now) else 0.0
    # Mean of the Kolmogorov distribution: sqrt(pi / 2) * ln 2 = 0.8687.
    chance = 0.8687 * math.sqrt(1 / max(len(was), 1) + 1 / max(len(now), 1))
    return {"distance": distance, "chance": chance, "families": families}


def _difference(old: tuple[Any, Any], new: tuple[Any, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"trajectories": {"old": len(old[0]), "new": len(new[0])}}
    for what, was, now in (("mean_return", old[0], new[0]), ("success_rate", old[1], new[1])):
        if not len(was) or not len(now):
            result[what] = None
            continue
        error = math.sqrt(float(np.var(was)) / len(was) + float(np.var(now)) / len(now))
        result[what] = {
            "old": float(np.mean(was)),
            "new": float(np.mean(now)),
            "standard_error": error,
        }
    return result


def _kolmogorov_smirnov(one: np.ndarray, other: np.ndarray) -> float:
    """Largest distance of two empirical distribution functions, in [0, 1]."""
    points = np.concatenate([one, other])
    shares = (
        np.searchsorted(np.sort(sample), points, side="right") / len(sample)
        for sample in (one, other)
    )
    return float(np.abs(np.subtract(*shares)).max())
