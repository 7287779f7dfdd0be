"""Learning from logs alone: no environment, held-out trajectories in the place of validation."""

from __future__ import annotations

import functools
import math
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from retro_lightning.cli.main import main
from retro_lightning.credit.baselines import PerTask
from retro_lightning.credit.cloning import AdvantageWeightedCloning, FilteredCloning
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.credit.presets import PPO
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.batch import collate
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.records import encode
from retro_lightning.replay.shard import publish
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import Expert, RandomWalker, run_behaviour
from retro_lightning.rollout.history import StoredHistory
from retro_lightning.training.held_out import (
    HeldOutBatches,
    Scored,
    held_out_metrics,
    score,
    stored_logprobs,
)
from retro_lightning.training.phases import Phase
from retro_lightning.trajectory import Trajectory
from tests.fits import Fit, assert_same
from tests.support import CorridorEnv
from tests.unit.training.test_resume import STOPS

NO_STEP = functools.partial(torch.optim.SGD, lr=0.0)
CORRIDOR = functools.partial(CorridorEnv, length=9, max_steps=20)


def _forgotten(trajectory: Trajectory) -> Trajectory:
    """As most logs have it: nobody has written down how probable an action was."""
    steps = tuple(replace(step, log_prob=None, log_probs=None) for step in trajectory.steps)
    return replace(trajectory, steps=steps, source="import:chat")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent's logs: each task attempted by someone who can and by someone who can't."""
    path = tmp_path_factory.mktemp("logs") / "store"
    attempts = []
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for task in make_tasks("corridor", CORRIDOR, split, count):  # type: ignore[arg-type]
            for number, who in enumerate((Expert(), RandomWalker())):
                env, rng = CORRIDOR(), np.random.default_rng([task.seed, number])
                attempts.append(run_behaviour(who, task, env, run="log", attempt=number, rng=rng))
    ReplayStore(path, create=True).append([_forgotten(t) for t in attempts])
    return path


def _settings(logs: Path, objective: Any = None) -> dict[str, Any]:
    return {
        "make_baseline": PerTask,
        "make_phases": lambda: [Phase(objective or AdvantageWeightedCloning(temperature=0.2))],
        "monitor": "val/ranking_accuracy",
        "data": {
            "environments": {},
            "history": StoredHistory(str(logs)),
            "batches_per_epoch": 20,
        },
    }


@pytest.fixture(scope="module")
def whole(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    folder = tmp_path_factory.mktemp("offline")
    return Fit(folder / "run", folder / "cache", **_settings(logs)).run()


def _metrics(fit: Fit) -> dict[str, float]:
    return {name: float(value) for name, value in fit.trainer.callback_metrics.items()}


def test_what_went_well_becomes_more_likely_than_what_did_not(whole: Fit, logs: Path) -> None:
    found = _metrics(whole)
    assert found["val/logprob_margin"] > 0.7
    assert found["val/ranking_accuracy"] > 0.8
    assert found["val/logprob_margin"] == pytest.approx(
        found["val/logprob_success"] - found["val/logprob_failure"], abs=1e-6
    )
    assert 4 <= found["val/ranked_tasks"] <= 8  # tasks whose two attempts ended differently
    assert "val/success_rate" not in found
    assert (whole.run_dir / "checkpoints" / "best-policy").is_dir()
    untrained = Fit(whole.run_dir.parent / "untrained", logs.parent / "cache", **_settings(logs))
    untrained.trainer.validate(untrained.module, datamodule=untrained.datamodule)
    assert _metrics(untrained)["val/logprob_margin"] < 0.2


def test_held_out_trajectories_are_not_learnt_from(whole: Fit) -> None:
    index, exposure = whole.datamodule.index, whole.datamodule.exposure()
    assert exposure.sum() == 3 * 20 * 8
    assert {index.splits[code] for code in index.split[exposure > 0]} == {"train"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_is_read_whole_and_alone(whole: Fit, split: str) -> None:
    memory, index = whole.datamodule.memory, whole.datamodule.index
    expected = np.flatnonzero(index.split == index.splits.index(split)).tolist()
    assert len(expected) == 16
    read = [  # dealt to three processes
        row
        for rank in range(3)
        for parts in HeldOutBatches(memory, split, 4, rank, 3)  # type: ignore[arg-type]
        for part in parts
        for row in part.rows_B.tolist()
    ]
    assert sorted(read) == expected


def test_the_test_split_is_read_by_a_policy_directory(whole: Fit, logs: Path) -> None:
    """How a deployed agent and a candidate are compared on a fixed set."""
    policy = whole.run_dir / "checkpoints" / "best-policy"
    other = Fit(
        whole.run_dir.parent / "judge",
        whole.run_dir.parent / "cache",
        **{**_settings(logs), "model": {"initial_policy": str(policy)}},
    )
    other.trainer.test(other.module, datamodule=other.datamodule)
    found = _metrics(other)
    assert found["test/logprob_margin"] > 0.1
    assert not any(name.startswith("val/") for name in found)


def test_a_deployed_policy_is_gone_on_with(whole: Fit, logs: Path, tmp_path: Path) -> None:
    """Its weights and its tokenizer; the optimiser is a fresh one."""
    deployed = whole.run_dir / "checkpoints" / "last-policy"
    settings = {**_settings(logs), "model": {"initial_policy": str(deployed), "warmup_steps": 0}}
    settings["data"] = {**settings["data"], "batches_per_epoch": 1, "vocabulary_size": 280}
    candidate = Fit(tmp_path / "run", tmp_path / "cache", **settings, optimizer=NO_STEP).run()
    before, after = _metrics(whole), _metrics(candidate)
    assert after["val/logprob_margin"] == pytest.approx(before["val/logprob_margin"], abs=1e-4)
    ours, theirs = whole.module.require_policy(), candidate.module.require_policy()
    assert theirs.transcript.fingerprint == ours.transcript.fingerprint


@pytest.mark.parametrize("stop", ["forward", "validation-start"])
def test_it_is_gone_on_with_exactly(whole: Fit, logs: Path, tmp_path: Path, stop: str) -> None:
    cache = whole.run_dir.parent / "cache"
    with pytest.raises(SystemExit):
        Fit(tmp_path / "run", cache, callbacks=[STOPS[stop]()], **_settings(logs)).run()
    resumed = Fit(tmp_path / "run", cache, **_settings(logs))
    resumed.run(resumed.last)
    assert_same(resumed.result(), whole.result())


def test_logs_that_came_in_since_do_not_change_what_is_gone_on_with(
    whole: Fit, logs: Path, tmp_path: Path
) -> None:
    """A user's own store may grow while a fit is stopped: its rows must stay what they were."""
    grown, cache = tmp_path / "logs", whole.run_dir.parent / "cache"
    shutil.copytree(logs, grown)
    settings = _settings(grown)
    settings["data"]["tokenizer"] = str(next(cache.glob("store-*-tokenizer-*")))
    with pytest.raises(SystemExit):
        Fit(tmp_path / "run", cache, callbacks=[STOPS["forward"]()], **settings).run()
    store = ReplayStore(grown)
    late = [replace(t, run="late") for t in store.read(range(0, len(store), 3))]
    # A writer that had seen nothing yet: its shard stands among the first, not behind them.
    publish(grown, 0, [encode(late)], [])
    store.compact()
    resumed = Fit(tmp_path / "run", cache, **settings)
    resumed.run(resumed.last)
    assert len(ReplayStore(grown)) == len(resumed.datamodule.history_store) + len(late)
    assert_same(resumed.result(), whole.result())


