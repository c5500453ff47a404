"""Where media stand in what a template writes, and the text that stands there for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from swift.chat.media.prepare import Prepare
from swift.chat.media.processor import TEXT, MediaSpec, Processor
from swift.chat.message import Media
from swift.chat.tokenizer import Tokenizer
from swift.chat.turns import Turn
from swift.errors import DataError, RenderError

Features = dict[str, np.ndarray[Any, Any]]
"""What a model reads beside tokens, by the names of its arguments."""

Write = Callable[[Sequence[Mapping[str, Any]]], str]
"""Messages as a template writes them."""


class Marks:
    """How one checkpoint writes images."""

    def __init__(self, spec: MediaSpec, tokenizer: Tokenizer, write: Write) -> None:
        self.processor = Processor(spec)
        self.prepare = Prepare(spec, self.processor, lambda _: self.mark)
        self._tokenizer = tokenizer
        self._write = write

    @cached_property
    def _written(self) -> str:
        """What the template writes for an image in a message; empty: it knows texts alone."""
        text = {"type": "text", "text": "zquser"}
        try:
            plain = self._write([{"role": "user", "content": [text]}])
            whole = self._write([{"role": "user", "content": [{"type": "image"}, text]}])
        except RenderError:
            return ""
        head, _, tail = plain.partition("zquser")
        inside = whole.removeprefix(head).removesuffix(tail).removesuffix("zquser")
        return inside if whole == f"{head}{inside}zquser{tail}" else ""

    @cached_property
    def in_template(self) -> bool:
        """Whether the template itself writes the mark."""
        return bool(self._of(self._written))

    @cached_property
    def mark(self) -> str:
        """The control token that stands for an image.

        Raises:
            RenderError: there is none.
        """
        for text in (self._written, *self.processor.names):
            if found := self._of(text):
                return found
        raise RenderError("neither the template nor the processor says where an image stands")

    def _of(self, text: str) -> str | None:
        """The control token in a text that the processor takes for an image."""
        ids = self._tokenizer.encode(text).ids if text else []
        tokens = [
            self._tokenizer.decode([id], keep_special=True)
            for id in dict.fromkeys(ids)
            if id in self._tokenizer.special_ids
        ]
        return next((token for token in tokens if self.processor.is_mark(token)), None)

    def flat(self, turn: Mapping[str, Any]) -> Mapping[str, Any]:
        """A (quoted) turn with marks in its text, for a template that knows texts alone."""
        content = turn.get("content")
        if self.in_template or not isinstance(content, list):
            return turn
        texts = (part.get("text", self.mark) for part in content)
        return {**turn, "content": "".join(texts)}

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
            raise RenderError("the tokens that stand for an image cannot be written as a text")
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
        counts = Counter(made["input_ids"][0].tolist())
        feature, expected = counts.most_common(1)[0]
        found = sum(list(tokens).count(feature) for tokens, _ in samples)
        if found != expected:
            raise DataError(
                f"its images take {expected} places, its tokens hold {found}: an image has changed "
                "since the tokens were made; make them anew with --load_from_cache_file false"
            )
        return {name: value for name, value in made.items() if name not in TEXT}

    def fill(self, text: str, texts: Sequence[str]) -> str:
        """A text with what stands for each medium at its mark.

        Raises:
            RenderError: the template leaves a medium out, or writes one twice.
        """
        pieces = text.split(self.mark)
        if len(pieces) != len(texts) + 1:
            raise RenderError(
                f"the template writes {len(pieces) - 1} of {len(texts)} images, so the model would "
                "not see them as they are given"
            )
        return "".join(piece + filled for piece, filled in zip(pieces, [*texts, ""], strict=True))

    def fill_turn(self, turn: Turn, texts: Sequence[str]) -> Turn:
        """The same of a turn that is learned; ``texts`` are those of the whole conversation."""
        mine = texts[: len(turn.media)]
        size = len(self.mark)
        ends = list(accumulate(len(piece) + size for piece in turn.text.split(self.mark)))

        def at(place: int) -> int:
            """Where a character of the text with marks is in the filled one."""
            before = sum(end <= place for end in ends[: len(mine)])
            return place + sum(len(text) - size for text in mine[:before])

        return replace(
            turn,
            text=self.fill(turn.text, mine),
            start=at(turn.start),
            end=at(turn.end),
            parts=tuple((at(left), at(right), weight) for left, right, weight in turn.parts),
        )
