"""Where media stand in what a template writes, and the text that stands there for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from operator import add
from typing import Any

import numpy as np

from swift.chat.media.prepare import Prepare
from swift.chat.media.processor import TEXT, MediaSpec, Processor
from swift.chat.message import KINDS, Kind, Media
from swift.chat.tokenizer import Tokenizer
from swift.chat.turns import Turn
from swift.errors import DataError, RenderError

Features = dict[str, np.ndarray[Any, Any]]
"""What a model reads beside tokens, by the names of its arguments."""

_NAMES: Mapping[Kind, str] = {"image": "an image", "video": "a video", "audio": "a sound"}

Write = Callable[[Sequence[Mapping[str, Any]]], str]
"""Messages as a template writes them."""


class Marks:
    """How one checkpoint writes images, videos and sounds."""

    def __init__(self, spec: MediaSpec, tokenizer: Tokenizer, write: Write) -> None:
        self.processor = Processor(spec)
        self.prepare = Prepare(spec, self.processor, self.mark_of)
        self._tokenizer = tokenizer
        self._write = write
        self._found: dict[Kind, tuple[str, bool]] = {}
        self._features: dict[Kind, int] = {}

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """Of the media that the checkpoint takes."""
        return frozenset(kind for kind in KINDS if self._takes(kind))

    def _takes(self, kind: Kind) -> bool:
        try:
            return bool(self._of_kind(kind))
        except RenderError:
            return False

    @property
    def mark(self) -> str:
        """The control token that stands for an image."""
        return self.mark_of(Media("image", ""))

    def mark_of(self, medium: Media) -> str:
        """The control token that stands for a medium; of a video perhaps that of its frames.

        Raises:
            RenderError: there is none.
        """
        return self._of_kind(medium.kind)[0]

    def _of_kind(self, kind: Kind) -> tuple[str, bool]:
        """The mark of a kind, and whether the template itself writes it."""
        kind = self.processor.as_what(kind)
        if kind not in self._found:
            self._found[kind] = self._find(kind)
        return self._found[kind]

    def _find(self, kind: Kind) -> tuple[str, bool]:
        if found := self._in(self._written(kind), kind):
            return found, True
        for text in self.processor.names(kind):
            if found := self._in(text, kind):
                return found, False
        raise RenderError(
            f"neither the template nor the processor of this checkpoint says where {_NAMES[kind]} "
            "stands"
        )

    def _written(self, kind: Kind) -> str:
        """What the template writes for a medium in a message; empty: it does not know the kind."""
        text = {"type": "text", "text": "zquser"}
        try:
            plain = self._write([{"role": "user", "content": [text]}])
            whole = self._write([{"role": "user", "content": [{"type": kind}, text]}])
        except RenderError:
            return ""
        head, _, tail = plain.partition("zquser")
        inside = whole.removeprefix(head).removesuffix(tail).removesuffix("zquser")
        return inside if whole == f"{head}{inside}zquser{tail}" else ""

    def _in(self, text: str, kind: Kind) -> str | None:
        """The control token in a text that the processor takes for a medium."""
        ids = self._tokenizer.encode(text).ids if text else []
        tokens = [
            self._tokenizer.decode([id], keep_special=True)
            for id in dict.fromkeys(ids)
            if id in self._tokenizer.special_ids
        ]
        return next((token for token in tokens if self.processor.is_mark(token, kind)), None)

    def flat(self, turn: Mapping[str, Any]) -> Mapping[str, Any]:
        """A (quoted) turn as the template reads it.

        A video is as many images; a kind that the template does not know is a mark in a text.
        """
        content = turn.get("content")
        if not isinstance(content, list) or not any(part["type"] in _NAMES for part in content):
            return turn
        parts = [self._flat(part) for part in content]
        if not any(part["type"] in _NAMES for part in parts):
            return {**turn, "content": "".join(part["text"] for part in parts)}
        return {**turn, "content": parts}

    def _flat(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        if part["type"] == "text":
            return part
        mark, in_template = self._of_kind(part["type"])
        if not in_template:
            return {"type": "text", "text": mark}
        return {**part, "type": self.processor.as_what(part["type"])}

    def texts(self, media: Sequence[Media]) -> list[str]:
        """The text that stands for each medium: its tokens, written out.

        Raises:
            DataError: a medium cannot be read.
        """
        return [self._text(medium) for medium in media]

    def ids(self, medium: Media) -> list[int]:
        """The tokens that stand for a medium.

        Raises:
            DataError: it cannot be read.
        """
        return [int(id) for id in self.prepare([medium])["input_ids"][0]]

    def _text(self, medium: Media) -> str:
        ids = self.ids(medium)
        text = self._tokenizer.decode(ids, keep_special=True)
        if self._tokenizer.encode(text).ids != ids:
            raise RenderError(
                f"the tokens that stand for {_NAMES[medium.kind]} cannot be written as a text"
            )
        return text

    def features(self, samples: Sequence[tuple[Sequence[int], Sequence[Media]]]) -> Features:
        """What the model reads for the media of samples that are laid end to end.

        Args:
            samples: tokens and media of each.

        Raises:
            DataError: a medium cannot be read, or is not the one that the tokens were made of.
        """
        media = [one for _, some in samples for one in some]
        if not media:
            return {}
        made = self.prepare(media)
        expected = Counter(made["input_ids"][0].tolist())
        for kind in sorted({self.processor.as_what(medium.kind) for medium in media}):
            feature = self._feature(kind)
            found = sum(list(tokens).count(feature) for tokens, _ in samples)
            if found != expected[feature]:
                raise DataError(
                    f"its media take {expected[feature]} places, its tokens hold {found}: "
                    f"{_NAMES[kind]} has changed since the tokens were made; make them anew with "
                    "--load_from_cache_file false"
                )
        return {name: value for name, value in made.items() if name not in TEXT}

    def _feature(self, kind: Kind) -> int:
        """The token in whose places the model puts what it sees or hears."""
        if kind not in self._features:
            ids = self.processor.ids(self._of_kind(kind)[0], [self.processor.probe(kind)])
            special = [id for id in ids if id in self._tokenizer.special_ids]
            self._features[kind] = Counter(special or ids).most_common(1)[0][0]
        return self._features[kind]

    def fill(self, text: str, media: Sequence[Media], texts: Sequence[str]) -> str:
        """A text with what stands for each medium at its mark.

        Raises:
            RenderError: the template leaves a medium out, or writes one twice.
        """
        pieces, found = self._split(text, media)
        marks = [self.mark_of(medium) for medium in media]
        if found != marks:
            raise RenderError(
                f"the template writes {len(found)} of {len(marks)} images, videos and sounds, or "
                "in another order, so the model would not get them as they are given"
            )
        return "".join(piece + filled for piece, filled in zip(pieces, [*texts, ""], strict=True))

    def _split(self, text: str, media: Sequence[Media]) -> tuple[list[str], list[str]]:
        """The pieces of a text around the marks of media, and those marks."""
        marks = {self.mark_of(medium) for medium in media}
        parts = re.split(f"({'|'.join(map(re.escape, sorted(marks)))})", text)
        return parts[::2], parts[1::2]

    def fill_turn(self, turn: Turn, texts: Sequence[str]) -> Turn:
        """The same of a turn that is learned; ``texts`` are those of the whole conversation."""
        mine = texts[: len(turn.media)]
        filled = self.fill(turn.text, turn.media, mine)
        pieces, marks = self._split(turn.text, turn.media)
        sizes = [len(mark) for mark in marks]
        ends = list(accumulate(map(add, map(len, pieces), sizes)))
        grown = [len(text) - size for text, size in zip(mine, sizes, strict=False)]

        def at(place: int) -> int:
            """Where a character of the text with marks is in the filled one."""
            return place + sum(grown[: sum(end <= place for end in ends)])

        return replace(
            turn,
            text=filled,
            start=at(turn.start),
            end=at(turn.end),
            parts=tuple((at(left), at(right), weight) for left, right, weight in turn.parts),
        )