@pytest.mark.parametrize("objective", [FilteredCloning(), PolicyGradient()])
def test_other_objectives_learn_from_logs_too(
    whole: Fit, logs: Path, tmp_path: Path, objective: Any
) -> None:
    fit = Fit(tmp_path / "run", whole.run_dir.parent / "cache", **_settings(logs, objective)).run()
    assert _metrics(fit)["val/logprob_margin"] > 0.3
    if isinstance(objective, PolicyGradient):
        # Nobody has stated a probability: all is imitated by advantage, and says so.
        assert _metrics(fit)["train/gradient_share/cloning"] == 1.0


def test_a_refused_behaviour_is_told_with_its_task(whole: Fit, logs: Path, tmp_path: Path) -> None:
    fit = Fit(tmp_path / "run", whole.run_dir.parent / "cache", **_settings(logs, PPO()))
    with pytest.raises(ValueError, match=r"unknown .* at step 0 of trajectory 0") as refusal:
        fit.run()
    named = re.search(r"\(task (corridor:\w+)\): set unknown_behaviour", str(refusal.value))
    assert named is not None
    assert named[1] in {t.task.task_id for t in ReplayStore(logs).read(range(48))}


def test_logs_longer_than_the_context_are_told_once(whole: Fit, logs: Path, tmp_path: Path) -> None:
    settings = _settings(logs)
    settings["data"] = {**settings["data"], "context": 60, "batches_per_epoch": 4}
    fit = Fit(tmp_path / "run", whole.run_dir.parent / "cache", **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.run()
    [told] = [str(w.message) for w in caught if "data.context" in str(w.message)]
    found = re.match(r"(\d+) of (\d+) .* 60 tokens .* task (\S+) \((\d+) of (\d+) steps\)", told)
    assert found is not None
    cut, read, kept, length = (int(found[i]) for i in (1, 2, 4, 5))
    assert 0 < cut <= read <= 8  # those of a batch of 8 that were not read before
    assert 0 < kept < length
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*data.context.*")
        Fit(tmp_path / "long", whole.run_dir.parent / "cache", **_settings(logs)).run()


def test_logs_without_held_out_tasks_are_refused(logs: Path, tmp_path: Path) -> None:
    store = ReplayStore(logs)
    train = [t for t in store.read(range(len(store))) if t.task.split == "train"]
    ReplayStore(tmp_path / "train", create=True).append(train)
    fit = Fit(tmp_path / "run", tmp_path / "cache", **_settings(tmp_path / "train"))
    with pytest.raises(ValueError, match="no trajectory of a val task"):
        fit.run()


def test_nothing_is_written_beside_the_logs(whole: Fit, logs: Path) -> None:
    beside = {path.name for path in logs.parent.iterdir() if path.name != "cache"}
    assert beside == {logs.name}
    assert all(path.suffix in (".arrow", ".json") for path in logs.iterdir())


def test_no_environment_needs_logs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.environments is empty.*StoredHistory"):
        Fit(tmp_path / "run", tmp_path / "cache", data={"environments": {}})


@pytest.mark.parametrize("read", [stored_logprobs, lambda *a: score(*a, tasks=[0, 0])])
def test_log_probabilities_that_are_not_finite_are_named(read: Any) -> None:
    policy = tiny.policy(tok=tiny.word_tokenizer())
    whole, damaged = (
        replace(one, steps=tuple(replace(step, observation=seen) for step in one.steps))
        for one, seen in ((tiny.trajectory(0, 3), "a red ball"), (tiny.trajectory(1, 3), "nothing"))
    )
    batch = collate(policy.transcript.encode_many([whole, damaged]), [whole, damaged])
    with torch.no_grad():
        assert len(read(policy, [batch])) == 2
        [token] = policy.tokenizer.encode("nothing")
        policy.lm.get_input_embeddings().weight[token] = torch.nan
        with pytest.raises(ValueError, match=r"^task tiny:1, step 0: .* logits are not finite"):
            read(policy, [batch])


def test_held_out_metrics_by_hand() -> None:
    attempts = [
        Scored(0, 1.0, True, -1.0),
        Scored(0, 0.0, False, -3.0),
        Scored(0, 0.0, False, -0.5),
        Scored(1, 1.0, True, -2.0),
        Scored(1, 0.0, False, -2.0),
        Scored(2, 1.0, True, -9.0),  # no other attempt, nothing to rank
        Scored(3, 0.5, False, -1.0),
        Scored(3, 0.5, False, -2.0),  # no better one
    ]
    found = held_out_metrics(attempts)
    # Task 0: better than one of two, 1/2; task 1: a tie, 1/2.
    assert found["ranking_accuracy"] == 0.5
    assert found["ranked_tasks"] == 2
    assert found["logprob"] == pytest.approx(-20.5 / 8)
    assert found["logprob_success"] == pytest.approx(-4.0)
    assert found["logprob_failure"] == pytest.approx(-8.5 / 5)
    assert found["logprob_margin"] == pytest.approx(-4.0 + 1.7)
    certain = held_out_metrics([Scored(0, 1.0, True, -1.0), Scored(0, 0.2, False, -1.5)])
    assert certain["ranking_accuracy"] == 1.0
    only_failures = held_out_metrics([Scored(0, 0.0, False, -1.0)])
    assert only_failures == {"logprob": -1.0, "logprob_failure": -1.0, "ranked_tasks": 0.0}
    assert not any(math.isnan(value) for value in only_failures.values())


def test_a_hugging_face_model_by_name_learns_from_logs(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of ``docs/offline.md``, with a directory in the place of a name."""
    monkeypatch.chdir(tmp_path)
    tiny.language_model("llama", len(tiny.tokenizer())).save_pretrained("model")
    tiny.tokenizer().save_pretrained("model")
    config = Path(__file__).parents[3] / "conf" / "offline.yaml"
    words = ["--config", str(config), "--data.history.init_args.path", str(logs)]
    words += ["--model.language_model", "retro_lightning.policy.language_model.PretrainedLM"]
    words += ["--model.language_model.name", "model", "--data.tokenizer", "model"]
    words += ["--trainer.logger", "false", "--trainer.max_epochs", "1"]
    assert main(["fit", *words, "--data.batches_per_epoch", "2"]) == 0
    learnt = Policy.load(Path("runs/offline/checkpoints/last-policy"))
    assert learnt.version == 2
    assert learnt.transcript.fingerprint == Policy.load("model").transcript.fingerprint
    before = Policy.load("model").lm.state_dict()
    after = learnt.lm.state_dict()
    changed = [name for name, value in after.items() if (value != before[name]).any()]
    assert any("embed_tokens" in name for name in changed)
    assert any("mlp" in name for name in changed)
