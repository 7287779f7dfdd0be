"""Data half: the Arrow schema of a shard.

One row is one trajectory. What the index needs stands in top-level columns, so that it is read
without touching the steps; ``steps`` is a list of structs. Any Arrow reader understands a shard.
"""

from __future__ import annotations

import pyarrow as pa

from retro_lightning.trajectory import SCHEMA_VERSION

_TEXTS = pa.list_(pa.string())
_IDS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float64())

GENERATION = pa.struct(
    [
        pa.field("context_ids", _IDS, nullable=False),
        pa.field("action_ids", _IDS, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("thought_length", pa.int32()),
        pa.field("thought_log_prob", pa.float64()),
        pa.field("temperature", pa.float64()),
        pa.field("kept_ids", pa.list_(_IDS)),
    ]
)
STEP = pa.struct(
    [
        pa.field("observation", pa.string(), nullable=False),
        pa.field("valid_actions", _TEXTS),
        pa.field("action", pa.string(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("thought", pa.string()),
        pa.field("log_prob", pa.float64()),
        pa.field("log_probs", _FLOATS),
        pa.field("generation", GENERATION),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("behaviour_id", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("policy_version", pa.int64()),
        pa.field("tokenizer", pa.string()),
        pa.field("terminated", pa.bool_(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("truncation", pa.string()),
        pa.field("fault", pa.string()),
        pa.field("reflections", _TEXTS),
        pa.field("outcome_return", pa.float64()),
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("total_return", pa.float64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
        pa.field("recorded_at", pa.float64()),
        pa.field("final_observation", pa.string(), nullable=False),
        pa.field("final_valid_actions", _TEXTS),
        pa.field("steps", pa.list_(pa.field("item", STEP, nullable=False)), nullable=False),
    ],
    metadata={"retro_lightning.schema_version": str(SCHEMA_VERSION)},
)
"""Columns of a shard. Lengths are in steps, log-probabilities natural, times in seconds since 1970
(UTC), null = unknown or none."""

INDEX_FIELDS = tuple(
    SCHEMA.field(name)
    for name in (
        "task_id",
        "family",
        "split",
        "source",
        "behaviour_id",
        "run",
        "attempt",
        "policy_version",
        "truncation",
        "success",
        "total_return",
        "length",
        "recorded_at",
    )
)
"""Columns that the index keeps in memory."""
