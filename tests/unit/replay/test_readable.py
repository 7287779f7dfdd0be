"""A store is read without our code: by pyarrow, polars, DuckDB and Hugging Face datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pytest

from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory

Stored = tuple[list[str], list[Trajectory]]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Data files of three shards, one of them a compaction, and what is in them, in order."""
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number) for number in range(40)]
    store = ReplayStore(tmp_path / "store", create=True)
    store.append(made[:10])
    store.append(made[10:20])
    store.refresh()
    store.compact()
    store.append(made[20:35])
    store.append(made[35:])
    store.refresh()
    return [str(file) for file in store.files], made


def test_pyarrow(stored: Stored) -> None:
    files, made = stored
    table = pa.dataset.dataset(files, format="arrow").to_table()
    assert table["task_id"].to_pylist() == [t.task.task_id for t in made]
    assert pc.sum(table["total_return"]).as_py() == pytest.approx(sum(t.total_return for t in made))
    steps = table["steps"].to_pylist()
    assert [[s["observation"] for s in row] for row in steps] == [
        [s.observation for s in t.steps] for t in made
    ]


def test_polars(stored: Stored) -> None:
    import polars

    files, made = stored
    table = polars.read_ipc(files)
    assert table["success"].to_list() == [t.success for t in made]
    lengths = table.select(polars.col("steps").list.len())["steps"].to_list()
    assert lengths == [t.length for t in made]
    rewards = table.explode("steps").drop_nulls("steps").unnest("steps")["reward"].to_list()
    assert rewards == [s.reward for t in made for s in t.steps]


def test_duckdb(stored: Stored) -> None:
    import duckdb

    files, made = stored
    trajectories = pa.dataset.dataset(files, format="arrow")
    query = "select family, count(*), sum(len(steps)) from trajectories group by family order by 1"
    with duckdb.connect() as connection:
        connection.register("trajectories", trajectories)
        found = connection.execute(query).fetchall()
    families = sorted({t.task.family for t in made})
    mine = [[t for t in made if t.task.family == family] for family in families]
    assert found == [
        (family, len(group), sum(t.length for t in group))
        for family, group in zip(families, mine, strict=True)
    ]


def test_hugging_face_datasets(stored: Stored, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    files, made = stored
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        "arrow", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["instruction"][:] == [t.task.instruction for t in made]
    assert [s["action"] for s in loaded[7]["steps"]] == [s.action for s in made[7].steps]
