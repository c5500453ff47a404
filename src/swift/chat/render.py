"""How one checkpoint writes a conversation as tokens, which of them are learned, and back.

What is learned is found from the template itself: the answer to a prompt is what the rendering of
the conversation up to that turn adds to the rendering of its prompt. So every learned turn stands
behind exactly the tokens that inference would send, for any template; where that cannot be shown,
rendering refuses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from typing import Any

from swift.chat.boxes import Boxes, BoxStyle
from swift.chat.checks import (
    check,
    check_given,
    check_heard,
    check_prompt,
    check_roles,
    check_said,
)
from swift.chat.dialect import Dialect
from swift.chat.given import cut, given
from swift.chat.jinja import Template
from swift.chat.media.marks import Marks
from swift.chat.media.processor import MediaSpec
from swift.chat.media.settings import MediaSettings
from swift.chat.message import Conversation, Media, Message, Rendered, Text, media_of
from swift.chat.parser import Parser
from swift.chat.tokenizer import Tokenizer
from swift.chat.turns import Turn, TurnTokens
from swift.chat.weights import Strategy, factors_of, scale, within
from swift.chat.weights import strategies as find_strategies
from swift.chat.writer import Beginnings, Writer
from swift.errors import RenderError


@dataclass(frozen=True)
class RendererSpec:
    """All that a renderer is made of, as plain data: can be hashed, and sent to another process."""

    tokenizer: str  # the tokenizer's JSON
    templates: Mapping[str, str]
    variables: Mapping[str, Any]
    end_ids: tuple[int, ...]  # ids that the checkpoint names as the end of a text or a turn
    eos_id: int | None = None
    prefix: str = ""  # how every answer begins: read, never learned
    media: MediaSpec | None = None  # what reads images; None: it takes text alone
    boxes: BoxStyle = field(default_factory=BoxStyle)  # how places in images are written

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal renderings."""
        text = json.dumps(
            [
                *(self.tokenizer, dict(self.templates), dict(self.variables)),
                *(self.end_ids, self.eos_id, self.prefix),
                self.media.fingerprint if self.media else None,
                astuple(self.boxes),
            ],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()


class Renderer:
    """Conversations to tokens and back, for one checkpoint."""

    def __init__(self, spec: RendererSpec) -> None:
        self.spec = spec
        self.tokenizer = Tokenizer(spec.tokenizer, spec.end_ids)
        self.template = Template(spec.templates, spec.variables) if spec.templates else None

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

    @cached_property
    def marks(self) -> Marks:
        """How images are written.

        Raises:
            RenderError: the checkpoint takes text alone.
        """
        if self.spec.media is None:
            raise RenderError(
                "there are images, video or audio in it, and this checkpoint takes text alone (it "
                "has no preprocessor_config.json)"
            )
        return Marks(self.spec.media, self.tokenizer, self._writer.text)

    @cached_property
    def _boxes(self) -> Boxes:
        return Boxes(
            self.spec.boxes, self.tokenizer, lambda: self.marks if self.spec.media else None
        )

    @cached_property
    def _tokens(self) -> TurnTokens:
        return TurnTokens(self.tokenizer, self.stop_ids)

    def _stop_of_template(self) -> set[int]:
        """The first control token that the template writes after an answer."""
        writer = Writer(self.template, ())
        answer = Message("assistant", "zqanswerqz").for_template(in_parts=writer.in_parts)
        try:
            text = writer.text([writer.probe, answer])
        except RenderError:
            return set()
        _, said, behind = text.rpartition("zqanswerqz")
        after = self.tokenizer.encode(behind).ids if said else []
        special = [id for id in after if id in self.tokenizer.special_ids]
        return set(special[:1])

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens that inference sends for an answer to these messages.

        Where the last message is an answer with a ``prefix``, they end in that text: the model
        goes on from there.

        Raises:
            RenderError: a role is unknown, the template refuses the messages or leaves one out.
        """
        text = "".join(self._asked(messages, tools, kwargs))
        return self.tokenizer.encode(self._filled(text, media_of(messages))).ids

    def _filled(self, text: str, media: Sequence[Media]) -> str:
        """A text with what stands for media at their marks."""
        return self.marks.fill(text, media, self.marks.texts(media)) if media else text

    def given(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens at the end of that prompt that are the beginning of the answer.

        Together with what the model writes behind them they are what :meth:`parse` reads.
        """
        return self.tokenizer.encode(self._asked(messages, tools, kwargs)[1]).ids

    def begun(
        self, messages: Sequence[Message], kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Message, ...]:
        """Messages whose answers begin with the prefix of the run, but those with their own."""
        if not self.spec.prefix:
            return tuple(messages)
        dialect = self._writer.dialect(kwargs)
        start = given(self.spec.prefix, dialect)
        return tuple(
            start.lead(message.without_tags() if dialect.thinking else message)
            if message.role == "assistant" and not message.prefix
            else message
            for message in messages
        )

    def _asked(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any] | None,
    ) -> tuple[str, str]:
        """The prompt, and the beginning of the answer."""
        check_roles(messages)
        answer = messages[-1] if messages and messages[-1].prefix else None
        before = messages[:-1] if answer else messages
        turns, tools = self._quoted(before, tools, kwargs)
        prompt = self._writer.text(turns, tools, True, kwargs)
        check_heard(before, turns, prompt)
        return prompt, self._given(answer, turns, tools, kwargs, prompt)

    def _given(
        self,
        answer: Message | None,
        before: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any] | None,
        prompt: str,
    ) -> str:
        """How the template begins an answer, up to the end of what is given of it."""
        if answer is None or not answer.prefix:
            if not self.spec.prefix:
                return ""
            answer = Message("assistant", prefix=self.spec.prefix)
        start = given(answer.prefix, self._writer.dialect(kwargs))
        turns, _ = self._quoted([start.probe(answer)], (), kwargs)
        whole = self._writer.text([*before, *turns], tools, False, kwargs)
        check_prompt(whole, prompt, len(before))
        return cut(whole[len(prompt) :], str(self.tokenizer.quote(start.last)), len(before))

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
        check(conversation.messages)
        media = conversation.media
        which, strategies = find_strategies(learn)
        if which == "all":
            turns, tools = self._quoted(
                conversation.messages, conversation.tools, conversation.template_kwargs
            )
            text = self._writer.text(turns, tools, False, conversation.template_kwargs)
            ids = self.tokenizer.encode(self._filled(text, media)).ids
            return [Rendered(ids, [1.0] * len(ids), media)]
        learned = self._turns(conversation, which, strategies)
        if not learned:
            raise RenderError("no turn is learned: every assistant message has weight 0")
        if media:
            texts = self.marks.texts(media)
            learned = [self.marks.fill_turn(turn, texts) for turn in learned]
        return self._tokens.samples(learned)

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

    @cached_property
    def switches(self) -> frozenset[str]:
        """What its template reads beside messages and tools: ``enable_thinking`` ..."""
        return self.template.switches if self.template else frozenset()

    def dialect(self, kwargs: Mapping[str, Any] | None = None) -> Dialect:
        """How the template writes thinking and tool calls."""
        return self._writer.dialect(kwargs)

    def parser(self, kwargs: Mapping[str, Any] | None = None, *, calls: bool = True) -> Parser:
        """The same, token by token.

        Args:
            kwargs: those of the prompt.
            calls: read tool calls; without, what looks like one is text.
        """
        dialect = self._writer.dialect(kwargs)
        if not calls:
            dialect = replace(dialect, calls=None)
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
        messages = self.begun(messages, kwargs)
        if any(m.tool_calls or m.has_tags for m in messages):
            dialect = self._writer.dialect(kwargs)
            as_text = dialect.text_arguments
            if dialect.thinking:
                messages = [message.without_tags() for message in messages]
        written = [m.for_template(text_arguments=as_text, in_parts=parts) for m in messages]
        roles = [self._writer.role(message.role) for message in messages]
        quote = self.tokenizer.quote
        turns = [
            {key: role if key == "role" else quote(value) for key, value in turn.items()}
            for turn, role in zip(written, roles, strict=True)
        ]
        media = media_of(messages)
        if any(message.has_objects for message in messages):
            turns = self._with_objects(turns, messages, media)
        if media:
            turns = [dict(self.marks.flat(turn)) for turn in turns]
        return turns, self.tokenizer.quote(list(tools))

    def _with_objects(
        self,
        turns: Sequence[dict[str, Any]],
        messages: Sequence[Message],
        media: Sequence[Media],
    ) -> list[dict[str, Any]]:
        """Turns with the places and names in images written out."""
        images = [medium for medium in media if medium.kind == "image"]
        settings = self.spec.media.settings if self.spec.media else MediaSettings()
        return [
            self._boxes.fill(turn, message, images, settings, in_parts=self._writer.in_parts)
            if message.has_objects
            else turn
            for turn, message in zip(turns, messages, strict=True)
        ]

    def _turns(
        self, conversation: Conversation, which: str, strategies: Sequence[Strategy]
    ) -> list[Turn]:
        """Every assistant turn that is learned, with its place in the text up to it."""
        kwargs = conversation.template_kwargs
        turns, tools = self._quoted(conversation.messages, conversation.tools, kwargs)
        users = [i for i, message in enumerate(conversation.messages) if message.role == "user"]
        first = users[-1] if users and which == "last_round" else -1
        written = self._writer.beginnings(turns, tools, kwargs)
        found = []
        for i, message in enumerate(conversation.messages):
            if message.role != "assistant" or i < first:
                continue
            if message.weight != 0:
                said = conversation.messages[: i + 1]
                found.append(self._turn(said, turns[: i + 1], tools, kwargs, strategies, written))
        return found

    def _turn(
        self,
        messages: Sequence[Message],
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any],
        strategies: Sequence[Strategy],
        written: Beginnings,
    ) -> Turn:
        """The last of these turns, with its place in the text up to it."""
        i, message = len(messages) - 1, messages[-1]
        prompt = written.prompt(i)
        check_heard(messages[:i], turns[:i], prompt)
        whole, marked = written.whole(i + 1)
        check_prompt(whole, prompt, i)
        start = len(prompt)
        whole = self._writer.ended(whole, start, turns[i], kwargs)
        stop, end = self._writer.stop_in(whole, start, i)
        check_said(turns[i], whole[start:stop], i)
        if message.tool_calls and self._writer.dialect(kwargs).calls is None:
            raise RenderError(
                f"message {i + 1} (assistant): the template writes tool calls in a form that "
                "is not understood here, so the model's own could not be read back"
            )
        opening = self._given(message, turns[:i], tools, kwargs, prompt)
        check_given(whole[start:stop], opening, message, i)
        first = start + len(opening)
        spans = [(first, stop)] if marked is None else within(marked, first, stop)
        if not spans and first < stop:
            raise RenderError(
                f"message {i + 1} (assistant): it is outside of the template's "
                "{% generation %} blocks; take them out, or set its loss to false"
            )
        weight = 1.0 if message.weight is None else message.weight
        parts = [(left, right, weight) for left, right in spans]
        question = _question(messages[:i]) if strategies else ""
        for strategy in strategies:
            factors = factors_of(strategy, whole[start:stop], question)
            parts = scale(parts, [(start + a, start + b, by) for a, b, by in factors])
        parts.append((stop, end, weight))
        return Turn(whole, first, end, tuple(parts), media_of(messages))


def _question(messages: Sequence[Message]) -> str:
    """The text of the last message that a user or a tool sent."""
    said = [m.content for m in messages if m.role in ("user", "tool")]
    last = said[-1] if said else ""
    return last if isinstance(last, str) else "".join(p for p in last if isinstance(p, str))
