r"""Behaviour half: records to tokens, and back to where in the tokens each decision was made.

A trajectory is one token sequence::

    Observation: {observation}\nTask: {instruction}\nAction: {action}<end>
    Observation: {observation}\nTask: {instruction}\nAction: {action}<end>
    …

The task is restated before every action: it is then near, however long the past is, and names what
to look for after it was seen (measured in ``docs/experiments.md``). What the agent was told about
earlier attempts (``Trajectory.reflections``) is restated with it, between task and action, as
``\nReflection: {reflection}`` each, oldest first. ``<end>``, the end-of-action
token, is the newline if it is one token of the tokenizer, else the end-of-sequence token. Every
segment is encoded by itself and the ids are concatenated, so that the boundary between context and
action is exact by construction and no tokenizer can merge across it. Recorded ids
(``Step.generation``) are used as they stand, but only under the fingerprint of the tokenizer that
wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retro_lightning.policy.actions import ActionDistribution, TrieConstrained
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.segments import Segments, observation_text, task_text
from retro_lightning.policy.trie import ActionPath, FloatArray, IntArray, TokenTrie
from retro_lightning.trajectory import Step, Task, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BOOTSTRAPPED = ("collector_limit", "context_full")
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One trajectory as the arrays a batch is made of.

    S counts the steps that fitted into the context, which are the first ones.

    Attributes:
        tokens: The whole sequence.
        state_positions: Of each step, the position of the last token before its action: the hidden
            state there gives the first decision's logits and the value.
        final_state_position: The same for the state after the last step, if the trajectory is
            bootstrapped there; -1 if not. Where that observation does not fit into the context any
            more, it is the last step's state, an approximation.
        decision_position: Position whose logits make each decision.
        decision_step: Step that each decision belongs to.
        children_indptr: Start of each decision's children in ``children_ids``, one more at the end.
        children_ids: Tokens allowed at the decisions.
        chosen: Index of the token taken among its decision's children.
        rewards: Reward of each step. Rewards of steps that did not fit are added to the last one
            that did, so that undiscounted returns stay what they were.
        behaviour_logprobs: Log-probability of each action under the behaviour; NaN = unknown.
        supported: Whether the behaviour is known to have given every valid action a positive
            probability, so that a ratio to it is meaningful.
        recorded_values: Value estimate recorded with each action; NaN = none.
        children_prior: What is added to the logits of the children; None = nothing is.
        tries: Valid actions of each step, where the distribution scores whole actions; None where
            the action is free text. Empty for other distributions.
        candidates: Number of the action taken among its trie's candidates; as ``tries``.
    """

    tokens: IntArray
    state_positions: IntArray
    final_state_position: int
    decision_position: IntArray
    decision_step: IntArray
    children_indptr: IntArray
    children_ids: IntArray
    chosen: IntArray
    rewards: npt.NDArray[np.float32]
    behaviour_logprobs: npt.NDArray[np.float32]
    supported: npt.NDArray[np.bool_]
    recorded_values: npt.NDArray[np.float32]
    children_prior: FloatArray | None = None
    tries: tuple[ScoredTrie | None, ...] = ()
    candidates: IntArray | None = None

    @property
    def steps(self) -> int:
        """How many steps fitted into the context."""
        return len(self.state_positions)


