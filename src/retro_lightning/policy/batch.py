"""Data half: a batch of encoded trajectories. The only place that pads.

Padding is on the right and attention is causal, so that no real token ever sees a pad; only
decision and state positions are read, so that no pad is ever read either. The pad id is therefore
free: it is 0, whatever token that is, and its value changes nothing (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retro_lightning.policy.candidates import Candidates, candidates, moved
from retro_lightning.policy.encoded import Encoded
from retro_lightning.policy.scoring import ScoredTrie
from retro_lightning.policy.trie import IntArray
from retro_lightning.trajectory import Task, Trajectory

AnyArray = npt.NDArray[np.generic]


@dataclass(slots=True, kw_only=True)
class Batch:
    """Tensors of B trajectories; letters as in ``retro_lightning.trajectory``.

    Attributes:
        tasks: The task of each trajectory.
        tokens_RT: Token ids, padded with 0, of R sequences: one of each trajectory, or with a
            history window one of each step and bootstrapped final state.
        attention_RT: True at real tokens.
        trajectory_R: Trajectory of each sequence.
        sequence_BS: Sequence of each step; 0 at padding.
        final_sequence_B: Sequence of the final state.
        state_positions_BS: Position of the last token before each action, in the sequence of the
            step, as all positions; 0 at padding.
        steps_BS: True at real steps.
        final_state_B: Position of the state to bootstrap from; -1 = not bootstrapped.
        decision_row_D: Trajectory (row of this batch) of each decision.
        decision_position_D: Position whose logits make the decision.
        decision_step_D: Step of the decision.
        children_DC: Tokens allowed (or numbers of candidates, see ``Encoded``), padded with 0.
        children_mask_DC: True at allowed tokens.
        chosen_D: Index of the token taken among the children.
        vocabulary_U: The distinct tokens of ``children_DC``, ascending.
        children_index_DC: ``children_DC`` as indices into ``vocabulary_U``.
        children_prior_DC: What is added to the children's logits; None = nothing is.
        text_row_F: Trajectory of each token of free text that is learnt.
        text_position_F: Position whose logits give it.
        text_step_F: Step that it belongs to.
        text_token_F: The token.
        text_temperature_F: What its logits are divided by.
        text_kept_FK: The tokens that it was sampled from, padded with -1; a row of -1 alone, or no
            column at all, means the whole vocabulary.
        candidates: All valid actions, where the distribution scores whole actions; else None.
        rewards_BS: Rewards; 0 at padding.
        behaviour_logprobs_BS: Log-probability under the behaviour; NaN = unknown.
        supported_BS: Whether a ratio to the behaviour is meaningful.
        recorded_values_BS: Value recorded with the action; NaN = none.
        policy_version_B: Version of the policy that acted; -1 = no policy of ours.
        success_B: Whether the task was solved.
        total_return_B: Undiscounted return of the whole trajectory.
        bootstrap_B: Whether the trajectory was cut by us and continues after its last step.
        rows_B: Row of the store index.
        weight_B: Weight in the policy's loss, given by the curriculum.
        value_weight_B: Weight in the value loss, which undoes the curriculum's choice.
    """

    tasks: tuple[Task, ...]
    tokens_RT: Tensor
    attention_RT: Tensor
    trajectory_R: Tensor
    sequence_BS: Tensor
    final_sequence_B: Tensor
    state_positions_BS: Tensor
    steps_BS: Tensor
    final_state_B: Tensor
    decision_row_D: Tensor
    decision_position_D: Tensor
    decision_step_D: Tensor
    children_DC: Tensor
    children_mask_DC: Tensor
    chosen_D: Tensor
    vocabulary_U: Tensor
    children_index_DC: Tensor
    children_prior_DC: Tensor | None
    text_row_F: Tensor
    text_position_F: Tensor
    text_step_F: Tensor
    text_token_F: Tensor
    text_temperature_F: Tensor
    text_kept_FK: Tensor
    candidates: Candidates | None
    rewards_BS: Tensor
    behaviour_logprobs_BS: Tensor
    supported_BS: Tensor
    recorded_values_BS: Tensor
    policy_version_B: Tensor
    success_B: Tensor
    total_return_B: Tensor
    bootstrap_B: Tensor
    rows_B: Tensor
    weight_B: Tensor
    value_weight_B: Tensor

    def __len__(self) -> int:
        """Trajectories in the batch."""
        return len(self.rows_B)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return Batch(**moved(self, device, non_blocking))


def collate(
    encoded: Sequence[Encoded],
    trajectories: Sequence[Trajectory],
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    weights: Sequence[float] | npt.NDArray[np.float64] | None = None,
    value_weights: Sequence[float] | npt.NDArray[np.float64] | None = None,
) -> Batch:
    """Pad encoded trajectories into one batch.

    Args:
        encoded: The trajectories as arrays.
        trajectories: The same trajectories as records.
        rows: Their rows in the store index; None = 0, 1, 2, …
        weights: Their weights in the policy's loss; None = 1 each.
        value_weights: Their weights in the value loss; None = 1 each.

    Raises:
        ValueError: If there is no trajectory.
    """
    if not encoded:
        raise ValueError("cannot make a batch of no trajectories")
    count = len(encoded)
    steps = np.array([item.steps for item in encoded])
    per_B = np.array([len(item.sequences) for item in encoded])
    first_B = np.cumsum(per_B) - per_B
    tokens_RT, attention_RT = _padded([ids for item in encoded for ids in item.sequences], np.int64)
    sequence_BS, _ = _padded(
        [item.sequence_S + first for item, first in zip(encoded, first_B, strict=True)], np.int64
    )
    behaviour_BS, _ = _padded([item.behaviour_logprobs for item in encoded], np.float32, np.nan)
    values_BS, _ = _padded([item.recorded_values for item in encoded], np.float32, np.nan)
    supported_BS, _ = _padded([item.supported for item in encoded], np.bool_)
    states_BS, _ = _padded([item.state_positions for item in encoded], np.int64)
    rewards_BS, _ = _padded([item.rewards for item in encoded], np.float32)
    final_B = np.array([item.final_state_position for item in encoded], dtype=np.int64)
    versions = [t.policy_version for t in trajectories]
    return Batch(
        tasks=tuple(trajectory.task for trajectory in trajectories),
        tokens_RT=_tensor(tokens_RT),
        attention_RT=_tensor(attention_RT),
        trajectory_R=_tensor(np.repeat(np.arange(count), per_B)),
        sequence_BS=_tensor(sequence_BS),
        final_sequence_B=_tensor(first_B + per_B - 1),
        state_positions_BS=_tensor(states_BS),
        steps_BS=_tensor(np.arange(steps.max()) < steps[:, None]),
        final_state_B=_tensor(final_B),
        **_decisions(encoded),
        **_texts(encoded),
        candidates=_candidates(encoded),
        rewards_BS=_tensor(rewards_BS),
        behaviour_logprobs_BS=_tensor(behaviour_BS),
        supported_BS=_tensor(supported_BS),
        recorded_values_BS=_tensor(values_BS),
        policy_version_B=torch.tensor([-1 if v is None else v for v in versions]),
        success_B=torch.tensor([t.success for t in trajectories]),
        total_return_B=torch.tensor([t.total_return for t in trajectories], dtype=torch.float32),
        bootstrap_B=_tensor(final_B >= 0),
        rows_B=torch.as_tensor(np.arange(count) if rows is None else np.asarray(rows)),
        weight_B=_weights(weights, count),
        value_weight_B=_weights(value_weights, count),
    )


def stack_steps(parts_BS: Sequence[Tensor]) -> Tensor:
    """Join [B, S] tensors of several batches along B, padded with 0 to the longest S."""
    longest = max(part.shape[1] for part in parts_BS)
    return torch.cat([nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts_BS])


def pad_children(
    children: npt.NDArray[np.int32], sizes: npt.NDArray[np.int32]
) -> dict[str, Tensor]:
    """Concatenated children of decisions as the padded tensors of a ``Batch``.

    Args:
        children: Children of all decisions, one after the other.
        sizes: How many each decision has.
    """
    vocabulary_U, inverse = np.unique(children, return_inverse=True)
    mask_DC = np.arange(sizes.max(initial=2)) < sizes[:, None]
    children_DC = np.zeros(mask_DC.shape, dtype=np.int64)
    index_DC = np.zeros(mask_DC.shape, dtype=np.int64)
    children_DC[mask_DC] = children
    index_DC[mask_DC] = inverse
    return {
        "children_DC": _tensor(children_DC),
        "children_mask_DC": _tensor(mask_DC),
        "vocabulary_U": _tensor(vocabulary_U.astype(np.int64)),
        "children_index_DC": _tensor(index_DC),
    }


def _weights(values: Sequence[float] | npt.NDArray[np.float64] | None, count: int) -> Tensor:
    return torch.as_tensor(np.ones(count) if values is None else values, dtype=torch.float32)


def _candidates(encoded: Sequence[Encoded]) -> Candidates | None:
    if not any(trie is not None for item in encoded for trie in item.tries):
        return None
    states: list[IntArray] = []
    tries: list[tuple[ScoredTrie | None, ...]] = []
    for item in encoded:
        for number in range(len(item.sequences)):
            here = np.flatnonzero(item.sequence_S == number)
            states.append(item.action_positions[here])
            tries.append(tuple(item.tries[step] for step in here))
    return candidates([ids for item in encoded for ids in item.sequences], states, tries)


def _prior(encoded: Sequence[Encoded], mask_DC: Tensor) -> Tensor | None:
    priors = [item.children_prior for item in encoded if item.children_prior is not None]
    if not priors:
        return None
    prior_DC = torch.zeros(mask_DC.shape)
    prior_DC[mask_DC] = torch.from_numpy(np.concatenate(priors)).float()
    return prior_DC


def _decisions(encoded: Sequence[Encoded]) -> dict[str, Any]:
    counts = [len(item.chosen) for item in encoded]
    position_D = np.concatenate([item.decision_position for item in encoded])
    step_D = np.concatenate([item.decision_step for item in encoded])
    chosen_D = np.concatenate([item.chosen for item in encoded])
    sizes_D = np.concatenate([np.diff(item.children_indptr) for item in encoded])
    children = np.concatenate([item.children_ids for item in encoded])
    padded = pad_children(children, sizes_D)
    return {
        "decision_row_D": _tensor(np.repeat(np.arange(len(encoded)), counts)),
        "decision_position_D": _tensor(position_D.astype(np.int64)),
        "decision_step_D": _tensor(step_D.astype(np.int64)),
        "chosen_D": _tensor(chosen_D.astype(np.int64)),
        **padded,
        "children_prior_DC": _prior(encoded, padded["children_mask_DC"]),
    }


def _texts(encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    counts = [len(item.text_token) for item in encoded]
    kept: list[tuple[int, ...]] = []
    if any(item.text_kept is not None for item in encoded):
        for item, count in zip(encoded, counts, strict=True):
            kept += item.text_kept if item.text_kept is not None else [()] * count
    kept_FK = np.full((sum(counts), max(map(len, kept), default=0)), -1, dtype=np.int64)
    for row, ids in enumerate(kept):
        kept_FK[row, : len(ids)] = ids

    def joined(name: str, dtype: type[np.generic]) -> Tensor:
        return _tensor(np.concatenate([getattr(item, name) for item in encoded]).astype(dtype))

    return {
        "text_row_F": _tensor(np.repeat(np.arange(len(encoded)), counts)),
        "text_position_F": joined("text_position", np.int64),
        "text_step_F": joined("text_step", np.int64),
        "text_token_F": joined("text_token", np.int64),
        "text_temperature_F": joined("text_temperature", np.float32),
        "text_kept_FK": _tensor(kept_FK),
    }


def _padded(
    arrays: Sequence[npt.NDArray[Any]],
    dtype: type[np.generic],
    fill: float = 0,
) -> tuple[AnyArray, npt.NDArray[np.bool_]]:
    lengths = np.array([len(array) for array in arrays])
    mask = np.arange(lengths.max()) < lengths[:, None]
    result = np.full(mask.shape, fill, dtype=dtype)
    result[mask] = np.concatenate(arrays)
    return result, mask


def _tensor(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array)
