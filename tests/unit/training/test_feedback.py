"""What curricula are told by a fit, and that a fit that is gone on with tells them the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from retro_lightning.credit.baselines import ValueHeadBaseline
from retro_lightning.curriculum.adaptive_tasks import SuccessBand
from retro_lightning.curriculum.exposure import by_code
from retro_lightning.curriculum.feedback import Feedback, TaskOutcome, TDErrors
from retro_lightning.curriculum.levels import HorizonGrowth
from retro_lightning.curriculum.pacing import Linear
from retro_lightning.curriculum.surprise import TDErrorWeighted
from retro_lightning.policy.batch import collate
from retro_lightning.training.credit_inputs import credit_inputs
from retro_lightning.training.feedback import merged, td_feedback
from tests.fits import BATCHES, EPOCHS, Fit, assert_same, phases
from tests.tiny import policy, trajectory
from tests.unit.training.test_resume import STOPS


class GroupBaseline(ValueHeadBaseline):
    """Asks for whole groups."""

    needs_groups = True


def test_td_errors_equal_a_naive_loop():
    made = policy()
    trajectories = [
        trajectory(seed, 1 + seed, truncation="collector_limit" if seed % 2 else None)
        for seed in range(4)
    ]
    encoded = made.transcript.encode_many(trajectories)
    parts = [collate(encoded[:2], trajectories[:2]), collate(encoded[2:], trajectories[2:])]
    with torch.no_grad():
        evaluations = [made.evaluate(part) for part in parts]
    inputs = credit_inputs(parts, evaluations, ValueHeadBaseline(), np.zeros(4, dtype=bool))
    errors = td_feedback(parts, inputs, 0.9).td_errors
    assert errors is not None
    for b, one in enumerate(trajectories):
        values = [float(v) for v in inputs.values_BS[b, : one.length]]
        values.append(float(inputs.final_values_B[b]) if one.truncated else 0.0)
        naive = [
            abs(step.reward + 0.9 * values[s + 1] - values[s]) for s, step in enumerate(one.steps)
        ]
        assert errors.errors[b] == pytest.approx(sum(naive) / len(naive), rel=1e-4)
    assert errors.rows.tolist() == [0, 1, 0, 1]


def test_what_several_processes_saw_is_one_record():
    first = Feedback(
        outcomes=(TaskOutcome("a", "x", True),), td_errors=TDErrors(np.array([1]), np.array([0.5]))
    )
    second = Feedback(td_errors=TDErrors(np.array([7]), np.array([0.25])))
    both = merged([first, second])
    assert both.outcomes == first.outcomes
    assert both.td_errors is not None
    assert both.td_errors.rows.tolist() == [1, 7]
    assert both.td_errors.errors.tolist() == [0.5, 0.25]
    assert merged([Feedback(validation_success=0.5)] * 2).validation_success == 0.5


def _settings() -> dict[str, Any]:
    tasks = HorizonGrowth(start=3, end=12, pacing=Linear(), tasks=SuccessBand())
    return {
        "make_phases": lambda: phases(None),
        "make_baseline": GroupBaseline,
        "attempts_per_task": 2,
        "data": {"prioritisation": TDErrorWeighted(), "task_curriculum": tasks},
    }


def _state(fit: Fit) -> Any:
    return fit.datamodule.state_dict(), fit.datamodule.exposure().tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache_dir):
    return Fit(tmp_path_factory.mktemp("feedback") / "run", cache_dir, **_settings()).run()


@pytest.mark.parametrize("stop", ["forward", "last-forward", "epoch-end", "rollout"])
def test_curricula_with_state_are_gone_on_with_exactly(make_fit, whole, stop):
    with pytest.raises(SystemExit):
        make_fit("part", callbacks=[STOPS[stop]()], **_settings()).run()
    resumed: Fit = make_fit("part", **_settings())
    resumed.run(resumed.last)
    assert_same(resumed.result(), whole.result())
    expected, state = _state(whole), _state(resumed)
    for one in (expected[0], state[0]):
        del one["snapshot"]  # names of shards end in random letters
    assert state == expected


def test_the_ledger_counts_every_trajectory_of_every_step(make_fit):
    seen: list[int] = []

    class Seen(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.extend(row for part in args[3] for row in part.rows_B.tolist())

    fit: Fit = make_fit("run", callbacks=[Seen()], trainer_options={"max_steps": 10})
    fit.run()
    exposure, index = fit.datamodule.exposure(), fit.datamodule.index
    assert len(exposure) == len(index)
    assert exposure.tolist() == np.bincount(seen, minlength=len(index)).tolist()
    assert exposure.sum() == 10 * 8
    assert by_code(exposure, index.family).sum() == 80
    assert EPOCHS * BATCHES > 10  # the fit was cut in mid-epoch


def test_the_curricula_are_told(whole):
    tasks = whole.datamodule.task_curriculum.state_dict()["tasks"]
    # 3 rounds of 4 tasks: every attempt was told, and the horizon cut none of them to faults.
    assert sum(attempts for attempts, _ in tasks["families"].values()) > 0
    assert len(tasks["tasks"]) > 4
    errors = whole.datamodule.prioritisation.state_dict()
    exposed = np.flatnonzero(whole.datamodule.exposure())
    assert errors["rows"] == exposed.tolist()  # known is exactly what was learnt from


def test_groups_are_collected_and_learnt_from_whole(whole):
    index = whole.datamodule.index
    own = index.policy_version >= 0
    attempts = np.bincount(index.task_id[own & (index.policy_version == 8)])
    assert set(attempts[attempts > 0]) == {2}
    assert max(index.length[own & (index.policy_version == 0)]) <= 3  # the horizon at the start
    plan = whole.datamodule.curricula.plan
    assert (plan.groups >= 0).all()
    # Every drawn row's partner is in the same gradient step and group.
    for step in range(len(plan)):
        places = plan.share(step, 0, 1)
        for number in np.unique(plan.groups[places]):
            rows = plan.rows[places[plan.groups[places] == number]]
            assert len(set(index.task_id[rows])) == len(set(index.policy_version[rows])) == 1


def test_groups_of_one_are_refused(make_fit):
    fit: Fit = make_fit("run", make_baseline=GroupBaseline)
    with pytest.raises(ValueError, match=r"GroupBaseline .* FreshRollouts\.attempts_per_task"):
        fit.run()
