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

from swift.chat.checks import check, check_roles, check_said
from swift.chat.dialect import Dialect
from swift.chat.jinja import Template
from swift.chat.message import Conversation, Message, Rendered, Text
from swift.chat.parser import Parser
from swift.chat.tokenizer import Encoding, Tokenizer
from swift.chat.weights import Part, Strategy, scale, within
from swift.chat.weights import strategies as find_strategies
from swift.chat.writer import Writer
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
    parts: tuple[Part, ...]


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
        return frozenset(found | self._stop_of_template())

    @cached_property
    def _stops(self) -> list[str]:
        texts = [self.tokenizer.decode([id], keep_special=True) for id in self.stop_ids]
        return [text for text in texts if text]  # a checkpoint may name an id without a token

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.template, self._stops)

    def _stop_of_template(self) -> set[int]:
        """The first control token that the template writes after an answer."""
        writer = Writer(self.template, ())
        answer = Message("assistant", "zqanswerqz").for_template(in_parts=writer.in_parts)
        try:
            text = writer.text([writer.probe, answer])
        except RenderError:
            return set()
        _, said, behind = text.rpartition("zqanswerqz")
        after = self.tokenizer.encode(behind) if said else Encoding([], [])
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
        turns, quoted_tools = self._quoted(messages, tools, kwargs)
        return self.tokenizer.encode(self._writer.text(turns, quoted_tools, True, kwargs)).ids

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
                ``all`` every token; and strategies for their parts, as in ``last_round+hermes``.

        Raises:
            RenderError: the conversation cannot be rendered, or not provably right.
        """
        if conversation.media:
            raise RenderError("images, video and audio are not supported yet")
        check(conversation.messages)
        which, strategies = find_strategies(learn)
        if which == "all":
            turns, tools = self._quoted(
                conversation.messages, conversation.tools, conversation.template_kwargs
            )
            ids = self.tokenizer.encode(
                self._writer.text(turns, tools, False, conversation.template_kwargs)
            ).ids
            return [Rendered(ids, [1.0] * len(ids))]
        learned = self._turns(conversation, which, strategies)
        if not learned:
            raise RenderError("no turn is learned: every assistant message has weight 0")
        return [sample for group in _chains(learned) for sample in self._samples(group)]

    def parse(self, tokens: Sequence[int], kwargs: Mapping[str, Any] | None = None) -> Message:
        """The message that answer tokens stand for; what follows a stop token is not read.

        Args:
            tokens: an answer.
            kwargs: those of the prompt (``enable_thinking`` ...).
        """
        ids = list(tokens)
        end = next((i for i, id in enumerate(ids) if id in self.stop_ids), len(ids))
        dialect = self._writer.dialect(kwargs)
        return dialect.read(self.tokenizer.decode(ids[:end], keep_special=self._keeps(dialect)))

    def parser(self, kwargs: Mapping[str, Any] | None = None) -> Parser:
        """The same, token by token."""
        dialect = self._writer.dialect(kwargs)
        stream = self.tokenizer.stream(keep_special=self._keeps(dialect))
        return Parser(stream, self.stop_ids, dialect)

    def _keeps(self, dialect: Dialect) -> bool:
        """Whether a dialect's marks hold control tokens."""
        return any(self.tokenizer.quote(mark) != mark for mark in dialect.marks)

    def _quoted(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any] | None,
    ) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
        as_text, parts = False, self._writer.in_parts
        if any(m.tool_calls or m.has_tags for m in messages):
            dialect = self._writer.dialect(kwargs)
            as_text = dialect.text_arguments
            if dialect.thinking:
                messages = [message.without_tags() for message in messages]
        written = [m.for_template(text_arguments=as_text, in_parts=parts) for m in messages]
        turns = [{**self.tokenizer.quote(turn), "role": turn["role"]} for turn in written]
        return turns, self.tokenizer.quote(list(tools))

    def _turns(
        self, conversation: Conversation, which: str, strategies: Sequence[Strategy]
    ) -> list[_Turn]:
        """Every assistant turn that is learned, with its place in the text up to it."""
        kwargs = conversation.template_kwargs
        turns, tools = self._quoted(conversation.messages, conversation.tools, kwargs)
        users = [i for i, message in enumerate(conversation.messages) if message.role == "user"]
        first = users[-1] if users and which == "last_round" else -1
        found = []
        for i, message in enumerate(conversation.messages):
            if message.role != "assistant" or i < first:
                continue
            weight = 1.0 if message.weight is None else message.weight
            if weight == 0:
                continue
            prompt = self._writer.text(turns[:i], tools, True, kwargs)
            whole, marked = self._writer.marked(turns[: i + 1], tools, kwargs)
            if not whole.startswith(prompt):
                raise RenderError(
                    f"message {i + 1} (assistant): the template writes the turn differently from "
                    "the prompt that inference sends, so it cannot be learned as it will be used"
                )
            start = len(prompt)
            whole = self._writer.ended(whole, start, turns[i], kwargs)
            stop, end = self._writer.stop_in(whole, start, i)
            check_said(turns[i], whole[start:stop], i)
            if message.tool_calls and self._writer.dialect(kwargs).calls is None:
                raise RenderError(
                    f"message {i + 1} (assistant): the template writes tool calls in a form that "
                    "is not understood here, so the model's own could not be read back"
                )
            spans = [(start, stop)] if marked is None else within(marked, start, stop)
            if not spans and start < stop:
                raise RenderError(
                    f"message {i + 1} (assistant): it is outside of the template's "
                    "{% generation %} blocks; take them out, or set its loss to false"
                )
            parts = [(left, right, weight) for left, right in spans]
            for strategy in strategies:
                factors = strategy(whole[start:stop])
                parts = scale(parts, [(start + a, start + b, by) for a, b, by in factors])
            parts.append((stop, end, weight))
            found.append(_Turn(whole, start, end, tuple(parts)))
        return found

    def _samples(self, turns: list[_Turn]) -> list[Rendered]:
        """One text (that of the last turn) as tokens, with its learned turns."""
        text = turns[-1].text
        encoding = self.tokenizer.encode(text)
        if not all(self._keeps_prompt(text, encoding, turn.start) for turn in turns):
            return [self._apart(turn) for turn in turns]
        weights = [0.0] * len(encoding.ids)
        lefts = [left for left, _ in encoding.spans]
        for turn in turns:
            self._check_stop(encoding.ids[bisect_left(lefts, turn.end) - 1])
            _weigh(weights, lefts, turn.parts)
        return [Rendered(encoding.ids, weights)]

    def _apart(self, turn: _Turn) -> Rendered:
        """A turn whose first characters the tokenizer would merge with the end of its prompt.

        Inference sends the prompt alone and the model goes on from there: so are the two tokenized.
        """
        prompt = self.tokenizer.encode(turn.text[: turn.start]).ids
        encoding = self.tokenizer.encode(turn.text[turn.start : turn.end])
        answer = encoding.ids
        whole = self.tokenizer.encode(turn.text[: turn.end]).ids
        texts = [self.tokenizer.decode(ids, keep_special=True) for ids in (prompt + answer, whole)]
        if texts[0] != texts[1]:
            raise RenderError(
                "the tokenizer merges the end of the prompt with the start of the answer, and "
                "tokenized apart they are another text"
            )
        self._check_stop(answer[-1])
        weights = [0.0] * len(answer)
        _weigh(weights, [turn.start + left for left, _ in encoding.spans], turn.parts)
        return Rendered(prompt + answer, [0.0] * len(prompt) + weights)

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


def _weigh(weights: list[float], lefts: list[int], parts: Sequence[Part]) -> None:
    """Give the tokens that begin in a part its weight."""
    for left, right, weight in parts:
        first, last = bisect_left(lefts, left), bisect_left(lefts, right)
        weights[first:last] = [weight] * (last - first)


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
