"""What the curriculum let in is kept, drawn, and the same after a resume."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from retro_lightning.tracking.curriculum_figures import CurriculumFigures, quality_over_time
from tests.fits import BATCHES, EPOCHS, Fit, phases
from tests.unit.training.test_resume import STOPS


def _fit(folder: Path, cache: Path, *callbacks: object) -> Fit:
    return Fit(
        folder / "run",
        cache,
        make_phases=lambda: phases(None),
        callbacks=[CurriculumFigures(), *callbacks],  # type: ignore[list-item]
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Fit:
    return _fit(tmp_path_factory.mktemp("figures"), cache).run()


def _kept(fit: Fit) -> list[dict[str, object]]:
    [callback] = [c for c in fit.trainer.callbacks if isinstance(c, CurriculumFigures)]
    return callback.state_dict()["epochs"]


def test_every_epoch_is_kept_and_drawn(whole: Fit) -> None:
    kept = _kept(whole)
    assert [one["epoch"] for one in kept] == list(range(EPOCHS))
    assert [one["step"] for one in kept] == [BATCHES * epoch for epoch in range(EPOCHS)]
    for one in kept:
        for shares in ("stored", "drawn", "kinds"):
            assert sum(one[shares]) == pytest.approx(1.0)
    figures = {path.stem for path in (whole.run_dir / "figures").glob("*.png")}
    assert figures >= {"curriculum_quality", "curriculum_let_in", "exposure"}


def test_the_ledger_is_written_out(whole: Fit) -> None:
    with (whole.run_dir / "exposure.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    index, exposure = whole.datamodule.index, whole.datamodule.exposure()
    assert [int(line["learnt"]) for line in lines] == exposure.tolist()
    assert [line["task_id"] for line in lines] == [index.task_ids[code] for code in index.task_id]
    # What was logged after the last epoch is the mean over each family's learnable trajectories.
    for code, family in enumerate(index.families):
        mine = index.family == code
        mean = exposure[mine].sum() / (whole.datamodule.memory.learnable & mine).sum()
        logged = whole.trainer.callback_metrics[f"exposure/{family}"]
        assert float(logged) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("stop", ["forward", "epoch-end"])
def test_a_resumed_fit_keeps_the_same(tmp_path: Path, cache: Path, whole: Fit, stop: str) -> None:
    with pytest.raises(SystemExit):
        _fit(tmp_path, cache, STOPS[stop]()).run()
    resumed = _fit(tmp_path, cache)
    resumed.run(resumed.last)
    assert _kept(resumed) == _kept(whole)


def test_a_single_epoch_can_be_drawn() -> None:
    one = [(np.arange(20) / 190).tolist()]
    assert len(quality_over_time([0.0], one, one).axes) == 3
