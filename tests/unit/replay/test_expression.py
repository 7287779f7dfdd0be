"""Filter expressions: they choose what they say, and nothing is ever evaluated."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.replay.expression import choose
from retro_lightning.replay.index import StoreIndex
from retro_lightning.replay.records import encode
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Trajectory
from tests.old_layouts import publish_old
from tests.support import random_trajectory


def made_up(count: int = 60) -> tuple[list[Trajectory], StoreIndex]:
    rng = np.random.default_rng(0)
    made = [
        dataclasses.replace(
            random_trajectory(rng, number),
            recorded_at=None if number % 5 == 0 else NOW - DAY * number / 2,
        )
        for number in range(count)
    ]
    return made, StoreIndex.from_table(pa.Table.from_batches([encode(made)]))


NOW, DAY = 1_764_000_000.0, 86_400.0
MADE, INDEX = made_up()
NEWEST = max(t.policy_version or -1 for t in MADE)


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("success", lambda t: t.success and True),
        ("not success", lambda t: not t.success),
        ("success and length > 2", lambda t: t.success and t.length > 2),
        ("success or total_return >= 0.5", lambda t: t.success or t.total_return >= 0.5),
        ("1 < length <= 3", lambda t: 1 < t.length <= 3),
        ("total_return * 2 - 1 < length", lambda t: t.total_return * 2 - 1 < t.length),
        ("family == 'family-1'", lambda t: t.task.family == "family-1"),
        ("'family-1' != family", lambda t: t.task.family != "family-1"),
        ("family in ['family-0', 'x']", lambda t: t.task.family == "family-0"),
        ("attempt not in [1, 2, -3]", lambda t: t.attempt not in (1, 2)),
        ("like(behaviour, '*-2')", lambda t: t.behaviour_id == "behaviour-2"),
        ("like(task, 'family-?:[01]')", lambda t: t.task.task_id[-1] in "01"),
        ("source == 'rollout' and truncated", lambda t: t.source == "rollout" and t.truncated),
        ("faulted", lambda t: t.truncation == "fault"),
        ("outcome", lambda t: t.length == 0 and t.truncation != "fault"),
        ("train", lambda t: t.task.split == "train"),
        ("policy_version < 0", lambda t: t.policy_version is None),
        ("policy_version >= 5e11", lambda t: (t.policy_version or -1) >= 5e11),
        ("policy_version == " + str(NEWEST), lambda t: t.policy_version == NEWEST),
        ("task == 'family-1:3'", lambda t: t.task.task_id == "family-1:3"),
        ("staleness <= 2e12", lambda t: t.policy_version is not None),
        ("staleness == 0", lambda t: t.policy_version == NEWEST),
        # Number n of the made-up ones was recorded n / 2 days ago; every fifth does not say when.
        ("age <= 7", lambda t: t.attempt % 5 and t.attempt <= 14),
        ("age > 7", lambda t: t.attempt % 5 and t.attempt > 14),
        ("1 <= age < 3 and success", lambda t: t.attempt in (2, 3, 4) and t.success),
        ("True", lambda _: True),
        ("1 > 2", lambda _: False),
    ],
)
def test_it_chooses_what_it_says(expression: str, holds) -> None:
    assert choose(expression, INDEX, NOW).tolist() == [bool(holds(t)) for t in MADE]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("__import__('os').system('true')", "not allowed here"),
        ("success.real", "not allowed here"),
        ("[x for x in [1]]", "not allowed here"),
        ("(lambda: 1)()", "not allowed here"),
        ("open('x')", "not allowed here"),
        ("like(family, family)", "not allowed here"),
        ("like(success, 'x')", "not allowed here"),
        ("f'{success}'", "not allowed here"),
        ("2 ** 99999999", "not allowed here"),
        ("colour == 1", "there is no column 'colour'; known: task, family"),
        ("length", "is no yes or no"),
        ("family and success", "'family' is no yes or no"),
        ("family > 1", "a number is needed"),
        ("family in [success]", "texts and numbers only"),
        ("success and", "cannot be read"),
        ("(" * 500, "cannot be read"),
        ("1" * 1001, "longer than 1000"),
    ],
)
def test_whatever_else_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        choose(expression, INDEX)
    assert reason in str(raised.value)


@given(st.text(alphabet="abc()[]'\".,<>=!+-*/ 019lengthsuccessandornot_", max_size=40))
def test_any_text_gives_a_mask_or_one_sentence(expression: str) -> None:
    try:
        mask = choose(expression, INDEX)
    except ValueError:
        return
    assert mask.shape == (len(INDEX),)
    assert mask.dtype == np.bool_


def test_age_counts_from_when_a_store_took_it_in_where_the_log_does_not_say(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, create=True)
    plain, told = MADE[0], dataclasses.replace(MADE[1], recorded_at=time.time() - 3 * DAY)
    store.append([plain, told])
    publish_old(tmp_path, [MADE[2]])  # an earlier release kept no time
    store.refresh()
    assert choose("age < 1", store.index).tolist() == [True, False, False]
    assert choose("2.9 < age < 3.1", store.index).tolist() == [False, True, False]
    assert choose("age < 1", store.index, time.time() + 2 * DAY).tolist() == [False, False, False]
    before = store.index.recorded_at.tolist()
    store.compact()
    assert store.index.recorded_at[:2].tolist() == before[:2]  # a compaction makes nothing young
    assert np.isnan(store.index.recorded_at[2])


def test_an_empty_store() -> None:
    _, index = made_up(0)
    assert choose("success and like(family, '*') and age < 3", index).tolist() == []
