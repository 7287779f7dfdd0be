"""The report of a comparison: sentences, tables, one self-contained page, figures."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from rich.console import Console

from retro_lightning.evaluation.comparison import Arm, Run
from retro_lightning.tracking.comparison_figures import band, sample_efficiency
from retro_lightning.tracking.comparison_report import make_report, show, write


def arm(label: str, *solved: int) -> Arm:
    runs = []
    for seed, count in enumerate(solved):
        outcomes = {"maze": {f"t{i}": [float(i < count), 0.0, 1.0] for i in range(10)}}
        curve = ((100, 10 * seed, count / 20), (200, 30 * seed, count / 10))
        runs.append(Run(f"{label} {seed}", seed, outcomes, curve))
    return Arm(label, tuple(runs))


SEVEN = [arm("<b>", 5, 6, 7, 5, 6, 7, 6), arm("a", 3, 4, 5, 3, 4, 5, 4)]


def test_a_winner_is_named_with_interval_and_p():
    report = make_report(SEVEN, title="t", split="test")
    [sentence] = report.notes
    assert sentence == (
        "<b> is better than a (+0.200, 95 % t interval +0.200 to +0.200; p = 0.0156)"
    )


def test_below_six_seeds_the_smallest_p_is_printed():
    [sentence] = make_report([arm("b", 9, 9, 9), arm("a", 1, 1, 1)], title="t", split="test").notes
    assert sentence == (
        "b and a: 3 paired seeds; no winner is called below 6 (the smallest p they could give is "
        "0.25)"
    )


def test_equals_are_not_said_to_be_equal():
    [sentence] = make_report([arm("b", *[5] * 6), arm("a", *[5] * 6)], title="t", split="val").notes
    assert "do not differ, as far as can be told" in sentence


def test_tables_show_the_numbers():
    console = Console(record=True, width=140)
    show(make_report(SEVEN, title="t", split="test"), console)
    text = console.export_text()
    assert re.search(r"<b> - a\s+│\s+7 │\s+\+0\.200 │", text)
    assert re.search(r"│ a\s+│\s+7 │ 0\.400 │ 0\.400 │", text)


def test_the_page_is_one_file_that_needs_nothing_else(tmp_path):
    settings = {"<b>": {"model.gamma": "0.5"}, "a": {"model.gamma": "0.9"}}
    files = write(make_report(SEVEN, title="t", split="test", settings=settings), tmp_path)
    html = files[0].read_text()
    assert html.count("data:image/png;base64,") == 4
    assert "http" not in html
    assert "<script" not in html
    assert "&lt;b&gt; is better than a" in html
    assert "<b>" not in html
    assert "model.gamma" in html
    said = json.loads(files[1].read_text())
    assert said["comparisons"][0]["winner"] == "<b>"
    assert said["runs"]["a"][0] == "a 0"


def test_what_could_not_be_computed_is_no_number(tmp_path):
    files = write(make_report([arm("b", 9), arm("a", 1)], title="t", split="test"), tmp_path)
    [found] = json.loads(files[1].read_text())["comparisons"]
    assert found["low"] is None


def test_bands_by_hand():
    # Three seeds at 0, 1, 2 of the second round: mean 1, deviation 1, t(0.975, 2) = 4.302653.
    curves = [[(5, s, 0.5), (9, 2 * s, float(s))] for s in range(3)]
    steps, mean, half = band(curves, environment_steps=False)
    assert (list(steps), list(mean)) == ([5, 9], [0.5, 1.0])
    assert half[1] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert list(band(curves, environment_steps=True)[0]) == [1.0, 2.0]
    assert np.isnan(band(curves[:2], environment_steps=False)[2]).all()


def test_curves_are_drawn_as_they_are():
    axes = sample_efficiency(SEVEN, environment_steps=False).axes[0]
    [first, second] = axes.lines
    assert list(first.get_xdata()) == [100, 200]
    assert second.get_ydata()[1] == pytest.approx(0.4)


def test_speeds_are_told_where_a_threshold_is_given(tmp_path):
    report = make_report(SEVEN, title="t", split="test", threshold=0.3, reference="a")
    console = Console(width=160, record=True, file=None)
    show(report, console)
    text = console.export_text()
    assert "Optimiser steps to a validation success of 0.3" in text
    assert "7 of 7" in text  # <b>: 0.5 / 2 at the first round or above at the second
    html, data, *_ = write(report, tmp_path)
    assert "Optimiser steps to a validation success of 0.3" in html.read_text()
    speeds = json.loads(data.read_text())["speeds"]
    assert [s["label"] for s in speeds] == ["a", "<b>"]  # the reference first
    assert speeds[1]["steps"] == pytest.approx((100 * 5 + 200 * 2) / 7)
    assert speeds[1]["ratio"] == pytest.approx((900 / 7) / 200)


def test_no_threshold_no_speeds(tmp_path):
    report = make_report(SEVEN, title="t", split="test")
    html, data, *_ = write(report, tmp_path)
    assert "Optimiser steps to" not in html.read_text()
    assert json.loads(data.read_text())["speeds"] == []
