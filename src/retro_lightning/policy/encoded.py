"""Data half: one trajectory as arrays, and how they follow from what was written in its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.trie import ActionPath, FloatArray, IntArray
from retro_lightning.policy.written import Kept, Trained, Written
from retro_lightning.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One trajectory as the arrays a batch is made of.

    S counts the steps that fitted into the context, which are the first ones.

    Attributes:
        sequences: Its tokens: one sequence, or with a history window one for every step, and one
            for the final state. A position is one in the sequence of its step.
        state_positions: Of each step, the position of the last token before what was written in
            it: the hidden state there gives the value, and the first token's logits.
        final_state_position: The same for the state after the last step, if the trajectory is
            bootstrapped there; -1 if not. Where that observation does not fit into the context any
            more, it is the last step's state, an approximation.
        decision_position: Position whose logits make each decision.
        decision_step: Step that each decision belongs to.
        children_indptr: Start of each decision's children in ``children_ids``, one more at the end.
        children_ids: Tokens allowed at the decisions. Where the distribution scores whole actions
            there is one decision per step, and its children are the numbers of the candidates.
        chosen: Index of the token taken among its decision's children.
        rewards: Reward of each step. Rewards of steps that did not fit are added to the last one
            that did, so that undiscounted returns stay what they were.
        behaviour_logprobs: Log-probability of each action under the behaviour; NaN = unknown.
        supported: Whether the behaviour is known to have given every valid action a positive
            probability, so that a ratio to it is meaningful.
        recorded_values: Value estimate recorded with each action; NaN = none.
        children_prior: What is added to the logits of the children; None = nothing is.
        action_positions: Of each step, the position of the last token before its action: where
            there is no thought, ``state_positions``.
        text_position: Position whose logits give each token of free text that is learnt.
        text_step: Step that each of them belongs to.
        text_token: The tokens.
        text_temperature: What their logits are divided by.
        text_kept: The tokens that each was sampled from, () = the whole vocabulary; None = all of
            them from the whole vocabulary.
        tries: Valid actions of each step, where the distribution scores whole actions; None where
            the action is free text. Empty for other distributions.
    """

    sequences: tuple[IntArray, ...]
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
    action_positions: IntArray
    text_position: IntArray
    text_step: IntArray
    text_token: IntArray
    text_temperature: npt.NDArray[np.float32]
    text_kept: Kept | None = None
    children_prior: FloatArray | None = None
    tries: tuple[ScoredTrie | None, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps fitted into the context."""
        return len(self.state_positions)

    @property
    def tokens(self) -> IntArray:
        """All its tokens, sequence after sequence."""
        return self.sequences[0] if len(self.sequences) == 1 else np.concatenate(self.sequences)

    @property
    def sequence_S(self) -> IntArray:
        """The sequence of each step; that of the final state is always the last one."""
        one = len(self.sequences) == 1
        return np.zeros(self.steps, np.int32) if one else np.arange(self.steps, dtype=np.int32)


def assemble(
    trajectory: Trajectory,
    sequences: tuple[IntArray, ...],
    written_S: Sequence[Written],
    states: list[int],
    final: int,
    trained: Trained,
) -> Encoded:
    """Put together what is known of a trajectory.

    Args:
        trajectory: The trajectory.
        sequences: Its tokens.
        written_S: What was written in each step that fitted.
        states: Position of each step's state.
        final: Position of the final state; -1 = not bootstrapped.
        trained: Which parts of a step are learnt from.
    """
    steps = trajectory.steps[: len(written_S)]
    starts_S = np.array([wrote.action_start for wrote in written_S], dtype=np.int32)
    states_S = np.array(states, dtype=np.int32)
    rewards = [step.reward for step in steps]
    rewards[-1] += sum(step.reward for step in trajectory.steps[len(steps) :])
    values = [None if s.generation is None else s.generation.value for s in steps]
    behaviour = [_behaviour(step, trained) for step in steps]
    return Encoded(
        sequences=sequences,
        state_positions=states_S,
        action_positions=states_S + starts_S,
        final_state_position=final,
        **_decisions([wrote.path for wrote in written_S], states_S + starts_S),
        **_texts(written_S, states_S),
        rewards=np.array(rewards, dtype=np.float32),
        behaviour_logprobs=_nan_if_none(behaviour),
        supported=np.array([_supported(step) for step in steps]),
        recorded_values=_nan_if_none(values),
    )


def with_menus(encoded: Encoded, menus: Sequence[tuple[ScoredTrie, ActionPath] | None]) -> Encoded:
    """The same with one decision per step: among all its valid actions as wholes.

    Args:
        encoded: A trajectory with its decisions token by token.
        menus: The valid actions of each step and the one taken; None = nothing is learnt of it.
    """
    decided = [number for number, menu in enumerate(menus) if menu is not None]
    known = [menu for menu in menus if menu is not None]
    sizes = [len(trie.distinct) for trie, _ in known]
    return replace(
        encoded,
        decision_position=encoded.action_positions[decided],
        decision_step=np.array(decided, dtype=np.int32),
        children_indptr=np.cumsum([0, *sizes], dtype=np.int32),
        children_ids=np.concatenate([np.arange(size) for size in (0, *sizes)]).astype(np.int32),
        chosen=np.array([trie.candidate_of(path.ids) for trie, path in known], dtype=np.int32),
        tries=tuple(None if menu is None else menu[0] for menu in menus),
    )


def _decisions(paths: Sequence[ActionPath | None], action_S: IntArray) -> dict[str, Any]:
    """The decisions in the tries of valid actions, for ``Encoded``."""
    listed = [path for path in paths if path is not None]
    counts = [0 if path is None else len(path.offsets) for path in paths]
    sizes = _joined([path.sizes for path in listed])
    indptr = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=indptr[1:])
    priors = [path.prior for path in listed if path.prior is not None]
    return {
        "decision_position": _joined([path.offsets for path in listed])
        + np.repeat(action_S, counts),
        "decision_step": np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        "children_indptr": indptr,
        "children_ids": _joined([path.children for path in listed]),
        "chosen": _joined([path.chosen for path in listed]),
        "children_prior": np.concatenate(priors) if priors else None,
    }


def _texts(written_S: Sequence[Written], states_S: IntArray) -> dict[str, Any]:
    """The tokens of free text, for ``Encoded``."""
    counts = [len(wrote.text_offsets) for wrote in written_S]
    kept = None
    if any(wrote.kept is not None for wrote in written_S):
        none: Kept = ()
        kept = tuple(
            ids
            for wrote, count in zip(written_S, counts, strict=True)
            for ids in (wrote.kept if wrote.kept is not None else (none,) * count)
        )
    temperatures = np.array([wrote.temperature for wrote in written_S], dtype=np.float32)
    return {
        "text_position": _joined([wrote.text_offsets for wrote in written_S])
        + np.repeat(states_S, counts),
        "text_step": np.repeat(np.arange(len(written_S), dtype=np.int32), counts),
        "text_token": _joined([wrote.ids[wrote.text_offsets] for wrote in written_S]),
        "text_temperature": np.repeat(temperatures, counts),
        "text_kept": kept,
    }


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)


def _nan_if_none(values: Sequence[float | None]) -> npt.NDArray[np.float32]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)


def _behaviour(step: Step, trained: Trained) -> float | None:
    """Log-probability, under the behaviour, of the parts of a step that are learnt."""
    if step.log_prob is None or trained == "all":
        return step.log_prob
    if step.thought is None:
        return 0.0 if trained == "thought" else step.log_prob
    thought = None if step.generation is None else step.generation.thought_log_prob
    if thought is None:
        return None  # known together, not apart
    return thought if trained == "thought" else step.log_prob - thought


def _supported(step: Step) -> bool:
    """A policy of ours gives every valid action a positive probability; others must say so."""
    if step.log_prob is None:
        return False
    return step.generation is not None if step.log_probs is None else min(step.log_probs) > -np.inf
