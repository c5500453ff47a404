"""Tasks of reasoning-gym: generated without end, each with a checker of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reasoning_gym import get_score_answer_fn
from reasoning_gym.factory import create_dataset

from swift.chat.message import Conversation, Message
from swift.rl.environment import Step
from swift.rl.rewards.answer import answer_in


def rows(task: str, size: int, seed: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """Rows for ``--dataset``: the question as a message, the answer, and what its checker needs.

    Args:
        task: name of a task, such as chain_sum.
        size: how many.
        seed: other seeds give other questions.
        settings: of the task.
    """
    for entry in create_dataset(task, size=size, seed=seed, **settings):
        yield {
            "messages": [{"role": "user", "content": entry["question"]}],
            "solution": entry["answer"],
            "entry": json.dumps(entry, default=str),
        }


class ReasoningGym:
    """Judges an answer with the checker of the row's task; there is one turn."""

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        """The row as it is."""
        self._entry = json.loads(columns["entry"])
        return asked

    def step(self, answer: Message) -> Step:
        """The checker's score, from 0 to 1."""
        judge = get_score_answer_fn(self._entry["metadata"]["source_dataset"])
        score = judge(answer=answer_in(str(answer.content)), entry=self._entry)
        return Step(reward=float(score))


def reasoning_gym(settings: Mapping[str, Any]) -> ReasoningGym:
    """The environment; it takes no settings."""
    return ReasoningGym()
