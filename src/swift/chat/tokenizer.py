"""Text <-> token ids, with the position of every token in the text.

Built on the ``tokenizers`` library alone: worker processes need neither torch nor transformers'
model code, and start in a tenth of a second.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers

_QUOTE = re.compile("\ue000([0-9]+)\ue001")
"""A control token that somebody spelled in a message, while a template is being rendered."""


@dataclass(frozen=True)
class Encoding:
    """Token ids, and for each the span of characters that it stands for."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer:
    """A tokenizer made from its own JSON form (``tokenizer.json`` as transformers completes it)."""

    def __init__(self, definition: str) -> None:
        self._definition = definition
        self._backend = tokenizers.Tokenizer.from_str(definition)
        self._backend.no_padding()
        self._backend.no_truncation()
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._control = sorted((str(t.content) for t in added.values() if t.special), key=len)[::-1]

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer, blind to control tokens."""
        definition = json.loads(self._definition)
        definition["added_tokens"] = []
        return tokenizers.Tokenizer.from_str(json.dumps(definition))

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._control)) or r"(?!)")

    def token_id(self, token: str) -> int | None:
        """The id of a token given by its text."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def quote(self, value: Any) -> Any:
        """Replace control tokens spelled in messages by marks that :meth:`encode` writes as text.

        Works on strings and on the strings inside lists and mappings; returns the very same object
        when there is nothing to replace.
        """
        if isinstance(value, str):
            if not self._spelled.search(value):
                return value
            return self._spelled.sub(lambda m: f"\ue000{self._control.index(m[0])}\ue001", value)
        if isinstance(value, list | tuple):
            return [self.quote(item) for item in value]
        if isinstance(value, dict):
            return {key: item if key == "role" else self.quote(item) for key, item in value.items()}
        return value

    def encode(self, text: str, *, specials: bool = False) -> Encoding:
        """Tokenize a text.

        Args:
            text: control tokens in it become control tokens, but those marked by :meth:`quote`.
            specials: add what the tokenizer puts around a text (such as a first BOS).
        """
        if "\ue000" not in text:
            found = self._backend.encode(text, add_special_tokens=specials)
            return Encoding(found.ids, found.offsets)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        end = 0
        for mark in _QUOTE.finditer(text):
            self._append(ids, spans, self._backend, text[end : mark.start()], end, None)
            quoted = self._control[int(mark[1])]
            self._append(ids, spans, self._plain, quoted, mark.start(), mark.end())
            end = mark.end()
        self._append(ids, spans, self._backend, text[end:], end, None)
        return Encoding(ids, spans)

    @staticmethod
    def _append(
        ids: list[int],
        spans: list[tuple[int, int]],
        backend: tokenizers.Tokenizer,
        piece: str,
        start: int,
        end: int | None,
    ) -> None:
        found = backend.encode(piece, add_special_tokens=False)
        ids += found.ids
        if end is None:
            spans += [(start + left, start + right) for left, right in found.offsets]
        else:  # a quoted token covers its mark as a whole
            spans += [(start, end)] * len(found.ids)

    def decode(self, ids: list[int], *, keep_special: bool = False) -> str:
        """The text of token ids."""
        return str(self._backend.decode(ids, skip_special_tokens=not keep_special))

    def stream(self, *, keep_special: bool = False) -> TokenStream:
        """A decoder that takes one id after the other."""
        return TokenStream(self._backend, keep_special)


class TokenStream:
    """Decodes ids as they come; holds back what is not yet a whole character."""

    def __init__(self, backend: tokenizers.Tokenizer, keep_special: bool) -> None:
        self._backend = backend
        self._stream = tokenizers.decoders.DecodeStream(skip_special_tokens=not keep_special)

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        return self._stream.step(self._backend, token) or ""
