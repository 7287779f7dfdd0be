"""What must hold of every gradient step: finite, clipped, covered, the same however it is cut."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor

from retro_lightning.credit.baselines import BatchMean, ValueHeadBaseline
from retro_lightning.credit.cloning import AdvantageWeightedCloning, FilteredCloning
from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.credit.group_baselines import AnchorStates, GroupMean, LeaveOneOut
from retro_lightning.credit.presets import GRPO, PPO, REINFORCE, RLOO, VTraceActorCritic
from retro_lightning.credit.scales import GroupScale
from retro_lightning.credit.terms import LossTerms
from retro_lightning.policy.batch import Batch, collate
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.invariants import MOST_BAD_STEPS, StepGuard
from retro_lightning.training.other_policies import Proximal, evaluate
from retro_lightning.training.phases import Phase
from tests.fits import MUON, Fit
from tests.tiny import policy, trajectory

SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Poison(Callback):
    """Gives some gradient steps a reward that is not a number."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.before: dict[int, list[Tensor]] = {}
        self.moved: dict[int, bool] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _: int) -> None:
        if trainer.global_step in self.steps:
            batch[0].rewards_BS[0, 0] = torch.nan
        self._now = [p.detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pairs = zip(self._now, pl_module.parameters(), strict=True)
        moved = any(not torch.equal(before, after) for before, after in pairs)
        self.moved[trainer.global_step - 1] = moved


@pytest.mark.parametrize("optimizer", [SGD, MUON])
def test_a_bad_batch_is_kept_and_skipped(make_fit, optimizer):
    poison = Poison(2, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit: Fit = make_fit(
            "run",
            callbacks=[poison],
            optimizer=optimizer,
            make_phases=lambda: [Phase(FilteredCloning())],
        ).run()
    assert [step for step, moved in sorted(poison.moved.items()) if not moved] == [2, 5]
    kept = sorted(path.name for path in (fit.run_dir / "bad_batches").iterdir())
    assert kept == ["step-2.safetensors", "step-5.safetensors"]
    tensors = load_file(fit.run_dir / "bad_batches" / "step-2.safetensors")
    assert torch.isnan(tensors["0.rewards_BS"][0, 0])
    assert tensors["0.rows_B"].dtype == torch.int64
    assert sum("step is skipped" in str(w.message) for w in caught) == 2
    assert all(torch.isfinite(p).all() for p in fit.module.parameters())


def test_training_stops_after_bad_batches_in_a_row(make_fit):
    assert MOST_BAD_STEPS == 3
    with pytest.raises(FloatingPointError, match=r"3 gradient steps in a row, up to .* step 5.*lr"):
        make_fit(
            "run",
            callbacks=[Poison(1, 3, 4, 5)],
            make_phases=lambda: [Phase(FilteredCloning())],
        ).run()


def test_a_clip_that_did_not_happen_is_noticed(make_fit, monkeypatch):
    fit: Fit = make_fit("run", trainer_options={"gradient_clip_val": 1e-3})
    # As with an optimiser that holds other parameters, so that the wrong ones are clipped.
    monkeypatch.setattr(type(fit.module), "clip_gradients", lambda *args: None)
    with pytest.raises(ValueError, match=r"step 0 was clipped to a norm of 0.001 and has"):
        fit.run()


def test_a_clip_that_happened_is_fine(make_fit):
    make_fit("run", trainer_options={"gradient_clip_val": 1e-3, "max_steps": 3}).run()


class LastStepOnly:
    """The published bug, before an objective: only a trajectory's last step gets its advantage."""

    def __call__(self, inputs: Any, **options: Any) -> Any:
        last_BS = inputs.steps_BS & ~torch.nn.functional.pad(inputs.steps_BS[:, 1:], (0, 1))
        cut = {"logprobs_BS": self.cut(inputs.logprobs_BS, last_BS)}
        if inputs.token_logprobs_D is not None:
            last_D = last_BS[inputs.token_row_D, inputs.token_step_D]
            cut["token_logprobs_D"] = self.cut(inputs.token_logprobs_D, last_D)
        return super().__call__(dataclasses.replace(inputs, **cut), **options)  # type: ignore[misc]

    @staticmethod
    def cut(logprobs: Tensor, kept: Tensor) -> Tensor:
        return torch.where(kept, logprobs, logprobs.detach())


class LastREINFORCE(LastStepOnly, REINFORCE):
    pass


class LastPPO(LastStepOnly, PPO):
    pass


class LastPolicyGradient(LastStepOnly, PolicyGradient):
    pass


@pytest.mark.parametrize(
    "objective",
    [
        LastREINFORCE,
        functools.partial(LastPPO, unknown_behaviour="leave_out"),
        functools.partial(LastPPO, ratio_level="token", unknown_behaviour="as_present"),
        LastPolicyGradient,
    ],
)
def test_steps_whose_advantage_reaches_no_gradient_are_noticed(make_fit, objective):
    with pytest.raises(ValueError, match=r"advantage and no gradient, first step 0 of trajectory"):
        make_fit("run", make_phases=lambda: [Phase(objective())]).run()


def test_an_advantage_that_no_gradient_reaches_at_all_is_noticed(make_fit):
    class Silent(REINFORCE):
        def __call__(self, inputs: Any, **options: Any) -> Any:
            still = dataclasses.replace(inputs, logprobs_BS=inputs.logprobs_BS.detach())
            return super().__call__(still, **options)

    with pytest.raises(ValueError, match=r"have an advantage and no gradient, first step 0"):
        make_fit("run", make_phases=lambda: [Phase(Silent())]).run()


# ---------------------------------------------------------------------- gradient accumulation
class Cut(Callback):
    """The same eight trajectories in every gradient step, cut into batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        data = trainer.datamodule
        data.train_dataloader = lambda: Steps(_cut(data, self.batches))


class Steps:
    """An epoch; Lightning takes a bare list for several data loaders."""

    def __init__(self, batches: list[list[Batch]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


def _cut(data: Any, batches: int) -> list[list[Batch]]:
    lengths = data.index.length
    # Of very different lengths, so that means over batches are not the mean over all.
    rows = [int(r) for r in lengths.argsort(kind="stable")[:: max(1, len(lengths) // 8)][:8]]
    entries = data.memory.load(rows)
    size = 8 // batches
    return [
        [collate([e for _, e in part], [t for t, _ in part], rows[i : i + size])]
        for i in range(0, 8, size)
        for part in [entries[i : i + size]]
    ]


def _after_one_step(make_fit: Any, batches: int, objective: Any, baseline: Any) -> list[Tensor]:
    fit: Fit = make_fit(
        f"run{batches}",
        callbacks=[Cut(batches)],
        attempts_per_task=2,
        optimizer=SGD,
        make_baseline=baseline,
        make_phases=lambda: [Phase(objective())],
        trainer_options={
            "accumulate_grad_batches": batches,
            "max_epochs": 1,
            "limit_val_batches": 0,
            "gradient_clip_val": None,  # clipping would hide a wrong scale
        },
    ).run()
    assert fit.trainer.global_step == 1
    return [p.detach().clone() for p in fit.module.parameters()]


@pytest.mark.parametrize(
    ("objective", "baseline"),
    [
        (FilteredCloning, ValueHeadBaseline),
        (AdvantageWeightedCloning, ValueHeadBaseline),
        (functools.partial(REINFORCE, loss_normalisation="episode"), AnchorStates),
        (functools.partial(REINFORCE, loss_normalisation="token"), ValueHeadBaseline),
    ],
)
def test_one_times_eight_equals_two_times_four_equals_eight_times_one(
    make_fit, objective, baseline
):
    whole = _after_one_step(make_fit, 1, objective, baseline)
    for batches in (2, 8):
        found = _after_one_step(make_fit, batches, objective, baseline)
        for one, other in zip(whole, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "baseline", "message"),
    [
        (PolicyGradient, ValueHeadBaseline, "policy_gradient divides advantages.*normalise_adv"),
        (REINFORCE, BatchMean, "BatchMean is a mean over the gradient step"),
    ],
)
def test_what_cannot_be_accumulated_is_refused(make_fit, objective, baseline, message):
    fit = make_fit(
        "run",
        make_baseline=baseline,
        make_phases=lambda: [Phase(objective())],
        trainer_options={"accumulate_grad_batches": 2},
    )
    with pytest.raises(ValueError, match=message):
        fit.run()


# ---------------------------------------------------------------------- other policies
def test_the_remembered_policy_is_asked_and_put_back():
    acting = policy()
    trajectories = [trajectory(0, 2), trajectory(1, 3)]
    parts = [collate(acting.transcript.encode_many(trajectories), trajectories)]
    remembered, present = Proximal(), [p.detach().clone() for p in acting.parameters()]
    with pytest.raises(RuntimeError, match="call take"):
        remembered.evaluate(acting, parts)
    before = evaluate(acting, parts)[0].logprobs_BS
    remembered.take(acting)
    with torch.no_grad():
        for parameter in acting.parameters():
            parameter.mul_(1.1)
    changed = [p.detach().clone() for p in acting.parameters()]
    assert not torch.allclose(evaluate(acting, parts)[0].logprobs_BS, before)
    # Through a state, as after a resume.
    other = Proximal()
    other.load_state_dict(remembered.state_dict())
    assert torch.equal(other.evaluate(acting, parts)[0].logprobs_BS, before)
    assert all(torch.equal(a, b) for a, b in zip(acting.parameters(), changed, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(changed, present, strict=True) if a.ndim == 2)


class Metrics(Callback):
    """The metrics of each gradient step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items()})


