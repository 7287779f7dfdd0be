"""Behaviour half: the ``predict`` command: the policy's log-probability of every stored action."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from retro_lightning.cli.trainer import run_trainer
from retro_lightning.replay.index import StoreIndex

if TYPE_CHECKING:
    from retro_lightning.config.command import Parser

Prediction = tuple[int, list[float]]
"""Row of the store, and the log-probability of each step's action."""


def add_arguments(parser: Parser) -> None:
    """The command's own argument."""
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Parquet file to write; default: predictions.parquet in the run's directory.",
    )


def predict(name: str, args: Sequence[str]) -> None:
    """Write one row per stored trajectory: task, behaviour and the log-probabilities."""
    cli, batches = run_trainer(name, args, add_arguments)
    output = cli.config.output
    path = Path(output) if output is not None else cli.run_dir / "predictions.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions = itertools.chain.from_iterable(batches)
    table = predictions_table(predictions, cli.datamodule.history_store.index)
    pq.write_table(table, path)
    print(f"log-probabilities of {len(table)} trajectories written to {path}")


def predictions_table(predictions: Iterable[Prediction], index: StoreIndex) -> pa.Table:
    """The predictions, in the order of the store, with what identifies each trajectory.

    Args:
        predictions: One per trajectory, in any order.
        index: Index of the store that the rows count in.
    """
    ordered = sorted(predictions)
    rows = [row for row, _ in ordered]
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "task_id": [index.task_ids[index.task_id[row]] for row in rows],
            "family": [index.families[index.family[row]] for row in rows],
            "behaviour_id": [index.behaviours[index.behaviour[row]] for row in rows],
            "attempt": pa.array([int(index.attempt[row]) for row in rows], pa.int64()),
            "log_probs": pa.array([values for _, values in ordered], pa.list_(pa.float64())),
        }
    )
