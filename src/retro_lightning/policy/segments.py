"""Behaviour half: pieces of transcript text as token ids, each encoded by itself and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from retro_lightning.policy.actions import ActionDistribution
from retro_lightning.policy.tokenizer import fingerprint
from retro_lightning.policy.trie import ActionPath, IntArray, TokenTrie
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BARE = "\nAction:"
"""What comes before an action in a transcript that says nothing."""

LONGEST_RESTATED = 1_000
"""Characters of an instruction up to which it is told before every action."""

THOUGHT = "\nThought:"
"""What comes before a thought."""

_MOST_TEXTS = 65_536
_MOST_MENUS = 4_096
"""Remembered sets of valid actions; 50 actions take about 60 kB."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Segments:
    """Encodes the texts that transcripts are made of.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        distribution: Distribution over valid actions.

    Attributes:
        fingerprint: Of the tokenizer.
        end: The end-of-action token.
        end_of_text: What ends a thought and an action that is free text: the end-of-sequence token,
            so that texts may have many lines; the end-of-action token if there is none.
        marker: What stands between a thought and its action.
        prefix: What a sequence begins with: the beginning-of-sequence token, or nothing.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, distribution: ActionDistribution
    ) -> None:
        self._tokenizer, self._distribution = tokenizer, distribution
        self.fingerprint = fingerprint(tokenizer)
        self.end = _end_of_action(tokenizer)
        eos = tokenizer.eos_token_id
        self.end_of_text = self.end if eos is None else int(eos)
        self.marker: IntArray = np.array(_encode(tokenizer, [BARE])[0], dtype=np.int32)
        self.prefix = _prefix(tokenizer)
        self._ids: dict[str, IntArray] = {}
        self._menus: dict[tuple[str, ...], tuple[TokenTrie, dict[str, ActionPath]]] = {}

    def context(
        self,
        observation: str,
        task: Task,
        *,
        first: bool,
        reflections: tuple[str, ...] = (),
        thought: bool = False,
        whole_task: bool = False,
    ) -> IntArray:
        """Tokens fed before an action, or before the thought that precedes it.

        ``first`` says whether it is the trajectory's first, ``whole_task`` whether a long task is
        told in full all the same.
        """
        told = task if first or whole_task else restated(task)
        turn = [
            self._encoded(observation_text(observation)),
            self._encoded(task_text(told, reflections, thought=thought)),
        ]
        return np.concatenate([self.prefix, *turn] if first else turn)

    def menu(self, valid: tuple[str, ...]) -> tuple[TokenTrie, dict[str, ActionPath]]:
        """The trie of valid actions and each action's way through it.

        Raises:
            ValueError: If there is none, one contains the end-of-action token, or two different
                ones have the same tokens.
        """
        entry = self._menus.get(valid)
        if entry is None:
            trie = self._trie(valid)
            entry = trie, dict(zip(valid, trie.paths, strict=True))
            _make_room(self._menus, _MOST_MENUS)
            self._menus[valid] = entry
        return entry

    def _trie(self, valid: tuple[str, ...]) -> TokenTrie:
        if not valid:
            raise ValueError("the list of valid actions is empty")
        self.prepare(action_text(action) for action in valid)
        ids = [self._encoded(action_text(action)).tolist() for action in valid]
        for action, tokens in zip(valid, ids, strict=True):
            if self.end in tokens:
                raise ValueError(
                    f"action {action!r} contains the end-of-action token "
                    f"{self._tokenizer.decode([self.end])!r}: write it without"
                )
        bare = np.concatenate([self.prefix, self._encoded(BARE)])
        trie = self._distribution.trie(valid, ids, end=self.end, bare=bare)
        for action, first in zip(valid, trie.first, strict=True):
            if action != valid[first]:
                raise ValueError(
                    f"actions {valid[first]!r} and {action!r} are the same tokens to this "
                    "tokenizer: word them differently or use a lossless tokenizer"
                )
        return trie

    def free(self, text: str) -> IntArray:
        """Tokens of a free text, a thought or an action, with the token that ends it.

        Raises:
            ValueError: If the text contains that token.
        """
        ids = self._encoded(action_text(text))
        if self.end_of_text in ids:
            end = self._tokenizer.decode([self.end_of_text])
            raise ValueError(
                f"the text {text[:40]!r} contains {end!r}, the token that ends texts: write it "
                "without, or set tokenizer.eos_token to a token that no text has"
            )
        return np.append(ids, np.int32(self.end_of_text))

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode the texts that are not remembered yet, all at once."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._ids))
        if not missing:
            return
        _make_room(self._ids, _MOST_TEXTS)
        for text, ids in zip(missing, _encode(self._tokenizer, missing), strict=True):
            self._ids[text] = np.array(ids, dtype=np.int32)

    def _encoded(self, text: str) -> IntArray:
        ids = self._ids.get(text)
        if ids is None:
            self.prepare([text])
            ids = self._ids[text]
        return ids


def observation_text(observation: str) -> str:
    """What the policy reads after each action."""
    return f"Observation: {observation}"


def task_text(task: Task, reflections: tuple[str, ...] = (), *, thought: bool = False) -> str:
    """What the policy reads before each action: the task again, however long the past is.

    Args:
        task: The task.
        reflections: What the agent was told about earlier attempts at it, oldest first.
        thought: Whether a thought comes before the action.
    """
    told = "".join(f"\nReflection: {reflection}" for reflection in reflections)
    return f"{told}\nTask: {task.instruction}{THOUGHT if thought else BARE}"


def restated(task: Task) -> Task:
    """The task as it is told again: a long one is told in full before the first action only.

    Instructions of agents in the wild (a system prompt, a company's policy) have thousands of
    characters, and would fill the context within a few turns.
    """
    if len(task.instruction) <= LONGEST_RESTATED:
        return task
    return replace(task, instruction="as above")


def action_text(action: str) -> str:
    """What the policy writes, but for the end-of-action token."""
    return f" {action}"


def training_texts(trajectories: Iterable[Trajectory]) -> Iterator[str]:
    """Every segment of trajectories, as a tokenizer will be asked to encode it, to train it on."""
    for trajectory in trajectories:
        yield task_text(trajectory.task, trajectory.reflections)
        for step in trajectory.steps:
            yield observation_text(step.observation)
            if step.thought is not None:
                yield from (THOUGHT, action_text(step.thought), BARE)
            yield from map(action_text, step.valid_actions or (step.action,))
        yield observation_text(trajectory.final_observation)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Ids of each text by itself, without special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
        return [item.ids for item in backend.encode_batch_fast(texts, add_special_tokens=False)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _end_of_action(tokenizer: PreTrainedTokenizerBase) -> int:
    newline = _encode(tokenizer, ["\n"])[0]
    if len(newline) == 1 and tokenizer.decode(newline) == "\n":
        return newline[0]
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has neither a newline token nor an end-of-sequence token to end actions "
            "with: set tokenizer.eos_token"
        )
    return int(tokenizer.eos_token_id)


def _prefix(tokenizer: PreTrainedTokenizerBase) -> IntArray:
    """The beginning-of-sequence token, where the tokenizer puts one by itself."""
    ids = tokenizer("x")["input_ids"]
    starts = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    return np.array(ids[:1] if starts else [], dtype=np.int32)


def _make_room(cache: dict[_Key, _Value], most: int) -> None:
    """Forget the older half of a full cache."""
    if len(cache) >= most:
        for key in list(cache)[: most // 2]:
            del cache[key]
