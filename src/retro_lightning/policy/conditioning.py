"""Behaviour half: what tells a policy its task beside the transcript's words: a soft prompt.

By default the task's instruction stands in the transcript and nothing else is needed. A *soft
prompt* is one virtual position before the first token, whose embedding is computed from the task
and learnt with the policy. All later tokens may attend to it (prompt tuning, Lester et al. 2021,
arXiv 2104.08691, with one position per task instead of many for all).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from retro_lightning.trajectory import Task

Describe = Callable[[Sequence[str]], Tensor]
"""The language model's own embeddings [N, H] of N texts, without gradient."""


class SoftPrompt(nn.Module, ABC):
    """Maps tasks to the embeddings of their virtual position.

    Args:
        made_from: The settings it was built from, saved beside its weights.
    """

    def __init__(self, made_from: TaskConditioning) -> None:
        super().__init__()
        self.made_from = made_from

    @abstractmethod
    def forward(self, tasks: Sequence[Task], describe: Describe) -> Tensor:
        """Embeddings [B, H] for B tasks.

        Args:
            tasks: The tasks.
            describe: The language model's own embeddings of texts.
        """


class TaskConditioning(ABC):
    """Shape of a soft prompt.

    Attributes:
        kind: Its name in a policy directory.
    """

    kind: ClassVar[str]

    @abstractmethod
    def build(self, embeddings_VH: Tensor, seed: int) -> SoftPrompt:
        """A fresh soft prompt, the same for the same seed; the global generator is left alone.

        Args:
            embeddings_VH: The language model's token embeddings, whose size a prompt begins with.
            seed: Seed of its weights.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as they are saved."""


class LearnedTaskEmbedding(TaskConditioning):
    """One learnt vector per known task; a task that is not known gets the mean of all of them.

    Args:
        tasks: Names of the known tasks: families, or task ids.
        by: What names a task: its ``family``, shared by all tasks of a kind, or its ``task_id``.
    """

    kind = "learned_task_embedding"

    def __init__(self, tasks: list[str], by: Literal["family", "task_id"] = "family") -> None:
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(
                f"conditioning.tasks has {len(tasks)} names, {len(set(tasks))} of them different; "
                "name every known task once"
            )
        self.tasks, self.by = tasks, by

    def build(self, embeddings_VH: Tensor, seed: int) -> SoftPrompt:
        """Vectors drawn at the size of token embeddings."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.tasks), embeddings_VH.shape[1])
        vectors = torch.randn(shape, generator=generator) * _size(embeddings_VH)
        return _LearnedPrompt(self, vectors)

    def settings(self) -> dict[str, Any]:
        """See ``TaskConditioning``."""
        return {"tasks": self.tasks, "by": self.by}


class _LearnedPrompt(SoftPrompt):
    def __init__(self, made_from: LearnedTaskEmbedding, vectors_NH: Tensor) -> None:
        super().__init__(made_from)
        self.vectors = nn.Parameter(vectors_NH)
        self._number = {name: number for number, name in enumerate(made_from.tasks)}
        self._by = made_from.by

    def forward(self, tasks: Sequence[Task], describe: Describe) -> Tensor:
        names = [task.family if self._by == "family" else task.task_id for task in tasks]
        unknown = len(self._number)
        table_NH = torch.cat([self.vectors, self.vectors.mean(dim=0, keepdim=True)])
        return table_NH[[self._number.get(name, unknown) for name in names]]


class DescriptionEmbedding(TaskConditioning):
    """The language model's own embedding of the instruction, through a learnt linear map.

    The embedding is the hidden state after the instruction's last token, scaled to the size of a
    token embedding; the map begins as the identity. Gradients reach the map, not the model: its
    embedding of a text is taken as given. Works for any task, seen or not.
    """

    kind = "description_embedding"

    def build(self, embeddings_VH: Tensor, seed: int) -> SoftPrompt:
        """The identity, whatever the seed."""
        return _DescriptionPrompt(self, embeddings_VH.shape[1], _size(embeddings_VH))

    def settings(self) -> dict[str, Any]:
        """See ``TaskConditioning``."""
        return {}


class _DescriptionPrompt(SoftPrompt):
    def __init__(self, made_from: TaskConditioning, hidden_size: int, size: float) -> None:
        super().__init__(made_from)
        self.map = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.map.bias)
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(hidden_size) * size)

    def forward(self, tasks: Sequence[Task], describe: Describe) -> Tensor:
        texts = list(dict.fromkeys(task.instruction for task in tasks))
        hidden_NH = describe(texts).to(self.map.weight.dtype)
        prompts_NH: Tensor = self.map(nn.functional.rms_norm(hidden_NH, hidden_NH.shape[-1:]))
        number = {text: i for i, text in enumerate(texts)}
        return prompts_NH[[number[task.instruction] for task in tasks]]


def _size(embeddings_VH: Tensor) -> float:
    """Root mean square of token embeddings."""
    return float(embeddings_VH.detach().float().pow(2).mean().sqrt())


OURS: dict[str, Callable[..., TaskConditioning]] = {
    kind.kind: kind for kind in (LearnedTaskEmbedding, DescriptionEmbedding)
}
"""What a policy directory may name; a class of your own is passed to ``Policy.load``."""
