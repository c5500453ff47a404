"""Token ids word by word, remembered.

Byte-level tokenizers cut a text into words by a pattern and look at nothing beyond a word. So a
word's ids, asked of the tokenizer once, stand for it wherever it comes again, and natural text
repeats its words. Where a tokenizer or a text is not provably of that kind, there are no words here
and the tokenizer is asked for the whole: the ids are the same either way.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import tokenizers

_MOST = 100_000  # words that are remembered: some 20 MiB
_SHORT = 16  # characters between two control tokens that are remembered with their words ...
_MOST_SHORT = 1_000  # ... so many of them: what templates write comes first
_LONGEST = 64  # characters of a word that is remembered; longer ones hardly come again

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of the ``tokenizers`` library's ByteLevel."""

_ASCII = {
    r"\p{L}": "A-Za-z",
    r"\p{N}": "0-9",
    r"\d": "0-9",
    r"\s": r"\s",
    r"\r": r"\r",
    r"\n": r"\n",
}
_ESCAPE = re.compile(r"\\(?:p\{[A-Za-z]+\}|.)|\[\^?|\]")


class Split:
    """A text as words, and where they lie among the tokens."""

    def __init__(
        self,
        ids: list[int],
        parts: Sequence[Sequence[str]],
        lefts: Sequence[int],
        firsts: Sequence[int],
        ids_of: Callable[[str], list[int]],
    ) -> None:
        self.ids = ids
        self._parts = parts
        self._lefts, self._firsts = lefts, firsts  # of every part: its first character and token
        self._ids_of = ids_of

    def index(self, at: int) -> int | None:
        """How many tokens lie before a character; None: it is inside of a word."""
        part = bisect_right(self._lefts, at) - 1
        left, first = self._lefts[part], self._firsts[part]
        if left == at or part == len(self._parts):
            return first if left == at else None
        for word in self._parts[part]:
            if left >= at:
                break
            left += len(word)
            first += len(self._ids_of(word))
        return first if left == at else None

    def left(self, index: int) -> int | None:
        """The character at which a token begins; None: it is not the first token of a part."""
        part = bisect_right(self._firsts, index, hi=len(self._parts)) - 1
        begins = part >= 0 and self._firsts[part] == index and self._ids_of(self._parts[part][0])
        return self._lefts[part] if begins else None


class Words:
    """The ids of words."""

    def __init__(
        self, backend: tokenizers.Tokenizer, word: re.Pattern[str], control: re.Pattern[str]
    ) -> None:
        self._backend, self._word, self._control = backend, word, control
        self._known: dict[str, list[int]] = {}
        self._short: dict[str, tuple[list[str], list[int]]] = {}  # what templates write again

    def split(self, text: str) -> Split | None:
        """A text as words; None: it holds more than ASCII, or too many words that are new."""
        if not text.isascii():
            return None
        ids: list[int] = []
        parts: list[list[str]] = []
        lefts, firsts = [0], [0]
        for number, piece in enumerate(self._control.split(text)):
            if not piece:
                continue
            known = self._short.get(piece) or self._cut(piece, control=bool(number % 2))
            if known is None:
                return None
            words, found = known
            ids += found
            parts.append(words)
            lefts.append(lefts[-1] + len(piece))
            firsts.append(len(ids))
        return Split(ids, parts, lefts, firsts, self._ids)

    def _cut(self, piece: str, *, control: bool) -> tuple[list[str], list[int]] | None:
        """The words between two control tokens, or the one of such a token, and their ids; None:
        they are not the whole of it, or too many are new.
        """
        words = [piece] if control else self._word.findall(piece)
        if len("".join(words)) != len(piece):
            return None
        try:
            ids = list(chain.from_iterable(map(self._known.get, words)))  # type: ignore[arg-type]
        except TypeError:  # a word that is not known yet
            if len(self._known) >= _MOST:
                return None  # whole texts are quicker than word by word
            ids = list(chain.from_iterable(map(self._ids, words)))
        if len(piece) <= _SHORT and len(self._short) < _MOST_SHORT:
            self._short[piece] = words, ids
        return words, ids

    def _ids(self, word: str) -> list[int]:
        found = self._known.get(word)
        if found is None:
            found = list(self._backend.encode(word, add_special_tokens=False).ids)
            if len(word) <= _LONGEST:
                self._known[word] = found
        return found


def find_words(definition: Mapping[str, Any], backend: tokenizers.Tokenizer) -> Words | None:
    """The words of a tokenizer; None: it is not of the kind that knows words."""
    added = definition["added_tokens"]
    plain = not any(t["lstrip"] or t["rstrip"] or t["single_word"] for t in added)
    pattern = _pattern(definition.get("pre_tokenizer"))
    if not (
        plain
        and added
        and pattern
        and (definition.get("normalizer") or {"type": "NFC"})["type"] in ("NFC", "NFKC")
        and definition["model"]["type"] == "BPE"
        and not definition["model"].get("dropout")
        and not _trims(definition.get("post_processor"))
    ):
        return None
    contents = sorted((t["content"] for t in added), key=len, reverse=True)
    control = re.compile(f"({'|'.join(map(re.escape, contents))})")
    return Words(backend, pattern, control)


def _trims(step: Mapping[str, Any] | None) -> bool:
    """Whether a post-processor moves the borders of tokens."""
    if step is None:
        return False
    if step["type"] == "Sequence":
        return any(map(_trims, step["processors"]))
    return step["type"] != "TemplateProcessing" and bool(step.get("trim_offsets", True))


def _pattern(step: Mapping[str, Any] | None) -> re.Pattern[str] | None:
    """What a pre-tokenizer takes as a word of an ASCII text; None: it does something else."""
    if step is None:
        return None
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    kinds = [step["type"] for step in steps]
    if not kinds or kinds[-1] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    source = None
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        source = _GPT2
    elif kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        split = steps[0]
        if split["behavior"] == "Isolated" and not split["invert"]:
            source = split["pattern"].get("Regex")
    return None if source is None else _in_ascii(source)


def _in_ascii(source: str) -> re.Pattern[str] | None:
    """A pattern for Unicode as one for ASCII; None: it holds what is not understood here."""
    inside = False
    known = True

    def written(found: re.Match[str]) -> str:
        nonlocal inside, known
        text = found[0]
        if text[0] != "\\":
            known &= inside == (text == "]")  # a bracket inside of brackets has many meanings
            inside = text != "]"
            return text
        if text == r"\S":
            known &= not inside
            return text
        known &= text in _ASCII
        chars = _ASCII.get(text, "")
        return chars if inside else f"[{chars}]"

    ascii = _ESCAPE.sub(written, source)
    bare = re.sub(r"\[[^\]]*\]", "", ascii)
    # groups that look around would see what is beyond a word; only the end of space is harmless
    if not known or re.search(r"\((?!\?:|\?i:|\?!\\S\))|[\^$]", bare):
        return None
    try:
        return re.compile(ascii, re.ASCII)
    except re.error:
        return None
