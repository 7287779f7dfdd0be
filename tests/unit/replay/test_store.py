"""The replay store: what was acknowledged is there, whole and in order, and nothing else is."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retro_lightning.replay import shard as shard_module
from retro_lightning.replay import shelf
from retro_lightning.replay import store as store_module
from retro_lightning.replay.records import content_hash
from retro_lightning.replay.shard import ShardRecord
from retro_lightning.replay.shelf import Shelf
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory


def trajectories(count: int, seed: int = 0) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    return [random_trajectory(rng, number) for number in range(count)]


def filled(path: Path, *sizes: int) -> tuple[ReplayStore, list[Trajectory]]:
    """A store with one shard of each size, and what is in it."""
    store, made = ReplayStore(path, create=True), trajectories(sum(sizes))
    start = 0
    for size in sizes:
        store.append(made[start : start + size])
        start += size
    store.refresh()
    return store, made


def data_file(store: ReplayStore, name: str) -> Path:
    return store.path / f"{name}.arrow"


def flip(file: Path, position: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(position * len(data))] ^= 4
    file.write_bytes(data)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 7), max_size=5), st.data())
def test_what_is_appended_is_read_in_order_at_random(tmp_path_factory, sizes, data) -> None:
    path = tmp_path_factory.mktemp("store")
    store, made = filled(path, *sizes)
    assert len(store) == len(made)
    assert store.read(range(len(made))) == made
    rows = data.draw(st.lists(st.integers(0, len(made) - 1), max_size=9)) if made else []
    assert ReplayStore(path).read(rows) == [made[row] for row in rows]
    np.testing.assert_array_equal(store.index.returns, [t.total_return for t in made])


def test_appending_is_seen_after_a_refresh_and_moves_no_row(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 3)
    more = trajectories(2, seed=1)
    name = store.append(more)
    assert len(store) == 3
    store.refresh()
    assert store.snapshot()[-1] == name
    assert store.read(range(5)) == made + more
    assert len(store.index) == 5


def test_two_writers_in_turns_lose_nothing(tmp_path: Path) -> None:
    one, two = ReplayStore(tmp_path, create=True), ReplayStore(tmp_path)
    made = trajectories(12)
    for number, trajectory in enumerate(made):
        (one if number % 2 else two).append([trajectory])
    one.refresh()
    stored = one.read(range(len(one)))
    assert sorted(t.attempt for t in stored) == list(range(12))
    for parity in (0, 1):  # each writer's own are in the order in which it published them
        mine = [t.attempt for t in stored if t.attempt % 2 == parity]
        assert mine == sorted(mine)


def _write(path: Path, writer: int) -> None:
    store = ReplayStore(path)
    for trajectory in trajectories(10, seed=writer):
        store.append([trajectory])


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    ReplayStore(tmp_path, create=True)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, n)) for n in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    store = ReplayStore(tmp_path)
    expected = [content_hash(t) for n in range(3) for t in trajectories(10, seed=n)]
    assert sorted(map(content_hash, store.read(range(30)))) == sorted(expected)
    assert store.verify() == []


def test_the_order_of_a_rerun_does_not_depend_on_who_was_faster(tmp_path: Path) -> None:
    parts = [trajectories(2, seed=rank) for rank in range(4)]

    def rerun(name: str, order: list[int]) -> list[Trajectory]:
        ranks = [ReplayStore(tmp_path / name, create=True) for _ in parts]
        for _ in range(2):  # two rounds, with a meeting after each
            for rank in order:
                ranks[rank].append(parts[rank])
            for rank in ranks:
                rank.refresh()
        assert len({rank.snapshot() for rank in ranks}) == 1
        return ranks[0].read(range(16))

    assert rerun("a", [0, 1, 2, 3]) == rerun("b", [3, 1, 0, 2])


def test_restore_sets_newer_shards_aside_for_good(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 3)
    snapshot = store.snapshot()
    index = store.index
    late = store.append(trajectories(4, seed=9))
    store.refresh()
    assert len(store) == 9
    for each in (store, ReplayStore(tmp_path)):
        each.restore(snapshot)
        assert each.snapshot() == snapshot
        assert each.read(range(5)) == made
        np.testing.assert_array_equal(each.index.task_id, index.task_id)
    assert len(ReplayStore(tmp_path)) == 5
    assert {p.name for p in (tmp_path / "set_aside").iterdir()} == {f"{late}.arrow", f"{late}.json"}
    again = store.append(trajectories(4, seed=9))
    assert again[:17] == late[:17]  # same number, same content: same place in the order
    store.restore(())
    assert len(store) == 0


def test_processes_may_restore_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, made = filled(tmp_path, 1, 1, 1)
    snapshot, other = store.snapshot()[:1], ReplayStore(tmp_path)
    listings = iter([list(store.snapshot()), list(snapshot)])  # the first one is out of date
    store.restore(snapshot)
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "published", lambda _: next(listings))
        patched.setattr(store_module, "read_record", lambda _, name, known: known)
        other.restore(snapshot)
    assert other.read([0]) == store.read([0]) == made[:1]


def test_a_missing_shard_of_the_snapshot_is_named(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 1)
    with pytest.raises(ValueError, match="shard 00000007-gone-gone of the checkpoint's snapshot"):
        store.restore([*store.snapshot(), "00000007-gone-gone"])
    assert len(ReplayStore(tmp_path)) == 1


@pytest.mark.parametrize("killed_at", range(4))
def test_a_killed_writer_leaves_nothing_half_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Killed before or after each of the two renames (data, then record)."""
    store, made = filled(tmp_path, 2)
    replace, calls = Path.replace, iter(range(2))

    class KilledError(BaseException):
        pass

    def dies(path: Path, target: Path) -> Path:
        call = next(calls)
        if 2 * call == killed_at:
            raise KilledError
        replace(path, target)
        if 2 * call + 1 == killed_at:
            raise KilledError
        return target

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dies)
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cleans nothing
        with pytest.raises(KilledError):
            store.append(trajectories(3, seed=1))
    published = killed_at == 3
    after = ReplayStore(tmp_path)
    assert len(after) == (5 if published else 2)
    assert after.read([0, 1]) == made
    assert after.verify() == []
    after.append(trajectories(1, seed=2))
    after.refresh()
    assert after.read([len(after) - 1]) == trajectories(1, seed=2)


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path, 1)
    before = sorted(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shard_module.os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot be written \(No space left.*free space"):
            store.append(trajectories(1))
    assert sorted(tmp_path.iterdir()) == before


def test_files_and_the_folder_are_on_disk_before_an_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = filled(tmp_path, 1)
    synced, fsync = [], os.fsync

    def noting(handle: int) -> None:
        endings = {path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")}
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), len(list(tmp_path.iterdir()))))
        assert endings <= {".arrow", ".json"}
        fsync(handle)

    monkeypatch.setattr(shard_module.os, "fsync", noting)
    store.append(trajectories(1, seed=1))
    # Two files were there; the data under a temporary name, then its own; the record likewise.
    assert synced == [(False, 3), (True, 3), (False, 4), (True, 4)]