@pytest.mark.parametrize(
    ("objective", "baseline"),
    [
        (functools.partial(PPO, unknown_behaviour="leave_out"), ValueHeadBaseline),
        (
            functools.partial(PPO, ratio_level="token", unknown_behaviour="as_present"),
            ValueHeadBaseline,
        ),
        (functools.partial(GRPO, unknown_behaviour="leave_out"), GroupMean),
        (RLOO, LeaveOneOut),
        (functools.partial(VTraceActorCritic, unknown_behaviour="leave_out"), ValueHeadBaseline),
    ],
)
def test_presets_learn_in_a_fit(make_fit, objective, baseline):
    seen = Metrics()
    model = {"return_scale": GroupScale()} if baseline is GroupMean else {}
    fit: Fit = make_fit(
        "run",
        callbacks=[seen],
        attempts_per_task=2,
        make_baseline=baseline,
        make_phases=lambda: [Phase(objective())],
        model=model,
        trainer_options={"max_epochs": 2},
    ).run()
    assert fit.trainer.global_step == 8
    last = seen.steps[-1]
    for name in ("staleness_max", "largest_ratio", "gradient_variance_cut", "advantage_coverage"):
        assert f"train/{name}" in last
    assert last["train/advantage_coverage"] == 1.0
    if isinstance(objective(), Estimator) and "train/clip_fraction" in last:
        # At an epoch's first step the policy is the one at the epoch's start: nothing is clipped.
        assert seen.steps[0]["train/clip_fraction"] == 0.0
        assert seen.steps[4]["train/clip_fraction"] == 0.0


