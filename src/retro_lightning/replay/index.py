"""Data half: the columns of a store that are kept in memory, one entry per trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retro_lightning.replay.records import INDEX_FIELDS

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

INDEX_SCHEMA = pa.schema(list(INDEX_FIELDS))


@dataclass(frozen=True)
class StoreIndex:
    """Columns of N trajectories in order of publication.

    Text columns are codes from 0 into the list of names that goes with them.

    Attributes:
        table: The index columns as an Arrow table.
        returns: Undiscounted return [N].
        success: Whether the task was solved [N].
        length: Steps [N].
        attempt: Number of the attempt [N].
        policy_version: Policy version, -1 = no policy of ours [N].
        truncated: Whether the episode was cut before it ended [N].
        faulted: Whether the environment raised [N].
        is_train: Whether the task belongs to the training split [N].
        task_id: Codes of ``task_ids`` [N].
        family: Codes of ``families`` [N].
        behaviour: Codes of ``behaviours``, the behaviours' ids [N].
        source: Codes of ``sources`` [N].
    """

    table: pa.Table
    returns: npt.NDArray[np.float64]
    success: Mask
    length: Codes
    attempt: Codes
    policy_version: Codes
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

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.returns)

    @classmethod
    def from_table(cls, table: pa.Table) -> StoreIndex:
        """The index of an Arrow table with (at least) the index columns."""
        table = table.select(INDEX_SCHEMA.names)
        task_id, task_ids = _codes(table, "task_id")
        family, families = _codes(table, "family")
        behaviour, behaviours = _codes(table, "behaviour_id")
        source, sources = _codes(table, "source")
        versions = table["policy_version"].fill_null(-1)
        return cls(
            table=table,
            returns=_numbers(table["total_return"], np.float64),
            success=_numbers(table["success"], np.bool_),
            length=_numbers(table["length"], np.int64),
            attempt=_numbers(table["attempt"], np.int64),
            policy_version=_numbers(versions, np.int64),
            truncated=_numbers(table["truncation"].is_valid(), np.bool_),
            faulted=_equal(table, "truncation", "fault"),
            is_train=_equal(table, "split", "train"),
            task_id=task_id,
            task_ids=task_ids,
            family=family,
            families=families,
            behaviour=behaviour,
            behaviours=behaviours,
            source=source,
            sources=sources,
        )

    @classmethod
    def concat(cls, indices: Sequence[StoreIndex]) -> StoreIndex:
        """One index over several stores, in their order."""
        return cls.from_table(pa.concat_tables([index.table for index in indices]))

    def success_table(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Per (family, behaviour id): successes and trajectories, faulted ones left out."""
        result: dict[tuple[str, str], tuple[int, int]] = {}
        for family, name in enumerate(self.families):
            for behaviour, behaviour_id in enumerate(self.behaviours):
                mask = (self.family == family) & (self.behaviour == behaviour) & ~self.faulted
                if mask.any():
                    result[name, behaviour_id] = int(self.success[mask].sum()), int(mask.sum())
        return result


def _codes(table: pa.Table, name: str) -> tuple[Codes, tuple[str, ...]]:
    encoded = table[name].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = tuple(str(value) for value in encoded.dictionary.to_pylist())
    return _numbers(encoded.indices, np.int64), names


def _equal(table: pa.Table, name: str, value: str) -> Mask:
    return _numbers(pc.equal(table[name], value).fill_null(False), np.bool_)


def _numbers(column: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype)
