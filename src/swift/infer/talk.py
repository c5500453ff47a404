"""Messages in, messages out: a renderer and an engine together, and the chat in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from swift.chat.message import Delta, Message
from swift.chat.render import Renderer
from swift.errors import SwiftError
from swift.infer.engine import Completion, Engine, Request, Sampling

HELP = """Type a message and press Enter. Several lines: \"\"\" on a line before and after them.
/clear   forget the conversation      /system TEXT   set the system prompt (and forget)
/help    this text                    /quit          leave (also Ctrl-D)"""


@dataclass(frozen=True)
class Talker:
    """Answers messages."""

    renderer: Renderer
    engine: Engine
    sampling: Sampling

    def answers(
        self, conversations: Sequence[Sequence[Message]]
    ) -> list[tuple[Message, Completion]]:
        """The answer to each conversation, and the completion it was read from."""
        sampling = self._sampling()
        requests = [Request(self.renderer.prompt(messages), sampling) for messages in conversations]
        completions = self.engine.generate(requests)
        return [(self._read(completion), completion) for completion in completions]

    def stream(self, messages: Sequence[Message], show: Callable[[str], None]) -> Message:
        """One answer, shown piece by piece."""
        parser = self.renderer.parser()
        request = Request(self.renderer.prompt(messages), self._sampling())
        self.engine.generate([request], on_token=lambda token: _show(parser.push(token), show))
        _show(parser.close(), show)
        return self._without_stop(parser.message())

    def _sampling(self) -> Sampling:
        return replace(self.sampling, stop_ids=tuple(sorted(self.renderer.stop_ids)))

    def _read(self, completion: Completion) -> Message:
        return self._without_stop(self.renderer.parse(completion.tokens))

    def _without_stop(self, message: Message) -> Message:
        """Stop texts are not part of an answer."""
        text = str(message.content)
        ends = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        return replace(message, content=text[: min(ends)]) if ends else message


def _show(delta: Delta, show: Callable[[str], None]) -> None:
    calls = [f"\n{call.name}({json.dumps(call.arguments)})" for call in delta.tool_calls]
    if piece := delta.thinking + delta.content + "".join(calls):
        show(piece)


@dataclass
class Terminal:
    """A conversation with a person."""

    talker: Talker
    system: str | None = None
    streaming: bool = True
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
        elif word == "/help":
            print(HELP)
        elif word.startswith("/") and word[1:].isalpha():
            print(f"(there is no command {word}; /help lists them)")
        else:
            self._answer(text)

    def _answer(self, text: str) -> None:
        self.history.append(Message("user", text))
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
        if not self.streaming:
            message, _ = self.talker.answers([messages])[0]
            print(message.content)
            return message
        message = self.talker.stream(messages, lambda piece: print(piece, end="", flush=True))
        print()
        return message
