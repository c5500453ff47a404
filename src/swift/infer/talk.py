"""Messages in, messages out: a renderer and an engine together, and the chat in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from swift.chat.message import KINDS, Conversation, Delta, Kind, Media, Message
from swift.chat.render import Renderer
from swift.config.infer import EngineSection
from swift.errors import SwiftError
from swift.infer.engine import Completion, Engine, Request, Sampling

HELP = """Type a message and press Enter. Several lines: \"\"\" on a line before and after them.
/clear   forget the conversation      /system TEXT   set the system prompt (and forget)
/image PATH   show an image with the next message; so do /video and /audio
/help    this text                    /quit          leave (also Ctrl-D)"""

_MEDIA: Mapping[str, Kind] = {f"/{kind}": kind for kind in KINDS}


def sampling_of(settings: EngineSection) -> Sampling:
    """How tokens are chosen."""
    return Sampling(
        max_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        stop=tuple(settings.stop),
        seed=settings.seed,
    )


class Answers(Protocol):
    """Something that answers messages."""

    def answers(
        self, asked: Sequence[Conversation], seeds: Sequence[int] | None = None
    ) -> list[tuple[Message, Completion]]:
        """The answer to each conversation, and the completion it was read from.

        Args:
            asked: conversations that end with a question.
            seeds: one for each, in place of that of the settings.
        """

    def stream(self, asked: Conversation, show: Callable[[Delta], None]) -> Message:
        """One answer, shown piece by piece."""


@dataclass(frozen=True)
class Talker:
    """Answers messages with a renderer and an engine of tokens."""

    renderer: Renderer
    engine: Engine
    sampling: Sampling
    adapter: str | None = None  # by which it answers, where the engine has several

    def answers(
        self, asked: Sequence[Conversation], seeds: Sequence[int] | None = None
    ) -> list[tuple[Message, Completion]]:
        """The answer to each conversation, and the completion it was read from.

        Where the last message is an answer with a ``prefix``, the model goes on behind it; the
        answer holds it.
        """
        same = self._sampling()
        samplings = [replace(same, seed=seed) for seed in seeds] if seeds else [same] * len(asked)
        completions = self.engine.generate(
            [
                Request(self._prompt(one), sampling, one.media, self.adapter)
                for one, sampling in zip(asked, samplings, strict=True)
            ]
        )
        return [
            (self._read(completion, one), completion)
            for completion, one in zip(completions, asked, strict=True)
        ]

    def stream(self, asked: Conversation, show: Callable[[Delta], None]) -> Message:
        """One answer, shown piece by piece."""
        parser = self.renderer.parser(asked.template_kwargs)
        request = Request(self._prompt(asked), self._sampling(), asked.media, self.adapter)
        for token in (given := self._given(asked)):
            show(parser.push(token))
        self.engine.generate([request], on_token=lambda token: show(parser.push(token)))
        show(parser.close())
        return self._without_stop(parser.message(), given, asked)

    def _prompt(self, asked: Conversation) -> list[int]:
        return self.renderer.prompt(asked.messages, asked.tools, asked.template_kwargs)

    def _given(self, asked: Conversation) -> list[int]:
        return self.renderer.given(asked.messages, asked.tools, asked.template_kwargs)

    def _sampling(self) -> Sampling:
        return replace(self.sampling, stop_ids=tuple(sorted(self.renderer.stop_ids)))

    def _read(self, completion: Completion, asked: Conversation) -> Message:
        given = self._given(asked)
        tokens = [*given, *completion.tokens]
        message = self.renderer.parse(tokens, asked.template_kwargs)
        return self._without_stop(message, given, asked)

    def _without_stop(self, message: Message, given: list[int], asked: Conversation) -> Message:
        """Stop texts are not part of an answer, but of what is given of it."""
        if not self.sampling.stop:
            return message
        text = str(message.content)
        start = len(str(self.renderer.parse(given, asked.template_kwargs).content))
        ends = [at for stop in self.sampling.stop if (at := text.find(stop, start)) >= 0]
        return replace(message, content=text[: min(ends)]) if ends else message


class Display:
    """Writes an answer as it comes; thinking stands apart from what is said."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._thinking = False

    def __call__(self, delta: Delta) -> None:
        """Show what one more token brought."""
        if delta.thinking:
            self._write(delta.thinking if self._thinking else f"(thinking) {delta.thinking}")
            self._thinking = True
        if self._thinking and (delta.content or delta.tool_calls):
            self._write("\n\n")
            self._thinking = False
        if delta.content:
            self._write(delta.content)
        for call in delta.tool_calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            self._write(f"\n(call) {call.name} {arguments}")


@dataclass
class Terminal:
    """A conversation with a person."""

    talker: Answers
    system: str | None = None
    streaming: bool = True
    media: list[Media] = field(default_factory=list)  # for the next message
    history: list[Message] = field(default_factory=list)

    def run(self) -> None:
        """Talk until the person leaves."""
        if sys.stdin.isatty():
            import readline  # noqa: F401  # line editing and history for input()

            print(HELP)
        while True:
            text = self._read()
            if text is None or text.strip() in ("/quit", "/exit"):
                return
            if text.strip():
                self._take(text.strip())

    def _read(self) -> str | None:
        """One message; None when the input has ended."""
        prompt = "\n> " if sys.stdin.isatty() else ""
        try:
            first = input(prompt)
            if first.strip() != '"""':
                return first
            lines: list[str] = []
            while (line := input()).strip() != '"""':
                lines.append(line)
            return "\n".join(lines)
        except EOFError:
            return None
        except KeyboardInterrupt:
            print()
            return ""

    def _take(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "/clear":
            self.history.clear()
            print("(a new conversation)")
        elif word == "/system":
            self.system = rest.strip() or None
            self.history.clear()
            print(f"(system prompt: {self.system or 'none'})")
        elif word in _MEDIA:
            self.media.append(Media(_MEDIA[word], rest.strip()))
            print(f"(with the next message: {', '.join(str(one.source) for one in self.media)})")
        elif word == "/help":
            print(HELP)
        elif word.startswith("/") and word[1:].isalpha():
            print(f"(there is no command {word}; /help lists them)")
        else:
            self._answer(text)

    def _answer(self, text: str) -> None:
        media = tuple(self.media)
        self.media.clear()
        self.history.append(Message("user", (*media, text) if media else text))
        system = [Message("system", self.system)] if self.system else []
        try:
            message = self._generate([*system, *self.history])
        except SwiftError as error:
            print(f"({error}; /clear begins anew)")
            self.history.pop()
            return
        except KeyboardInterrupt:
            print("\n(interrupted)")
            self.history.pop()
            return
        self.history.append(message)

    def _generate(self, messages: list[Message]) -> Message:
        asked = Conversation(tuple(messages))
        display = Display(lambda piece: print(piece, end="", flush=True))
        if not self.streaming:
            message, _ = self.talker.answers([asked])[0]
            display(Delta(str(message.content), message.thinking or "", message.tool_calls))
        else:
            message = self.talker.stream(asked, display)
        print()
        return message
