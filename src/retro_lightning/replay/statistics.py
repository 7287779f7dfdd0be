"""Behaviour half: counts and means of a store, from its index alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from retro_lightning.replay.index import Codes, Mask, StoreIndex

_HOTPOTQA = "import:reflexion_hotpotqa"


def summary(index: StoreIndex, rows: Mask) -> dict[str, Any]:
    """Counts and means of some rows.

    Args:
        index: The store's index.
        rows: Mask over it.

    Returns:
        ``trajectories``; ``successes``, ``failures`` (ended unsolved), ``truncated`` (cut before
        they ended) and ``faulted`` (the environment raised), which add up to them;
        ``outcome_records`` (no steps told); ``success_rate`` and ``mean_return`` over those not
        faulted; ``mean_length`` in steps over those that have steps. Means of nothing are None.
    """
    sound = rows & ~index.faulted
    solved = sound & index.success
    cut = sound & ~index.success & index.truncated
    stepped = sound & (index.length > 0)
    return {
        "trajectories": int(rows.sum()),
        "successes": int(solved.sum()),
        "failures": int((sound & ~index.success & ~index.truncated).sum()),
        "truncated": int(cut.sum()),
        "faulted": int((rows & index.faulted).sum()),
        "outcome_records": int((sound & (index.length == 0)).sum()),
        "success_rate": _mean(index.success, sound),
        "mean_return": _mean(index.returns, sound),
        "mean_length": _mean(index.length, stepped),
    }


def statistics(index: StoreIndex, rows: Mask | None = None) -> dict[str, Any]:
    """``summary`` of rows (default: all) and, under ``by_…``, of families, attempts and behaviours.

    Attempts count from 0: ``by_attempt`` is success by trial. Behaviours have a ``by_attempt`` of
    their own, and those of HotPotQA logs the log's words under ``hotpotqa``: correct, incorrect and
    halted by attempt.
    """
    every = np.ones(len(index), dtype=np.bool_) if rows is None else rows
    result = summary(index, every)
    families = _groups(index.family, index.families, every)
    result["by_family"] = {name: summary(index, mask) for name, mask in families}
    result["by_attempt"] = _by_attempt(index, every)
    result["by_behaviour"] = {
        name: {**summary(index, mask), "by_attempt": _by_attempt(index, mask)}
        for name, mask in _groups(index.behaviour, index.behaviours, every)
    }
    hotpotqa = _hotpotqa(index, every)
    return {**result, "hotpotqa": hotpotqa} if hotpotqa else result


def _groups(codes: Codes, names: tuple[str, ...], rows: Mask) -> Iterator[tuple[str, Mask]]:
    """Names that occur in the rows, sorted, with a mask over the index each."""
    for code in sorted(np.unique(codes[rows]).tolist(), key=lambda code: names[code]):
        yield names[code], rows & (codes == code)


def _by_attempt(index: StoreIndex, rows: Mask) -> dict[str, dict[str, Any]]:
    attempts = np.unique(index.attempt[rows]).tolist()
    return {str(number): summary(index, rows & (index.attempt == number)) for number in attempts}


def _hotpotqa(index: StoreIndex, rows: Mask) -> dict[str, dict[str, dict[str, int]]]:
    if _HOTPOTQA not in index.sources:
        return {}
    theirs = rows & (index.source == index.sources.index(_HOTPOTQA))
    words = {"successes": "correct", "failures": "incorrect", "truncated": "halted"}
    return {
        behaviour: {
            attempt: {word: counts[name] for name, word in words.items()}
            for attempt, counts in _by_attempt(index, mask).items()
        }
        for behaviour, mask in _groups(index.behaviour, index.behaviours, theirs)
    }


def _mean(values: np.ndarray, rows: Mask) -> float | None:
    return float(values[rows].mean()) if rows.any() else None
