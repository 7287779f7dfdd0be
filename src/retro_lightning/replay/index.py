"""Data half: the columns of a store that are kept in memory, one entry per trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retro_lightning.replay.schema import INDEX_FIELDS

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

INDEX_SCHEMA = pa.schema(list(INDEX_FIELDS))

_NUMBERS: dict[str, type[np.generic]] = {
    "returns": np.float64,
    "success": np.bool_,
    "length": np.int64,
    "attempt": np.int64,
    "policy_version": np.int64,
    "recorded_at": np.float64,
    "truncated": np.bool_,
    "faulted": np.bool_,
    "is_train": np.bool_,
}
_TEXTS = {
    "task_ids": "task_id",
    "families": "family",
    "behaviours": "behaviour",
    "sources": "source",
    "runs": "run",
    "splits": "split",
}


@dataclass(frozen=True)
class StoreIndex:
    """Columns of N trajectories in order of publication.

    Text columns are codes from 0 into the list of names that goes with them.

    Attributes:
        returns: Undiscounted return [N].
        success: Whether the task was solved [N].
        length: Steps [N].
        attempt: Number of the attempt [N].
        policy_version: Policy version, -1 = no policy of ours [N].
        recorded_at: When it was recorded, in seconds since 1970; NaN = unknown [N].
        truncated: Whether the episode was cut before it ended [N].
        faulted: Whether the environment raised [N].
        is_train: Whether the task belongs to the training split [N].
        task_id: Codes of ``task_ids`` [N].
        family: Codes of ``families`` [N].
        behaviour: Codes of ``behaviours``, the behaviours' ids [N].
        source: Codes of ``sources`` [N].
        split: Codes of ``splits`` [N].
        run: Codes of ``runs``, the names of runs and histories [N].
    """

    returns: npt.NDArray[np.float64]
    success: Mask
    length: Codes
    attempt: Codes
    policy_version: Codes
    recorded_at: npt.NDArray[np.float64]
    truncated: Mask
    faulted: Mask
    is_train: Mask
    task_id: Codes
    task_ids: tuple[str, ...]
    family: Codes
    families: tuple[str, ...]
    behaviour: Codes
    behaviours: tuple[str, ...]
    source: Codes
    sources: tuple[str, ...]
    split: Codes
    splits: tuple[str, ...]
    run: Codes
    runs: tuple[str, ...]

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.returns)

    @classmethod
    def from_table(cls, table: pa.Table) -> StoreIndex:
        """The index of an Arrow table with (at least) the index columns."""
        return cls.from_tables([table.select(INDEX_SCHEMA.names)])

    @classmethod
    def from_tables(cls, tables: Iterable[pa.Table]) -> StoreIndex:
        """One index over several tables, which are let go of one by one."""
        return cls._joined([_part(table) for table in tables])

    @classmethod
    def concat(cls, indices: Sequence[StoreIndex]) -> StoreIndex:
        """One index over several stores, in their order."""
        return cls._joined([index._parts() for index in indices])

    def _parts(self) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in _NUMBERS}
        for plural, name in _TEXTS.items():
            codes, names = pa.array(getattr(self, name), pa.int32()), getattr(self, plural)
            columns[name] = pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))
        return columns

    @classmethod
    def _joined(cls, parts: Sequence[dict[str, Any]]) -> StoreIndex:
        """Number columns after one another; text columns as codes of one list of names.

        Parts are emptied on the way, so that no column is in memory twice with all others.
        """
        columns: dict[str, Any] = {
            name: np.concatenate([np.zeros(0, dtype), *(part.pop(name) for part in parts)])
            for name, dtype in _NUMBERS.items()
        }
        for plural, name in _TEXTS.items():
            chunks = [part.pop(name) for part in parts]
            texts = pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.string()))
            chunks = texts.unify_dictionaries().chunks
            codes = [np.zeros(0, np.int64), *(chunk.indices.to_numpy() for chunk in chunks)]
            columns[name] = np.concatenate(codes).astype(np.int64, copy=False)
            columns[plural] = tuple(chunks[0].dictionary.to_pylist()) if chunks else ()
        # What the parts took goes back to the system: half as much again as the index at a million.
        pa.default_memory_pool().release_unused()
        return cls(**columns)

    @property
    def unlearnable(self) -> str:
        """How many trajectories no learner takes, by the reason."""
        outcomes = (self.length == 0) & ~self.faulted
        reasons = {
            "outcome records, which tell no steps": outcomes,
            "faulted": self.faulted,
            "of validation or test tasks": ~self.is_train & ~self.faulted & ~outcomes,
        }
        counts = (f"{int(mask.sum())} {reason}" for reason, mask in reasons.items() if mask.any())
        return ", ".join(counts) or "none"

    def success_table(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Per (family, behaviour id): successes and trajectories, faulted ones left out."""
        result: dict[tuple[str, str], tuple[int, int]] = {}
        for family, name in enumerate(self.families):
            for behaviour, behaviour_id in enumerate(self.behaviours):
                mask = (self.family == family) & (self.behaviour == behaviour) & ~self.faulted
                if mask.any():
                    result[name, behaviour_id] = int(self.success[mask].sum()), int(mask.sum())
        return result


def _part(table: pa.Table) -> dict[str, Any]:
    """The columns of one table; text columns as Arrow dictionaries."""
    truncation = table["truncation"]
    part = {
        "returns": _numbers(table["total_return"], np.float64),
        "success": _numbers(table["success"], np.bool_),
        "length": _numbers(table["length"], np.int64),
        "attempt": _numbers(table["attempt"], np.int64),
        "policy_version": _numbers(table["policy_version"].fill_null(-1), np.int64),
        "recorded_at": _numbers(table["recorded_at"], np.float64),
        "truncated": _numbers(truncation.is_valid(), np.bool_),
        "faulted": _numbers(pc.equal(truncation, "fault").fill_null(False), np.bool_),
        "is_train": _numbers(pc.equal(table["split"], "train").fill_null(False), np.bool_),
    }
    for name in _TEXTS.values():
        column = "behaviour_id" if name == "behaviour" else name
        part[name] = table[column].combine_chunks().dictionary_encode()
    return part


def _numbers(column: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype)
