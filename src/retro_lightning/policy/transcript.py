r"""Behaviour half: records to tokens, and back to where in the tokens each decision was made.

A trajectory is one token sequence, or with ``history_window`` one per step (``policy/window.py``)::

    Observation: {observation}\nTask: {instruction}\nAction: {action}<end>
    Observation: {observation}\nTask: {instruction}\nAction: {action}<end>
    …

The task is restated before every action: it is then near, however long the past is, and names what
to look for after it was seen (measured in ``docs/experiments.md``). What the agent was told about
earlier attempts (``Trajectory.reflections``) is restated before the task, for the same reason, as
``\nReflection: {reflection}`` each, oldest first. ``<end>``, the end-of-action
token, is the newline if it is one token of the tokenizer, else the end-of-sequence token.

A free-text action and a thought end with the end-of-sequence token instead, so that they may have
many lines; one that was cut by its token limit or at a stop text has no end. A thought stands
before its action, whatever that is chosen from::

    Observation: {observation}\nTask: {instruction}\nThought: {thought}<eos>\nAction: {action}<end>

Every segment is encoded by itself and the ids are concatenated, so that the boundary between
context and action is exact by construction and no tokenizer can merge across it. Recorded ids
(``Step.generation``) are used as they stand, but only under the fingerprint of the tokenizer that
wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retro_lightning.policy.actions import ActionDistribution, TrieConstrained
from retro_lightning.policy.encoded import Encoded, assemble, with_menus
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.segments import Segments, action_text, observation_text, task_text
from retro_lightning.policy.trie import ActionPath, IntArray, TokenTrie
from retro_lightning.policy.window import WholePast, Window, WindowedPast, check_window
from retro_lightning.policy.written import Trained, Written, chosen, written
from retro_lightning.trajectory import Generation, Step, Task, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BOOTSTRAPPED = ("collector_limit", "context_full")
_CHUNK = 256


class Transcript:
    """Turns records into tokens for one tokenizer.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        max_length: Most tokens of a sequence, the model's context. Of a longer trajectory the first
            steps that fit are kept.
        distribution: Distribution over valid actions.
        trained: Which parts of a step are learnt from: ``all``, the ``action`` or the ``thought``.
        history_window: Turns that are seen at most before an action, its own included; None = all.
            With a window every step is a sequence of its own, and a long task is told in full in
            every turn.

    Raises:
        ValueError: If the window holds nothing.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        distribution: ActionDistribution | None = None,
        trained: Trained = "all",
        history_window: int | None = None,
    ) -> None:
        check_window(history_window)
        self.tokenizer, self.history_window = tokenizer, history_window
        self.trained: Trained = trained
        self.max_length = max_length
        self.distribution = distribution if distribution is not None else TrieConstrained()
        self._segments = Segments(tokenizer, self.distribution)
        self.fingerprint, self.end = self._segments.fingerprint, self._segments.end
        self.end_of_text, self.marker = self._segments.end_of_text, self._segments.marker

    # ------------------------------------------------------------------ segments
    def context(
        self,
        observation: str,
        task: Task,
        *,
        first: bool,
        reflections: tuple[str, ...] = (),
        thought: bool = False,
    ) -> IntArray:
        """Tokens fed before an action.

        Args:
            observation: What is seen now.
            task: The task, which is restated before every action.
            first: Whether it is the trajectory's first action.
            reflections: What the agent was told about earlier attempts, restated with the task.
            thought: Whether a thought is written before the action.
        """
        return self._segments.context(
            observation,
            task,
            first=first,
            reflections=reflections,
            thought=thought,
            whole_task=self.history_window is not None,
        )

    def within(self, max_length: int) -> Transcript:
        """The same for sequences of at most ``max_length`` tokens, if that is fewer."""
        return Transcript(
            self.tokenizer,
            max_length=min(max_length, self.max_length),
            distribution=self.distribution,
            trained=self.trained,
            history_window=self.history_window,
        )

    def window(self) -> Window | None:
        """What is seen of a trajectory that begins now; None = all of it."""
        turns = self.history_window
        return None if turns is None else Window(turns, self._segments.prefix)

    def prepare(self, observations: Iterable[str]) -> None:
        """Encode observations all at once; ``context`` is then a look-up."""
        self._segments.prepare(map(observation_text, observations))

    def trie(self, valid_actions: tuple[str, ...]) -> TokenTrie:
        """The trie of a step's valid actions.

        Raises:
            ValueError: If there is none, one contains the end-of-action token, or two different
                ones have the same tokens.
        """
        return self._segments.menu(valid_actions)[0]

    # ------------------------------------------------------------------ trajectories
    def encode(self, trajectory: Trajectory) -> Encoded:
        """Encode one trajectory; see ``encode_many``."""
        return self.encode_many([trajectory])[0]

    def encode_many(self, trajectories: Sequence[Trajectory]) -> list[Encoded]:
        """Encode trajectories.

        Raises:
            ValueError: If a step's action is not among its valid actions, if a free text contains
                the token that ends texts, if there is no step, or if not even the first step fits
                into the context; names task and step.
        """
        result: list[Encoded] = []
        for start in range(0, len(trajectories), _CHUNK):
            chunk = trajectories[start : start + _CHUNK]
            self._segments.prepare(text for trajectory in chunk for text in self._texts(trajectory))
            result.extend(self._encode(trajectory) for trajectory in chunk)
        return result

    def _texts(self, trajectory: Trajectory) -> Iterable[str]:
        yield task_text(trajectory.task, trajectory.reflections)
        if trajectory.tokenizer != self.fingerprint or self.history_window is not None:
            for step in trajectory.steps:
                yield observation_text(step.observation)
                if step.thought is not None:
                    yield action_text(step.thought)
                if step.valid_actions is None:
                    yield action_text(step.action)
        if trajectory.truncation in _BOOTSTRAPPED:
            yield observation_text(trajectory.final_observation)

    def _encode(self, trajectory: Trajectory) -> Encoded:
        steps: list[Written] = []
        states: list[int] = []
        window = self.window()
        limit = self.max_length
        past = WholePast(limit) if window is None else WindowedPast(limit, window)
        exact = trajectory.tokenizer == self.fingerprint
        for number, step in enumerate(trajectory.steps):
            context, wrote = self._step(trajectory, number, step, exact)
            state = past.place(context, wrote.ids)
            if state is None:
                break
            states.append(state)
            steps.append(wrote)
        if not steps:
            raise ValueError(
                f"task {trajectory.task.task_id}: "
                + (
                    f"step 0 alone is longer than the model's context of {self.max_length} tokens; "
                    "use a model with a longer context or shorter observations"
                    if trajectory.steps
                    else "the trajectory has no step; leave it out"
                )
            )
        final = self._final(trajectory, past, states)
        encoded = assemble(trajectory, past.sequences(), steps, states, final, self.trained)
        if not self.distribution.whole:
            return encoded
        kept = zip(trajectory.steps, steps, strict=False)
        return with_menus(encoded, [self._menu(step, wrote) for step, wrote in kept])

    def _menu(self, step: Step, wrote: Written) -> tuple[ScoredTrie, ActionPath] | None:
        """The valid actions of a step, and the one taken; None = nothing is learnt of it."""
        if wrote.path is None or not step.valid_actions or self.trained == "thought":
            return None
        trie = self.trie(step.valid_actions)
        return (trie, wrote.path) if isinstance(trie, ScoredTrie) else None

    def _step(
        self, trajectory: Trajectory, number: int, step: Step, exact: bool
    ) -> tuple[IntArray, Written]:
        where = f"task {trajectory.task.task_id}, step {number}"
        try:
            recorded = step.generation if exact else None
            if recorded is not None and self.history_window is None:
                context = np.array(recorded.context_ids, dtype=np.int32)
                return context, self._recorded(step, recorded)
            context = self._context(
                trajectory, step.observation, first=number == 0, thought=step.thought is not None
            )
            if recorded is not None:
                return context, self._recorded(step, recorded)
            return context, self._encoded(step)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _recorded(self, step: Step, generation: Generation) -> Written:
        """What was written, from its recorded tokens."""
        ids = np.array(generation.action_ids, dtype=np.int32)
        start = generation.thought_length
        path = None
        if step.valid_actions is not None:
            path = self.trie(step.valid_actions).path_of(ids[start:].tolist())
            if path is None:
                raise ValueError(
                    f"the recorded tokens of action {step.action!r} are not those of any valid "
                    "action; the record is damaged or was made with other code"
                )
            if not start:
                return chosen(path) if self.trained != "thought" else self._unlearnt(path)
        thought = ids[: start - len(self.marker)] if start else None
        return written(
            thought,
            self.marker,
            ids[start:],
            path,
            trained=self.trained,
            kept=generation.kept_ids,
            temperature=generation.temperature,
        )

    def _encoded(self, step: Step) -> Written:
        """What was written, from its text."""
        path = None
        if step.valid_actions is not None:
            path = self._segments.menu(step.valid_actions)[1].get(step.action)
            if path is None:
                raise ValueError(
                    f"action {step.action!r} is not among the {len(step.valid_actions)} valid "
                    "actions; correct the record or leave it out"
                )
            if step.thought is None:
                return chosen(path) if self.trained != "thought" else self._unlearnt(path)
        thought = None if step.thought is None else self._segments.free(step.thought)
        action = self._segments.free(step.action) if path is None else path.ids
        return written(thought, self.marker, action, path, trained=self.trained)

    def _unlearnt(self, path: ActionPath) -> Written:
        return written(None, self.marker, path.ids, path, trained=self.trained)

    def _context(
        self, trajectory: Trajectory, observation: str, *, first: bool, thought: bool = False
    ) -> IntArray:
        return self.context(
            observation,
            trajectory.task,
            first=first,
            reflections=trajectory.reflections,
            thought=thought,
        )

    def _final(
        self, trajectory: Trajectory, past: WholePast | WindowedPast, states: Sequence[int]
    ) -> int:
        """Lay out the final state if it is bootstrapped; its position, -1 = it is not.

        Where it does not fit it is the last step's.
        """
        if trajectory.truncation not in _BOOTSTRAPPED or len(states) < len(trajectory.steps):
            return -1
        context = self._context(
            trajectory,
            trajectory.final_observation,
            first=False,
            thought=trajectory.steps[-1].thought is not None,
        )
        final = past.place(context)
        return states[-1] if final is None else final
