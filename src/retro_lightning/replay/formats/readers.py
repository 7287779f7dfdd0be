"""Behaviour half: the formats by the names that the command line knows them by."""

from __future__ import annotations

from retro_lightning.replay.formats import (
    atif,
    chat,
    mapping,
    reflexion_alfworld,
    reflexion_hotpotqa,
    tables,
    tau_bench,
)
from retro_lightning.replay.formats.items import Reader

READERS: dict[str, Reader] = {
    "atif": atif.read,
    "chat": chat.read,
    "hf": tables.read,
    "mapping": mapping.read,
    "parquet": tables.read,
    "reflexion_alfworld": reflexion_alfworld.read,
    "reflexion_hotpotqa": reflexion_hotpotqa.read,
    "tau_bench": tau_bench.read,
}
