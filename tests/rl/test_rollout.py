"""Rollouts: nothing is tokenized again, only the model's tokens are its own, faults cost little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stub import Stub

from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message, ToolCall
from swift.chat.render import Renderer
from swift.config.rollout import RolloutSection
from swift.errors import ConfigError, DataError, RenderError
from swift.infer.engine import Completion, Request
from swift.rl.environment import GymEnvironment, Step, ToolEnvironment, gym
from swift.rl.rollout import Question, Rollout, check_prompts, reply, seed_of


@pytest.fixture
def renderer(checkpoint: Path) -> Renderer:
    return load_renderer(checkpoint)


def question(text: str = "Who are you?", **columns: Any) -> Question:
    return Question(Conversation((Message("user", text),)), columns, "row 1")


def say(renderer: Renderer, *texts: str) -> list[Completion]:
    """Answers whose tokens are not those that a tokenizer would make: one a byte."""
    found = []
    for text in texts:
        tokens = [id for letter in text for id in renderer.tokenizer.encode(letter).ids]
        tokens.append(min(renderer.stop_ids))
        found.append(Completion(tokens, "stop", [-0.5 - i for i in range(len(tokens))]))
    return found


class Echo:
    """Answers with a question, ``turns`` times."""

    def __init__(self, turns: int, fails: str = "") -> None:
        self.turns, self.fails = turns, fails

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        if self.fails == "reset":
            raise RuntimeError("no")
        return asked

    def step(self, answer: Message) -> Step:
        if self.fails == "step":
            raise RuntimeError("no")
        self.turns -= 1
        if self.turns == 0:
            return Step(reward=0.5)
        return Step((Message("user", f"You said {answer.content}. And then?"),), 0.25, done=False)


def test_tokens_of_several_turns_stay_as_they_were_written(renderer: Renderer) -> None:
    answers = say(renderer, "The capital", "of France", "is Paris")
    engine = Stub(lambda request: answers[len(engine.requests) - 1])
    roll = Rollout(engine, renderer, RolloutSection(), lambda: Echo(3))
    (episode,) = roll([question()], [7])
    assert (episode.finish, episode.turns, episode.reward) == ("stop", 3, 1.0)
    # every request is the whole of what was said, token for token
    for i, request in enumerate(engine.requests[1:], 1):
        before = engine.requests[i - 1].tokens
        assert request.tokens[: len(before)] == before
        said = answers[i - 1].tokens
        assert request.tokens[len(before) : len(before) + len(said)] == said
    assert episode.prompt == engine.requests[0].tokens
    assert episode.written == [t for answer in answers for t in answer.tokens]
    # the words between are those of the template, and not the model's own
    between = [t for t, own in zip(episode.tokens, episode.own, strict=True) if not own]
    text = renderer.tokenizer.decode(between, keep_special=True)
    assert text == (
        "\n<|im_start|>user\nYou said The capital. And then?<|im_end|>\n<|im_start|>assistant\n"
        "\n<|im_start|>user\nYou said of France. And then?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [x for x, mine in zip(episode.logprobs, episode.own, strict=True) if mine]
    assert own == [x for answer in answers for x in answer.logprobs or []]
    # and all of it is what the template makes of the conversation
    whole = renderer.prompt(episode.said.messages[:-1])
    made = [*episode.prompt, *episode.tokens][: -len(answers[-1].tokens)]
    assert renderer.tokenizer.decode(made) == renderer.tokenizer.decode(whole)


def test_turns_end(renderer: Renderer) -> None:
    engine = Stub(lambda request: say(renderer, "a")[0])
    roll = Rollout(engine, renderer, RolloutSection(max_turns=2), lambda: Echo(9))
    (episode,) = roll([question()], [0])
    assert (episode.finish, episode.turns) == ("turns", 2)


def test_seeds_belong_to_episodes(renderer: Renderer) -> None:
    engine = Stub(lambda request: say(renderer, "a")[0])
    roll = Rollout(engine, renderer, RolloutSection(batch_size=2))
    roll([question()] * 3, [5, 6, 7])
    assert [r.sampling.seed for r in engine.requests] == [seed_of(s, 0) for s in (5, 6, 7)]
    assert len({r.sampling.seed for r in engine.requests}) == 3


def test_an_engine_that_dies_costs_only_what_it_fails(renderer: Renderer) -> None:
    def answer(request: Request) -> Completion:
        if "bad" in renderer.tokenizer.decode(request.tokens):
            raise RuntimeError("out of luck")
        return say(renderer, "fine")[0]

    roll = Rollout(Stub(answer), renderer, RolloutSection())
    episodes = roll([question(), question("bad"), question()], [1, 2, 3])
    assert [e.finish for e in episodes] == ["stop", "failed", "stop"]
    assert episodes[1].text is None and roll.faults == {"engine": 1}


def test_an_engine_that_cannot_is_an_error(renderer: Renderer) -> None:
    def answer(request: Request) -> Completion:
        raise ConfigError("no min_p here")

    with pytest.raises(ConfigError, match="min_p"):
        Rollout(Stub(answer), renderer, RolloutSection())([question()], [1])


@pytest.mark.parametrize("fails", ["reset", "step"])
def test_an_environment_that_raises_costs_its_episode(renderer: Renderer, fails: str) -> None:
    worlds = iter([Echo(1), Echo(1, fails)])
    engine = Stub(lambda request: say(renderer, "a")[0])
    roll = Rollout(engine, renderer, RolloutSection(), lambda: next(worlds))
    episodes = roll([question(), question()], [1, 2])
    assert [e.finish for e in episodes] == ["stop", "failed"]
    assert roll.faults == {"environment": 1} and episodes[1].prompt == episodes[0].prompt


def test_a_full_context_ends_an_episode(renderer: Renderer) -> None:
    prompt = len(renderer.prompt(question().asked.messages))
    engine = Stub(lambda request: say(renderer, "x" * 20)[0], context=prompt + 22)
    roll = Rollout(engine, renderer, RolloutSection(), lambda: Echo(9))
    first, long = roll([question(), question("Who? " * 50)], [1, 2])
    assert (first.finish, first.turns) == ("context", 1)
    assert (long.finish, long.turns, long.text) == ("context", 0, None)
    assert roll.faults == {"context": 2}
    with pytest.raises(DataError, match="no prompt leaves room"):
        check_prompts(engine, [question("Who? " * 50)], renderer)


def test_empty_and_cut_answers_are_counted(renderer: Renderer) -> None:
    stop = min(renderer.stop_ids)
    found = iter([Completion([stop], "stop", [-1.0]), Completion([20, 21], "length", [-1.0, -2.0])])
    roll = Rollout(Stub(lambda request: next(found)), renderer, RolloutSection())
    empty, cut = roll([question(), question()], [1, 2])
    assert (empty.text, empty.finish, cut.finish) == ("", "stop", "length")
    assert roll.faults == {"empty": 1}


def test_an_engine_without_logprobs_is_no_engine_to_correct(renderer: Renderer) -> None:
    engine = Stub(lambda request: Completion([20, min(renderer.stop_ids)], "stop"))
    engine.abilities = frozenset()
    (episode,) = Rollout(engine, renderer, RolloutSection())([question()], [1])
    assert engine.requests[0].sampling.logprobs is None and not episode.scored


def test_an_answer_without_its_stop_token_has_no_reply(renderer: Renderer) -> None:
    with pytest.raises(RenderError):
        reply(renderer, [Message("user", "And?")], [20, 21], {})


def test_tools_answer_calls_and_say_what_is_wrong() -> None:
    tools = ToolEnvironment({"add": lambda a, b: a + b, "fail": lambda: 1 / 0}, ({"x": 1},))
    asked = tools.reset(question().asked, {})
    assert asked.tools == ({"x": 1},)
    calls = (
        ToolCall("add", {"a": 1, "b": 2}, "1"),
        ToolCall("add", {"a": 1}, "2"),
        ToolCall("fail", {}, "3"),
        ToolCall("none", {}, "4"),
    )
    step = tools.step(Message("assistant", "", tool_calls=calls))
    said = [str(message.content) for message in step.messages]
    assert said[0] == "3" and not step.done
    assert said[1].startswith("error: TypeError") and said[2].startswith("error: ZeroDivision")
    assert said[3] == "error: there is no tool 'none'; there are add, fail"
    assert [m.tool_call_id for m in step.messages] == ["1", "2", "3", "4"]
    assert tools.step(Message("assistant", "done")).done


class Guess:
    """A game in gymnasium's form: guess a number."""

    def __init__(self, secret: int) -> None:
        self.secret, self.left = secret, 3

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        assert options == {"hint": "small"}
        return "Guess a number.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        right = int(action) == self.secret
        return ("higher" if int(action) < self.secret else "lower", float(right), right,
                self.left == 0, {})  # fmt: skip