def test_a_full_disk_spoils_nothing(tmp_path: Path) -> None:
    """The system itself refuses the write half-way: files may not grow beyond 20 kB."""
    store, made = filled(tmp_path, 2)
    before, limits = sorted(tmp_path.iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written .*free space"):
            store.append(trajectories(100, seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.iterdir()) == before
    store.append(trajectories(100, seed=1))
    assert ReplayStore(tmp_path).read(range(102)) == made + trajectories(100, seed=1)


def test_a_shard_without_its_record_is_not_read(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 1)
    (tmp_path / f"{store.snapshot()[1]}.json").unlink()
    (tmp_path / "notes-of-mine.json").write_text("not a shard")
    store.refresh()
    assert store.read(range(len(store))) == made[:2]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("position", [0.0, 0.5, 0.9])
def test_a_flipped_bit_is_named(tmp_path: Path, position: float) -> None:
    store, made = filled(tmp_path, 3, 3)
    name = store.snapshot()[1]
    file = data_file(store, name)
    flip(file, position)
    (sentence,) = ReplayStore(tmp_path).verify()
    assert str(file) in sentence
    damaged = ReplayStore(tmp_path)
    assert damaged.read([0, 1, 2]) == made[:3]
    if len(damaged) == 6:  # what the index needs is sound
        with pytest.raises(ValueError, match=rf"{name}.arrow is damaged"):
            damaged.read([4])
    else:
        assert str(file) in damaged.damaged[name]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0, 0.999), st.integers(0, 7))
