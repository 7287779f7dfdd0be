"""Filter expressions: they choose what they say, and nothing is ever evaluated."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.replay.expression import choose
from retro_lightning.replay.index import StoreIndex
from retro_lightning.replay.records import encode
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory


def made_up(count: int = 60) -> tuple[list[Trajectory], StoreIndex]:
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number) for number in range(count)]
    return made, StoreIndex.from_table(pa.Table.from_batches([encode(made)]))


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
        ("version < 0", lambda t: t.policy_version is None),
        ("age <= 2e12", lambda t: t.policy_version is not None),
        ("age == 0", lambda t: t.policy_version == NEWEST),
        ("True", lambda _: True),
        ("1 > 2", lambda _: False),
    ],
)
def test_it_chooses_what_it_says(expression: str, holds) -> None:
    assert choose(expression, INDEX).tolist() == [bool(holds(t)) for t in MADE]


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


def test_an_empty_store() -> None:
    _, index = made_up(0)
    assert choose("success and like(family, '*') and age < 3", index).tolist() == []
