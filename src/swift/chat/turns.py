"""Learned turns -> tokens, each behind the tokens of its own prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from swift.chat.message import Media, Rendered
from swift.chat.tokenizer import Encoding, Tokenizer
from swift.chat.weights import Part
from swift.errors import RenderError


@dataclass(frozen=True)
class Turn:
    """A turn to learn: where it starts, behind what is given, and ends in the text up to it."""

    text: str
    start: int
    end: int
    parts: tuple[Part, ...]
    media: tuple[Media, ...] = ()  # those in the text


class TurnTokens:
    """A tokenizer that keeps the tokens of prompts as they are sent."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._headers: dict[str, list[int]] = {}

    def samples(self, turns: list[Turn]) -> list[Rendered]:
        """Turns of one conversation; those whose texts go on from one another share a sample.

        Raises:
            RenderError: the tokenizer merges what must stay apart.
        """
        return [sample for group in _chains(turns) for sample in self._samples(group)]

    def _samples(self, turns: list[Turn]) -> list[Rendered]:
        """One text (that of the last turn) as tokens, with its learned turns."""
        text = turns[-1].text
        encoding = self._tokenizer.encode(text)
        if not all(self._keeps_prompt(text, encoding, turn.start) for turn in turns):
            return [self._apart(turn) for turn in turns]
        weights = [0.0] * len(encoding.ids)
        for turn in turns:
            self._check_stop(encoding.ids[encoding.index(turn.end) - 1])
            _weigh(weights, encoding, 0, turn.parts)
        return [Rendered(encoding.ids, weights, turns[-1].media)]

    def _apart(self, turn: Turn) -> Rendered:
        """A turn whose first characters the tokenizer would merge with the end of its prompt.

        Inference sends the prompt alone and the model goes on from there: so are the two tokenized.
        """
        prompt = self._tokenizer.encode(turn.text[: turn.start]).ids
        encoding = self._tokenizer.encode(turn.text[turn.start : turn.end])
        answer = encoding.ids
        whole = self._tokenizer.encode(turn.text[: turn.end]).ids
        texts = [self._tokenizer.decode(ids, keep_special=True) for ids in (prompt + answer, whole)]
        if texts[0] != texts[1]:
            raise RenderError(
                "the tokenizer merges the end of the prompt with the start of the answer, and "
                "tokenized apart they are another text"
            )
        self._check_stop(answer[-1])
        weights = [0.0] * len(answer)
        _weigh(weights, encoding, turn.start, turn.parts)
        return Rendered(prompt + answer, [0.0] * len(prompt) + weights, turn.media)

    def _check_stop(self, id: int) -> None:
        if id not in self._stop_ids:
            raise RenderError("the tokenizer merges the stop token with what follows it")

    def _keeps_prompt(self, text: str, encoding: Encoding, start: int) -> bool:
        """Whether the tokens before an answer are those of its prompt alone.

        Tokenizers cut a text at control tokens first, so it is enough to tokenize the prompt from
        the last control token on.
        """
        first = encoding.index(start)
        since = first
        while since > 0 and encoding.ids[since - 1] not in self._tokenizer.special_ids:
            since -= 1
        since = max(since - 1, 0)
        left = encoding.left(since) if since < len(encoding.ids) else 0
        header = text[left:start]
        alone = self._headers.get(header)
        if alone is None:
            alone = self._tokenizer.encode(header).ids
            if len(self._headers) < 10_000 and len(header) < 200:
                self._headers[header] = alone
        return encoding.ids[since:first] == alone


def _weigh(weights: list[float], encoding: Encoding, start: int, parts: Sequence[Part]) -> None:
    """Give the tokens that begin in a part its weight; the encoding's text begins at ``start``."""
    for left, right, weight in parts:
        first, last = encoding.index(left - start), encoding.index(right - start)
        weights[first:last] = [weight] * (last - first)


def _chains(turns: list[Turn]) -> list[list[Turn]]:
    """Group turns so that each one's text is the beginning of its group's last text."""
    groups: list[list[Turn]] = []
    for turn in reversed(turns):
        for group in groups:
            if group[-1].text.startswith(turn.text[: turn.end]):
                group.insert(0, turn)
                break
        else:
            groups.append([turn])
    return groups[::-1]
