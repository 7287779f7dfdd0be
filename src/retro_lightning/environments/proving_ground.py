"""Behaviour half: text tasks in which a first attempt must mostly fail and tells why.

A label (of a box, a key, a storage region) is secret. Whoever tries a wrong one fails,
and the last thing seen names the right one: too late for this attempt, just what the next one
needs. The labels of all kinds come from one pool of words, so that whoever has learnt to copy the
right label in some kinds can be asked for it in a kind never seen.

Beside the contract of ``base.py`` the kinds can ``write_reflection``: helpful, vague, wrong or
about something else, for scripted logs and as the oracle that evaluations compare with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import numpy as np

from retro_lightning.environments.spaces import UnicodeText

Quality = Literal["helpful", "vague", "wrong", "off_task"]
"""What a scripted reflection is worth: it names the secret; it names nothing; it names a wrong
label; it speaks of another task."""

QUALITIES: tuple[Quality, ...] = get_args(Quality)

_LABELS = (
    *("amber", "birch", "cedar", "coral", "fern", "flint", "hazel", "ivory", "jade", "lemon"),
    *("lilac", "maple", "mint", "olive", "onyx", "opal", "pearl", "pine", "plum", "rose"),
    *("ruby", "sage", "teal", "violet"),
)
_VAGUE = (
    "be more careful next time",
    "try something else",
    "think before you act",
    "the last attempt failed",
    "do not give up",
    "look around first",
)


class ProvingGround(gymnasium.Env[str, str]):
    """What the kinds have in common: a subject, labels to choose from, and the secret among them.

    An attempt ends with reward 1 where the right label was used, else with 0 and an observation
    that names it. There is no time limit: every attempt ends after at most two steps.

    Args:
        labels: Labels to choose from, 2 to 24. Higher = a blind attempt succeeds less often.

    Attributes:
        SUBJECTS: What a task of the kind is about.
        SAYINGS: Notes that tell a label, in which ``{subject}`` and ``{label}`` are filled in: the
            label right after what it is for, where a small model looks for it.
    """

    TEXT_VERSION = 2
    SUBJECTS: ClassVar[tuple[str, ...]]
    SAYINGS: ClassVar[tuple[str, ...]]
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, labels: int = 6) -> None:
        """Make the environment; see the class for the arguments.

        Raises:
            ValueError: If there are too few or too many labels.
        """
        if not 2 <= labels <= len(_LABELS):
            raise ValueError(f"{type(self).__name__}: labels is {labels}; give 2 to {len(_LABELS)}")
        self._count = labels
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an attempt; the same seed gives the same subject, labels and secret."""
        super().reset(seed=seed, options=options)
        rng = self.np_random
        subjects = rng.permutation(len(self.SUBJECTS))[:3]
        self._subjects = [self.SUBJECTS[int(place)] for place in subjects]
        self._subject = self._subjects[0]
        self._others = [self._subjects[int(place)] for place in rng.permutation(3)]
        places = rng.permutation(len(_LABELS))[: self._count]
        self._labels = [_LABELS[int(place)] for place in places]
        self._secret = self._labels[int(rng.integers(self._count))]
        self._used: list[str] = []
        self._over = False
        state = f"{self._secret} of {' '.join(self._labels)}; {' '.join(self._others)}"
        return self._opening(), {**self._info(), "initial_state": state}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one of the valid actions.

        Raises:
            ValueError: If the action is not valid now.
        """
        valid = self._valid()
        if self._over or action not in valid:
            raise ValueError(
                f"{type(self).__name__}: {action!r} is not a valid action now; valid are: "
                f"{', '.join(() if self._over else valid)}"
            )
        observation, solved = self._act(action)
        self._over = solved is not None
        info = {**self._info(), "success": bool(solved)}
        return observation, float(bool(solved)), self._over, False, info

    def write_reflection(self, quality: Quality, rng: np.random.Generator) -> str:
        """A reflection on this task, as a log of mixed quality would hold it.

        Args:
            quality: What it is worth.
            rng: Source of randomness: which sentence, which label, which other subject.
        """
        if quality == "vague":
            return _VAGUE[int(rng.integers(len(_VAGUE)))]
        subject, label = self._subject, self._secret
        if quality == "wrong":
            label = _pick([each for each in self._labels if each != self._secret], rng)
        if quality == "off_task":
            subject = _pick([each for each in self.SUBJECTS if each != self._subject], rng)
            label = _pick(self._labels, rng)
        return _pick(self.SAYINGS, rng).format(subject=subject, label=label)

    @abstractmethod
    def expert_action(self) -> str:
        """What somebody who knows the secret does now."""

    @abstractmethod
    def _instruction(self) -> str: ...

    @abstractmethod
    def _opening(self) -> str: ...

    @abstractmethod
    def _valid(self) -> list[str]: ...

    @abstractmethod
    def _act(self, action: str) -> tuple[str, bool | None]:
        """Carry out a valid action: what is seen, and whether it solved (None = it goes on)."""

    def _info(self) -> dict[str, Any]:
        return {"instruction": self._instruction(), "valid_actions": self._valid()}


class HiddenObject(ProvingGround):
    """Find a thing in one of several boxes, of which two can be opened before time is up."""

    SUBJECTS = ("watch", "pen", "ring", "map", "coin", "lamp", "rope", "flute", "knife", "book")
    SAYINGS = ("{subject} {label} box", "note: the {subject} {label} box")

    def __init__(self, labels: int = 10) -> None:
        """Make the environment; see ``ProvingGround``."""
        super().__init__(labels)

    def expert_action(self) -> str:
        """Open the right box."""
        return f"open the {self._secret} box"

    def _instruction(self) -> str:
        return f"find the {self._subject}"

    def _opening(self) -> str:
        return f"boxes: {' '.join(self._labels)}"

    def _valid(self) -> list[str]:
        return [f"open the {label} box" for label in self._labels if label not in self._used]

    def _act(self, action: str) -> tuple[str, bool | None]:
        label = action.split()[2]
        self._used.append(label)
        if label == self._secret:
            return f"the {label} box holds the {self._subject}", True
        held = f"the {label} box holds the {self._subjects[len(self._used)]}"
        if len(self._used) < 2:
            return held, None
        return f"{held}. time is up. missed: {self._subject} {self._secret} box", False


class _Pointed(ProvingGround):
    """Kinds of two steps: take a label, then point it at the right one of three subjects.

    Attributes:
        TAKE: The first action; ``{label}`` is filled in.
        POINT: The second; ``{subject}`` is filled in.
        ASK: The instruction.
        BEFORE: What is seen before the labels.
        BETWEEN: What is seen after the first action.
        WRONG: What is seen after the second with a wrong label or subject.
        RIGHT: What is seen after the second with the right ones.
    """

    TAKE: ClassVar[str]
    POINT: ClassVar[str]
    ASK: ClassVar[str]
    BEFORE: ClassVar[str]
    BETWEEN: ClassVar[str]
    WRONG: ClassVar[str]
    RIGHT: ClassVar[str]

    def expert_action(self) -> str:
        """Take the secret label, then point it at the subject of the task."""
        if self._used:
            return self.POINT.format(subject=self._subject)
        return self.TAKE.format(label=self._secret)

    def _instruction(self) -> str:
        return self.ASK.format(subject=self._subject)

    def _opening(self) -> str:
        return f"{self.BEFORE} {' '.join(self._labels)}"

    def _valid(self) -> list[str]:
        if self._used:
            return [self.POINT.format(subject=subject) for subject in self._others]
        return [self.TAKE.format(label=label) for label in self._labels]

    def _act(self, action: str) -> tuple[str, bool | None]:
        if not self._used:
            places = [self.TAKE.format(label=label) for label in self._labels]
            self._used.append(self._labels[places.index(action)])
            return self.BETWEEN.format(label=self._used[0], subjects=" ".join(self._others)), None
        label = self._used[0]
        if label == self._secret and action == self.POINT.format(subject=self._subject):
            return self.RIGHT.format(subject=self._subject, label=label), True
        return self.WRONG.format(subject=self._subject, label=label, secret=self._secret), False


class LockedDoor(_Pointed):
    """Unlock a door with one of several keys; a wrong key breaks, and the lock shows its own."""

    SUBJECTS = (
        *("cellar", "attic", "vault", "stable", "tower"),
        *("garden", "pantry", "kitchen", "library", "workshop"),
    )
    SAYINGS = ("{subject} {label} key", "note: the {subject} {label} key")
    ASK = "open the {subject}"
    BEFORE = "keys:"
    TAKE = "take the {label} key"
    BETWEEN = "you hold the {label} key. doors: {subjects}"
    POINT = "unlock the {subject}"
    WRONG = "the {label} key breaks. the lock says: {subject} {secret} key"
    RIGHT = "the {subject} is open"


class RefusedCall(_Pointed):
    """Fetch a table by two tool calls; the server refuses a wrong region and ends the session."""

    SUBJECTS = (
        *("sales", "stock", "taxes", "prices", "orders"),
        *("claims", "visits", "leads", "fleet", "staff"),
    )
    SAYINGS = ("{subject} {label} region", "note: {subject} {label} region")
    ASK = "fetch {subject}"
    BEFORE = "regions:"
    TAKE = "connect(region: {label})"
    BETWEEN = "session in {label}. tables: {subjects}"
    POINT = "fetch(table: {subject})"
    WRONG = "error: no {subject} in {label}. see {subject} {secret} region"
    RIGHT = "{subject} fetched"


class RecordsRoom(_Pointed):
    """Find a table in one of several boxes; after a wrong one the room is closed.

    Its words are those of the other kinds, put together anew: a kind to keep out of training.
    """

    SUBJECTS = RefusedCall.SUBJECTS
    SAYINGS = ("{subject} {label} box", "note: {subject} {label} box")
    ASK = "find {subject}"
    BEFORE = "boxes:"
    TAKE = "open the {label} box"
    BETWEEN = "the {label} box is open. tables: {subjects}"
    POINT = "take {subject}"
    WRONG = "error: no {subject} in the {label} box. see {subject} {secret} box"
    RIGHT = "you hold {subject}"


def _pick(pool: Sequence[str], rng: np.random.Generator) -> str:
    return pool[int(rng.integers(len(pool)))]
