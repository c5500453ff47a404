"""Rewards of answers to prompts that nothing is learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from swift.rl.advantage import total
from swift.rl.rollout import Question, Rollout
from swift.rl.supply import Supply


@dataclass(frozen=True)
class Evaluation:
    """Asks the model, as it is now, what nobody taught it."""

    supply: Supply
    rollout: Rollout  # how these answers are drawn
    questions: Sequence[Question]
    weights: Sequence[float]  # of the reward functions

    def __call__(self) -> dict[str, float]:
        """Means over the answers: ``reward``, each function's, lengths, the share cut off.

        Raises:
            EngineLost: nobody answers.
        """
        answers = self.supply.ask_now(self.rollout, self.questions)
        rewards_GKF = torch.tensor([[a.rewards] for a in answers], dtype=torch.float64)
        columns = {"reward": total(rewards_GKF, self.weights)[:, 0].tolist()}
        for number, name in enumerate(self.supply.judges.functions):
            columns[f"reward/{name}"] = [answer.rewards[number] for answer in answers]
        columns["completion_length"] = [float(answer.length) for answer in answers]
        columns["cut_off"] = [float(answer.finish == "length") for answer in answers]
        found = {}
        for name, values in columns.items():
            judged = [value for value in values if not math.isnan(value)]
            found[name] = sum(judged) / len(judged) if judged else math.nan
        return found
