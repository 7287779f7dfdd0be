"""Behaviour half: Reflexion's ``env_results_trial_<k>.json`` of ALFWorld: outcomes without steps.

Each of the environments has ``name``, ``is_success`` and ``memory``, the reflections so far. The
file is written after the trial and after a failure has been reflected on, so the last reflection of
a failed environment came after the attempt and precedes the next; all others precede this one. An
environment that has been solved is not tried again, and its success repeated in later files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from retro_lightning.replay.formats import draft
from retro_lightning.replay.formats.items import (
    Attempt,
    BadRecordError,
    Item,
    Options,
    Reject,
    Remark,
)
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Trajectory

_TRIAL = re.compile(r"_?trial_(\d{1,9})$")


def read(source: Source, options: Options) -> Iterator[Item]:
    """One outcome record per environment; then what the file holds of reflections."""
    trial = _TRIAL.search(source.label)
    if trial is None:
        yield Reject(0, "its name does not end in trial_<number>, which tells the attempt")
        return
    in_memory = before = 0
    for line, record in source.records():
        if isinstance(record, Reject):
            yield record
            continue
        try:
            made, memory = _trajectory(record, int(trial[1]), source, options)
        except BadRecordError as error:
            yield Reject(line, str(error))
            continue
        in_memory += memory
        before += len(made.reflections)
        yield Attempt(line, made)
    yield Remark(
        0,
        f"reflections in memory: {in_memory}, of which {before} came before these attempts and are "
        f"kept with them, and {in_memory - before} after, to be found with the next trial's",
    )


def _trajectory(
    record: dict[str, Any], attempt: int, source: Source, options: Options
) -> tuple[Trajectory, int]:
    name = draft.text(draft.field(record, "name"), "name")
    success = draft.flag(draft.field(record, "is_success"), "is_success")
    memory = [
        draft.text(reflection, "a reflection in memory").strip()
        for reflection in draft.sequence(draft.field(record, "memory"), "memory")
    ]
    made = draft.make_attempt(
        "reflexion_alfworld",
        source,
        options,
        draft.make_task(options.family or "alfworld", name, name),
        (),
        attempt=attempt,
        success=success,
        run=_TRIAL.sub("", source.label) or "alfworld",
        reflections=memory if success else memory[:-1],
        outcome_return=float(success),
    )
    return made, len(memory)
