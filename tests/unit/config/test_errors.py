"""Every mistake gets one sentence: where, which key, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro_lightning.cli.main import main

CONFIG = str(Path(__file__).parents[2] / "dummy.yaml")

pytestmark = pytest.mark.usefixtures("dummy_commands", "workplace")

PART = "model: {part: {class_path: tests.dummies."
ENVIRONMENT = "data: {environments: {b: {class_path: "

IN_FILES = {
    "misspelt key": (
        "model:\n  gama: 1",
        "bad.yaml, line 2: model.gama is not a known key; did you mean model.gamma?",
    ),
    "misspelt section": (
        "modle: {gamma: 1}",
        "bad.yaml, line 1: modle is not a known key; did you mean model?",
    ),
    "misspelt key of the trainer": (
        "trainer: {max_epoch: 1}",
        "bad.yaml, line 1: trainer.max_epoch is not a known key; did you mean trainer.max_epochs?",
    ),
    "key like no other": ("zzz: 1", "bad.yaml, line 1: zzz is not a known key; remove it"),
    "misspelt argument of a part": (
        PART + "Coefficient, init_args: {coeficient: 1}}}",
        "bad.yaml, line 1: model.part.init_args.coeficient is not an argument of "
        "tests.dummies.Coefficient; did you mean coefficient?",
    ),
    "argument like no other": (
        PART + "Coefficient, init_args: {zzz: 1}}}",
        "bad.yaml, line 1: model.part.init_args.zzz is not an argument of "
        "tests.dummies.Coefficient; it takes coefficient",
    ),
    "misspelt setting of a part": (
        PART + "Shaded, init_args: {shade: {dept: 2}}}}",
        "bad.yaml, line 1: model.part.init_args.shade.dept is not an argument of "
        "tests.dummies.Shade; did you mean depth?",
    ),
    "setting like no other": (
        PART + "Shaded, init_args: {shade: {zzz: 2}}}}",
        "bad.yaml, line 1: model.part.init_args.shade.zzz is not an argument of "
        "tests.dummies.Shade; it takes depth",
    ),
    "setting of a wrong kind": (
        PART + "Shaded, init_args: {shade: {depth: deep}}}}",
        "bad.yaml, line 1: model.part.init_args.shade.depth is 'deep'; give a whole number",
    ),
    "misspelt argument in a list": (
        "model: {parts: [{class_path: tests.dummies.Coefficient, init_args: {coeficient: 1}}]}",
        "bad.yaml, line 1: model.parts.0.init_args.coeficient is not an argument of "
        "tests.dummies.Coefficient; did you mean coefficient?",
    ),
    "misspelt argument of an environment": (
        ENVIRONMENT + "tests.dummies.Corridor, init_args: {levl: x}}}}",
        "bad.yaml, line 1: data.environments.b.init_args.levl is not an argument of "
        "tests.dummies.Corridor; did you mean level?",
    ),
    "argument left out": (
        ENVIRONMENT + "tests.dummies.Corridor}}}",
        "bad.yaml, line 1: data.environments.b.class_path: tests.dummies.Corridor needs level; "
        "set it under init_args",
    ),
    "misspelt class": (
        PART + "Coeficient}}",
        "bad.yaml, line 1: model.part.class_path: there is no class tests.dummies.Coeficient; "
        "did you mean tests.dummies.Coefficient?",
    ),
    "unknown module": (
        ENVIRONMENT + "no_such_module.Env}}}",
        "bad.yaml, line 1: data.environments.b.class_path: the module of no_such_module.Env can't "
        "be imported; check its spelling or install it",
    ),
    "class of another kind": (
        PART + "Corridor, init_args: {level: x}}}",
        "bad.yaml, line 1: model.part.class_path: tests.dummies.Corridor is no Part; name a class "
        "that is one",
    ),
    "environment that is none": (
        ENVIRONMENT + "tests.dummies.Coefficient}}}",
        "bad.yaml, line 1: data.environments.b.class_path: tests.dummies.Coefficient is no Env; "
        "name a class that is one",
    ),
    "text for a number": (
        "model: {gamma: abc}",
        "bad.yaml, line 1: model.gamma is 'abc'; give a number",
    ),
    "text for a number of a part": (
        PART + "Coefficient, init_args: {coefficient: abc}}}",
        "bad.yaml, line 1: model.part.init_args.coefficient is 'abc'; give a number",
    ),
    "fraction for a whole number": (
        "trainer: {max_epochs: 1.5}",
        "bad.yaml, line 1: trainer.max_epochs is '1.5'; give a whole number",
    ),
    "impossible number": (
        PART + "Coefficient, init_args: {coefficient: -1}}}",
        "bad.yaml, line 1: model.part: coefficient is -1.0; give at least 0",
    ),
    "reference to nothing": (
        "data: {gamma: '${model.gammma}'}",
        "bad.yaml, line 1: data.gamma refers to ${model.gammma}, which does not exist; did you "
        "mean ${model.gamma}?",
    ),
    "broken YAML": ("data: {gamma: [1", "bad.yaml, line 1: not valid YAML ("),
}

ON_THE_COMMAND_LINE = {
    "misspelt option": (
        ["--model.gama", "1"],
        "command line: there is no option --model.gama; did you mean --model.gamma?",
    ),
    "misspelt section": (
        ["--modl.gamma=1"],
        "command line: there is no option --modl.gamma; did you mean --model.gamma?",
    ),
    "stray word": (["stray"], "command line: 'stray' belongs to no option; remove it"),
    "text for a number": (
        ["--model.gamma", "x"],
        "command line: --model.gamma is 'x'; give a number",
    ),
    "misspelt argument of a part": (
        ["--model.part.coeficient", "3"],
        "command line: --model.part.coeficient is not an argument of tests.dummies.Coefficient; "
        "did you mean coefficient?",
    ),
    "misspelt class": (
        ["--model.part", "tests.dummies.Coeficient"],
        "command line: --model.part: there is no class tests.dummies.Coeficient; did you mean "
        "tests.dummies.Coefficient?",
    ),
    "missing file": (["--config", "none.yaml"], "the configuration file none.yaml does not exist"),
    "missing checkpoint": (
        ["--ckpt_path", "last"],
        "there is no checkpoint runs/dummy/checkpoints",
    ),
}


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What is printed, which has to be all of it, on one line, with exit code 2."""
    assert main(["fit", "--config", CONFIG, *args]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err.strip().removeprefix("retro-lightning: ")


@pytest.mark.parametrize("mistake", IN_FILES)
def test_mistake_in_a_file(mistake, capsys):
    text, expected = IN_FILES[mistake]
    Path("bad.yaml").write_text(text)
    said = complaint(capsys, "--config", "bad.yaml")
    assert said.startswith(expected)
    assert len(said) == len(expected) or mistake == "broken YAML"


@pytest.mark.parametrize("mistake", ON_THE_COMMAND_LINE)
def test_mistake_on_the_command_line(mistake, capsys):
    args, expected = ON_THE_COMMAND_LINE[mistake]
    assert complaint(capsys, *args).startswith(expected)


def test_nothing_given(capsys):
    assert main(["fit"]) == 2
    assert "data.environments is missing: set it in a --config file" in capsys.readouterr().err


def test_an_error_in_the_course_of_the_run(capsys):
    said = complaint(capsys, "--model.fail_at", "1")
    assert said == "the batch is empty; give a store with trajectories"


def test_verbose_shows_where(capsys):
    assert main(["fit", "--verbose", "--config", CONFIG, "--model.fail_at", "1"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_part_named_twice_is_named_by_its_class(capsys):
    Path("bad.yaml").write_text("model: {parts: [{class_path: tests.dummies.Coefficient}]}")
    said = complaint(capsys, "--config", "bad.yaml", "--model.part.coefficient", "-2")
    assert said == "Coefficient: coefficient is -2.0; give at least 0"