def test_a_ppo_fit_resumed_in_mid_epoch_clips_against_the_same_policy(make_fit):
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                raise KeyboardInterrupt

    options: dict[str, Any] = {
        "make_phases": lambda: [Phase(PPO(clip=1e-3, unknown_behaviour="leave_out"))],
    }
    whole = make_fit("whole", **options).run().result()[0]
    interrupted = make_fit("part", callbacks=[Stop()], **options)
    with pytest.raises(SystemExit):
        interrupted.run()
    resumed = make_fit("part", **options)
    resumed.run(resumed.last)
    for name, value in resumed.result()[0].items():
        assert torch.equal(value, whole[name]), name


def test_a_kl_needs_a_reference_and_reports_it(make_fit, tmp_path: Path):
    def phases() -> list[Phase]:
        return [Phase(REINFORCE(kl_coef=0.1))]

    with pytest.raises(ValueError, match=r"kl_coef above 0.*model\.reference_policy"):
        make_fit("none", make_phases=phases).run()
    first: Fit = make_fit("first", trainer_options={"max_epochs": 1}).run()
    directory = tmp_path / "reference"
    first.module.require_policy().save(directory)
    seen = Metrics()
    fit: Fit = make_fit(
        "run",
        callbacks=[seen],
        make_phases=phases,
        model={"reference_policy": str(directory), "initial_policy": str(directory)},
        trainer_options={"max_epochs": 1},
    ).run()
    kls = [step["train/reference_kl"] for step in seen.steps]
    assert kls[0] == pytest.approx(0.0, abs=1e-6)  # it begins as its own reference
    assert kls[-1] > 1e-6
    assert not any("reference" in name for name, _ in fit.module.named_parameters())