def test_a_gym_is_an_environment(renderer: Renderer) -> None:
    answers = iter(say(renderer, "3", "5", "4"))
    engine = Stub(lambda request: next(answers))
    roll = Rollout(engine, renderer, RolloutSection(), lambda: GymEnvironment(Guess(4)))
    (episode,) = roll([question("Play.", hint="small")], [1])
    assert (episode.reward, episode.turns, episode.finish) == (1.0, 3, "stop")
    said = [str(m.content) for m in episode.said.messages]
    assert said == ["Play.\n\nGuess a number.", "3", "higher", "5", "lower", "4"]


def test_a_gym_is_found_by_its_name() -> None:
    made = gym({"make": "test_rollout:Guess", "secret": 3})
    assert isinstance(made, GymEnvironment)
    with pytest.raises(ConfigError, match=r"package.module:Class"):
        gym({"make": "nowhere:Class"})
    with pytest.raises(ConfigError, match=r"package.module:Class"):
        gym({})


def test_reasoning_gym_judges_with_its_own_checker() -> None:
    pytest.importorskip("reasoning_gym")
    from swift.rl.reasoning import reasoning_gym, rows

    found = list(rows("chain_sum", 5, seed=3))
    assert found == list(rows("chain_sum", 5, seed=3))
    for row in found:
        world = reasoning_gym({})
        world.reset(question().asked, row)
        right = world.step(Message("assistant", f"So <answer>{row['solution']}</answer>"))
        assert (right.reward, right.done) == (1.0, True)
        wrong = world.step(Message("assistant", "<answer>x</answer>"))
        assert wrong.reward is not None and wrong.reward < 0.5
