"""Every configuration that is shipped parses, and makes what its comments say."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import yaml

from retro_lightning.cli.main import main
from retro_lightning.config import command
from retro_lightning.config.command import Command
from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.credit.estimators import PolicyGradient
from retro_lightning.environments.babyai import BabyAI
from retro_lightning.environments.base import describe
from retro_lightning.environments.maze import Maze
from retro_lightning.environments.proving_ground import (
    HiddenObject,
    LockedDoor,
    RecordsRoom,
    RefusedCall,
)
from retro_lightning.environments.tool_use import ToolUse
from retro_lightning.retrospection.environment import RetrospectionEnv
from retro_lightning.rollout.behaviours import Expert, NoisyExpert, RandomWalker
from retro_lightning.tracking.results import RunResults
from retro_lightning.tracking.retries import RetryCurves
from retro_lightning.training.callbacks.rollouts import FreshRollouts

CONF = Path(__file__).parents[3] / "conf"
MAIN = CONF / "multitask.yaml"
EVERY = sorted(CONF.rglob("*.yaml"))
RETRO = CONF / "retroformer.yaml"
RETRO_OVERLAYS = sorted((CONF / "overlay" / "retroformer").glob("*.yaml"))
JOBS = [
    path
    for path in EVERY
    if path not in RETRO_OVERLAYS and "language_model:" in path.read_text(encoding="utf-8")
]
"""Files that stand by themselves; the others are stacked on the main job."""
OVERLAYS = [path for path in EVERY if path not in (*JOBS, *RETRO_OVERLAYS)]
SHORT = [path for path in OVERLAYS if path.parent.name == "overlay"]

pytestmark = pytest.mark.usefixtures("workplace")


def build(*files: Path, args: tuple[str, ...] = (), name: str = "fit") -> Command:
    stacked = [word for path in files for word in ("--config", str(path))]
    return command.build(name, [*stacked, *args])


def made(cli: Command) -> list[type]:
    """Classes of the environments of a configuration, which make one each."""
    classes = []
    for make in cli.datamodule.environments.values():
        env = make()
        classes.append(type(env))
        env.close()
    return classes


def behaviours(cli: Command) -> list[type]:
    return [type(share.behaviour) for share in cli.datamodule.history.behaviours]


@functools.cache
def sources() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in EVERY}


def test_there_is_something_to_check():
    assert MAIN in JOBS
    assert CONF / "smoke.yaml" in JOBS
    assert CONF / "overlay" / "no_expert.yaml" in OVERLAYS


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_made_without_making_its_history(path, workplace):
    before = set(workplace.rglob("*"))
    cli = build(path)
    assert cli.run_dir == Path("runs") / path.stem
    assert bool(made(cli)) == cli.datamodule.history.needs_environments
    assert set(workplace.rglob("*")) == before


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_a_file_that_is_stacked_on_the_main_job_is_made(path):
    cli = build(MAIN, path)
    assert cli.run_dir == Path("runs") / path.stem
    assert len(made(cli)) >= 1


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_an_overlay_changes_what_it_names_of_the_main_job(path):
    cli, main_job = build(MAIN, path), build(MAIN)
    assert cli.run_dir == Path("runs") / path.stem
    # An overlay names what it changes: the environments stay those of the main job, and so do all
    # settings of trainer, model and data whose sections it leaves out.
    assert describe(cli.datamodule.environments) == describe(main_job.datamodule.environments)
    changed = yaml.safe_load(sources()[path.name])
    for section in ("trainer", "model", "data"):
        ours, theirs = cli.config[section].as_dict(), main_job.config[section].as_dict()
        left = set(theirs) - set(changed.get(section, {})) - {"default_root_dir"}
        assert {key: ours[key] for key in left} == {key: theirs[key] for key in left}


@pytest.mark.parametrize("path", RETRO_OVERLAYS, ids=lambda path: path.stem)
def test_a_mode_of_retroformer_is_made(path):
    cli = build(RETRO, path)
    assert cli.run_dir == Path("runs") / path.stem
    kinds = {HiddenObject, LockedDoor, RefusedCall}
    roles = {"actor_only": kinds, "retroact": {RetrospectionEnv, *kinds}}
    assert set(made(cli)) == roles.get(path.stem, {RetrospectionEnv})


def test_the_retroformer_job_keeps_one_kind_out_of_training():
    cli = build(RETRO)
    [curves] = [part for part in cli.trainer.callbacks if isinstance(part, RetryCurves)]
    assert set(made(cli)) == {RetrospectionEnv}
    trained = {type(make()._env) for make in cli.datamodule.environments.values()}
    assert trained == {HiddenObject, LockedDoor, RefusedCall}
    [held_out] = [make() for make in curves.held_out.values()]
    assert type(held_out._env) is RecordsRoom
    # All reflect on the attempts of one actor, which has learnt every kind.
    actors = {make().actor.path for make in cli.datamodule.environments.values()}
    assert actors == {held_out.actor.path}
    assert {make().__class__ for make in held_out.actor.environments.values()} == {
        *trained,
        RecordsRoom,
    }
    log = cli.datamodule.history
    assert log.shares["helpful"] < 0.4


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_file_says_how_it_is_run(path):
    first = sources()[path.name].splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith((".", ":"))


def test_the_main_job_mixes_three_kinds_of_task():
    cli = build(MAIN)
    classes = made(cli)
    assert classes.count(BabyAI) >= 3
    assert classes.count(Maze) == 2
    assert classes.count(ToolUse) == 1
    assert set(cli.datamodule.environments) >= {"maze/full", "maze/partial"}
    assert [type(phase.objective) for phase in cli.model.phases] == [
        FilteredCloning,
        PolicyGradient,
    ]
    assert set(behaviours(cli)) == {Expert, NoisyExpert, RandomWalker}


def test_evaluation_sets_of_the_main_job_are_large_enough():
    counts = build(MAIN).datamodule.task_counts
    assert counts["val"] >= 50
    assert counts["test"] >= 100


def test_an_override_of_the_seed_reaches_everything():
    cli = build(MAIN, args=("--seed_everything", "7"))
    assert (cli.model.seed, cli.datamodule.seed) == (7, 7)


def test_an_override_of_the_context_reaches_the_model():
    cli = build(MAIN, args=("--data.context", "640"))
    assert cli.model.language_model.context == 640


def test_the_history_without_an_expert_has_none():
    assert Expert not in behaviours(build(MAIN, CONF / "overlay" / "no_expert.yaml"))


def test_filtered_cloning_is_the_only_objective():
    cli = build(MAIN, CONF / "overlay" / "filtered_cloning.yaml")
    [phase] = cli.model.phases
    assert type(phase.objective) is FilteredCloning
    assert phase.until_step is None


def test_replay_only_collects_nothing():
    def collects(cli: Command) -> bool:
        return any(isinstance(part, FreshRollouts) for part in cli.trainer.callbacks)

    assert collects(build(MAIN))
    assert not collects(build(MAIN, CONF / "overlay" / "replay_only.yaml"))


def callbacks(cli: Command) -> list[type]:
    ours = [type(part) for part in cli.trainer.callbacks]
    return [part for part in ours if part.__module__.startswith("retro_lightning.")]


def test_what_replaces_the_list_of_callbacks_keeps_those_of_the_main_job():
    wanted = callbacks(build(MAIN))
    assert RunResults in wanted
    for path in sorted((CONF / "estimator").glob("*.yaml")):
        assert callbacks(build(MAIN, path)) == wanted
    replayed = callbacks(build(MAIN, CONF / "overlay" / "replay_only.yaml"))
    assert replayed == [part for part in wanted if part is not FreshRollouts]


def test_estimators_begin_where_the_main_job_begins():
    wanted = yaml.safe_load(sources()[MAIN.name])["model"]["phases"][0]
    for path in sorted((CONF / "estimator").glob("*.yaml")):
        assert yaml.safe_load(sources()[path.name])["model"]["phases"][0] == wanted


def test_fresh_only_fills_batches_with_fresh_rollouts():
    assert build(MAIN, CONF / "overlay" / "fresh_only.yaml").datamodule.curricula.fresh_share == 1.0


def test_every_curriculum_changes_one_thing_of_the_main_job():
    for path in sorted((CONF / "curriculum").glob("*.yaml")):
        changed = yaml.safe_load(sources()[path.name])
        assert set(changed) == {"run_name", "data"}
        assert set(changed["data"]) in ({"prioritisation"}, {"task_curriculum"})


@pytest.mark.parametrize("name", ["fit", "test", "validate", "predict"])
def test_one_file_serves_every_command(name):
    assert list(build(MAIN, name=name).datamodule.environments)


def test_a_printed_configuration_is_the_same_job_again(capsys, workplace):
    assert main(["fit", "--config", str(MAIN), "--print_config"]) == 0
    printed = workplace / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    again, original = build(printed), build(MAIN)
    assert describe(again.datamodule.environments) == describe(original.datamodule.environments)
    assert describe(again.datamodule.history) == describe(original.datamodule.history)
    assert again.config.model == original.config.model


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "data:\n  batch_sise: 8\n",
            "mine.yaml, line 2: data.batch_sise is not a known key; did you mean data.batch_size?",
        ),
        (
            "model:\n  baselin: 1\n",
            "mine.yaml, line 2: model.baselin is not a known key; did you mean model.baseline?",
        ),
        (
            "model:\n  baselin: {}\n",
            "mine.yaml, line 2: model.baselin is not a known key; did you mean model.baseline?",
        ),
        (
            "trainer:\n  max_epoch: 8\n",
            "mine.yaml, line 2: trainer.max_epoch is not a known key; did you mean "
            "trainer.max_epochs?",
        ),
        (
            "model:\n  language_model:\n    init_args:\n      hiden_size: 8\n",
            "mine.yaml, line 4: model.language_model.init_args.hiden_size is not an argument of "
            "retro_lightning.policy.language_model.LlamaFromConfig; did you mean hidden_size?",
        ),
        (
            "data:\n  history:\n    init_args:\n      task_per_family: 8\n",
            "mine.yaml, line 4: data.history.init_args.task_per_family is not an argument of "
            "retro_lightning.rollout.history.ScriptedHistory; did you mean tasks_per_family?",
        ),
        ("data: {batch_size: 0}\n", "data.batch_size is 0; give a whole number of at least 1"),
        ("data: {environments: {}}\n", "data.environments is empty: name at least one"),
    ],
)
def test_a_mistake_in_an_overlay_of_ones_own_is_answered_in_one_sentence(
    text, complaint, capsys, monkeypatch
):
    def accepted(cli: Command) -> None:
        raise AssertionError("the mistake went unnoticed")  # and no long fit may begin

    monkeypatch.setattr(Command, "run", accepted)
    Path("mine.yaml").write_text(text)
    assert main(["fit", "--config", str(MAIN), "--config", "mine.yaml"]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            ["--config", "mine.yaml"],
            "mine.yaml, line 3: data.environments.retro/door.init_args.reward is 'lft'; give "
            "return_change or lift",
        ),
        (
            ["--data.environments.retro/door.init_args.reward", "lft"],
            "command line: --data.environments.retro/door.init_args.reward is 'lft'; give "
            "return_change or lift",
        ),
        (
            ["--data.history.init_args.helpful", "0.9"],
            "'off_task': 0.25} are not all at least 0 with a sum of 1",
        ),
    ],
)
def test_a_mistake_in_a_mode_of_retroformer_is_answered_in_one_sentence(given, complaint, capsys):
    Path("mine.yaml").write_text(
        "data:\n  environments:\n    retro/door: {init_args: {reward: lft}}\n"
    )
    assert main(["fit", "--config", str(RETRO), *given]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
