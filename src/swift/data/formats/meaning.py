"""What a row may mean, beside a conversation and a plain text: one type for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swift.chat.message import Conversation, Message, Text

SYSTEMS = ("system", "developer")
"""Roles of a message that stands before what users say."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations with the same beginning, one better than the other.

    ``margin`` says by how much, in units of the reward.
    """

    chosen: Conversation
    rejected: Conversation
    margin: float | None = None

    @property
    def shared(self) -> int:
        """How many messages both begin with: the prompt."""
        return common(self.chosen.messages, self.rejected.messages)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """An answer, and whether it is a good one."""

    conversation: Conversation
    good: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation to be answered: its last message is a user's or a tool's.

    ``extra`` is everything else in the row, as a reward function takes it (``solution`` ...). An
    answer at the end of ``messages`` is there as ``response``.
    """

    conversation: Conversation
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Embedding:
    """What should lie near the anchor and what far from it; ``score`` says how near the one is."""

    anchor: Conversation
    positives: tuple[Conversation, ...]
    negatives: tuple[Conversation, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents for a query, each with its relevance; a document is a user's message.

    ``asked``: whether a document fits its query is a question to the model, yes or no.
    """

    query: Conversation
    documents: tuple[Conversation, ...]
    labels: tuple[float, ...]
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Classification:
    """A conversation and its class, its number (float), or several of the one or the other."""

    conversation: Conversation
    label: int | float | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """What is asked, the steps of an answer, and whether each is right (1) or wrong (0)."""

    conversation: Conversation
    steps: tuple[str, ...]
    labels: tuple[float, ...]


Meaning = (
    Conversation
    | Text
    | Preference
    | Unpaired
    | Prompt
    | Embedding
    | Ranking
    | Classification
    | Steps
)


def common(first: tuple[Message, ...], second: tuple[Message, ...]) -> int:
    """How many messages two conversations begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def conversations(meaning: Meaning) -> tuple[Conversation, ...]:
    """Every conversation in a meaning."""
    match meaning:
        case Text():
            return ()
        case Conversation():
            return (meaning,)
        case Preference():
            return (meaning.chosen, meaning.rejected)
        case Embedding():
            return (meaning.anchor, *meaning.positives, *meaning.negatives)
        case Ranking():
            return (meaning.query, *meaning.documents)
        case _:
            return (meaning.conversation,)


def kind_of(meaning: Meaning) -> str:
    """The word for what it is: conversation, text, preference, unpaired ..."""
    return type(meaning).__name__.lower()


def with_system(meaning: Meaning, system: str) -> Meaning:
    """With a system message where there is none; of groups of texts the anchor or query has it."""

    def led(conversation: Conversation) -> Conversation:
        messages = conversation.messages
        if not messages or messages[0].role in SYSTEMS:
            return conversation
        return replace(conversation, messages=(Message("system", system), *messages))

    return _changed(meaning, led)


def each(meaning: Meaning, change: Callable[[Conversation], Conversation]) -> Meaning:
    """A meaning with every conversation in it changed."""
    meaning = _changed(meaning, change)
    match meaning:
        case Embedding():
            positives, negatives = (
                tuple(map(change, some)) for some in (meaning.positives, meaning.negatives)
            )
            return replace(meaning, positives=positives, negatives=negatives)
        case Ranking():
            return replace(meaning, documents=tuple(map(change, meaning.documents)))
        case _:
            return meaning


def _changed(meaning: Meaning, change: Callable[[Conversation], Conversation]) -> Meaning:
    """With the one conversation changed that leads, of a pair with both."""
    match meaning:
        case Text():
            return meaning
        case Conversation():
            return change(meaning)
        case Preference():
            return replace(
                meaning, chosen=change(meaning.chosen), rejected=change(meaning.rejected)
            )
        case Embedding():
            return replace(meaning, anchor=change(meaning.anchor))
        case Ranking():
            return replace(meaning, query=change(meaning.query))
        case _:
            return replace(meaning, conversation=change(meaning.conversation))
