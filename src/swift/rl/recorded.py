"""Answers that were given and judged before: learned as rewarded ones are, without any engine.

A row has several answers to a prompt (``completions`` and ``rewards``), or one (a conversation that
ends with the assistant, and ``reward``); rows that ask the same make one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.data.formats.turns import turns
from swift.errors import DataError
from swift.rl.rollout import Episode, Question

_COLUMNS = ("completions", "rewards", "response", "reward")


@dataclass(frozen=True)
class Told:
    """An answer of a row."""

    said: Conversation  # with the prompt
    prompt: list[int]
    tokens: list[int]  # behind the prompt
    own: list[bool]  # which of these the model wrote
    text: str
    reward: float


@dataclass
class Recorded:
    """Gives the answers of rows in place of an engine's."""

    renderer: Renderer
    told: Mapping[str, Sequence[Told]]  # by the place of the question
    faults: Counter[str] = field(default_factory=Counter)
    why: str = ""  # no engine can fail

    def __call__(self, questions: Sequence[Question], seeds: Sequence[int]) -> list[Episode]:
        """The answer to each question that ``question.number`` names; where a row has fewer, an
        episode that is absent.
        """
        return [self._episode(question) for question in questions]

    def _episode(self, question: Question) -> Episode:
        found = self.told[question.place]
        if question.number >= len(found):
            return Episode(
                question, question.asked, found[0].prompt, [], finish="absent", scored=False
            )
        one = found[question.number]
        nothing = [0.0] * len(one.tokens)
        return Episode(
            question, one.said, one.prompt, [], one.tokens, one.own, nothing, nothing, 1, one.text,
            "stop", one.reward, scored=False, exact=False,
        )  # fmt: skip


def read_answers(question: Question, renderer: Renderer) -> list[Told]:
    """The answers of a row, as the checkpoint's template writes them.

    Raises:
        DataError: it has none, or not one reward for each.
    """
    row = question.columns
    said: Any
    rewards: Any
    if "response" in row:
        said, rewards = [row["response"]], [row.get("reward")]
    else:
        said, rewards = row.get("completions"), row.get("rewards")
    if not isinstance(said, list) or not isinstance(rewards, list) or not said:
        raise DataError(
            "a recorded row has completions and rewards, lists of the same length; or messages "
            "that end with the assistant, and reward"
        )
    if len(said) != len(rewards):
        raise DataError(f"{len(said)} completions, but {len(rewards)} rewards")
    for reward in rewards:
        if isinstance(reward, bool) or not isinstance(reward, int | float):
            raise DataError(f"a reward is a number, not {reward!r}")
    return [
        _told(question.asked, _messages(value), float(reward), renderer)
        for value, reward in zip(said, rewards, strict=True)
    ]


def _messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        return [Message("assistant", value)]
    found = turns(value if isinstance(value, list) else [value], "completions")
    if not found or any(found[i].role != "assistant" for i in (0, -1)):
        raise DataError("a completion begins and ends with the assistant")
    return found


def _told(asked: Conversation, answer: list[Message], reward: float, renderer: Renderer) -> Told:
    said = Conversation((*asked.messages, *answer), asked.tools, asked.template_kwargs)
    several = any(message.role == "user" for message in answer)
    samples = renderer.render(said, "default" if several else "last_round")
    prompt = renderer.prompt(asked.messages, asked.tools, asked.template_kwargs)
    tokens, weights = samples[-1].tokens, samples[-1].weights
    if tokens[: len(prompt)] != prompt:
        raise DataError("the template rewrites the prompt behind an answer of several turns")
    own = [weight > 0 for weight in weights[len(prompt) :]]
    while own and not own[-1]:  # what the template writes behind the stop token
        own.pop()
    behind = tokens[len(prompt) : len(prompt) + len(own)]
    return Told(said, prompt, behind, own, renderer.tokenizer.decode(behind), reward)


def gather(
    pairs: Sequence[tuple[Question, list[Told]]],
    most: int,
    max_length: int,
    say: Callable[[str], None],
) -> tuple[list[Question], dict[str, list[Told]]]:
    """Groups of answers to the same prompt: the questions, and by their places the answers.

    Args:
        pairs: what rows say.
        most: answers of a group; more are left out.
        max_length: longest prompt with its answer, in tokens; others are left out.
        say: told what was left out.

    Raises:
        DataError: there is no group of two.
    """
    groups: dict[str, tuple[Question, list[Told]]] = {}
    long = 0
    for question, answers in pairs:
        key = f"{question.asked.messages}:{question.asked.tools}"
        rest = {name: x for name, x in question.columns.items() if name not in _COLUMNS}
        fits = [one for one in answers if len(one.prompt) + len(one.tokens) <= max_length]
        long += len(answers) - len(fits)
        first = Question(question.asked, rest, question.place)
        groups.setdefault(key, (first, []))[1].extend(fits)
    alone = sum(len(found) < 2 for _, found in groups.values())
    beyond = sum(max(0, len(found) - most) for _, found in groups.values())
    for count, why in (
        (long, "recorded answers are longer than max_length with their prompt: left out"),
        (alone, "prompts have fewer than two answers with a reward: left out"),
        (beyond, f"recorded answers are more than the {most} of --num_generations: left out"),
    ):
        if count:
            say(f"{count:,} {why}")
    kept = [(question, found[:most]) for question, found in groups.values() if len(found) > 1]
    if not kept:
        raise DataError("--dataset: no prompt has two recorded answers that can be compared")
    return [q for q, _ in kept], {q.place: found for q, found in kept}
