"""Prompts to episodes, through an engine: token ids out, token ids in, log-probabilities with them.

Nothing that the model wrote is ever tokenized again. What an environment says is rendered alone,
as the template writes it behind an answer, and laid behind the tokens that are there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from swift.chat.message import Conversation, Message, ToolCall
from swift.chat.render import Renderer
from swift.config.rollout import RolloutSection
from swift.errors import ConfigError, DataError, EngineLost, RenderError
from swift.infer.engine import Ability, Completion, Engine, Request, Sampling
from swift.rl.environment import Environment

FAULTS = ("engine", "context", "empty", "environment")


@dataclass(frozen=True)
class Question:
    """A prompt, and what its row says beside it."""

    asked: Conversation
    columns: Mapping[str, Any]
    place: str  # "sums.jsonl:17"
    number: int = 0  # of the answer that is wanted, of several


@dataclass
class Episode:
    """What a model wrote to one question, and what it was answered."""

    question: Question
    said: Conversation  # so far
    prompt: list[int]
    given: list[int]  # what the prompt begins the answer with
    tokens: list[int] = field(default_factory=list)  # behind the prompt
    own: list[bool] = field(default_factory=list)  # which of these the model wrote
    logprobs: list[float] = field(default_factory=list)  # of the engine; 0 where not its own
    drawn: list[float] = field(default_factory=list)  # the same of what was drawn from
    turns: int = 0
    text: str | None = None  # the last answer as it was written, thinking and all; None: none
    finish: str = ""  # stop, length, context, turns, failed, absent; "": under way
    reward: float | None = None  # of the environment
    scored: bool = True  # whether the engine gave log-probabilities
    exact: bool = True  # whether it gave those of what was drawn from

    @property
    def written(self) -> list[int]:
        """The tokens that the model wrote."""
        return [token for token, own in zip(self.tokens, self.own, strict=True) if own]


@dataclass(frozen=True)
class _Known:
    """A conversation as the model reads it."""

    asked: Conversation  # kept, so that no other has its identity
    prompt: list[int]
    given: list[int]


@dataclass
class Rollout:
    """Draws episodes from an engine; counts what goes wrong."""

    engine: Engine
    renderer: Renderer
    section: RolloutSection
    make: Callable[[], Environment] | None = None  # one for every episode
    faults: Counter[str] = field(default_factory=Counter)
    why: str = ""  # the engine failed last

    def __call__(self, questions: Sequence[Question], seeds: Sequence[int]) -> list[Episode]:
        """One episode for each question, in their order.

        Args:
            questions: what is asked; several answers are several questions.
            seeds: of each episode; the same seed gives the same answer, whatever its neighbours.
        """
        worlds = [self.make() if self.make else None for _ in questions]
        known: dict[int, _Known] = {}
        episodes = [
            self._begin(q, world, known) for q, world in zip(questions, worlds, strict=True)
        ]
        for turn in range(self.section.max_turns if self.make else 1):
            active = [i for i, episode in enumerate(episodes) if not episode.finish]
            size = self.section.batch_size or len(active) or 1
            for start in range(0, len(active), size):
                part = active[start : start + size]
                requests = [self._request(episodes[i], seed_of(seeds[i], turn)) for i in part]
                for i, completion in zip(part, self._generate(requests), strict=True):
                    self._take(episodes[i], completion)
                    if not episodes[i].finish:
                        self._react(episodes[i], worlds[i])
        for episode in episodes:
            episode.finish = episode.finish or "turns"
        return episodes

    def _begin(
        self, question: Question, world: Environment | None, known: dict[int, _Known]
    ) -> Episode:
        asked, finish = question.asked, ""
        try:
            if world is not None:
                asked = world.reset(asked, question.columns)
        except Exception:
            self.faults["environment"] += 1
            finish = "failed"
        if id(asked) not in known:  # the answers to one question have one prompt
            said = (asked.messages, asked.tools, asked.template_kwargs)
            rendered = self.renderer.prompt(*said), self.renderer.given(*said)
            known[id(asked)] = _Known(asked, *rendered)
        one = known[id(asked)]
        episode = Episode(question, asked, one.prompt, one.given, finish=finish)
        return episode if finish else self._fitting(episode)

    def _fitting(self, episode: Episode) -> Episode:
        """End an episode that fills the engine's context."""
        most = self.engine.context
        if most is not None and len(episode.prompt) + len(episode.tokens) >= most:
            self.faults["context"] += 1
            episode.finish = "context"
        return episode

    def _request(self, episode: Episode, seed: int) -> Request:
        s = self.section
        sampling = Sampling(
            s.max_completion_length, s.temperature, s.top_p, s.top_k, s.min_p,
            stop_ids=tuple(sorted(self.renderer.stop_ids)), stop=tuple(s.stop), seed=seed,
            logprobs=0 if Ability.LOGPROBS in self.engine.abilities else None,
        )  # fmt: skip
        return Request([*episode.prompt, *episode.tokens], sampling, episode.said.media)

    def _generate(self, requests: list[Request]) -> list[Completion | None]:
        """Answers; None where the engine gives none.

        Where a batch fails it is asked again one by one, so that one bad request costs one answer.

        Raises:
            EngineLost: nobody is there to be asked.
            ConfigError: the engine cannot do what is asked of it.
        """
        try:
            return list(self.engine.generate(requests))
        except (ConfigError, EngineLost):
            raise
        except Exception:
            found: list[Completion | None] = []
            for request in requests:
                try:
                    found += self.engine.generate([request])
                except EngineLost:
                    raise
                except Exception as error:
                    self.why = f"; the engine said: {error!r}"
                    self.faults["engine"] += 1
                    found.append(None)
            return found

    def _take(self, episode: Episode, completion: Completion | None) -> None:
        """Lay the tokens of an answer behind those that are there."""
        if completion is None:
            episode.finish = "failed"
            return
        tokens, kwargs = completion.tokens, episode.said.template_kwargs
        given = episode.given
        answer = self.renderer.parse([*given, *tokens], kwargs)
        end = next((i for i, t in enumerate(tokens) if t in self.renderer.stop_ids), len(tokens))
        episode.text = self.renderer.tokenizer.decode([*given, *tokens[:end]])
        episode.turns += 1
        episode.tokens += tokens
        episode.own += [True] * len(tokens)
        episode.scored = episode.scored and completion.logprobs is not None
        episode.logprobs += completion.logprobs or [0.0] * len(tokens)
        episode.exact = episode.exact and completion.drawn_logprobs is not None
        episode.drawn += completion.drawn_logprobs or [0.0] * len(tokens)
        episode.said = replace(episode.said, messages=(*episode.said.messages, answer))
        if not episode.text.strip():
            self.faults["empty"] += 1
        if completion.finish_reason != "stop":
            episode.finish = "length" if completion.finish_reason == "length" else "failed"

    def _react(self, episode: Episode, world: Environment | None) -> None:
        """Let the environment say something, and lay it behind the answer."""
        if world is None:
            episode.finish = "stop"
            return
        try:
            step = world.step(episode.said.messages[-1])
            if step.reward is not None:
                episode.reward = (episode.reward or 0.0) + step.reward
            if step.done or not step.messages:
                episode.finish = "stop"
                return
            kwargs = episode.said.template_kwargs
            between = reply(self.renderer, step.messages, episode.tokens, kwargs)
        except Exception:
            self.faults["environment"] += 1
            episode.finish = "failed"
            return
        episode.tokens += between
        episode.own += [False] * len(between)
        episode.logprobs += [0.0] * len(between)
        episode.drawn += [0.0] * len(between)
        said = (*episode.said.messages, *step.messages)
        episode.said = replace(episode.said, messages=said)
        episode.given = self.renderer.given(said, episode.said.tools, kwargs)
        self._fitting(episode)


