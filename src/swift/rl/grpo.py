"""Generate, judge, learn: the rounds of policy-gradient training.

A round draws prompts, lets the live model answer each several times, judges the answers, makes
advantages of the rewards, and deals the answers out to the micro-batches of its steps. What is then
learned from them is losses/policy.py; these two files are the whole of GRPO and its relatives.

Axes: G prompts of a round, K answers to each, F reward functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from swift import registry
from swift.config.policy import PolicySection
from swift.config.ppo import PpoSection
from swift.data.batch import Batch
from swift.data.sample import Sample
from swift.errors import NoAnswers
from swift.parallel.mesh import Mesh
from swift.rl.advantage import advantages, total, without_signal
from swift.rl.answers import Answer, samples_of, weights_of
from swift.rl.chord import Experts, Mixed
from swift.rl.gae import estimate
from swift.rl.objective import PolicyBatch, joined, policy_batch
from swift.rl.rollout import FAULTS as OF_ROLLOUT
from swift.rl.rollout import seed_of
from swift.rl.score import FAULTS as OF_REWARDS
from swift.rl.supply import Supply

FAULTS = (*OF_ROLLOUT, *OF_REWARDS)


@dataclass(frozen=True)
class Scored:
    """What policy, reference and critic think of the learned tokens of a batch."""

    drawn: list[float]
    plain: list[float]
    entropy: list[float]
    reference: list[float] | None
    values: list[float] | None


@dataclass(frozen=True)
class Measures:
    """How a round is cut."""

    batch_size: int  # answers of a micro-batch
    accumulation: int  # micro-batches of a step on one process
    steps: int  # that the answers of a round are dealt out to, once
    iterations: int  # times that they are learned from
    generations: int  # answers to each prompt
    most: int  # longest answer

    @property
    def together(self) -> int:
        """Steps that learn from the answers of one round."""
        return self.steps * self.iterations

    def answers(self, processes: int) -> int:
        """Answers of a round."""
        return self.batch_size * self.accumulation * self.steps * processes


@dataclass
class Rounds:
    """The rounds of a run, and where it stands in them."""

    supply: Supply  # of answers
    weights: Sequence[float]  # of the reward functions
    section: PolicySection
    measures: Measures
    lay: Callable[[Sequence[Sample]], Batch]
    read: Callable[[Batch], Scored]
    mesh: Mesh
    seed: int
    record: Path | None = None  # completions.jsonl
    experts: Experts | None = None
    step: int = 0  # the next step of the run
    answers: list[Answer] = field(default_factory=list)  # of the round under way
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    def windows(self, first: int, last: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step on this process; the weights are those of that moment."""
        m = self.measures
        self.step = first
        while self.step < last:
            place = self.step % m.together
            if place == 0:
                self.answers = self._round(last)
            made = self._window(place % m.steps)
            self.step += 1  # a checkpoint that follows goes on behind this step
            yield made

    def as_dict(self) -> dict[str, Any]:
        """What the run needs to go on from here, for JSON."""
        under_way = self.step % self.measures.together
        answers = [answer.as_dict() for answer in self.answers] if under_way else []
        return {**self.supply.as_dict(), "answers": answers}

    def go_on(self, record: dict[str, Any]) -> None:
        """Take up what ``as_dict`` gave."""
        self.supply.go_on(record)
        self.answers = [Answer(**answer) for answer in record["answers"]]

    def _round(self, last: int) -> list[Answer]:
        """Answers with advantages, the same on every process, in the order of learning.

        Args:
            last: step at which the run ends.
        """
        count = self.measures.answers(self.mesh.world.size)
        prompts, steps = count // self.measures.generations, self.measures.together
        groups, resampled = self._groups(self.step // steps, prompts)
        self.supply.rest()
        answers = [answer for group in groups for answer in group]
        if not any(answer.length for answer in answers):
            self.supply.forget()
            raise NoAnswers(
                f"step {self.step + 1}: not one of {len(answers)} answers could be generated "
                f"({', '.join(f'{n:g} x {name}' for name, n in self._faults().items() if n)})"
                + self.supply.rollout.why
            )
        if self.measures.steps > 1:  # so that no step is made of a few prompts alone
            random = torch.Generator().manual_seed(seed_of(self.seed, self.step))
            dealt = torch.randperm(count, generator=random).split(self.measures.batch_size)
            # within a micro-batch those to one prompt lie side by side: it is read once
            answers = [answers[i] for part in dealt for i in part.sort().values.tolist()]
        if self._needs_scores():
            with self.supply.watch.took("score_s"):
                self._score(answers)
        self._judge(groups)
        self.metrics = self._report(groups, resampled)
        if self.record is not None and self.mesh.world.is_main:
            self._write(groups)
        self.supply.look_ahead(self.step // steps, prompts, (last - 1 - self.step) // steps)
        return answers

    def _groups(self, round: int, count: int) -> tuple[list[list[Answer]], int]:
        """Answered prompts, and how many more were tried for want of signal."""
        found = self.supply.next(round, count)
        if not self.section.dynamic_sample:
            return found, 0
        good = [group for group in found if self._teaches(group)]
        dull = [group for group in found if not self._teaches(group)]
        tries = tried = 0
        while len(good) < count and tries < self.section.max_resample_times:
            more = self.supply.more(count - len(good))
            good += [group for group in more if self._teaches(group)]
            tries, tried = tries + 1, tried + len(more)
        return [*good, *dull][:count], tried

    def _teaches(self, group: list[Answer]) -> bool:
        return not bool(without_signal(total(rewards_of([group]), self.weights))[0])

    def _needs_scores(self) -> bool:
        """Whether the policy is asked before the first step."""
        asks = self.section.beta > 0 or self.section.critic
        return self.measures.together > 1 or asks or self.section.top_entropy_quantile < 1

    def _score(self, answers: list[Answer]) -> None:
        """What policy and reference think of the answers, in the micro-batches of learning."""
        mine: dict[int, list[list[float] | None]] = {}
        entropies: dict[int, list[float]] = {}
        for step in range(self.measures.steps):
            for part in self._parts(step):
                chosen = [answers[i] for i in part]
                seen = self.read(self.lay(samples_of(chosen, [1.0] * len(part))))
                at = 0
                for i in part:
                    span = slice(at, at + answers[i].length)
                    columns = (seen.drawn, seen.plain, seen.reference, seen.values)
                    mine[i] = [None if column is None else column[span] for column in columns]
                    entropies[i] = seen.entropy[span]
                    at = span.stop
        for part_of in self.mesh.gather(mine):
            for i, (old, plain, reference, values) in part_of.items():
                answers[i].old, answers[i].plain = old, plain
                answers[i].reference, answers[i].values = reference, values
        if self.section.top_entropy_quantile < 1:
            merged = {i: x for part in self.mesh.gather(entropies) for i, x in part.items()}
            self._keep(answers, merged)

    def _keep(self, answers: list[Answer], entropies: dict[int, list[float]]) -> None:
        """Mark the tokens of highest entropy of every step (arXiv:2506.01939)."""
        size = len(answers) // self.measures.steps
        for start in range(0, len(answers), size):
            values = [x for i in range(start, start + size) for x in entropies[i]]
            part = 1 - self.section.top_entropy_quantile
            least = float(torch.tensor(values or [0.0], dtype=torch.float64).quantile(part))
            for i in range(start, start + size):
                answers[i].keep = [float(x >= least) for x in entropies[i]]

    def _judge(self, groups: list[list[Answer]]) -> None:
        """Make advantages of rewards."""
        if isinstance(self.section, PpoSection):
            estimate([a for group in groups for a in group], self.weights, self.section)
            return
        penalty_GK = None
        if self.section.kl_in_reward and self.section.beta:
            penalty_GK = torch.tensor(
                [[self.section.beta * self._distance(answer) for answer in g] for g in groups],
                dtype=torch.float64,
            )
        found_GK = advantages(rewards_of(groups), self.weights, self.section, penalty_GK)
        for group, row in zip(groups, found_GK.tolist(), strict=True):
            for answer, value in zip(group, row, strict=True):
                answer.advantage = value

    def _distance(self, answer: Answer) -> float:
        """The estimated KL of a whole answer."""
        assert answer.old is not None and answer.reference is not None
        pair = (torch.tensor(answer.old), torch.tensor(answer.reference))
        return float(registry.load("kl", self.section.kl)(*pair).sum())

    def _parts(self, step: int) -> list[list[int]]:
        """The answers of this process's micro-batches of a step of the round."""
        m, world = self.measures, self.mesh.world
        first = step * m.batch_size * m.accumulation * world.size
        starts = [
            first + (micro * world.size + world.rank) * m.batch_size
            for micro in range(m.accumulation)
        ]
        return [list(range(start, start + m.batch_size)) for start in starts]

    def _window(self, step: int) -> list[Batch]:
        made: list[Batch] = []
        size = len(self.answers) // self.measures.steps
        whole_step = self.answers[step * size : (step + 1) * size]
        # where nothing at all is learned, the loop must not divide by nothing
        whole = sum(self._weights(answer)[1] for answer in whole_step)
        spare, parts = 0.0 if whole else 1.0, self._parts(step)
        world = self.mesh.world
        count = whole + spare * len(parts) * world.size
        mixed: list[Mixed | None] = [None] * len(parts)
        if self.experts is not None:
            mixed = [*self.experts.of_step(self.step, world.rank, count)]
        for number, part in enumerate(parts):
            answers = [self.answers[i] for i in part]
            pairs = [self._weights(answer) for answer in answers]
            batch = self.lay(samples_of(answers, [token for token, _ in pairs]))
            used = [a for a, (w, _) in zip(answers, pairs, strict=True) if w]
            weight = sum(whole for _, whole in pairs) + spare
            made.append(self._batch(batch, used, weight, number == 0, mixed[number]))
        self.metrics = {}
        return made

    def _weights(self, answer: Answer) -> tuple[float, float]:
        return weights_of(answer, self.section, self.measures.most)

    def _batch(
        self, plain: Batch, used: list[Answer], weight: float, reports: bool, mixed: Mixed | None
    ) -> PolicyBatch:
        """A laid micro-batch with the columns of the answers that are learned from."""
        main = self.mesh.world.is_main
        several = self.measures.together > 1
        metrics = {name: pair if main else (0.0, 0.0) for name, pair in self.metrics.items()}
        return policy_batch(
            plain,
            weight,
            advantage_N=joined([a.advantages for a in used]),
            engine_N=joined([a.engine for a in used]),
            engine_drawn_N=joined([a.drawn for a in used]),
            old_N=joined([a.old for a in used]) if several else None,
            plain_N=joined([a.plain for a in used]) if several else None,
            reference_drawn_N=joined([a.reference for a in used]) if self._in_loss() else None,
            keep_N=joined([a.keep for a in used]) if self._masks() else None,
            value_N=joined([a.values for a in used]) if self.section.critic else None,
            return_N=joined([a.returns for a in used]) if self.section.critic else None,
            mixed=mixed,
            metrics=metrics if reports else {},
        )

    def _in_loss(self) -> bool:
        return self.section.beta > 0 and not self.section.kl_in_reward

    def _masks(self) -> bool:
        return self.section.top_entropy_quantile < 1

    def _faults(self) -> dict[str, float]:
        """What went wrong since the last round, on all processes."""
        counts = self.supply.faults.copy()
        self.supply.faults.clear()
        return dict(zip(FAULTS, self.mesh.sum([counts[name] for name in FAULTS]), strict=True))

    def _report(self, groups: list[list[Answer]], resampled: int) -> dict[str, tuple[float, float]]:
        """Metrics of a round: each a sum, and what divides it."""
        answers = [answer for group in groups for answer in group if answer.finish != "absent"]
        rewards_GK = total(rewards_of(groups), self.weights)
        judged = rewards_GK[~rewards_GK.isnan()]
        spread = [float(x[~x.isnan()].std(correction=0)) for x in rewards_GK if (~x.isnan()).any()]
        dull = int(without_signal(rewards_GK).sum())
        count = float(len(answers))
        found = {
            "reward": (float(judged.sum()), float(len(judged))),
            "reward_std": (sum(spread), float(len(spread))),
            "groups_without_signal": (float(dull), float(len(groups))),
            "groups_resampled": (float(resampled), 1.0),
            "completion_length": (float(sum(answer.length for answer in answers)), count),
            "staleness": (float(self.supply.staleness), 1.0),
            "cut_off": (float(sum(answer.finish == "length" for answer in answers)), count),
        }
        if self.section.kl_in_reward and self.section.beta:
            tokens = float(sum(answer.length for answer in answers))
            found["kl"] = (sum(self._distance(answer) for answer in answers), tokens)
        for column, name in enumerate(self.supply.judges.functions):
            values = [a.rewards[column] for a in answers if not math.isnan(a.rewards[column])]
            found[f"reward/{name}"] = (sum(values), float(len(values)))
        found |= {name: (seconds, 1.0) for name, seconds in self.supply.watch.read().items()}
        faults = self._faults()
        return {**found, **{f"fault/{name}": (value, 1.0) for name, value in faults.items()}}

    def _write(self, groups: list[list[Answer]]) -> None:
        """Put the answers of a round beside the run."""
        assert self.record is not None
        names = list(self.supply.judges.functions)
        with self.record.open("a", encoding="utf-8") as file:
            for answer in (answer for group in groups for answer in group):
                if answer.finish == "absent":
                    continue
                values = [None if math.isnan(x) else x for x in answer.rewards]
                line = {
                    "step": self.step + 1, "place": answer.place, "completion": answer.text,
                    "finish": answer.finish, "rewards": dict(zip(names, values, strict=True)),
                    "advantage": answer.advantage,
                }  # fmt: skip
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def rewards_of(groups: Sequence[Sequence[Answer]]) -> torch.Tensor:
    """What every function said of the answers: float64 (G, K, F), NaN where it said nothing."""
    rewards = [[answer.rewards for answer in group] for group in groups]
    return torch.tensor(rewards, dtype=torch.float64)