class Transcript:
    """Turns records into tokens for one tokenizer.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        max_length: Most tokens of a sequence, the model's context. Of a longer trajectory the first
            steps that fit are kept.
        distribution: Distribution over valid actions.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        distribution: ActionDistribution | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.distribution = distribution if distribution is not None else TrieConstrained()
        self._segments = Segments(tokenizer, self.distribution)
        self.fingerprint, self.end = self._segments.fingerprint, self._segments.end

    # ------------------------------------------------------------------ segments
    def context(
        self, observation: str, task: Task, *, first: bool, reflections: tuple[str, ...] = ()
    ) -> IntArray:
        """Tokens fed before an action.

        Args:
            observation: What is seen now.
            task: The task, which is restated before every action.
            first: Whether it is the trajectory's first action.
            reflections: What the agent was told about earlier attempts, restated with the task.
        """
        return self._segments.context(observation, task, first=first, reflections=reflections)

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
            ValueError: If a step's action is free text or not among its valid actions, if there is
                no step, or if not even the first step fits into the context; names task and step.
        """
        result: list[Encoded] = []
        for start in range(0, len(trajectories), _CHUNK):
            chunk = trajectories[start : start + _CHUNK]
            self._segments.prepare(text for trajectory in chunk for text in self._texts(trajectory))
            result.extend(self._encode(trajectory) for trajectory in chunk)
        return result

    def _texts(self, trajectory: Trajectory) -> Iterable[str]:
        yield task_text(trajectory.task, trajectory.reflections)
        if trajectory.tokenizer != self.fingerprint:
            for step in trajectory.steps:
                yield observation_text(step.observation)
        if trajectory.truncation in _BOOTSTRAPPED:
            yield observation_text(trajectory.final_observation)

    def _encode(self, trajectory: Trajectory) -> Encoded:
        segments: list[IntArray] = []
        paths: list[ActionPath] = []
        states: list[int] = []
        position = 0
        exact = trajectory.tokenizer == self.fingerprint
        for number, step in enumerate(trajectory.steps):
            context, path = self._step(trajectory, number, step, exact)
            length = position + len(context) + len(path.ids)
            if length > self.max_length:
                break
            segments += (context, path.ids)
            states.append(position + len(context) - 1)
            paths.append(path)
            position = length
        if not paths:
            raise ValueError(
                f"task {trajectory.task.task_id}: "
                + (
                    f"step 0 alone is longer than the model's context of {self.max_length} tokens; "
                    "use a model with a longer context or shorter observations"
                    if trajectory.steps
                    else "the trajectory has no step; leave it out"
                )
            )
        final = self._final(trajectory, len(paths), position, segments)
        encoded = _assemble(
            trajectory, segments, paths, states, states[-1] if final == -2 else final
        )
        return self._with_menus(trajectory, encoded, paths) if self.distribution.whole else encoded

    def _with_menus(
        self, trajectory: Trajectory, encoded: Encoded, paths: Sequence[ActionPath]
    ) -> Encoded:
        """The same with all valid actions of every step."""
        tries: list[ScoredTrie | None] = []
        numbers = []
        for step, path in zip(trajectory.steps, paths, strict=False):
            trie = None if step.valid_actions is None else self.trie(step.valid_actions)
            assert trie is None or isinstance(trie, ScoredTrie)
            tries.append(trie)
            numbers.append(-1 if trie is None else trie.candidate_of(path.ids))
        return replace(encoded, tries=tuple(tries), candidates=np.array(numbers, dtype=np.int32))

    def _step(
        self, trajectory: Trajectory, number: int, step: Step, exact: bool
    ) -> tuple[IntArray, ActionPath]:
        where = f"task {trajectory.task.task_id}, step {number}"
        if step.valid_actions is None:
            raise ValueError(
                f"{where}: the action is free text, which this policy cannot learn yet"
            )
        try:
            trie, by_name = self._segments.menu(step.valid_actions)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        generation = step.generation
        if exact and generation is not None:
            recorded = trie.path_of(generation.action_ids)
            if recorded is None:
                raise ValueError(
                    f"{where}: the recorded tokens of action {step.action!r} are not those of any "
                    "valid action; the record is damaged or was made with other code"
                )
            return np.array(generation.context_ids, dtype=np.int32), recorded
        path = by_name.get(step.action)
        if path is None:
            raise ValueError(
                f"{where}: action {step.action!r} is not among the {len(step.valid_actions)} valid "
                "actions; correct the record or leave it out"
            )
        return self._context(trajectory, step.observation, first=number == 0), path

    def _context(self, trajectory: Trajectory, observation: str, *, first: bool) -> IntArray:
        return self.context(
            observation, trajectory.task, first=first, reflections=trajectory.reflections
        )

    def _final(
        self, trajectory: Trajectory, kept: int, position: int, segments: list[IntArray]
    ) -> int:
        """Append the final state if it is bootstrapped; its position, -1 none, -2 did not fit."""
        if trajectory.truncation not in _BOOTSTRAPPED:
            return -1
        if kept < len(trajectory.steps):
            return -1
        context = self._context(trajectory, trajectory.final_observation, first=False)
        if position + len(context) > self.max_length:
            return -2
        segments.append(context)
        return position + len(context) - 1


def _assemble(
    trajectory: Trajectory,
    segments: list[IntArray],
    paths: list[ActionPath],
    states: list[int],
    final: int,
) -> Encoded:
    steps = trajectory.steps[: len(paths)]
    counts = [len(path.offsets) for path in paths]
    state_positions = np.array(states, dtype=np.int32)
    sizes = np.concatenate([path.sizes for path in paths])
    indptr = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=indptr[1:])
    rewards = [step.reward for step in steps]
    rewards[-1] += sum(step.reward for step in trajectory.steps[len(paths) :])
    nan = float("nan")
    values = [nan if s.generation is None else s.generation.value for s in steps]
    return Encoded(
        tokens=np.concatenate(segments),
        state_positions=state_positions,
        final_state_position=final,
        decision_position=np.concatenate([path.offsets for path in paths])
        + np.repeat(state_positions, counts),
        decision_step=np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        children_indptr=indptr,
        children_ids=np.concatenate([path.children for path in paths]),
        chosen=np.concatenate([path.chosen for path in paths]),
        rewards=np.array(rewards, dtype=np.float32),
        behaviour_logprobs=np.array(
            [nan if step.log_prob is None else step.log_prob for step in steps], dtype=np.float32
        ),
        supported=np.array([_supported(step) for step in steps]),
        recorded_values=np.array([nan if v is None else v for v in values], dtype=np.float32),
        children_prior=_prior(paths),
    )


def _prior(paths: Sequence[ActionPath]) -> FloatArray | None:
    priors = [path.prior for path in paths if path.prior is not None]
    return np.concatenate(priors) if priors else None


def _supported(step: Step) -> bool:
    """A policy of ours gives every valid action a positive probability; others must say so."""
    if step.log_prob is None:
        return False
    return step.generation is not None if step.log_probs is None else min(step.log_probs) > -np.inf
