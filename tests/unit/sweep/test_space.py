"""Spaces: what is chosen, when a key exists, and the overlay that makes a trial of it."""

from __future__ import annotations

import optuna
import pytest
import yaml

from retro_lightning.sweep.overlay import overlay
from retro_lightning.sweep.space import (
    Dimension,
    check_space,
    covers,
    defaults,
    packed,
    probes,
    suggest,
)

SPACE = {
    "model.part": Dimension(choices={"a": {"class_path": "p.A"}, "b": {"class_path": "p.B"}}),
    "model.part.init_args.x": Dimension(low=0.1, high=10.0, log=True, when={"model.part": "b"}),
    "data.n": Dimension(low=1, high=9, type="int"),
    "model.list.1.rate": Dimension(low=0.0, high=1.0),
}


@pytest.fixture
def base(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model:\n  list: [{rate: 0.1}]\n")
    second.write_text('model:\n  list: [{rate: 0.2}, {rate: 0.3, seed: "${seed}"}]\n')
    return [str(first), str(second)]


def chosen(**fixed: object) -> dict[str, object]:
    names = {"part": "model.part", "x": "model.part.init_args.x", "n": "data.n"}
    trial = optuna.trial.FixedTrial(
        {"model.list.1.rate": 0.5, "data.n": 3, **{names[k]: v for k, v in fixed.items()}}
    )
    return suggest(trial, SPACE)


def test_a_key_exists_only_beside_its_choice():
    assert "model.part.init_args.x" not in chosen(part="a")
    assert chosen(part="b", x=2.0)["model.part.init_args.x"] == 2.0


def test_the_overlay_names_class_and_argument_and_keeps_the_list(base):
    params = chosen(part="b", x=2.0)
    assert overlay(SPACE, params, base) == {
        "model": {
            "part": {"class_path": "p.B", "init_args": {"x": 2.0}},
            # the list as the last file has it, references kept, but for what was chosen
            "list": [{"rate": 0.2}, {"rate": 0.5, "seed": "${seed}"}],
        },
        "data": {"n": 3},
    }
    assert yaml.safe_load(yaml.safe_dump(overlay(SPACE, params, base)))
    assert "init_args" not in overlay(SPACE, params | {"model.part": "a"}, base)["data"]


def test_two_overlays_do_not_share_what_they_change(base):
    overlay(SPACE, chosen(part="b", x=2.0), base)
    assert SPACE["model.part"].named["b"] == {"class_path": "p.B"}


def test_a_list_that_is_too_short_is_refused(base):
    with pytest.raises(ValueError, match=r"no entry 1 in a list model\.list"):
        overlay(SPACE, chosen(part="a"), base[:1])


def test_defaults_are_those_of_the_job():
    config = {
        "model": {
            "part": {"class_path": "p.A", "init_args": {"y": 1}},
            "list": [{}, {"rate": 0.3}],
        },
        "data": {"n": 4},
    }
    assert defaults(SPACE, config) == {"model.part": "a", "data.n": 4, "model.list.1.rate": 0.3}
    config["model"]["part"] = {"class_path": "p.B", "init_args": {"x": 5.0}}
    assert defaults(SPACE, config)["model.part.init_args.x"] == 5.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": {"n": 99}}, r"data\.n: the job's own value 99 lies outside its range 1 to 9"),
        ({"data": {}}, r"data\.n: the job's own value None lies outside"),
        ({"data": {"n": True}}, r"data\.n: the job's own value True"),
        ({"model": {"part": {"class_path": "p.C"}}}, r"model\.part: .* is none of the choices"),
    ],
)
def test_defaults_outside_the_space_are_refused(change, sentence):
    config = {
        "model": {"part": {"class_path": "p.A"}, "list": [{}, {"rate": 0.3}]},
        "data": {"n": 4},
    }
    with pytest.raises(ValueError, match=sentence):
        defaults(SPACE, config | change)


def test_an_explicit_default_takes_the_place_of_the_jobs():
    space = {
        "n": Dimension(low=1, high=9, default=2),
        "c": Dimension(choices=["x", "y"], default="y"),
    }
    assert defaults(space, {}) == {"n": 2.0, "c": "y"}


def test_a_choice_is_covered_by_a_configuration_that_says_more():
    full = {"class_path": "p.A", "init_args": {"x": 1, "y": [1, 2]}}
    assert covers(full, "p.A")
    assert covers(full, {"class_path": "p.A", "init_args": {"y": [1, 2]}})
    assert not covers(full, {"class_path": "p.A", "init_args": {"z": 1}})
    assert not covers(full, "p.B")


def test_probes_take_every_choice_and_every_end_in_few_configurations():
    every = list(probes(SPACE))
    assert [p["model.part.init_args.x"] for k, p in every if k.endswith("x")] == [0.1, 10.0]
    assert all(p["model.part"] == "b" for k, p in every if k.endswith("x"))
    bins = packed(every)
    assert sum(map(len, bins)) == len(every) == 8
    assert len(bins) == 3  # part a, and part b with both ends of x
    for members in bins:
        for _, one in members:
            for _, other in members:
                assert all(other.get(name, value) == value for name, value in one.items())


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"low": 2, "high": 1}, "k ranges from 2 up to 1; give low at most high"),
        ({"low": 0, "high": 1, "log": True}, "k has a logarithmic range from 0; give low above 0"),
        ({"low": 1}, "k has neither choices nor a range"),
        ({"choices": ["a"], "low": 1}, "k has both choices and a range"),
        ({"choices": []}, "k has no choices"),
        ({"lo": 1, "high": 2}, "k: lo says nothing about a range; did you mean low?"),
        ({"low": "many", "high": 2}, "k: low is many; give a number"),
        ({"low": 0.5, "high": 2, "type": "int"}, "k ranges over whole numbers"),
        ({"low": 1, "high": 2, "type": "real"}, "k: type is 'real'; give float or int"),
        ({"low": 1, "high": 2, "when": {"z": "a"}}, "k: when names z, which is no key"),
        (3, "k says 3; give choices, or low and high"),
    ],
)
def test_what_cannot_be_searched_is_refused(said, sentence):
    with pytest.raises(ValueError, match=r"^k") as refused:
        check_space({"k": Dimension.read("k", said)})
    assert sentence in str(refused.value)


def test_a_condition_on_a_choice_that_is_not_there_is_refused():
    space = {"a": Dimension(choices=["x"]), "b": Dimension(low=0, high=1, when={"a": "y"})}
    with pytest.raises(ValueError, match="b: when names 'y', which is no choice of a; it has x"):
        check_space(space)


def test_numbers_that_yaml_takes_for_text_are_numbers():
    assert Dimension.read("k", yaml.safe_load("{low: 1e-4, high: 1e-2}")).low == 1e-4
