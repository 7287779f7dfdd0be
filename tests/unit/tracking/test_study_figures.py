"""Figures of a study: the numbers drawn are those of the trials."""

from __future__ import annotations

import numpy as np

from retro_lightning.tracking.study_figures import (
    TrialPoint,
    history,
    importances,
    parallel_coordinates,
    pareto_front,
    slices,
)

TRIALS = [
    TrialPoint(0, {"part": "a", "lr": 0.1}, (0.2, 9.0)),
    TrialPoint(1, {"part": "b", "lr": 0.3, "x": 4.0}, (0.6, 5.0)),
    TrialPoint(2, {"part": "b", "lr": 0.2, "x": 2.0}, (0.4, 3.0)),
    TrialPoint(3, {"part": "b", "lr": 0.9, "x": 2.0}, (0.9, 1.0), pruned=True),
]


def test_the_best_so_far_leaves_out_what_was_stopped_early():
    axes = history(TRIALS, "score", maximize=True).axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines["best so far"] == [0.2, 0.6, 0.6]
    assert lines["stopped early"] == [0.9]
    axes = history(TRIALS, "score", maximize=False).axes[0]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines}["best so far"] == [
        0.2,
        0.2,
        0.2,
    ]


def test_lines_pass_their_choices_and_absent_keys_below():
    axes = parallel_coordinates(TRIALS, ["part", "lr", "x"], "score", maximize=True).axes[0]
    drawn = [list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 4]
    # part a, b = 0, 1; lr 0.1 to 0.3; x 2 to 4, trial 0 has none; score 0.2 to 0.6
    np.testing.assert_allclose(
        drawn, [[0, 0, -0.25, 0], [1, 1, 1, 1], [1, 0.5, 0, 0.5]], atol=1e-12
    )
    thick = [line.get_linewidth() for line in axes.lines if len(line.get_xdata()) == 4]
    assert thick.index(max(thick)) == 1


def test_slices_show_each_key_by_itself():
    figure = slices(TRIALS, ["part", "x"], "score")
    part, x = figure.axes
    assert list(part.lines[0].get_xdata()) == [0, 1, 1]
    assert [t.get_text() for t in part.get_xticklabels()] == ["a", "b"]
    assert list(x.lines[0].get_xdata()) == [4.0, 2.0]
    assert list(x.lines[0].get_ydata()) == [0.6, 0.4]


def test_the_front_is_what_nothing_beats():
    # score up, cost down: trial 0 is beaten by 1 (better, cheaper); 1 and 2 each win one.
    axes = pareto_front(TRIALS, ["score", "cost"], [True, False]).axes[0]
    lines = {line.get_label(): sorted(line.get_xdata()) for line in axes.lines}
    assert lines == {"other trials": [9.0], "front": [3.0, 5.0]}


def test_importances_are_sorted():
    axes = importances({"a": 0.2, "b": 0.7, "c": 0.1}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.2, 0.7]
