"""Text <-> token ids, with the position of every token in the text.

Built on the ``tokenizers`` library alone: worker processes need neither torch nor transformers'
model code.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import tokenizers

from swift.chat.words import Split, Words, find_words
from swift.errors import RenderError

MARK = "\ue002"
"""Free for what is written by us; spelled in a message, it is quoted before a template sees it."""

_OPEN = "\ue000"
_COMPARED = 64  # texts that are read both ways, before words are relied on
_QUOTE = re.compile(f"{_OPEN}([0-9]+)\ue001")
"""A control token that somebody spelled in a message, while a template is being rendered."""


class Encoding:
    """Token ids, and where each lies in the text."""

    def __init__(self, ids: list[int], lefts: Callable[[], list[int]], split: Split | None) -> None:
        self.ids = ids
        self._make_lefts = lefts
        self._split = split

    @cached_property
    def lefts(self) -> list[int]:
        """The character at which every token begins."""
        return self._make_lefts()

    def index(self, at: int) -> int:
        """The first token that begins at a character or behind it."""
        found = None if self._split is None else self._split.index(at)
        return bisect_left(self.lefts, at) if found is None else found

    def left(self, index: int) -> int:
        """The character at which a token begins."""
        found = None if self._split is None else self._split.left(index)
        return self.lefts[index] if found is None else found


class Tokenizer:
    """A tokenizer made from its own JSON form (``tokenizer.json`` as transformers completes it).

    Its control tokens are those marked as special, and ``ends``.
    """

    def __init__(self, definition: str, ends: Collection[int] = ()) -> None:
        self._definition = definition
        self._backend = tokenizers.Tokenizer.from_str(definition)
        self._backend.no_padding()
        self._backend.no_truncation()
        added = self._backend.get_added_tokens_decoder()
        known = {id: str(t.content) for id, t in added.items() if t.special or id in ends}
        self.special_ids = frozenset(known)
        control = sorted(known.values(), key=len, reverse=True)
        self._quotable = [*control, _OPEN, MARK]  # marks are text too where somebody writes them
        self._quoted: dict[int, list[int]] = {}
        self._compared = 0

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer, blind to control tokens."""
        definition = json.loads(self._definition)
        definition["added_tokens"] = []
        return tokenizers.Tokenizer.from_str(json.dumps(definition))

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._quotable)))

    @cached_property
    def size(self) -> int:
        """Every id is below it."""
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def token_id(self, token: str) -> int | None:
        """The id of a token given by its text."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def quote(self, value: Any) -> Any:
        """Replace control tokens spelled in messages by marks that :meth:`encode` writes as text.

        Works on strings and on the strings inside lists and mappings, keys included.
        """
        if isinstance(value, str):
            if not self._spelled.search(value):
                return value
            return self._spelled.sub(lambda m: f"{_OPEN}{self._quotable.index(m[0])}\ue001", value)
        if isinstance(value, list | tuple):
            return [self.quote(item) for item in value]
        if isinstance(value, dict):
            return {self.quote(key): self.quote(item) for key, item in value.items()}
        return value

    def encode(self, text: str, *, specials: bool = False) -> Encoding:
        """Tokenize a text.

        Args:
            text: control tokens in it become control tokens, but those marked by :meth:`quote`.
            specials: it is a text of its own, without marks: add what the tokenizer puts around
                one (such as a first BOS).

        Raises:
            RenderError: the text holds half of a surrogate pair.
        """
        split = None if specials else self._split(text)
        if split is not None:
            return Encoding(split.ids, lambda: self._whole(text, False).lefts, split)
        try:
            if specials or _OPEN not in text:
                return self._whole(text, specials)
            return self._encode_marked(text)
        except TypeError:  # how `tokenizers` says it
            raise RenderError("it holds half of a surrogate pair, which is no character") from None

    def _split(self, text: str) -> Split | None:
        """A text word by word; the first ones are compared with what the library says."""
        found = self._words.split(text) if self._words else None
        if found is not None and self._compared < _COMPARED:
            self._compared += 1
            if found.ids != self._backend.encode(text, add_special_tokens=False).ids:
                self._words = found = None
        return found

    def _whole(self, text: str, specials: bool) -> Encoding:
        found = self._backend.encode(text, add_special_tokens=specials)
        return Encoding(found.ids, lambda: [left for left, _ in found.offsets], None)

    @cached_property
    def _words(self) -> Words | None:
        return find_words(json.loads(self._definition), self._backend)

    def _encode_marked(self, text: str) -> Encoding:
        ids: list[int] = []
        lefts: list[int] = []

        def append(piece: str, start: int) -> None:
            found = self._backend.encode(piece, add_special_tokens=False)
            ids.extend(found.ids)
            lefts.extend(start + left for left, _ in found.offsets)

        end = 0
        for mark in _QUOTE.finditer(text):
            append(text[end : mark.start()], end)
            quoted = self._quoted_ids(int(mark[1]))
            ids.extend(quoted)
            lefts.extend([mark.start()] * len(quoted))  # each covers its mark as a whole
            end = mark.end()
        append(text[end:], end)
        return Encoding(ids, lambda: lefts, None)

    def _quoted_ids(self, number: int) -> list[int]:
        """The ids of a quotable token as plain text."""
        if number not in self._quoted:
            text = self._quotable[number]
            ids = self._plain.encode(text, add_special_tokens=False).ids
            if self.special_ids.intersection(ids):  # a vocabulary that holds it as a plain word
                parts = [self._plain.encode(char, add_special_tokens=False).ids for char in text]
                ids = [id for part in parts for id in part]
            self._quoted[number] = ids
        return self._quoted[number]

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