def test_whatever_bit_is_flipped_columns_are_as_published_or_left_out(
    tmp_path_factory, position: float, bit: int
) -> None:
    path = tmp_path_factory.mktemp("store")
    store, made = filled(path, 3, 4)
    file = data_file(store, store.snapshot()[1])
    data = bytearray(file.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ReplayStore(path)
    kept = made if len(found) == 7 else made[:3]
    assert found.columns(("trajectory_id",))["trajectory_id"].to_pylist() == [
        t.trajectory_id for t in kept
    ]
    assert found.index.returns.tolist() == [t.total_return for t in kept]
    assert len(found.verify()) == 1
    assert found.damaged or len(kept) == 7


@pytest.mark.parametrize("place", [9, 200, -9, -200])
def test_arrow_is_not_let_near_a_shard_whose_frame_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    store, made = filled(tmp_path, 3, 2)
    name = store.snapshot()[1]
    data = bytearray(data_file(store, name).read_bytes())
    data[place] ^= 1
    data_file(store, name).write_bytes(data)
    real = Shelf.mapped

    def mapped(self: Shelf, record: ShardRecord) -> Any:
        assert record.name != name
        return real(self, record)

    monkeypatch.setattr(Shelf, "mapped", mapped)
    with pytest.warns(UserWarning, match="left out: shard .* does not match its checksum"):
        found = ReplayStore(tmp_path)
    assert found.index.returns.tolist() == [t.total_return for t in made[:3]]


def test_records_without_checksums_of_columns_are_compared_whole(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 3, 2)
    for name in store.snapshot():
        record = tmp_path / f"{name}.json"
        values = json.loads(record.read_text())
        assert values.pop("columns")
        record.write_text(json.dumps(values))
    old = ReplayStore(tmp_path)
    assert old.index.returns.tolist() == [t.total_return for t in made]
    flip(data_file(store, store.snapshot()[1]), 0.9)
    with pytest.warns(UserWarning, match="left out: shard .* does not match its checksum"):
        assert ReplayStore(tmp_path).index.returns.tolist() == [t.total_return for t in made[:3]]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("cut", [100, None])
def test_a_truncated_shard_is_named_and_the_rest_served(tmp_path: Path, cut: int | None) -> None:
    store, made = filled(tmp_path, 3, 2, 1)
    snapshot = store.snapshot()
    file = data_file(store, snapshot[1])
    if cut is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match=rf"left out: shard .*{file.name} has .* were published"):
        damaged = ReplayStore(tmp_path)
    assert damaged.read(range(4)) == [*made[:3], made[5]]
    assert len(damaged.index) == 4
    (sentence,) = damaged.verify()
    assert file.name in sentence
    with pytest.raises(ValueError, match=rf"snapshot needs a shard: .*{file.name} has"):
        damaged.restore(snapshot)
    assert len(ReplayStore(tmp_path)) == 4  # refused before anything was moved
    damaged.append(made[3:5])
    damaged.refresh()
    assert damaged.read(range(6)) == [*made[:3], made[5], *made[3:5]]


