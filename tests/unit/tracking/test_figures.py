"""Figures: the numbers that are drawn are the numbers given."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from retro_lightning.tracking.figures import (
    SuccessRow,
    curriculum_histogram,
    learning_curve,
    success_bars,
)

SERIES = {"mean": ([0, 10, 20], [0.1, 0.5, 0.7]), "maze": ([0, 20], [0.0, 1.0])}


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_curves_are_the_series():
    figure = learning_curve(SERIES, title="t", ylabel="solved", emphasised="mean", share=True)
    drawn = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[0].lines
    }
    assert drawn == {name: (list(steps), list(values)) for name, (steps, values) in SERIES.items()}


def test_the_emphasised_curve_is_drawn_last_and_named_first():
    series = {"mean": SERIES["mean"], "maze": SERIES["maze"], "tools": SERIES["maze"]}
    figure = learning_curve(series, title="t", ylabel="solved", emphasised="mean")
    assert [line.get_label() for line in figure.axes[0].lines][-1] == "mean"
    assert legend(figure) == ["mean", "maze", "tools"]


def test_a_single_curve_needs_no_legend():
    assert legend(learning_curve({"loss": SERIES["mean"]}, title="t", ylabel="y")) == []


def test_values_that_are_not_finite_are_left_out():
    figure = learning_curve({"a": ([0, 1, 2], [0.0, np.nan, 1.0])}, title="t", ylabel="y")
    assert list(figure.axes[0].lines[0].get_xdata()) == [0, 2]


def test_no_two_of_28_curves_look_alike():
    series = {f"family {i}": SERIES["mean"] for i in range(28)}
    lines = learning_curve(series, title="t", ylabel="y").axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 28


def test_a_curve_with_too_few_values_is_refused():
    with pytest.raises(ValueError, match="'a' has 2 steps but 1 values"):
        learning_curve({"a": ([0, 1], [0.0])}, title="t", ylabel="y")


def test_axes_carry_units():
    axes = learning_curve(SERIES, title="Success", ylabel="solved", share=True).axes[0]
    assert axes.get_xlabel() == "optimiser steps"
    assert axes.get_ylabel() == "solved"
    assert axes.get_title("left") == "Success"


def test_bars_are_the_rates_and_whiskers_the_intervals():
    rows = [
        SuccessRow("maze", "random", 0.2, 0.1, 0.35),
        SuccessRow("maze", "policy", 0.8, 0.7, 0.9),
        SuccessRow("tools", "policy", 0.6, 0.5, 0.7),
    ]
    axes = success_bars(rows, title="t", emphasised="policy").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.8, 0.6]
    ends = [segment[:, 0] for line in axes.collections for segment in line.get_segments()]
    np.testing.assert_allclose(np.sort(ends), [[0.1, 0.35], [0.7, 0.9], [0.5, 0.7]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["maze", "tools"]
    assert legend(axes.figure) == ["random", "policy"]


def test_bars_of_a_family_do_not_overlap():
    rows = [SuccessRow(f, b, 0.5, 0.4, 0.6) for f in "xyz" for b in "abcd"]
    axes = success_bars(rows, title="t", emphasised="a").axes[0]
    spans = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in axes.patches)
    assert all(below <= above for (_, below), (above, _) in itertools.pairwise(spans))


def test_histogram_shares_add_up_to_one():
    quality = np.array([0.0, 0.0, 0.0, 1.0])
    figure = curriculum_histogram(quality, [0.0, 0.0, 0.25, 0.75], title="t", xlabel="return")
    stored = [bar.get_height() for bar in figure.axes[0].patches if hasattr(bar, "get_height")]
    # Three of four stored trajectories lie in the first bin, one in the last.
    assert stored[0] == pytest.approx(0.75)
    assert sum(stored) == pytest.approx(1.0)


def test_figures_need_no_display_and_no_global_state(tmp_path):
    figure = learning_curve(SERIES, title="t", ylabel="y", emphasised="mean")
    figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
