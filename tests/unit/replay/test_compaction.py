"""Compaction: the same rows in the same order, whatever happens meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from retro_lightning.replay import compaction, shard
from retro_lightning.replay.lock import locked
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory


def filled(path: Path, *sizes: int) -> tuple[ReplayStore, list[Trajectory]]:
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number) for number in range(sum(sizes))]
    store, start = ReplayStore(path, create=True), 0
    for size in sizes:
        store.append(made[start : start + size])
        start += size
    store.refresh()
    return store, made


def all_of(store: ReplayStore) -> list[Trajectory]:
    return store.read(range(len(store)))


def test_rows_and_their_order_stay(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 1, 3)
    old_reader = ReplayStore(tmp_path)
    done = store.compact()
    assert (done.before, done.after, done.replaced, done.purged) == (3, 1, 3, 0)
    assert len(store.snapshot()) == 1
    assert all_of(store) == all_of(ReplayStore(tmp_path)) == all_of(old_reader) == made
    more = [random_trajectory(np.random.default_rng(1), 99)]
    store.append(more)
    store.refresh()
    assert all_of(store) == made + more
    assert store.compact().after == 1  # compactions are compacted in turn
    assert all_of(ReplayStore(tmp_path)) == made + more
    assert store.verify() == []


def test_only_small_shards_in_a_row_are_merged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "_SMALL_ROWS", 3)
    monkeypatch.setattr(compaction, "_LARGE_ROWS", 4)
    store, made = filled(tmp_path, 1, 2, 5, 2, 2, 2, 1, 4)
    store.compact()
    rows = [record.rows for record in store._records]
    assert rows == [3, 5, 4, 3, 4]  # 1+2 | 5 | 2+2 (full) | 2+1 | 4
    assert all_of(store) == made


def test_a_compaction_keeps_its_place_among_shards_of_equal_number(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "_SMALL_ROWS", 3)
    rng, kept = np.random.default_rng(0), 0
    for trial in range(24):
        folder = tmp_path / str(trial)
        writers = [ReplayStore(folder, create=True) for _ in range(3)]
        for writer, size in zip(writers, (1, 1, 5), strict=True):  # all of them see an empty store
            writer.append([random_trajectory(rng, number) for number in range(size)])
        store = ReplayStore(folder)
        before = all_of(store)
        kept += store.compact().after == 2  # else the large one stands between the small ones
        assert all_of(store) == before
    assert kept >= 8


def test_many_small_shards_are_merged_while_appending(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "_MANY", 4)
    store, made = filled(tmp_path, *[1] * 10)
    assert len(store.snapshot()) < 10
    assert all_of(store) == all_of(ReplayStore(tmp_path)) == made


def test_checkpoints_from_before_and_after_are_restored(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 3)
    before = store.snapshot()
    store.append(made[:1])
    store.refresh()
    longer = store.snapshot()
    store.compact()
    compacted = store.snapshot()
    store.append(made[:2])
    store.refresh()
    assert len(store) == 8
    store.restore(compacted)
    assert (store.snapshot(), all_of(store)) == (compacted, [*made, made[0]])
    store.restore(longer)  # the compaction holds exactly these rows and stands in for them
    assert (store.snapshot(), all_of(store)) == (compacted, [*made, made[0]])
    store.restore(before)
    assert (store.snapshot(), all_of(store)) == (before, made)


def test_what_is_purged_is_refused_only_where_it_is_needed(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 3)
    early, whole = store.snapshot()[:1], store.snapshot()
    reader = ReplayStore(tmp_path)
    assert reader.read([0]) == made[:1]
    assert store.compact(purge=True).purged == 2
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    assert reader.read([1]) == made[1:2]  # what it has mapped outlives the file
    store.restore(whole)
    assert all_of(store) == made
    with pytest.raises(ValueError, match=f"shard {early[0]} of the checkpoint's snapshot is miss"):
        store.restore(early)
    assert all_of(ReplayStore(tmp_path)) == made


@pytest.mark.filterwarnings("ignore:left out")
def test_a_damaged_compaction_is_replaced_by_what_it_was_made_of(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 3)
    store.compact()
    file = tmp_path / f"{store.snapshot()[0]}.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    assert all_of(ReplayStore(tmp_path)) == made


def test_a_damaged_shard_gets_no_new_checksum(tmp_path: Path) -> None:
    store, made = filled(tmp_path, *[1] * 63)
    row = next(n for n, one in enumerate(made) if n > 3 and one.steps)
    file = tmp_path / f"{store.snapshot()[row]}.arrow"
    data = bytearray(file.read_bytes())
    place = data.rindex(np.float64(made[row].steps[0].reward).tobytes())
    data[place + 6] ^= 4  # in the steps, which opening a store does not look at
    file.write_bytes(data)
    store.append([made[0]])  # the 64th shard: small ones are merged
    for _ in range(2):
        (sentence,) = ReplayStore(tmp_path).verify()
        assert file.name in sentence
        with pytest.raises(ValueError, match="does not match its checksum"):
            ReplayStore(tmp_path).read([row])
        done = ReplayStore(tmp_path).compact(purge=True)
        assert done.damaged == (sentence,)
        assert done.after == done.before == 64
    assert ReplayStore(tmp_path).read(range(row)) == made[:row]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("column", [True, False])
def test_what_a_damaged_compaction_was_made_of_is_never_purged(
    tmp_path: Path, column: bool
) -> None:
    store, made = filled(tmp_path, 2, 3)
    store.compact()
    file = tmp_path / f"{store.snapshot()[0]}.arrow"
    data = bytearray(file.read_bytes())
    row = next(n for n, one in enumerate(made) if one.steps)
    value = np.float64(made[row].total_return if column else made[row].steps[0].reward).tobytes()
    data[(data.index(value) if column else data.rindex(value)) + 6] ^= 4
    file.write_bytes(data)
    (sentence,) = ReplayStore(tmp_path).compact(purge=True).damaged
    assert file.name in sentence
    ReplayStore(tmp_path).quarantine()
    assert all_of(ReplayStore(tmp_path)) == made


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_kill_while_publishing_leaves_the_old_shards(tmp_path, monkeypatch, dies_at) -> None:
    store, made = filled(tmp_path, 2, 3)
    calls, write = iter([1, 2]), shard._write

    def dies(*args: object) -> None:
        if next(calls) == dies_at:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(shard, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            store.compact()
    assert all_of(ReplayStore(tmp_path)) == made
    store.compact()
    assert all_of(ReplayStore(tmp_path)) == made


def test_purging_sweeps_up_what_killed_writers_left(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 1, 1)
    names = ("00000009-dead-dead.arrow", ".00000009-dead-dead.arrow.tmp", "00000008-new-new.arrow")
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    for name in names[:2]:
        os.utime(tmp_path / name, (0, 0))  # long ago; the third may be someone's at this moment
    store.compact()
    assert {path.name for path in tmp_path.iterdir()} >= set(names)
    store.compact(purge=True)
    assert [name for name in names if (tmp_path / name).exists()] == [names[2]]
    assert all_of(store) == made


def test_one_at_a_time(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 1, 1)
    with locked(tmp_path, "import"), pytest.raises(ValueError, match="another import or compact"):
        store.compact()
    assert store.compact().after == 1


def test_shards_of_an_older_layout_are_rewritten(tmp_path: Path, monkeypatch) -> None:
    store, made = filled(tmp_path, 2)
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "SCHEMA_VERSION", 4)
        assert store.compact().replaced == 1
    assert len(store.snapshot()) == 1
    assert all_of(store) == made
