"""Records ⇄ Arrow: nothing is lost, and other Arrow readers understand it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.replay.records import content_hash, decode, encode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.trajectory import SCHEMA_VERSION, Trajectory
from tests.old_layouts import old_batch
from tests.support import random_trajectory


def trajectories(seed: int, count: int) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    return [random_trajectory(rng, number) for number in range(count)]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 12), st.data())
def test_round_trip(seed: int, count: int, data) -> None:
    made = trajectories(seed, count)
    batch = encode(made)
    batch.validate(full=True)
    assert decode(batch) == made
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else []
    assert decode(batch.take(np.array(rows, dtype=np.int64))) == [made[row] for row in rows]


def test_unknown_is_null_and_impossible_is_minus_infinity() -> None:
    (base,) = trajectories(3, 1)
    step = dataclasses.replace(
        random_trajectory(np.random.default_rng(0), steps=1).steps[0],
        valid_actions=("left", "right"),
        action="left",
        log_prob=None,
        log_probs=(0.0, -math.inf),
        generation=None,
    )
    free = dataclasses.replace(step, valid_actions=None, log_probs=None)
    none = dataclasses.replace(step, valid_actions=(), log_probs=())
    made = dataclasses.replace(base, steps=(step, free, none), final_valid_actions=())
    rows = encode([made]).to_pylist()
    assert [s["log_prob"] for s in rows[0]["steps"]] == [None] * 3
    assert [s["log_probs"] for s in rows[0]["steps"]] == [[0.0, -math.inf], None, []]
    assert [s["valid_actions"] for s in rows[0]["steps"]] == [["left", "right"], None, []]
    assert [s["generation"] for s in rows[0]["steps"]] == [None] * 3
    assert rows[0]["final_valid_actions"] == []
    assert decode(encode([made])) == [made]


def test_every_field_of_the_records_is_stored() -> None:
    made = trajectories(1, 30)
    for row, trajectory in zip(encode(made).to_pylist(), made, strict=True):
        stored = {key: value for key, value in row.items() if key != "steps"}
        plain = dataclasses.asdict(trajectory)
        task, steps = plain.pop("task"), plain.pop("steps")
        lists = {"final_valid_actions": None, "reflections": list(trajectory.reflections)}
        assert {**stored, **lists} == {
            **task,
            **plain,
            **lists,
            "trajectory_id": trajectory.trajectory_id,
            "content_hash": content_hash(trajectory),
            "total_return": trajectory.total_return,
            "length": trajectory.length,
        }
        assert [set(step) for step in row["steps"]] == [set(step) for step in steps]


def test_the_layout_carries_its_version() -> None:
    assert SCHEMA.metadata[b"retro_lightning.schema_version"] == str(SCHEMA_VERSION).encode()


def test_rows_of_version_1_are_read_with_what_they_lacked_filled_in() -> None:
    made = [t for t in trajectories(5, 40) if t.steps]
    read = decode(old_batch(made, 1))
    assert [t.schema_version for t in read] == [1] * len(made)
    for before, after in zip(made, read, strict=True):
        assert after.trajectory_id == before.trajectory_id
        assert (after.reflections, after.outcome_return) == ((), None)
        for step, was in zip(after.steps, before.steps, strict=True):
            assert (step.generation is None) == (was.generation is None)
            if step.generation is not None and was.generation is not None:
                assert step.generation == dataclasses.replace(
                    was.generation,
                    thought_length=0,
                    thought_log_prob=None,
                    temperature=1.0,
                    kept_ids=None,
                )
