"""Behaviour half: what a reflector reads of an attempt, and what an actor is told before a retry.

*Short-term*: the attempt itself, as text. *Long-term*: the latest reflections of the episode, and
what a library of the past holds for such a task. *Replay* of (prompt, reflection, reward) is the
replay store, like that of any other policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Task, Trajectory

_CUT = "..."
_MOST_REPEATS = 3


class Library(ABC):
    """Lines from the past that help with a task; read once and never written."""

    @abstractmethod
    def lines(self, task: Task) -> tuple[str, ...]:
        """What is told about the task, the most useful last."""


class Memory:
    """What reflector and actor are shown.

    Args:
        attempt_words: Longest description of an attempt, in words, its return not counted. Longer
            ones keep the first observation (of a very long one, the beginning) and as many of the
            latest turns as fit (if not even the last one does, its beginning); what is left out
            becomes ``...``.
        reflection_words: Longest reflection, in words; a longer one cannot be used.
        last: Reflections of the episode that the actor is told, the latest ones. Higher = more to
            go by and more to be misled by.
        library: Lines that the actor is told besides, before the reflections.
    """

    def __init__(
        self,
        attempt_words: int = 200,
        reflection_words: int = 40,
        last: int = 3,
        library: Library | None = None,
    ) -> None:
        sizes = {"attempt_words": attempt_words, "reflection_words": reflection_words, "last": last}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"Memory: {name} is {size}; give at least 1")
        self.attempt_words, self.reflection_words = attempt_words, reflection_words
        self.last, self.library = last, library

    def told(self, task: Task, reflections: Sequence[str]) -> tuple[str, ...]:
        """What the actor is told before a retry, oldest first.

        Args:
            task: The actor's task.
            reflections: All reflections of the episode, oldest first.
        """
        past = () if self.library is None else self.library.lines(task)
        return (*past, *reflections[-self.last :])

    def describe(self, attempt: Trajectory) -> str:
        """An attempt as the reflector reads it: turns, how it ended, and its return.

        ``{observation} > {action}: {observation} > {action}: {final observation}. return {G}``
        """
        seen = [step.observation for step in attempt.steps[1:]] + [attempt.final_observation]
        turns = [
            f" > {step.action}: {after}" for step, after in zip(attempt.steps, seen, strict=True)
        ]
        opening = attempt.steps[0].observation if attempt.steps else ""
        text = self._cut(opening, turns)
        stop = " " if text.endswith(_CUT) else ". "
        return f"{text}{stop}return {attempt.total_return:g}"

    def _cut(self, opening: str, turns: list[str]) -> str:
        whole = opening + "".join(turns)
        if len(whole.split()) <= self.attempt_words:
            return whole
        opening = _beginning(opening, self.attempt_words // 2 if turns else self.attempt_words)
        room = self.attempt_words - len(opening.split())
        kept: list[str] = []
        for number, turn in enumerate(reversed(turns)):
            if number == 0:
                turn = f" {_beginning(turn, room)}"
            room -= len(turn.split())
            if room < 0:
                kept.append(f" > {_CUT}")
                break
            kept.append(turn)
        return opening + "".join(reversed(kept))

    def complaint(self, reflection: str) -> str | None:
        """What is wrong with a reflection that an actor should not be told; None = nothing.

        It is empty, too long, or says the same over and over.
        """
        words = reflection.split()
        if not words:
            return "the reflection is empty"
        if len(words) > self.reflection_words:
            return (
                f"the reflection has {len(words)} words, more than memory.reflection_words "
                f"({self.reflection_words})"
            )
        again = repeated(words)
        if again:
            return f"the reflection repeats {again!r} more than {_MOST_REPEATS} times"
        return None


def _beginning(text: str, most: int) -> str:
    """A text whose words are at most so many: as it is, or its first ones and a mark."""
    words = text.split()
    if len(words) <= most:
        return text.removeprefix(" ")
    return " ".join([*words[: max(most - 1, 0)], _CUT])


def repeated(words: Sequence[str]) -> str:
    """A phrase that stands more than three times in a row; empty if there is none."""
    for size in range(1, len(words) // (_MOST_REPEATS + 1) + 1):
        for start in range(len(words) - size * (_MOST_REPEATS + 1) + 1):
            phrase = list(words[start : start + size])
            span = list(words[start : start + size * (_MOST_REPEATS + 1)])
            if span == phrase * (_MOST_REPEATS + 1):
                return " ".join(phrase)
    return ""


class BestReflections(Library):
    """The reflections of a store that helped most, whatever task they were written for.

    Args:
        store: Replay store of reflections (each step an action in free text with its reward). Only
            those on training tasks are used.
        count: How many are told.
    """

    def __init__(self, store: str, count: int = 3) -> None:
        self.store, self.count = store, count

    def lines(self, task: Task) -> tuple[str, ...]:
        """The most helpful last; of equals the newer."""
        ranked = sorted(_reflections(self.store), key=lambda entry: entry[1])
        return tuple(text for text, _, _ in ranked[-self.count :])


class SimilarReflections(Library):
    """The helpful reflections of a store on the tasks most like the present one.

    Likeness is the share of words that two instructions have in common (Jaccard).

    Args:
        store: Replay store of reflections. Only those on training tasks with a positive reward are
            used, and none on the task itself.
        count: How many are told.
    """

    def __init__(self, store: str, count: int = 3) -> None:
        self.store, self.count = store, count

    def lines(self, task: Task) -> tuple[str, ...]:
        """The likest task's last."""
        useful = [
            (likeness(other.instruction, task.instruction), reward, text)
            for text, reward, other in _reflections(self.store)
            if reward > 0 and other.task_id != task.task_id
        ]
        ranked = sorted(useful, key=lambda entry: entry[:2])
        return tuple(text for _, _, text in ranked[-self.count :])


