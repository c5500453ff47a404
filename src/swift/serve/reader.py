"""Tokens of one answer -> steps: what is said, thought and called, cut at stop texts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from swift.chat.message import Delta
from swift.chat.parser import Parser
from swift.chat.tokenizer import Tokenizer, TokenStream
from swift.infer.engine import Piece
from swift.serve.ask import Chosen, Finish, Step
from swift.serve.refused import Refused
from swift.serve.stops import Stops

_LEAST = -9999.0  # JSON has no infinity; OpenAI writes this for it


class PlainParser:
    """Reads tokens as text alone, for prompts that no template is put around."""

    def __init__(self, stream: TokenStream, stop_ids: Sequence[int]) -> None:
        self._stream = stream
        self._stop_ids = frozenset(stop_ids)

    def push(self, token: int) -> Delta:
        """What this token adds."""
        return Delta() if token in self._stop_ids else Delta(self._stream.push(token))

    def close(self) -> Delta:
        """The answer has ended."""
        return Delta()


class Reader:
    """One answer."""

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        parser: Parser | PlainParser,
        stop: Sequence[str],
        stop_ids: Sequence[int],
        one_call: bool = False,
    ) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._parser = parser
        self._stops = Stops(stop)
        self._stop_ids = frozenset(stop_ids)
        self._one_call = one_call
        self._called = False
        self._waiting: list[Chosen] = []  # tokens whose text may yet become a stop text
        self._thinking = False
        self._thought = 0
        self.done = False

    def skip(self, tokens: Sequence[int]) -> None:
        """Read what is given of the answer, without telling it."""
        for token in tokens:
            self._parser.push(token)

    def show(self, tokens: Sequence[int]) -> Step:
        """Read what is given of the answer, and tell it."""
        return self._step([self._parser.push(token) for token in tokens], 0)

    def read(self, piece: Piece) -> Step:
        """What a piece adds; ``finish`` is set where the answer ends in it.

        Raises:
            Refused: the engine ended the answer without its being whole.
        """
        if piece.finish_reason == "cancelled":
            raise Refused(503, "the answer was cancelled: the server is ending", code="cancelled")
        parts: list[Delta] = []
        size = 0
        for size in range(1, len(piece.tokens) + 1):
            self._choose(piece, size - 1)
            parts.append(self._cut(self._parser.push(piece.tokens[size - 1])))
            if self.done:
                return self._last(parts, size, "stop")
        if piece.finish_reason is None:
            return self._step(parts, size)
        parts.append(self._cut(self._parser.close()))
        return self._last(parts, size, "length" if piece.finish_reason == "length" else "stop")

    def _cut(self, delta: Delta) -> Delta:
        """A delta without stop texts, and with the one call alone where there may be one."""
        self._thinking = bool(delta.thinking) or (self._thinking and not delta.content)
        self._thought += self._thinking
        calls = delta.tool_calls
        if self._one_call and calls:
            calls, self.done = calls[:1], True
        content = self._stops.push(delta.content)
        if self._stops.found is not None:
            self.done = True
            self._waiting.clear()
        return Delta(content, delta.thinking, calls)

    def _last(self, parts: list[Delta], size: int, finish: Finish) -> Step:
        """The step that ends the answer, with what was held back."""
        self.done = True
        step = self._step([*parts, Delta(self._stops.close())], size)
        if self._called and finish == "stop" and self._stops.found is None:
            finish = "tool_calls"
        return replace(step, finish=finish, stop=self._stops.found)

    def _step(self, parts: Sequence[Delta], size: int) -> Step:
        calls = [call for part in parts for call in part.tool_calls]
        self._called = self._called or bool(calls)
        chosen: tuple[Chosen, ...] = ()
        if not self._stops.holding:
            chosen, self._waiting = tuple(self._waiting), []
        thought, self._thought = min(self._thought, size), 0
        return Step(
            self._index,
            "".join(part.content for part in parts),
            "".join(part.thinking for part in parts),
            tuple(replace(c, id=c.id or f"call_{uuid.uuid4().hex[:24]}") for c in calls),
            chosen,
            size,
            thought,
        )

    def _choose(self, piece: Piece, i: int) -> None:
        """Keep a token's log-probabilities; a stop token is no part of the answer."""
        if piece.logprobs is None or piece.tokens[i] in self._stop_ids:
            return
        top = piece.top_logprobs[i] if piece.top_logprobs else {}
        best = sorted(top.items(), key=lambda item: -item[1])
        self._waiting.append(
            Chosen(
                piece.tokens[i],
                self._text(piece.tokens[i]),
                max(piece.logprobs[i], _LEAST),
                tuple((id, self._text(id), max(logprob, _LEAST)) for id, logprob in best),
            )
        )

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token], keep_special=True)
