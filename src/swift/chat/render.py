"""How one checkpoint writes a conversation as tokens, which of them are learned, and back.

What is learned is found from the template itself: the answer to a prompt is what the rendering of
the conversation up to that turn adds to the rendering of its prompt. So every learned turn stands
behind exactly the tokens that inference would send, for any template; where that cannot be shown,
rendering refuses.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from swift.chat.jinja import Template
from swift.chat.message import ROLES, Conversation, Message, Rendered, Text
from swift.chat.tokenizer import Encoding, Tokenizer
from swift.errors import RenderError


@dataclass(frozen=True)
class RendererSpec:
    """All that a renderer is made of, as plain data: can be hashed, and sent to another process."""

    tokenizer: str  # the tokenizer's JSON
    templates: Mapping[str, str]
    variables: Mapping[str, Any]
    end_ids: tuple[int, ...]  # ids that the checkpoint names as the end of a text or a turn
    eos_id: int | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal renderings."""
        text = json.dumps(
            [self.tokenizer, dict(self.templates), dict(self.variables), self.end_ids, self.eos_id],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Turn:
    """A turn to learn: where it starts and ends in the text that was rendered up to it."""

    text: str
    start: int
    end: int
    weight: float


class Renderer:
    """Conversations to tokens and back, for one checkpoint."""

    def __init__(self, spec: RendererSpec) -> None:
        self.spec = spec
        self.tokenizer = Tokenizer(spec.tokenizer, spec.end_ids)
        self.template = Template(spec.templates, spec.variables) if spec.templates else None
        self._headers: dict[str, list[int]] = {}

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: what the checkpoint names, and what its template writes."""
        found = set(self.spec.end_ids)
        if self.template is not None:
            found |= self._stop_of_template()
        return frozenset(found)

    @cached_property
    def _stops(self) -> list[str]:
        texts = [self.tokenizer.decode([id], keep_special=True) for id in self.stop_ids]
        return [text for text in texts if text]  # a checkpoint may name an id without a token

    def _stop_of_template(self) -> set[int]:
        """The first control token that the template writes after an answer."""
        answer = "zqanswerqz"
        messages = [{"role": "user", "content": "zq"}, {"role": "assistant", "content": answer}]
        try:
            text = self._text(messages)
        except RenderError:
            return set()
        if answer not in text:
            return set()
        after = self.tokenizer.encode(text[text.rindex(answer) + len(answer) :])
        special = [id for id in after.ids if id in self.tokenizer.special_ids]
        return set(special[:1])

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens that inference sends for an answer to these messages.

        Raises:
            RenderError: a role is unknown, or the template refuses the messages.
        """
        check_roles(messages)
        turns, quoted_tools = self._quoted(messages, tools)
        return self.tokenizer.encode(self._text(turns, quoted_tools, True, kwargs)).ids

    def text(self, document: Text) -> Rendered:
        """A plain document: every token is learned, the end of the text included."""
        if not document.text.strip():
            raise RenderError("the text is empty")
        ids = list(self.tokenizer.encode(document.text, specials=True).ids)
        if self.spec.eos_id is not None and (not ids or ids[-1] != self.spec.eos_id):
            ids.append(self.spec.eos_id)
        return Rendered(ids, [1.0] * len(ids))

    def render(self, conversation: Conversation, learn: str = "default") -> list[Rendered]:
        """A conversation as samples.

        One sample is the rule. A template that rewrites history (one that drops earlier thinking,
        say) makes several, so that every learned turn stands behind the prompt it would have.

        Args:
            conversation: what was said.
            learn: ``default`` every assistant turn, ``last_round`` those after the last user's,
                ``all`` every token.

        Raises:
            RenderError: the conversation cannot be rendered, or not provably right.
        """
        if conversation.media:
            raise RenderError("images, video and audio are not supported yet")
        check(conversation.messages)
        if learn == "all":
            turns, tools = self._quoted(conversation.messages, conversation.tools)
            ids = self.tokenizer.encode(
                self._text(turns, tools, False, conversation.template_kwargs)
            ).ids
            return [Rendered(ids, [1.0] * len(ids))]
        learned = [turn for turn in self._turns(conversation, learn) if turn.weight > 0]
        if not learned:
            raise RenderError("no turn is learned: every assistant message has weight 0")
        return [sample for group in _chains(learned) for sample in self._samples(group)]

    def parse(self, tokens: Sequence[int]) -> Message:
        """The message that answer tokens stand for; what follows a stop token is not read."""
        ids = list(tokens)
        end = next((i for i, id in enumerate(ids) if id in self.stop_ids), len(ids))
        return Message("assistant", self.tokenizer.decode(ids[:end]))

    def parser(self) -> Parser:
        """The same, token by token."""
        return Parser(self)

    def _quoted(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
        turns = [
            {**self.tokenizer.quote(message.for_template()), "role": message.role}
            for message in messages
        ]
        return turns, self.tokenizer.quote(list(tools))

    def _text(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        generate: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        if self.template is None:
            raise RenderError(
                "this checkpoint has no chat template; give one with --chat_template file.jinja, "
                "or use swift pt on plain text"
            )
        return self.template.render(turns, tools, generate=generate, kwargs=kwargs)

    def _turns(self, conversation: Conversation, learn: str) -> list[_Turn]:
        """Every assistant turn that may be learned, with its place in the text up to it."""
        turns, tools = self._quoted(conversation.messages, conversation.tools)
        kwargs = conversation.template_kwargs
        users = [i for i, message in enumerate(conversation.messages) if message.role == "user"]
        first = users[-1] if users and learn == "last_round" else -1
        found = []
        for i, message in enumerate(conversation.messages):
            if message.role != "assistant" or i < first:
                continue
            weight = 1.0 if message.weight is None else message.weight
            if weight == 0:
                continue
            prompt = self._text(turns[:i], tools, True, kwargs)
            whole = self._text(turns[: i + 1], tools, False, kwargs)
            if not whole.startswith(prompt):
                raise RenderError(
                    f"message {i + 1} (assistant): the template writes the turn differently from "
                    "the prompt that inference sends, so it cannot be learned as it will be used"
                )
            found.append(_Turn(whole, len(prompt), self._end(whole, len(prompt), i), weight))
        return found

    def _end(self, whole: str, start: int, index: int) -> int:
        """Where a turn ends in its text: right behind its first stop token, as inference does.

        Control tokens spelled in messages are marked, so a stop token found here is the template's.
        Another one may follow (some templates end every text with one); it is not learned.
        """
        found = [
            (at, at + len(stop)) for stop in self._stops if (at := whole.find(stop, start)) >= 0
        ]
        if not found:
            raise RenderError(
                f"message {index + 1} (assistant): the template writes no stop token after the "
                "answer, so the model would not learn to stop"
            )
        end = min(found)[1]
        rest = whole[end:]
        for stop in self._stops:
            rest = rest.replace(stop, "")
        if rest.strip():
            raise RenderError(
                f"message {index + 1} (assistant): the template writes text after the stop token"
            )
        return end

    def _samples(self, turns: list[_Turn]) -> list[Rendered]:
        """One text (that of the last turn) as tokens, with its learned turns."""
        text = turns[-1].text
        encoding = self.tokenizer.encode(text)
        if not all(self._keeps_prompt(text, encoding, turn.start) for turn in turns):
            return [self._apart(turn) for turn in turns]
        weights = [0.0] * len(encoding.ids)
        lefts = [left for left, _ in encoding.spans]
        for turn in turns:
            first, last = bisect_left(lefts, turn.start), bisect_left(lefts, turn.end)
            self._check_stop(encoding.ids[last - 1])
            weights[first:last] = [turn.weight] * (last - first)
        return [Rendered(encoding.ids, weights)]

    def _apart(self, turn: _Turn) -> Rendered:
        """A turn whose first characters the tokenizer would merge with the end of its prompt.

        Inference sends the prompt alone and the model goes on from there: so are the two tokenized.
        """
        prompt = self.tokenizer.encode(turn.text[: turn.start]).ids
        answer = self.tokenizer.encode(turn.text[turn.start : turn.end]).ids
        whole = self.tokenizer.encode(turn.text[: turn.end]).ids
        texts = [self.tokenizer.decode(ids, keep_special=True) for ids in (prompt + answer, whole)]
        if texts[0] != texts[1]:
            raise RenderError(
                "the tokenizer merges the end of the prompt with the start of the answer, and "
                "tokenized apart they are another text"
            )
        self._check_stop(answer[-1])
        return Rendered(prompt + answer, [0.0] * len(prompt) + [turn.weight] * len(answer))

    def _check_stop(self, id: int) -> None:
        if id not in self.stop_ids:
            raise RenderError("the tokenizer merges the stop token with what follows it")

    def _keeps_prompt(self, text: str, encoding: Encoding, start: int) -> bool:
        """Whether the tokens before an answer are those of its prompt alone.

        Tokenizers cut a text at control tokens first, so it is enough to tokenize the prompt from
        the last control token on.
        """
        first = bisect_left(encoding.spans, start, key=lambda span: span[0])
        since = first
        while since > 0 and encoding.ids[since - 1] not in self.tokenizer.special_ids:
            since -= 1
        since = max(since - 1, 0)
        left = encoding.spans[since][0] if since < len(encoding.spans) else 0
        header = text[left:start]
        alone = self._headers.get(header)
        if alone is None:
            alone = self.tokenizer.encode(header).ids
            if len(self._headers) < 10_000 and len(header) < 200:
                self._headers[header] = alone
        return encoding.ids[since:first] == alone


class Parser:
    """Reads an answer token by token."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._stream = renderer.tokenizer.stream()
        self._text = ""
        self.done = False

    def push(self, token: int) -> str:
        """The text that this token adds; empty after a stop token."""
        if self.done or token in self._renderer.stop_ids:
            self.done = True
            return ""
        piece = self._stream.push(token)
        self._text += piece
        return piece

    def message(self) -> Message:
        """The message so far."""
        return Message("assistant", self._text)


def check(messages: Sequence[Message]) -> None:
    """What every conversation that is learned from must satisfy.

    Raises:
        RenderError: with the number of the message (counted from 1).
    """
    if not messages:
        raise RenderError("there are no messages")
    check_roles(messages)
    for number, message in enumerate(messages, 1):
        if message.role == "assistant" and not (message.content or message.tool_calls):
            raise RenderError(f"message {number} (assistant) is empty: there is nothing to learn")
    last = messages[-1].role
    if last != "assistant":
        raise RenderError(f"the last message is from {last!r}; SFT needs an assistant answer there")


def check_roles(messages: Sequence[Message]) -> None:
    """Raise RenderError for a role that no template knows; it would be written as it is."""
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise RenderError(
                f"message {number}: role {message.role!r} is not one of {', '.join(ROLES)}"
            )


def _chains(turns: list[_Turn]) -> list[list[_Turn]]:
    """Group turns so that each one's text is the beginning of its group's last text."""
    groups: list[list[_Turn]] = []
    for turn in reversed(turns):
        for group in groups:
            if group[-1].text.startswith(turn.text[: turn.end]):
                group.insert(0, turn)
                break
        else:
            groups.append([turn])
    return groups[::-1]
