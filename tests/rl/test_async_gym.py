"""Environments in the form of ms-swift, and its flags for turns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stub import Stub

from processes import fail
from swift import registry
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.config.parse import read
from swift.config.rewarded import brought_rewards
from swift.config.rollout import RolloutSection
from swift.config.runs import RlhfConfig
from swift.infer.engine import Completion, Request
from swift.rl.async_gym import AsyncGymEnvironment, async_gym
from swift.rl.rollout import Question, Rollout

CLOSED: list[int] = []


class Guess:
    """Written as ms-swift's documentation has them."""

    def __init__(self, env_config: dict[str, Any]) -> None:
        self.env_config = env_config
        self.left = 2

    async def reset(self, config: Any) -> tuple[str, dict[str, Any], str]:
        assert config.messages[-1]["content"] == "Play." and config.data_dict["hint"] == "small"
        return f"Guess up to {self.env_config['most']}.", {}, "You play."

    async def step(self, action: list[dict[str, Any]]) -> tuple[str, float, bool, dict[str, Any]]:
        self.left -= 1
        said = action[-1]["content"]
        right = said == str(self.env_config["secret"])
        return f"not {said}", float(right), right or not self.left, {"turns": len(action)}

    async def close(self) -> None:
        CLOSED.append(self.left)


def test_a_game_of_ms_swift_is_played(checkpoint: Path) -> None:
    renderer = load_renderer(checkpoint)
    answers = iter(["3", "4"])

    def answer(request: Request) -> Completion:
        tokens = list(renderer.tokenizer.encode(next(answers)).ids)
        return Completion([*tokens, min(renderer.stop_ids)], "stop")

    columns = {"hint": "small", "env_config": {"secret": 4}}
    question = Question(Conversation((Message("user", "Play."),)), columns, "row 1")
    settings = {"make": "test_async_gym:Guess", "most": 9}
    roll = Rollout(Stub(answer), renderer, RolloutSection(), lambda: async_gym(settings))
    (episode,) = roll([question], [1])
    assert (episode.reward, episode.turns, episode.finish) == (1.0, 2, "stop")
    said = [(m.role, str(m.content)) for m in episode.said.messages]
    assert said == [
        ("system", "You play."), ("user", "Guess up to 9."), ("assistant", "3"),
        ("user", "not 3"), ("assistant", "4"),
    ]  # fmt: skip
    assert CLOSED == [0]


def play(settings: Any) -> AsyncGymEnvironment:
    return AsyncGymEnvironment(lambda config: SimpleNamespace(**config), settings)


def config_of(*words: str) -> RlhfConfig:
    base = ["--rlhf_type", "grpo", "--model", "m", "--dataset", "d"]
    config, _ = read(RlhfConfig, "rlhf", [*base, *words])
    assert isinstance(config, RlhfConfig)
    return config


def test_flags_of_ms_swift_mean_what_they_meant() -> None:
    registry.register("environment", "frozen_test", f"{__name__}:play")
    gym = ["--multi_turn_scheduler", "gym_scheduler", "--gym_env", "frozen_test"]
    alone = config_of(*gym, "--max_turns", "20")
    assert (alone.rollout.environment, alone.rollout.max_turns) == ("frozen_test", 20)
    assert brought_rewards(alone) == ["environment"]
    beside = config_of(
        *gym, "--use_gym_env", "true", "--reward_funcs", "format", "--reward_weights", "1", "2"
    )
    assert brought_rewards(beside) == ["environment"] and beside.reward.weights == [1, 2]
    usual = config_of("--gym_env", "frozen_test", "--reward_funcs", "format")
    assert brought_rewards(usual) == ["environment"]  # ms-swift: gym_env means use_gym_env
    without = config_of(*gym, "--use_gym_env", "false", "--reward_funcs", "format")
    assert brought_rewards(without) == []
    own = config_of("--multi_turn_scheduler", "frozen_test", "--reward_funcs", "format")
    assert own.rollout.environment == "frozen_test" and brought_rewards(own) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--multi_turn_scheduler", "math_tip_trick"], "register it in the group environment"),
        (["--multi_turn_scheduler", "gym_scheduler", "--reward_funcs", "format"],
         "add --gym_env NAME"),
        (["--gym_env", "frozen_lake"], "'frozen_lake' is not one of gym, async_gym"),
        (["--use_gym_env", "true", "--reward_funcs", "format"], "no environment that could give"),
        (["--environment", "gym", "--reward_weights", "1", "2"], "2 for 1 rewards"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(tmp_path: Path, words: list[str], message: str) -> None:
    base = ["rlhf", "--rlhf_type", "grpo", "--model", "m", "--dataset", "d"]
    code, text = fail([*base, *words], tmp_path)
    assert code == 2 and message in text, text
