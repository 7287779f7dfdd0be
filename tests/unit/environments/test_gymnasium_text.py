"""The adapter for Gymnasium environments that know nothing of our contract."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete, Text

from retro_lightning.environments import check
from retro_lightning.environments.gymnasium import GymnasiumText
from retro_lightning.environments.spaces import UnicodeText


class Counter(gymnasium.Env):
    """Count up from a random number to 5, in words; numbered actions that begin at 3."""

    observation_space = Text(100)

    def __init__(self, words=True):
        self.action_space = Discrete(2, start=3)
        self.words = words

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(4))
        return self.tell(), {}

    def step(self, action):
        self.number += {3: -1, 4: 1}[action]
        solved = self.number == 5
        return self.tell(), np.float32(solved), np.bool_(solved), self.number < -5, {}

    def tell(self):
        return f"it's {self.number}…" if self.words else self.number


class Parrot(gymnasium.Env):
    """Free text in, the same text out."""

    observation_space = Text(100)
    action_space = Text(100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "speak", {"instruction": "say something"}

    def step(self, action):
        return action, 1.0, True, False, {"success": True}


def counter(**arguments):
    return GymnasiumText(Counter(**arguments), "count to five", ["down", "up"])


def test_numbered_actions_get_names():
    assert not check(counter).has_expert
    env = counter()
    observation, info = env.reset(seed=0)
    start = int(observation[5])
    assert info["instruction"] == "count to five"
    assert info["valid_actions"] == ["down", "up"]
    for number in range(start + 1, 6):
        observation, reward, terminated, _, _ = env.step("up")
        assert observation == f"it's {number}…"
        assert (reward, terminated) == (float(number == 5), number == 5)


def test_by_id():
    gymnasium.register("test/Counter-v0", entry_point=Counter)
    try:
        env = GymnasiumText("test/Counter-v0", "count", ["a", "b"], env_args={"words": True})
        assert env.reset(seed=1)[0].startswith("it's")
    finally:
        del gymnasium.registry["test/Counter-v0"]


def test_free_text():
    check(lambda: GymnasiumText(Parrot()))
    env = GymnasiumText(Parrot())
    _, info = env.reset(seed=0)
    assert "valid_actions" not in info
    assert env.step("bonjour, ça va?")[0] == "bonjour, ça va?"


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="does not say what to do"):
        GymnasiumText(Counter(), None, ["down", "up"]).reset(seed=0)
    with pytest.raises(ValueError, match="2 numbered actions and none were named"):
        GymnasiumText(Counter(), "count")
    with pytest.raises(ValueError, match="2 numbered actions and 1 were named"):
        GymnasiumText(Counter(), "count", ["up"])
    with pytest.raises(ValueError, match="observation of type int, not a text"):
        counter(words=False).reset(seed=0)
    with pytest.raises(ValueError, match="can't make 'NoSuchThing-v7'"):
        GymnasiumText("NoSuchThing-v7")
    env = counter()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'sideways' is not a valid action now; valid are: down"):
        env.step("sideways")


def test_unicode_text_space():
    space = UnicodeText(20)
    assert "it's a “naïve” 日本語 test"[:20] in space
    assert "x" * 21 not in space
    assert 5 not in space
    space.seed(0)
    assert all(space.sample() in space for _ in range(20))
    assert space == UnicodeText(20) != UnicodeText(21)
    with pytest.raises(ValueError, match="max_length is 0"):
        UnicodeText(0)
