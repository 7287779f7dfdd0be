"""The checker: a sound environment passes, and each planted fault is named."""

import itertools
import re

import gymnasium
import pytest

from retro_lightning.environments import ContractError, check
from retro_lightning.environments.spaces import UnicodeText
from tests.support import CorridorEnv


class Sound(gymnasium.Env):
    """Say yes three times. Every part that a faulty one changes is a method."""

    def __init__(self):
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.number = int(self.np_random.integers(100))
        return self.observe(), self.info()

    def step(self, action):
        if action not in self.actions():
            self.refuse(action)
        self.count += action == "yes"
        self.number = int(self.np_random.integers(100))
        return self.observe(), self.reward(), self.done(), False, self.info()

    def observe(self):
        return f"question {self.number}"

    def info(self):
        return {
            "instruction": self.instruction(),
            "valid_actions": self.actions(),
            "success": self.success(),
        }

    def instruction(self):
        return "say yes"

    def actions(self):
        return ["yes", "no"]

    def reward(self):
        return float(self.done())

    def done(self):
        return self.count >= 3

    def success(self):
        return self.done()

    def expert_action(self):
        return "yes"

    def refuse(self, action):
        raise ValueError(f"{action!r} is not valid; valid are yes, no")


def faulty(**methods):
    """A Sound environment with some methods replaced."""
    return type("Faulty", (Sound,), methods)


def test_sound_environment_passes():
    report = check(Sound)
    assert report.episodes >= 15
    assert report.steps > 0
    assert report.has_expert
    assert report.skipped == ()


def test_an_instance_is_checked_but_not_its_independence():
    (skipped,) = check(Sound()).skipped
    assert "independence" in skipped


def raising(self, *args):
    raise KeyError("plug")


counter = itertools.count()
shared = {"count": 0}


def forgetful(self, action):
    """Share the count between instances."""
    shared["count"] += action == "yes"
    self.count = shared["count"]
    return self.observe(), 0.0, self.count >= 3, False, self.info()


def shared_reset(self, *, seed=None, options=None):
    shared["count"] = 0
    return Sound.reset(self, seed=seed)


def meddling(self):
    self.count += 1
    return "yes"


FAULTS = {
    "observation no text": ({"observe": lambda self: 5}, "the observation is of type int"),
    "observation not in space": (
        {"observe": lambda self: "x" * 100_001},
        "observation is not in observation_space",
    ),
    "no instruction": ({"instruction": lambda self: " "}, "missing or empty"),
    "instruction no text": ({"instruction": lambda self: 7}, r'"instruction"\] is of type int'),
    "info no mapping": ({"info": lambda self: None}, "info is of type NoneType"),
    "no valid actions": ({"actions": lambda self: []}, "is empty though the episode goes on"),
    "actions no list": ({"actions": lambda self: "yes"}, "is not a list of texts"),
    "actions no texts": ({"actions": lambda self: [1, 2]}, "is not a list of texts"),
    "action twice": ({"actions": lambda self: ["yes", "no", "yes"]}, "lists 'yes' twice"),
    "blank action": ({"actions": lambda self: ["yes", ""]}, "without a visible character"),
    "reward nan": ({"reward": lambda self: float("nan")}, "reward is nan, not a finite number"),
    "reward none": ({"reward": lambda self: None}, "reward is None, not a finite number"),
    "terminated no bool": (
        {"done": lambda self: None, "reward": lambda self: 0.0},
        "terminated is of type NoneType",
    ),
    "success no bool": ({"success": lambda self: "no"}, r'"success"\] is of type str'),
    "four-tuple": (
        {"step": lambda self, action: Sound.step(self, action)[:4]},
        "step returned a tuple of 4",
    ),
    "reset without info": (
        {"reset": lambda self, seed=None, options=None: Sound.reset(self, seed=seed)[0]},
        r"it returned of type str|returned .* must return \(observation, info\)",
    ),
    "step raises": ({"observe": raising}, "raised KeyError: 'plug'"),
    "random beside the seed": (
        {"observe": lambda self: f"question {next(counter)}"},
        "must follow from the reset seed",
    ),
    "expert not valid": ({"expert_action": lambda self: "maybe"}, "'maybe', which is not one"),
    "expert no text": ({"expert_action": lambda self: 1}, "expert_action gave something"),
    "expert fickle": (
        {"expert_action": lambda self: ("yes", "no")[next(counter) % 2]},
        "asked again",
    ),
    "expert meddles": ({"expert_action": meddling}, "it must only advise"),
    "expert raises": ({"expert_action": raising}, r"expert_action\(\): it raised KeyError"),
    "nonsense accepted": ({"refuse": lambda self, action: None}, "invalid action was accepted"),
    "nonsense raises otherwise": ({"refuse": raising}, "invalid action raised KeyError"),
    "instances share state": (
        {"reset": shared_reset, "step": forgetful},
        "instances must not share state",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named(fault):
    methods, sentence = FAULTS[fault]
    if fault == "instances share state":
        methods = {**methods, "expert_action": None}
        methods["refuse"] = Sound.refuse
        original = methods["step"]
        methods["step"] = lambda self, action: (
            original(self, action) if action in self.actions() else self.refuse(action)
        )
    with pytest.raises(ContractError) as error:
        check(faulty(**methods))
    assert any(re.search(sentence, violation) for violation in error.value.violations), str(
        error.value
    )
    for violation in error.value.violations:
        assert "\n" not in violation


def test_one_sentence_per_violation_however_many_seeds():
    with pytest.raises(ContractError) as error:
        check(faulty(instruction=lambda self: ""), seeds=range(20))
    assert len(error.value.violations) == 1


def test_a_factory_of_something_else_is_named():
    with pytest.raises(ContractError, match=r"must make a gymnasium\.Env"):
        check(lambda: 5)


def _batched(bend=lambda results: results):
    class Batched(CorridorEnv):
        @staticmethod
        def reset_many(environments, seeds):
            pairs = zip(environments, seeds, strict=True)
            return [env.reset(seed=seed) for env, seed in pairs]

        @staticmethod
        def step_many(environments, actions):
            pairs = zip(environments, actions, strict=True)
            return bend([env.step(action) for env, action in pairs])

    return Batched


def test_a_batched_form_that_does_the_same_is_fine():
    check(_batched(), seeds=range(3))


@pytest.mark.parametrize(
    ("bend", "sentence"),
    [
        (lambda results: [("elsewhere", *results[0][1:])], "gave another episode than reset and"),
        (lambda results: [], "step_many must return a list with a result per environment"),
        (lambda results: [KeyError("lost")], "it raised KeyError: 'lost'"),
    ],
)
def test_a_batched_form_that_does_something_else_is_a_violation(bend, sentence):
    with pytest.raises(ContractError, match=sentence):
        check(_batched(bend), seeds=range(3))


def test_free_texts_are_the_same_every_time_and_never_blank():
    heard = []

    class Listening(Sound):
        def step(self, action):
            heard.append(action)
            self.count += 1
            over = self.count == 40
            return "go on", 0.0, over, False, {"instruction": "say yes", "success": False}

        def info(self):
            return {"instruction": "say yes"}

    check(Listening, seeds=range(3))
    once, heard[:] = list(heard), []
    check(Listening, seeds=range(3))
    assert heard == once
    assert len(set(once)) > 20
    assert all(text.strip() for text in once)