class SimilarAttempts(Library):
    """Past attempts of the actor at the tasks most like the present one, successes first.

    Args:
        store: Replay store of the actor's trajectories. Only those on training tasks are used, and
            none on the task itself.
        count: How many are told.
        words: Longest description of an attempt, in words.
    """

    def __init__(self, store: str, count: int = 1, words: int = 60) -> None:
        self.store, self.count, self.words = store, count, words

    def lines(self, task: Task) -> tuple[str, ...]:
        """The likest task's last, its task named."""
        memory = Memory(attempt_words=self.words)
        ranked = sorted(
            (
                (likeness(past.task.instruction, task.instruction), past.total_return, number)
                for number, past in enumerate(past_trajectories(self.store))
                if past.steps and past.task.task_id != task.task_id
            ),
        )
        every = past_trajectories(self.store)
        chosen = [every[number] for _, _, number in ranked[-self.count :]]
        return tuple(f"{past.task.instruction}: {memory.describe(past)}" for past in chosen)


def likeness(one: str, other: str) -> float:
    """Share of words two texts have in common, in [0, 1] (Jaccard); 1 = the same words."""
    first, second = set(one.split()), set(other.split())
    return len(first & second) / max(1, len(first | second))


_STORES: dict[str, tuple[Trajectory, ...]] = {}


def past_trajectories(store: str) -> tuple[Trajectory, ...]:
    """All sound trajectories of training tasks in a store, read once in a process."""
    if store not in _STORES:
        replay = ReplayStore(store)
        _STORES[store] = tuple(
            trajectory
            for trajectory in replay.read(range(len(replay)))
            if trajectory.task.split == "train" and trajectory.truncation != "fault"
        )
    return _STORES[store]


def _reflections(store: str) -> Iterable[tuple[str, float, Task]]:
    for trajectory in past_trajectories(store):
        for step in trajectory.steps:
            yield step.action, step.reward, trajectory.task