def test_ratios_of_tokens_go_with_a_kl_to_the_policy_that_it_begins_as(make_fit, tmp_path: Path):
    first: Fit = make_fit("first", trainer_options={"max_epochs": 1}).run()
    directory = tmp_path / "reference"
    first.module.require_policy().save(directory)
    seen = Metrics()
    make_fit(
        "run",
        callbacks=[seen],
        make_phases=lambda: [
            Phase(
                PPO(ratio_level="token", kl_coef=0.1, kl_form="k2", unknown_behaviour="leave_out")
            )
        ],
        model={"reference_policy": str(directory), "initial_policy": str(directory)},
        trainer_options={"max_epochs": 1},
    ).run()
    assert seen.steps[0]["train/reference_kl"] == pytest.approx(0.0, abs=1e-6)
    assert seen.steps[-1]["train/reference_kl"] > 0.0
    assert "train/behaviour_kl" in seen.steps[-1]


def test_the_guard_counts_again_after_a_good_step(tmp_path: Path):
    guard = StepGuard()
    parameter = torch.nn.Parameter(torch.ones(2))
    acting = policy()
    records = [trajectory(0, 2)]
    part = collate(acting.transcript.encode_many(records), records)

    def finish(gradient: float) -> bool:
        inputs = credit_inputs(
            [part], evaluate(acting, [part]), BatchMeanOfNothing(), torch.zeros(1).bool().numpy()
        )
        terms = LossTerms(loss=torch.tensor(1.0), metrics={}, advantages_BS=None)
        guard.begin([part], terms, inputs)
        parameter.grad = torch.full((2,), gradient)
        return guard.finish([parameter], step=0, run_dir=tmp_path, norm_limit=None)

    for gradient, good in ((torch.nan, False), (torch.inf, False), (1.0, True), (torch.nan, False)):
        assert finish(gradient) is good


def test_the_guard_names_the_task_and_step_without_a_log_probability(tmp_path: Path):
    guard, acting = StepGuard(), policy()
    records = [trajectory(number, 3) for number in range(3)]
    parts = [
        collate(acting.transcript.encode_many(some), some) for some in (records[:1], records[1:])
    ]

    def finish(step: int) -> None:
        for part in parts:
            fresh_N = np.zeros(len(records), dtype=bool)
            inputs = credit_inputs([part], evaluate(acting, [part]), BatchMeanOfNothing(), fresh_N)
            if part is parts[1]:
                with torch.no_grad():
                    inputs.logprobs_BS[1, 2] = torch.nan  # the third trajectory's last step
            terms = LossTerms(loss=torch.tensor(torch.nan), metrics={}, advantages_BS=None)
            guard.begin([part], terms, inputs)
        assert not guard.finish([], step=step, run_dir=tmp_path, norm_limit=None)

    for step in range(MOST_BAD_STEPS - 1):
        with pytest.warns(UserWarning, match=r"not finite, nor was the log.* tiny:2, step 2: the"):
            finish(step)
    with pytest.raises(
        FloatingPointError,
        match=r"in 3 gradient steps .* log-probability of task tiny:2, step 2, .*earlier .* lower",
    ):
        finish(MOST_BAD_STEPS - 1)


class BatchMeanOfNothing(BatchMean):
    """No store at hand."""

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        return torch.zeros_like(values_BS)
