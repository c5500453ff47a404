"""Answers that must look like something: the tokens that a guide allows next.

The automaton is llguidance's (JSON schema, regular expression, Lark or EBNF grammar, choices).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from

from swift.errors import DataError
from swift.infer.engine import Guide, Request


class Guides:
    """Makes the guides of requests for one tokenizer; what is costly is made once."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        """Take a tokenizer.

        Args:
            tokenizer: transformers', of the fast kind.
            vocabulary: V, how many logits the model writes.
        """
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        self._definition = json.dumps({**backend, "padding": None, "truncation": None})
        self._eos, self._vocabulary = tokenizer.eos_token_id, vocabulary
        self._known: dict[tuple[int, ...], LLTokenizer] = {}

    def start(self, request: Request) -> Guided | None:
        """The guide of a request at the beginning of its answer; None: it has none.

        Raises:
            DataError: the guide cannot be understood.
        """
        guide, stops = request.sampling.guide, request.sampling.stop_ids
        if guide is None:
            return None
        ends = tuple(sorted(stops)) or (self._eos or 0,)
        if ends not in self._known:
            self._known[ends] = LLTokenizer(
                self._definition, n_vocab=self._vocabulary, eos_token=list(ends)
            )
        matcher = LLMatcher(self._known[ends], _grammar(guide), log_level=0)
        if matcher.is_error():
            raise DataError(_why(guide, matcher.get_error()))
        return Guided(matcher, waits=bool(stops), ends=ends)


_SPACE: Any = {
    "whitespace_pattern": "[ \\n\\t]{0,20}"
}  # bounded: else a model may write space forever


def _grammar(guide: Guide) -> str:
    text = guide.value if isinstance(guide.value, str) else json.dumps(guide.value)
    try:
        if guide.kind == "json":
            return LLMatcher.grammar_from_json_schema(text, defaults=_SPACE)
        return grammar_from(guide.kind, text)
    except (ValueError, TypeError) as error:
        raise DataError(_why(guide, str(error))) from None


def _why(guide: Guide, error: str) -> str:
    return f"the guide ({guide.kind}) cannot be used: {error.strip().splitlines()[0]}"


class Guided:
    """How far one answer has followed its guide."""

    def __init__(self, matcher: LLMatcher, *, waits: bool, ends: tuple[int, ...]) -> None:
        """Begin.

        Args:
            matcher: the automaton.
            waits: the answer ends with a stop token; else as soon as nothing more may come.
            ends: the ids that may end it.
        """
        self._matcher, self._waits, self._ends = matcher, waits, ends

    def forbid(self, logits_V: torch.Tensor) -> None:
        """Set the logits of tokens that may not come to minus infinity.

        Raises:
            DataError: the automaton gave up (a grammar too large, say).
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise DataError(f"the guide cannot be followed: {self._matcher.get_error()}")
        allowed = np.unpackbits(bits, count=len(logits_V), bitorder="little")
        logits_V.masked_fill_(torch.from_numpy(allowed == 0).to(logits_V.device), -torch.inf)

    def take(self, token: int) -> bool:
        """Follow a token; whether the answer ends here because nothing more may come."""
        if token in self._ends:
            return True
        self._matcher.consume_token(token)
        return not self._waits and self._matcher.is_stopped()