def reply(
    renderer: Renderer,
    messages: Sequence[Message],
    tokens: Sequence[int],
    kwargs: Mapping[str, Any],
) -> list[int]:
    """The tokens between an answer and the next: what the template writes behind the stop token,
    up to where the model goes on.

    They are found behind an answer that stands in for the real one, so that the template cannot
    rewrite what the model wrote.

    Args:
        renderer: of the checkpoint.
        messages: of the user or of tools.
        tokens: what the model wrote so far, with the stop token at its end.
        kwargs: of the template.

    Raises:
        RenderError: the template writes no stop token behind an answer.
    """
    user = Message("user", "?")
    calls = (ToolCall("f", {}, "0"),) if messages[0].role == "tool" else ()
    answer = Message("assistant", "" if calls else "!", tool_calls=calls)
    before = renderer.prompt([user], (), kwargs)
    whole = renderer.prompt([user, answer, *messages], (), kwargs)
    common = 0
    while common < min(len(before), len(whole)) and before[common] == whole[common]:
        common += 1
    stops = [i for i in range(common, len(whole)) if whole[i] in renderer.stop_ids]
    if not stops or not tokens or tokens[-1] not in renderer.stop_ids:
        raise RenderError("the template writes no stop token behind an answer")
    return whole[stops[0] + 1 :]


def seed_of(*parts: int) -> int:
    """A seed that depends on all of these numbers and on nothing else."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def check_prompts(engine: Engine, questions: Sequence[Question], renderer: Renderer) -> None:
    """Refuse data whose every prompt is too long for the engine.

    Raises:
        DataError: no prompt fits.
    """
    most = engine.context
    if most is None:
        return
    for question in questions:
        asked = question.asked
        if len(renderer.prompt(asked.messages, asked.tools, asked.template_kwargs)) < most:
            return
    raise DataError(f"--dataset: no prompt leaves room for an answer in {most} tokens")
