"""What reflector and actor are shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.replay.store import ReplayStore
from retro_lightning.retrospection.memory import (
    BestReflections,
    Memory,
    SimilarAttempts,
    SimilarReflections,
    likeness,
    repeated,
)
from retro_lightning.trajectory import Step, Task, Trajectory


def attempt(instruction: str, turns: list[tuple[str, str, float]], **changes: object) -> Trajectory:
    """Turns of (observation, action, reward)."""
    split = changes.pop("split", "train")
    fields = {
        "task": Task(
            task_id=f"t:{instruction}", family="t", instruction=instruction, seed=0, split=split
        ),
        "steps": tuple(
            Step(observation=seen, valid_actions=None, action=action, reward=reward)
            for seen, action, reward in turns
        ),
        "final_observation": "the end",
        "final_valid_actions": None,
        "terminated": True,
        "truncated": False,
        "truncation": None,
        "success": False,
        "source": "scripted:test",
        "behaviour_id": "test",
        "run": "test",
        "attempt": 0,
    }
    return Trajectory(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_attempt_in_words() -> None:
    text = Memory().describe(attempt("go", [("a door", "knock", 0.0), ("silence", "leave", 0.5)]))
    assert text == "a door > knock: silence > leave: the end. return 0.5"


def test_a_long_attempt_keeps_its_beginning_and_its_end() -> None:
    turns = [(f"seen {number}", f"do {number}", 0.0) for number in range(50)]
    text = Memory(attempt_words=20).describe(attempt("go", turns))
    # "seen 0" is 2 words, each later turn "> do n: seen n" is 5: three of them fit into 18.
    assert text == ("seen 0 > ... > do 47: seen 48 > do 48: seen 49 > do 49: the end. return 0")


@given(
    words=st.integers(1, 60),
    opening=st.integers(0, 90),
    turns=st.lists(st.integers(1, 90), min_size=1, max_size=8),
)
def test_descriptions_stay_within_their_words(words: int, opening: int, turns: list[int]) -> None:
    """However long a single observation is; ``> ...`` and ``return 0`` come on top."""
    seen = [" ".join(["seen"] * opening)] + [" ".join(["then"] * count) for count in turns]
    record = attempt("go", [(each, "do it", 0.0) for each in seen])
    text = Memory(attempt_words=words).describe(record)
    assert len(text.split()) <= words + 4
    assert text.endswith(" return 0")
    whole = Memory(attempt_words=10_000).describe(record)
    assert "..." not in whole
    if len(whole.split()) <= words + 2:
        assert text == whole


def test_a_turn_too_long_for_itself_keeps_its_beginning() -> None:
    long = " ".join(f"w{n}" for n in range(30))
    record = attempt("go", [("what is it", "search", 0.0), (long, "look", 0.0)])
    record = dataclasses.replace(record, final_observation=long)
    text = Memory(attempt_words=10).describe(record)
    assert text == "what is it > ... > look: w0 w1 w2 w3 ... return 0"
    opened = attempt("go", [(long, "look", 0.0)])
    assert Memory(attempt_words=10).describe(opened) == (
        "w0 w1 w2 w3 ... > look: the end. return 0"
    )


def test_repetition() -> None:
    assert repeated(["a", "a", "a"]) == ""
    assert repeated(["b", "a", "a", "a", "a"]) == "a"
    assert repeated(["x", "y", "z", "x", "y", "z", "x", "y", "z", "x", "y", "z", "w"]) == "x y z"
    assert repeated([]) == ""


def test_likeness() -> None:
    assert likeness("find the pen", "find the pen") == 1.0
    assert likeness("find the pen", "find the cup") == 2 / 4
    assert likeness("", "") == 0.0


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Reflections with rewards; one on a test task, one in a fault."""
    path = tmp_path / "store"
    ReplayStore(path, create=True).append(
        [
            attempt("find the pen", [("failed", "look in the box", 0.2)]),
            attempt("find the cup", [("failed", "look in the jar", 0.9)]),
            attempt("open the door", [("failed", "take the key", 0.5)]),
            attempt("open the gate", [("failed", "push", -0.5)]),
            attempt("find the hat", [("failed", "secret of the test", 1.0)], split="test"),
            attempt(
                "find the rug",
                [("failed", "broken", 1.0)],
                terminated=False,
                truncated=True,
                truncation="fault",
            ),
        ]
    )
    return str(path)


def asked(instruction: str) -> Task:
    return Task(
        task_id=f"t:{instruction}", family="t", instruction=instruction, seed=0, split="val"
    )


def test_best_reflections(store: str) -> None:
    assert BestReflections(store, 2).lines(asked("find the pen")) == (
        "take the key",
        "look in the jar",
    )


def test_similar_reflections_are_of_other_tasks_and_helped(store: str) -> None:
    assert SimilarReflections(store, 1).lines(asked("find the pen")) == ("look in the jar",)
    # "open the shed": door and gate are equally like it; the gate's reflection did harm.
    assert SimilarReflections(store, 1).lines(asked("open the shed")) == ("take the key",)


def test_similar_attempts(store: str) -> None:
    assert SimilarAttempts(store, 1).lines(asked("find the pen")) == (
        "find the cup: failed > look in the jar: the end. return 0.9",
    )


def test_library_lines_come_before_reflections(store: str) -> None:
    memory = Memory(last=1, library=BestReflections(store, 1))
    assert memory.told(asked("find the pen"), ["old", "new"]) == ("look in the jar", "new")


@pytest.mark.parametrize("name", ["attempt_words", "reflection_words", "last"])
def test_impossible_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=f"Memory: {name} is 0; give at least 1"):
        Memory(**{name: 0})
