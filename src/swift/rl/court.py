"""All that judges drawn answers: functions and models, of outcomes and of the ways to them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from swift import registry
from swift.chat.message import Conversation
from swift.config.reward import RewardSection
from swift.config.sample import SampleConfig
from swift.observe.log import Log
from swift.rl import score
from swift.rl.best import Drawn
from swift.rl.rewards.model import judges
from swift.rl.score import Judges, Reward


def text_of(message: Mapping[str, Any]) -> str:
    """What a judge reads: an answer with its thinking."""
    thinking = message.get("reasoning_content")
    content = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"<think>\n{thinking}\n</think>\n\n{text}" if thinking else text


@dataclass(frozen=True)
class Court:
    """All that judges: outcomes with weights, and the way to them."""

    outcomes: Judges | None
    weights: Sequence[float]
    process: Judges | None

    def __call__(
        self,
        asked: Conversation,
        beside: Mapping[str, Any],
        answers: Sequence[Mapping[str, Any]],
    ) -> list[Drawn]:
        """The answers to a query with what they are worth.

        Args:
            asked: the query.
            beside: further columns of its row.
            answers: as rows hold them.
        """
        texts = [text_of(answer) for answer in answers]
        columns: dict[str, list[Any]] = {
            name: [value] * len(texts) for name, value in _columns(asked, beside).items()
        }
        outcomes = self._total(self.outcomes, texts, columns, self.weights)
        process = self._total(self.process, texts, columns, [1.0])
        pairs = zip(answers, texts, outcomes, process, strict=True)
        return [Drawn(dict(answer), text, o, p) for answer, text, o, p in pairs]

    def _total(
        self,
        judges: Judges | None,
        texts: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        weights: Sequence[float],
    ) -> Sequence[float | None]:
        """Weighted sums; a function that does not judge an answer counts for nothing, and where
        none does it is NaN.
        """
        if judges is None:
            return [None] * len(texts)
        totals = []
        for row in judges(texts, columns):
            known = [w * x for w, x in zip(weights, row, strict=True) if not math.isnan(x)]
            totals.append(sum(known) if known else math.nan)
        return totals


def _columns(asked: Conversation, beside: Mapping[str, Any]) -> dict[str, Any]:
    """What a reward function gets beside an answer, as in training. The answer that a row had is
    the solution where it says no other.
    """
    found = dict(beside)
    if isinstance(found.get("response"), str):
        found.setdefault("solution", found["response"])
    return {**found, "messages": asked.messages, "questions": str(asked.messages[-1].content)}


def court_of(config: SampleConfig, device: torch.device, log: Log) -> Court:
    """What judges, as a configuration names it.

    Raises:
        ConfigError: a model cannot be used.
        MissingExtra: a function needs a package that is absent.
    """
    section = score.filled(config.reward, config.infer.max_new_tokens)
    found = score.find(section) | judges(section.models, device, config.model.hub, log)
    weights = list(section.weights or [1.0] * len(found))
    if config.sample.orm_model is not None:
        found |= _named(config.sample.orm_model, config, device, log)
        weights.append(1.0)
    outcomes = Judges(found, section.timeout_s) if found else None
    process = None
    if config.sample.prm_model is not None:
        named = _named(config.sample.prm_model, config, device, log)
        process = Judges(named, section.timeout_s)
    return Court(outcomes, weights, process)


def _named(name: str, config: SampleConfig, device: torch.device, log: Log) -> dict[str, Reward]:
    """A function that is registered, or else a model."""
    if name in registry.entries("reward"):
        wanted: RewardSection = config.reward.model_copy(update={"funcs": [name]})
        return score.find(wanted)
    return judges([name], device, config.model.hub, log)
