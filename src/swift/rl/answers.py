"""Answers that are learned from: tokens, rewards, advantage, and who thought what of them.

Plain numbers, so that a checkpoint in the middle of a round holds them to the bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from swift import registry
from swift.chat.message import Media
from swift.config.policy import PolicySection
from swift.data.sample import Sample
from swift.rl.rollout import Episode


@dataclass
class Answer:
    """One answer; columns have a number for each token that the model wrote."""

    prompt: list[int]
    tokens: list[int]  # behind the prompt
    own: list[bool]  # which of these the model wrote
    engine: list[float] | None  # log-probabilities of the engine
    drawn: list[float] | None  # the same of what was drawn from
    finish: str
    place: str
    text: str
    rewards: list[float]  # of every function; NaN: not judged
    media: list[tuple[str, Any]] = field(default_factory=list)
    advantage: float = 0.0
    keep: list[float] | None = None  # 1 where the advantage is learned
    old: list[float] | None = None
    plain: list[float] | None = None
    reference: list[float] | None = None
    values: list[float] | None = None  # of a critic
    gains: list[float] | None = None  # the advantage of every token; None: that of the answer
    returns: list[float] | None = None  # what the critic should have said

    @property
    def advantages(self) -> list[float]:
        """That of every token."""
        return [self.advantage] * self.length if self.gains is None else self.gains

    @property
    def length(self) -> int:
        """Tokens that the model wrote."""
        return sum(self.own)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def answer_of(episode: Episode, rewards: Sequence[float]) -> Answer:
    """What is learned from an episode."""
    own = [value for value, mine in zip(episode.logprobs, episode.own, strict=True) if mine]
    drawn = [value for value, mine in zip(episode.drawn, episode.own, strict=True) if mine]
    return Answer(
        episode.prompt, episode.tokens, episode.own, own if episode.scored else None,
        drawn if episode.exact else None, episode.finish, episode.question.place,
        episode.text or "", list(rewards),
        [(medium.kind, medium.source) for medium in episode.said.media],
    )  # fmt: skip


def samples_of(answers: Sequence[Answer], weights: Sequence[float]) -> list[Sample]:
    """Answers as every part below knows them; those to one prompt that lie side by side are one
    sample, whose prompt can be read once.

    Args:
        answers: in the order of the learned tokens.
        weights: what each token of an answer counts for.
    """
    made = []
    numbered = enumerate(zip(answers, weights, strict=True))
    for _, group in itertools.groupby(numbered, key=_alike):
        members = [pair for _, pair in group]
        first = members[0][0]
        tokens = [[*answer.prompt, *answer.tokens] for answer, _ in members]
        counts = [
            [0.0] * len(answer.prompt) + [weight * own for own in answer.own]
            for answer, weight in members
        ]
        made.append(
            Sample(
                np.concatenate([np.array(part, np.int32) for part in tokens]),
                np.concatenate([np.array(part, np.float32) for part in counts]),
                first.place,
                tuple(Media(kind, source) for kind, source in first.media),  # type: ignore[arg-type]
                parts=tuple(map(len, tokens)) if len(tokens) > 1 else (),
            )
        )
    return made


def _alike(numbered: tuple[int, tuple[Answer, float]]) -> object:
    """Equal for answers that may share a prompt; what is made of media is never shared."""
    number, (answer, _) = numbered
    return number if answer.media else answer.prompt


def learned(answer: Answer, section: PolicySection) -> bool:
    """Whether anything is learned from it."""
    if not answer.length or answer.finish in ("failed", "absent"):
        return False
    return not (section.overlong_filter and answer.finish == "length")


def weights_of(answer: Answer, section: PolicySection, most: int) -> tuple[float, float]:
    """What one token counts for, and what the answer counts for in the division.

    An answer that nothing is learned from counts like the others where answers count, and for
    nothing where tokens do, as in TRL. One that is absent counts for nothing at all.
    """
    if answer.finish == "absent":
        return 0.0, 0.0
    length = answer.length if learned(answer, section) else 0
    token, whole = registry.load("aggregate", section.aggregate)(length, most)
    return (token if length else 0.0), whole