def test_quarantine_moves_what_is_damaged_out_of_the_way(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 2, 2)
    names = store.snapshot()
    flip(data_file(store, names[0]), 0.5)
    (tmp_path / f"{names[2]}.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out: checksum record"):
        damaged = ReplayStore(tmp_path)
    assert len(damaged.verify()) == 2
    sentences = damaged.quarantine()
    assert [name for name in names for s in sentences if name in s] == [names[0], names[2]]
    assert damaged.read(range(2)) == made[2:4]
    after = ReplayStore(tmp_path)
    assert (after.verify(), after.snapshot()) == ([], (names[1],))
    moved = {path.name for path in (tmp_path / "quarantine").iterdir()}
    assert moved == {f"{name}{end}" for name in names[::2] for end in (".arrow", ".json")}


@pytest.mark.filterwarnings("ignore:left out")
def test_a_damaged_record_is_named_and_a_newer_layout_refused(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 1)
    record = tmp_path / f"{store.snapshot()[0]}.json"
    text = record.read_text()
    for damaged in ("", "[]", "{}", text[:-3]):
        record.write_text(damaged)
        (sentence,) = ReplayStore(tmp_path).damaged.values()
        assert f"{record.name} is damaged" in sentence
    record.write_text(json.dumps({**json.loads(text), "schema": 99}))
    with pytest.raises(ValueError, match="newer release"):
        ReplayStore(tmp_path)


def test_the_number_of_open_shards_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "_OPEN_SHARDS", 2)
    store, made = filled(tmp_path, 1, 1, 1, 1)
    for row in (0, 1, 2, 3, 0, 3):
        assert store.read([row]) == [made[row]]
        assert len(store._shelf._open) <= 2
    assert len(store.index) == 4
    assert len(store._shelf._open) <= 2


def test_shards_are_read_without_our_code(tmp_path: Path) -> None:
    store, made = filled(tmp_path, 2, 3)
    file = data_file(store, store.snapshot()[0])
    (row, _) = pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist()
    assert row["task_id"] == made[0].task.task_id
    assert [s["action"] for s in row["steps"]] == [s.action for s in made[0].steps]
    shards = sorted(str(path) for path in tmp_path.glob("*.arrow"))
    table = pyarrow.dataset.dataset(shards, format="arrow").to_table(["total_return"])
    assert table["total_return"].to_pylist() == [t.total_return for t in made]


def test_bad_use_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no replay store at .*nowhere: give the folder"):
        ReplayStore(tmp_path / "nowhere")
    store, _ = filled(tmp_path, 2)
    for row in (2, -1):
        with pytest.raises(IndexError, match=rf"has no row {row}, only 2"):
            store.read([0, row])
    with pytest.raises(ValueError, match="no trajectories"):
        store.append([])
    assert store.read([]) == []
    assert len(ReplayStore(tmp_path / "new", create=True).index) == 0


def test_a_view_reads_a_generation_and_moves_nothing(tmp_path: Path) -> None:
    store, made = filled(tmp_path / "store", 2, 3)
    then = store.snapshot()
    store.append(trajectories(4, seed=5))
    store.compact()  # the three as one: the snapshot's own shards are there still
    before = sorted(path.name for path in store.path.iterdir())
    store.view(then)
    assert store.snapshot() == then
    assert store.read(range(len(store))) == made
    assert store.index.attempt.tolist() == [t.attempt for t in made]
    assert sorted(path.name for path in store.path.iterdir()) == before
    store.refresh()
    assert len(store) == 9
    again, _ = filled(tmp_path / "again", 2, 3)  # the same history, made a second time
    assert again.snapshot() != then
    again.view(then)
    assert again.read(range(5)) == made
    other, _ = filled(tmp_path / "other", 3, 2)
    with pytest.raises(ValueError, match=r"shard 00000000-\S+ of the checkpoint's snapshot"):
        other.view(then)
