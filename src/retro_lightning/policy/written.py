"""Data half: what is written in one step, a thought and an action, and which of it is learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from retro_lightning.policy.trie import ActionPath, IntArray

Trained = Literal["all", "action", "thought"]
"""Which parts of a step are learnt from; a thought is only there where one was written."""

Kept = tuple[tuple[int, ...], ...]
_NONE = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Written:
    """The tokens written in one step.

    Attributes:
        ids: All of them: thought, the marker of the action, the action.
        path: Way of the action through its trie, without decisions where it is not learnt; None
            where the action is free text.
        action_start: Tokens before the action: its first token is drawn after as many of them.
        text_offsets: Places in ``ids`` of the tokens of free text that are learnt.
        kept: The tokens that each of ``text_offsets`` was sampled from; () = the whole vocabulary.
            None = all of them from the whole vocabulary.
        temperature: What the logits of free text were divided by.
    """

    ids: IntArray
    path: ActionPath | None
    action_start: int
    text_offsets: IntArray
    kept: Kept | None
    temperature: float


def chosen(path: ActionPath) -> Written:
    """A valid action without a thought."""
    return Written(path.ids, path, 0, _NONE, None, 1.0)


def written(
    thought: IntArray | None,
    marker: IntArray,
    action: IntArray,
    path: ActionPath | None,
    *,
    trained: Trained,
    kept: Kept | None = None,
    temperature: float = 1.0,
) -> Written:
    """A step with a thought, with free text, or both.

    Args:
        thought: Tokens of the thought with the token that ended it; None = there is none.
        marker: Tokens between thought and action, which nobody chose.
        action: Tokens of the action with its end.
        path: Way of a valid action through its trie; None where the action is free text.
        trained: Which parts are learnt from.
        kept: Sets that the free text was sampled from, a thought's first; see ``Written``.
        temperature: What its logits were divided by.
    """
    before = _NONE if thought is None else np.concatenate([thought, marker])
    thoughts = np.arange(0 if thought is None else len(thought), dtype=np.int32)
    texts = np.arange(len(action) if path is None else 0, dtype=np.int32) + len(before)
    learn_thought, learn_action = trained != "action", trained != "thought"
    mask = np.concatenate(
        [np.full(len(thoughts), learn_thought), np.full(len(texts), learn_action)]
    )
    return Written(
        ids=np.concatenate([before, action]).astype(np.int32),
        path=path if learn_action else _without_decisions(path),
        action_start=len(before),
        text_offsets=np.concatenate([thoughts, texts])[mask],
        kept=None if kept is None else _selected(kept, mask),
        temperature=temperature,
    )


def _selected(kept: Kept, mask: npt.NDArray[np.bool_]) -> Kept:
    return tuple(ids for ids, wanted in zip(kept, mask, strict=True) if wanted)


def _without_decisions(path: ActionPath | None) -> ActionPath | None:
    if path is None:
        return None
    return ActionPath(
        ids=path.ids,
        nodes=_NONE,
        offsets=_NONE,
        sizes=_NONE,
        children=_NONE,
        chosen=_NONE,
        prior=None,
    )
