"""What the training step costs over a bare Hugging Face step on the same tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retro_lightning.credit.baselines import NoBaseline
from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.policy.batch import Batch
from retro_lightning.training.batches import ReplayBatches
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.plan import Plan
from tests.benchmarks.conftest import MainJob
from tests.benchmarks.measuring import interleaved, show

pytestmark = pytest.mark.slow

LIMIT = 1.15
STEPS, ROUNDS = 4, 9
Rows = list[list[Tensor]]
"""Of each forward pass, the sequences in it."""


def replayed(job: MainJob, rng: np.random.Generator) -> list[list[Batch]]:
    """Gradient steps as the datamodule hands them over."""
    batch_size = job.data.curricula.batch_size
    rows = rng.choice(np.flatnonzero(job.memory.learnable), STEPS * batch_size, replace=False)
    batches = ReplayBatches(
        Plan.in_order(rows, batch_size),
        job.memory.load,
        parts=job.data.length_parts,
    )
    return list(batches)


def sequences(step: list[Batch]) -> list[Tensor]:
    """The unpadded tokens of a gradient step, longest first."""
    rows = [
        tokens[mask]
        for part in step
        for tokens, mask in zip(part.tokens_RT, part.attention_RT, strict=True)
    ]
    return sorted(rows, key=len, reverse=True)


class Bare:
    """Hugging Face's model with nothing of ours: next-token cross-entropy on all its logits."""

    def __init__(self, lm: nn.Module) -> None:
        self.lm = copy.deepcopy(lm).train()
        self.optimizer = torch.optim.AdamW(self.lm.parameters(), lr=1e-4)

    def _backward(self, logits_BTV: Tensor, labels_BT: Tensor, total: int) -> None:
        loss = nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=-100, reduction="sum"
        )
        (loss / total).backward()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def padded(self, passes: Rows) -> None:
        """Each pass is a right-padded batch; causal attention needs no mask there."""
        total = sum(len(row) for rows in passes for row in rows)
        for rows in passes:
            tokens_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            next_BT = nn.utils.rnn.pad_sequence(
                [nn.functional.pad(row[1:], (0, 1), value=-100) for row in rows],
                batch_first=True,
                padding_value=-100,
            )
            self._backward(self.lm(input_ids=tokens_BT, use_cache=False).logits, next_BT, total)
        self._update()

    def decisions_only(self, steps: list[list[Batch]]) -> None:
        """As ``padded``, but only hidden states at decisions go through the output embeddings."""
        for step in steps:
            total = sum(len(part.decision_row_D) for part in step)
            for part in step:
                hidden_BTH = self.lm.model(input_ids=part.tokens_RT, use_cache=False)[0]
                hidden_DH = hidden_BTH[part.decision_row_D, part.decision_position_D]
                taken_D = part.children_DC.gather(1, part.chosen_D[:, None])[:, 0]
                self._backward(self.lm.lm_head(hidden_DH)[None], taken_D[None], total)
            self._update()

    def concatenated(self, passes: Rows) -> None:
        """Each pass is one row of sequences end to end, each of which sees only itself."""
        total = sum(len(row) for rows in passes for row in rows)
        for rows in passes:
            lengths = torch.tensor([len(row) for row in rows])
            owner_T = torch.repeat_interleave(torch.arange(len(rows)), lengths)
            positions_T = torch.cat([torch.arange(len(row)) for row in rows])
            mask_TT = (owner_T[:, None] == owner_T[None, :]).tril()
            labels = [nn.functional.pad(row[1:], (0, 1), value=-100) for row in rows]
            logits = self.lm(
                input_ids=torch.cat(rows)[None],
                position_ids=positions_T[None],
                attention_mask=mask_TT[None, None],
                use_cache=False,
            ).logits
            self._backward(logits, torch.cat(labels)[None], total)
        self._update()


def packings(bare: Bare, steps: list[list[Batch]]) -> dict[str, Callable[[], None]]:
    """Ways to pass the same tokens through the model; the fastest is the one to beat."""

    def each(
        run: Callable[[Rows], None], pack: Callable[[list[Batch]], Rows]
    ) -> Callable[[], None]:
        packed = [pack(step) for step in steps]

        def all_steps() -> None:
            for passes in packed:
                run(passes)

        return all_steps

    def parts(step: list[Batch]) -> Rows:
        return [sequences([part]) for part in step]

    return {
        "bare: the same length-sorted parts, padded": each(bare.padded, parts),
        "bare: one batch, padded": each(bare.padded, lambda step: [sequences(step)]),
        "bare: pairs of like length, padded": each(bare.padded, lambda step: _chunks(step, 2)),
        "bare: one sequence at a time": each(bare.padded, lambda step: _chunks(step, 1)),
        "bare: the same parts, block-diagonal mask": each(bare.concatenated, parts),
    }


def _chunks(step: list[Batch], size: int) -> Rows:
    rows = sequences(step)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def ours(job: MainJob, steps: list[list[Batch]]) -> Callable[[], None]:
    """Evaluate, credit, backward, clip, update: ``PolicyGradientModule.training_step`` and on."""
    policy = copy.deepcopy(job.policy).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    objective, baseline = FilteredCloning(), NoBaseline()
    fresh_N = np.zeros(len(job.memory.index), dtype=np.bool_)

    def all_steps() -> None:
        for step in steps:
            evaluations = [policy.evaluate(part) for part in step]
            inputs = credit_inputs(step, evaluations, baseline, fresh_N)
            objective(inputs, normaliser=inputs.steps_BS.sum().float()).loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return all_steps


def test_training_step_over_a_bare_one(main_job, rng, benchmark):
    steps = replayed(main_job, rng)
    leaner, bare = Bare(main_job.policy.lm), packings(Bare(main_job.policy.lm), steps)
    candidates = {
        "ours": ours(main_job, steps),
        **bare,
        "for comparison: bare, loss at decisions only": lambda: leaner.decisions_only(steps),
    }
    measure = interleaved(candidates, ROUNDS)
    timings = benchmark.pedantic(measure, rounds=1)
    fastest = min(bare, key=lambda name: timings[name].processor)
    tokens = sum(len(row) for step in steps for row in sequences(step))
    show(f"{STEPS} training steps, {tokens} unpadded tokens", timings, fastest)
    ratio = timings["ours"].processor / timings[fastest].processor
    benchmark.extra_info.update(ratio=ratio, fastest=fastest)
    assert ratio <= LIMIT


def test_the_packings_are_the_same_computation(main_job, rng):
    # A packing that computed something else would be no opponent: same tokens, same gradient.
    steps = replayed(main_job, rng)[:1]
    gradients = []
    for name in packings(Bare(main_job.policy.lm), steps):
        bare = Bare(main_job.policy.lm)
        bare._update = lambda: None  # type: ignore[method-assign]
        packings(bare, steps)[name]()
        grads = [p.grad.flatten() for p in bare.lm.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-5)
