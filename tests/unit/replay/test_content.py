"""The content hash: the same for the same content, wherever it stands, and for no other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.replay.copying import copy, first_of_each
from retro_lightning.replay.formats.importing import import_files
from retro_lightning.replay.formats.items import Options
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.records import content_hash, decode, encode
from retro_lightning.replay.store import ReplayStore
from retro_lightning.replay.upgrade import columns
from retro_lightning.trajectory import Generation, Trajectory
from tests.old_layouts import old_batch, publish_old
from tests.support import random_trajectory


def trajectories(seed: int, count: int) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    return [random_trajectory(rng, number) for number in range(count)]


def _number(form: str, value: Any) -> bytes:
    """Whether it is there, and the number, or 0."""
    return struct.pack("<?" + form, value is not None, 0 if value is None else value)


def _size(value: Any) -> bytes:
    return struct.pack("<i", -1 if value is None else len(value))


def _utf8(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _texts(lists: Iterable[Any]) -> bytes:
    """Texts of lists: their sizes, then their bytes."""
    flat = [_utf8(text) for texts in lists if texts is not None for text in texts]
    return b"".join(map(_size, flat)) + b"".join(map(bytes, flat))


def _naive(t: Trajectory) -> str:
    """The hash by the words of ``content``, one value after the other."""
    none = Generation(context_ids=(), action_ids=())
    head = [
        *(_utf8(v) for v in (t.task.task_id, t.task.family, t.task.split, t.task.instruction)),
        *(_utf8(v) for v in (t.source, t.behaviour_id, t.tokenizer, t.truncation, t.fault)),
        _utf8(t.final_observation),
    ]
    data = b"".join(map(_size, head[:4])) + _number("q", t.task.seed)
    data += b"".join(map(_size, head[4:7])) + struct.pack("<????", 1, t.terminated, 1, t.truncated)
    data += b"".join(map(_size, head[7:9])) + _size(t.reflections)
    data += _number("d", t.outcome_return) + struct.pack("<??", True, t.success)
    data += _size(head[9]) + _size(t.final_valid_actions) + _size(t.steps)
    data += b"".join(value or b"" for value in head[:9]) + _texts([t.reflections])
    data += (head[9] or b"") + _texts([t.final_valid_actions])
    for s in t.steps:
        g = s.generation
        there, g = g is not None, g or none
        data += struct.pack("<?", True)  # the step itself
        data += _size(_utf8(s.observation)) + _size(s.valid_actions) + _size(_utf8(s.action))
        data += _number("d", s.reward) + _size(_utf8(s.thought)) + _number("d", s.log_prob)
        data += _size(s.log_probs) + struct.pack("<?", there)
        data += _size(g.context_ids if there else None) + _size(g.action_ids if there else None)
        data += _number("d", g.value) + _number("i", g.thought_length)
        data += _number("d", g.thought_log_prob) + _number("d", g.temperature)
        data += _size(g.kept_ids)
    made = [s.generation or none for s in t.steps]
    data += b"".join(s.observation.encode() for s in t.steps)
    data += _texts(s.valid_actions for s in t.steps)
    data += b"".join(s.action.encode() for s in t.steps)
    data += b"".join((s.thought or "").encode() for s in t.steps)
    data += b"".join(struct.pack("<d", x) for s in t.steps for x in s.log_probs or ())
    for name in ("context_ids", "action_ids"):
        data += b"".join(struct.pack("<i", x) for g in made for x in getattr(g, name))
    kept = [ids for g in made for ids in g.kept_ids or ()]
    data += b"".join(map(_size, kept))
    data += b"".join(struct.pack("<i", x) for ids in kept for x in ids)
    return hashlib.sha256(data).hexdigest()[:32]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 9), st.data())
def test_equals_writing_the_bytes_one_by_one(seed: int, count: int, data: Any) -> None:
    made = trajectories(seed, count)
    batch = encode(made)
    assert batch.column("content_hash").to_pylist() == [_naive(t) for t in made]
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else []
    for part in (batch.take(np.array(rows, dtype=np.int64)), batch.slice(count // 2)):
        again = encode(decode(part.take(np.arange(len(part)))))
        assert again.column("content_hash").equals(part.column("content_hash"))


FULL = dataclasses.replace(
    next(t for t in trajectories(3, 200) if t.length == 3 and t.steps[0].generation is not None),
    reflections=("a", "b"),
)
SAYS: dict[str, Any] = {
    "source": "import:x",
    "behaviour_id": "another",
    "tokenizer": "another",
    "success": not FULL.success,
    "terminated": not FULL.terminated,
    "final_observation": FULL.final_observation + " ",
    "final_valid_actions": ("left",),
    "reflections": ("ab",),
    "steps": FULL.steps[:2],
}


@pytest.mark.parametrize("name", SAYS)
def test_another_content_is_another_hash(name: str) -> None:
    other = dataclasses.replace(FULL, **{name: SAYS[name]})
    assert content_hash(other) != content_hash(FULL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("run", "other"), ("attempt", 77), ("policy_version", 5), ("recorded_at", 1.0)],
)
def test_who_recorded_it_and_when_is_no_content(name: str, value: Any) -> None:
    assert content_hash(dataclasses.replace(FULL, **{name: value})) == content_hash(FULL)


def test_what_is_not_there_differs_from_what_is_empty() -> None:
    step = dataclasses.replace(FULL.steps[0], log_prob=None, generation=None)
    variants = [
        dataclasses.replace(step, valid_actions=None, log_probs=None, thought=None),
        dataclasses.replace(step, valid_actions=(), log_probs=None, thought=None),
        dataclasses.replace(step, valid_actions=None, log_probs=(), thought=None),
        dataclasses.replace(step, valid_actions=None, log_probs=None, thought=""),
        dataclasses.replace(step, valid_actions=None, log_probs=None, thought=None, log_prob=0.0),
        dataclasses.replace(
            step,
            valid_actions=None,
            log_probs=None,
            thought=None,
            generation=Generation(context_ids=(), action_ids=()),
        ),
    ]
    assert len({content_hash(dataclasses.replace(FULL, steps=(v,))) for v in variants}) == 6


def _as_version_1(made: Trajectory) -> Trajectory:
    """What is left of it in a layout that lacked thoughts' tokens and reflections."""
    steps = tuple(
        dataclasses.replace(
            s,
            generation=s.generation
            and Generation(
                context_ids=s.generation.context_ids,
                action_ids=s.generation.action_ids,
                value=s.generation.value,
            ),
        )
        for s in made.steps
    )
    return dataclasses.replace(made, steps=steps, reflections=(), outcome_return=None)


