"""Phases, refusals, warnings and masks of the module."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from retro_lightning.credit.baselines import NoBaseline, ValueHeadBaseline
from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.policy.batch import collate
from retro_lightning.training.agreement import check_precision
from retro_lightning.training.module import PolicyGradientModule
from retro_lightning.training.phases import Phase, check_phases, warn_of_unreached
from tests.fits import Fit, phases
from tests.tiny import policy, trajectory


def _phase(step: int | None = None, success: float | None = None) -> Phase:
    return Phase(FilteredCloning(), step, success)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "empty"),
        ([_phase(), _phase()], r"phases\[0\] never ends"),
        ([_phase(5), _phase(5), _phase()], r"phases\[1\].until_step is 5"),
        ([_phase(5), _phase(4), _phase()], r"phases\[1\].until_step is 4"),
        ([_phase(0), _phase()], r"phases\[0\].until_step is 0"),
        ([_phase(5)], "the last of model.phases has an end"),
        ([_phase(5), _phase(None, 0.5)], "the last of model.phases has an end"),
    ],
)
def test_phases_that_contradict_themselves_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_phases(wrong)


def test_phases_that_can_be_gone_through_are_fine():
    check_phases([_phase()])
    check_phases([_phase(5), _phase(None, 0.5), _phase(9), _phase()])


@pytest.mark.parametrize(
    "phases",
    [[_phase(5), _phase()], [_phase(9, 0.5), _phase()], [_phase(None, 0.5), _phase()], [_phase()]],
)
def test_phases_that_can_begin_are_not_warned_of(phases, recwarn):
    warn_of_unreached(phases, 6)
    assert not recwarn.list


def test_a_fit_that_is_over_before_a_phase_begins_says_so(make_fit):
    with pytest.warns(UserWarning, match=r"phases\[1\].until_step is 6 and the fit has 6 .* never"):
        warn_of_unreached([_phase(5), _phase(6), _phase()], 6)
    phases = [Phase(FilteredCloning(), until_step=100), Phase(PolicyGradient())]
    with pytest.warns(UserWarning, match=r"phases\[0\].until_step is 100"):
        make_fit("run", make_phases=lambda: phases, trainer_options={"max_epochs": 1}).run()


def test_a_baseline_that_nobody_trains_is_refused(make_fit):
    with pytest.raises(ValueError, match="ValueHeadBaseline"):
        make_fit(
            "run",
            make_baseline=ValueHeadBaseline,
            make_phases=lambda: [Phase(PolicyGradient(value_coef=0.0))],
        )


def test_steps_are_logged_where_they_are_written_down_and_at_the_end_of_an_epoch(
    make_fit, monkeypatch
):
    told: list[int] = []
    real = PolicyGradientModule.log_dict

    def log_dict(self: PolicyGradientModule, metrics: Any, **options: Any) -> None:
        if "train/loss" in metrics:
            told.append(self.global_step + 1)
        real(self, metrics, **options)

    monkeypatch.setattr(PolicyGradientModule, "log_dict", log_dict)
    make_fit("run", trainer_options={"log_every_n_steps": 3}).run()
    assert told == [3, 4, 6, 8, 9, 12]  # every third, and each fourth ends an epoch


class PhaseOfEachStep(Callback):
    def __init__(self) -> None:
        self.names: list[str] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.names.append(pl_module.phase.objective.name)


def test_phases_switch_at_the_step(make_fit):
    seen = PhaseOfEachStep()
    make_fit("run", callbacks=[seen], make_phases=lambda: phases(6)).run()
    assert seen.names == [FilteredCloning.name] * 6 + [PolicyGradient.name] * 6


def test_phases_switch_at_the_success(make_fit, monkeypatch):
    seen = PhaseOfEachStep()

    def by_success() -> list[Phase]:
        return [Phase(FilteredCloning(), until_success=0.5), Phase(PolicyGradient())]

    fit: Fit = make_fit("run", callbacks=[seen], make_phases=by_success)
    rates = iter([0.4, 0.5, 0.1])  # after the first, second and third epoch
    monkeypatch.setattr(type(fit.module.judgement), "finish", lambda *told: next(rates))
    fit.trainer.checkpoint_callback.monitor = None  # type: ignore[union-attr]
    fit.run()
    assert seen.names == [FilteredCloning.name] * 8 + [PolicyGradient.name] * 4


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "64-true"])
def test_a_precision_that_rollouts_do_not_share_is_refused(precision):
    with pytest.raises(ValueError, match=rf"precision is {precision}.*init_args.dtype: bfloat16"):
        check_precision(precision)


def test_a_fit_refuses_mixed_precision_before_it_begins(make_fit):
    fit: Fit = make_fit("run", trainer_options={"precision": "bf16-mixed"})
    with pytest.raises(ValueError, match="leave it out and set"):
        fit.run()
    assert fit.trainer.global_step == 0
    check_precision("32-true")


def test_a_loss_that_is_not_a_number_is_one_clear_sentence(make_fit):
    class Break(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                next(pl_module.parameters()).data.fill_(torch.nan)

    with pytest.raises(
        FloatingPointError, match=r"not finite in 3 gradient steps in a row, up to .*step 3 .*lr"
    ):
        make_fit("run", callbacks=[Break()]).run()


def test_advantages_that_do_not_vary_are_warned_of_once(make_fit):
    class Flatten(Callback):
        """All returns alike: nothing to learn from by policy gradient."""

        def on_train_batch_start(self, *args: Any) -> None:
            for part in args[2]:
                part.rewards_BS.zero_()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_fit(
            "run",
            callbacks=[Flatten()],
            make_baseline=NoBaseline,
            make_phases=lambda: phases(None),
        ).run()
    found = [str(w.message) for w in caught if "NoBaseline" in str(w.message)]
    assert len(found) == 1
    assert "QualityWeighted" in found[0]


def test_masked_positions_get_no_gradient():
    """Only decisions and states are read: no logit anywhere else, padding included, matters."""
    tiny = policy()
    trajectories = [trajectory(0, 1), trajectory(1, 4)]
    batch = collate(tiny.transcript.encode_many(trajectories), trajectories)
    hidden: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        output.last_hidden_state.retain_grad()
        hidden.append(output.last_hidden_state)

    handle = tiny.lm.model.register_forward_hook(keep)
    evaluation = tiny.evaluate(batch)
    handle.remove()
    sum(x.sum() for x in (evaluation.logprobs_BS, evaluation.values_BS)).backward()
    touched_BT = hidden[0].grad.abs().sum(dim=-1) > 0
    allowed_BT = torch.zeros_like(touched_BT)
    allowed_BT[batch.decision_row_D, batch.decision_position_D] = True
    for row in range(2):
        allowed_BT[row, batch.state_positions_BS[row][batch.steps_BS[row]]] = True
    assert touched_BT.any()
    assert not (touched_BT & ~allowed_BT).any()
    assert not (allowed_BT & ~batch.attention_RT).any()


def test_an_empty_history_window_is_refused_before_anything_is_made(make_fit):
    with pytest.raises(ValueError, match="history_window is 0"):
        make_fit("run", model={"history_window": 0})


def test_a_history_window_reaches_rollouts_and_training(make_fit):
    # The guard compares both after every collection, and would stop the fit if they disagreed.
    fit = make_fit("run", model={"history_window": 2})
    fit.run()
    trained = fit.module.policy.transcript
    assert (trained.history_window, fit.datamodule.memory.transcript.history_window) == (2, 2)
    assert len(trained.encode(trajectory(0, 5)).sequences) == 5
