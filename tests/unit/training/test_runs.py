"""What a run reads and writes: its own store, its checkpoints, and never the history."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from retro_lightning.policy.batch import collate
from retro_lightning.replay.records import content_hash
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.history import StoredHistory
from retro_lightning.training.tasks import fixed_tasks
from tests.fits import Fit, stored


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_runs_do_not_see_each_other_and_the_history_stays(make_fit, cache_dir):
    first: Fit = make_fit("first").run()
    before, own = _digests(cache_dir), stored(first.run_dir)
    second: Fit = make_fit("second", model={"seed": 2}).run()
    assert _digests(cache_dir) == before
    assert stored(first.run_dir) == own
    memory = second.datamodule.memory
    history = len(second.datamodule.history_store)
    rows = list(range(history, len(memory.index)))
    seen = {(t.trajectory_id, content_hash(t)) for t, _ in memory.load(rows)}
    assert seen == set(stored(second.run_dir))
    assert not seen & set(own)
    run_ids = {t.run for t in second.datamodule.history_store.read(range(history))}
    assert all(name.startswith("history-") for name in run_ids)


def test_a_new_fit_in_an_old_directory_sets_its_store_aside(make_fit):
    first: Fit = make_fit("run").run()
    old = ReplayStore(first.run_dir / "store").snapshot()
    second: Fit = make_fit("run").run()
    assert stored(second.run_dir) == stored(first.run_dir)  # the same fit: not twice as many
    assert not set(old) & set(ReplayStore(first.run_dir / "store").snapshot())
    aside = {path.stem for path in (first.run_dir / "store" / "set_aside").glob("*.arrow")}
    assert aside == set(old)


@pytest.mark.parametrize("method", ["test", "validate", "predict"])
def test_other_commands_leave_the_run_store_alone(make_fit, method):
    fit: Fit = make_fit("run").run()
    early = torch.load(fit.last, weights_only=False)
    early["ReplayDataModule"]["snapshot"] = []
    torch.save(early, fit.last)  # a checkpoint older than what the store holds
    before = _digests(fit.run_dir / "store")
    for run in (fit, make_fit("run")):
        getattr(run.trainer, method)(
            run.module, datamodule=run.datamodule, ckpt_path=str(fit.last), weights_only=False
        )
        assert _digests(fit.run_dir / "store") == before


def test_splits_are_disjoint_and_cached(make_fit, cache_dir, monkeypatch):
    fit: Fit = make_fit("run")
    splits = {s: fit.datamodule.tasks(s) for s in ("train", "val", "test")}
    for family, make in fit.datamodule.environments.items():
        hashes = [t.task_id for tasks in splits.values() for t in tasks[family]]
        assert len(hashes) == len(set(hashes)) == 10 + 3 + 3
        monkeypatch.setattr("retro_lightning.training.tasks.make_tasks", None)  # must not be asked
        assert fixed_tasks(cache_dir, family, make, "val", 3) == splits["val"][family]
        monkeypatch.undo()


class Norms(Callback):
    """The gradient's norm as the optimiser sees it."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
            self.norms.append(float(norm))


def test_gradients_are_clipped(make_fit):
    clipped, free = Norms(), Norms()
    options = {"max_epochs": 1}
    make_fit("free", callbacks=[free], trainer_options={**options, "gradient_clip_val": None}).run()
    value = min(free.norms) / 2
    options["gradient_clip_val"] = value
    make_fit("clipped", callbacks=[clipped], trainer_options=options).run()
    assert len(clipped.norms) == len(free.norms) > 0
    assert max(clipped.norms) <= value * (1 + 1e-4)


def test_predict_gives_the_log_probability_of_every_stored_action(make_fit):
    fit: Fit = make_fit("run").run()
    batches = fit.trainer.predict(fit.module, datamodule=fit.datamodule)
    predicted = dict(pair for batch in batches or [] for pair in batch)
    store, policy = fit.datamodule.history_store, fit.module.require_policy()
    assert sorted(predicted) == list(range(len(store)))
    for row in range(0, len(store), 7):
        (trajectory,) = store.read([row])
        (encoded,) = policy.transcript.encode_many([trajectory])
        with torch.no_grad():
            alone = policy.evaluate(collate([encoded], [trajectory])).logprobs_BS[0]
        assert predicted[row] == pytest.approx(alone.tolist(), abs=1e-5)


def test_only_sound_training_trajectories_are_learnt_from(make_fit):
    whole: Fit = make_fit("whole").run()
    sound = whole.datamodule.history_store.read(range(40))
    foreign = [
        replace(t, task=replace(t.task, split=s)) for t in sound[:10] for s in ("val", "test")
    ]
    faulted = [
        replace(t, terminated=False, truncated=True, truncation="fault", fault="it broke")
        for t in sound[10:20]
    ]
    path = whole.run_dir.parent / "mixed"
    ReplayStore(path, create=True).append([*foreign, *faulted, *sound])
    fit: Fit = make_fit("mixed-run", data={"history": StoredHistory(str(path))})
    drawn: set[int] = set()

    class Drawn(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            drawn.update(row for part in args[2] for row in part.rows_B.tolist())

    fit.trainer.callbacks.append(Drawn())  # type: ignore[attr-defined]
    fit.run()
    assert drawn
    assert min(drawn) >= len(foreign) + len(faulted)