@pytest.mark.parametrize("version", [1, 2])
def test_old_layouts_have_the_hash_that_the_present_one_gives(version: int) -> None:
    made = [_as_version_1(t) for t in trajectories(9, 60)]
    old = old_batch(made, version)
    told = old.column("content_hash").to_pylist()
    found = columns(old, ("content_hash",)).column("content_hash").to_pylist()
    assert found == list(map(content_hash, made))
    assert not set(found) & set(told)


def test_a_store_of_old_and_new_shards(tmp_path: Path) -> None:
    made = trajectories(4, 12)
    again = [dataclasses.replace(t, run="again") for t in made[3:9]]
    store = ReplayStore(tmp_path / "store", create=True)
    publish_old(store.path, made)
    store.append(again)
    store.refresh()
    assert list(map(content_hash, store.read(range(18)))) == list(map(content_hash, made + again))
    assert first_of_each(store).tolist() == [True] * 12 + [False] * 6
    fresh = ReplayStore(tmp_path / "fresh", create=True)
    fresh.append(made[:5])
    fresh.refresh()
    done = copy(store, fresh, np.ones(18, dtype=np.bool_))
    assert (done.copied, done.duplicates, done.conflicts) == (13, 5, 0)
    store.compact()
    assert first_of_each(store).tolist() == [True] * 12 + [False] * 6
    assert {one.schema for one in store._records} == {3}


def test_an_import_into_an_old_store_still_knows_its_duplicates(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    log = tmp_path / "log.jsonl"

    def taken(store: ReplayStore, rewards: list[float]) -> dict[str, Any]:
        lines = [
            json.dumps({"messages": talk, "reward": reward, "task_id": number})
            for number, reward in enumerate(rewards)
        ]
        log.write_text("\n".join(lines), encoding="utf-8")
        report = import_files(
            store,
            [log],
            "chat",
            READERS["chat"],
            Options(),
            rejects=tmp_path / "rejects.jsonl",
            max_errors=9,
        )
        return report.totals

    new = ReplayStore(tmp_path / "new", create=True)
    taken(new, [0.0, 1.0])
    old = ReplayStore(tmp_path / "old", create=True)
    publish_old(old.path, new.read(range(2)))
    found = taken(old, [0.0, 0.5, 1.0])
    assert (found["imported"], found["duplicates"], found["rejected"]) == (1, 1, 1)
