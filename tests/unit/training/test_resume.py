"""A fit that was stopped anywhere and gone on with is one that never stopped, bit for bit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from retro_lightning.credit.baselines import PerTask
from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.phases import Phase
from tests.fits import EPOCHS, MUON, Fit, assert_same, phases


class StopIn(Callback):
    """Presses Ctrl-C in the n-th call (from 0) of a hook."""

    def __init__(self, hook: str, number: int) -> None:
        self.calls, self.number = 0, number
        setattr(self, hook, self._count)

    def _count(self, *_: Any, **__: Any) -> None:
        if self.calls == self.number:
            raise KeyboardInterrupt
        self.calls += 1


class StopInRollout(Callback):
    """Presses Ctrl-C when so many fresh episodes are over, in the place of the progress bar."""

    def __init__(self, episodes: int) -> None:
        self.left = episodes

    def track(self, description: str, total: int) -> Any:
        def advance(count: int) -> None:
            self.left -= count * (description == "fresh rollouts")
            if self.left < 0:
                raise KeyboardInterrupt

        return contextlib.nullcontext(advance)


def pg_then_cloning() -> list[Phase]:
    """The phase that reserves a share for fresh rollouts ends in mid-epoch."""
    return [Phase(PolicyGradient(), until_step=6), Phase(FilteredCloning())]


SETTINGS: dict[str, dict[str, Any]] = {
    "value": {},
    "per-task": {"make_baseline": PerTask, "make_phases": lambda: phases(None)},
    "muon": {"optimizer": MUON, "make_phases": lambda: phases(4)},
    "muon-per-task": {"optimizer": MUON, "make_baseline": PerTask, "make_phases": pg_then_cloning},
}

STOPS: dict[str, Any] = {
    "forward": lambda: StopIn("on_before_backward", 5),
    "last-forward": lambda: StopIn("on_before_backward", 11),
    "batch-start": lambda: StopIn("on_train_batch_start", 6),
    "batch-end": lambda: StopIn("on_train_batch_end", 6),
    "last-batch-end": lambda: StopIn("on_train_batch_end", 7),
    "epoch-start": lambda: StopIn("on_train_epoch_start", 1),
    "validation-start": lambda: StopIn("on_validation_epoch_start", 1),
    "mid-validation": lambda: StopIn("on_validation_batch_end", 2),
    "validation-end": lambda: StopIn("on_validation_epoch_end", 1),
    "validation-over": lambda: StopIn("on_validation_end", 1),
    "epoch-end": lambda: StopIn("on_train_epoch_end", 1),
    # 8 episodes a round: in the second round, after two of the phases have no first.
    "rollout": lambda: StopInRollout(11),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache_dir: Any) -> Any:
    """Results of fits that never stopped, each made once."""
    made: dict[str, Any] = {}

    def result(key: str) -> Any:
        if key not in made:
            run_dir = tmp_path_factory.mktemp(key) / "run"
            made[key] = Fit(run_dir, cache_dir, **SETTINGS[key]).run().result()
        return made[key]

    return result


@pytest.mark.parametrize(
    ("key", "stop"),
    [("value", stop) for stop in STOPS]
    + [
        (key, stop)
        for key in ("per-task", "muon", "muon-per-task")
        for stop in ("last-forward", "batch-start")
    ]
    + [("per-task", "rollout"), ("muon-per-task", "mid-validation")],
)
def test_stopped_anywhere(make_fit, whole, key, stop):
    with pytest.raises(SystemExit):
        make_fit("part", callbacks=[STOPS[stop]()], **SETTINGS[key]).run()
    resumed: Fit = make_fit("part", **SETTINGS[key])
    resumed.run(resumed.last)
    assert resumed.trainer.global_step == 12
    assert_same(resumed.result(), whole(key))


def test_stopped_twice_and_by_an_error(make_fit, whole):
    def fail(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("the light went out")

    broken = Callback()
    broken.on_train_batch_start = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the light went out"):
        make_fit("part", callbacks=[broken]).run()
    second: Fit = make_fit("part", callbacks=[StopIn("on_before_backward", 6)])
    with pytest.raises(SystemExit):
        second.run(second.last)
    third: Fit = make_fit("part")
    third.run(third.last)
    assert_same(third.result(), whole("value"))


@pytest.mark.parametrize("key", ["value", "muon-per-task"])
@pytest.mark.parametrize("epochs", range(1, EPOCHS))
def test_stopped_between_epochs(make_fit, whole, key, epochs):
    """The checkpoint of an epoch's end, as a kill any time in the next epoch leaves it."""
    kept: list[Any] = []

    class Keep(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == epochs:
                kept.append(part.last.read_bytes())

    part: Fit = make_fit("part", callbacks=[Keep()], **SETTINGS[key])
    part.run()
    newer = len(ReplayStore(part.run_dir / "store"))
    part.last.write_bytes(kept[0])
    resumed: Fit = make_fit("part", **SETTINGS[key])
    resumed.run(resumed.last)
    assert_same(resumed.result(), whole(key))
    assert newer == len(ReplayStore(part.run_dir / "store"))  # the same anew, not added


def test_a_resumed_fit_that_is_over_changes_nothing(make_fit, whole):
    part: Fit = make_fit("part").run()
    again: Fit = make_fit("part").run(part.last)
    assert_same(again.result(), whole("value"))


def test_a_planted_difference_is_noticed(make_fit, whole):
    """One weight nudged by the least possible amount in the checkpoint: the fits differ."""
    with pytest.raises(SystemExit):
        make_fit("part", callbacks=[STOPS["batch-start"]()]).run()
    resumed: Fit = make_fit("part")
    checkpoint = torch.load(resumed.last, weights_only=False)
    weight = checkpoint["state_dict"]["policy.lm.model.norm.weight"]
    weight[0] = torch.nextafter(weight[0], weight[0] + 1)
    torch.save(checkpoint, resumed.last)
    resumed.run(resumed.last)
    with pytest.raises(AssertionError):
        assert_same(resumed.result(), whole("value"))


class Successes(Callback):
    """Remembers what validation found at the end of each epoch."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.found[trainer.current_epoch] = pl_module._data.validation_success


@pytest.mark.parametrize("stop", [name for name in STOPS if "validation" in name])
def test_validation_is_repeated_as_a_whole(make_fit, stop):
    """Half a validation must not count as one: it would choose checkpoints and phases."""
    expected, found = Successes(), Successes()
    make_fit("whole", callbacks=[expected]).run()
    with pytest.raises(SystemExit):
        make_fit("part", callbacks=[found, STOPS[stop]()]).run()
    resumed: Fit = make_fit("part", callbacks=[found])
    resumed.run(resumed.last)
    assert found.found == expected.found
    assert any(expected.found.values())


def test_the_last_epoch_is_kept_whether_or_not_it_was_the_best(make_fit, monkeypatch):
    """Validation that finds the same every time improves once only."""
    fit: Fit = make_fit("run")
    monkeypatch.setattr(type(fit.module.judgement), "finish", _always_half)
    fit.run()
    steps = [
        torch.load(fit.last.with_name(f"{name}.ckpt"), weights_only=False)["global_step"]
        for name in ("best", "last")
    ]
    assert steps == [4, 12]


def _always_half(judgement: Any, module: Any, data: Any, stage: str) -> float:
    module.log(f"{stage}/success_rate", 0.5)
    return 0.5
