"""The answers that a run learns from: drawn when they are needed, or ahead of their time.

Ahead of their time: while a round is learned from, those that follow are drawn in a thread beside
it, by an engine whose weights are then some rounds old. What decides is counted in rounds, never in
time, so that a run is the same whatever takes how long.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from swift.data.stream import Order
from swift.errors import EngineLost, OtherWeights, SwiftError
from swift.parallel.mesh import Mesh
from swift.rl.answers import Answer, answer_of
from swift.rl.recorded import Recorded
from swift.rl.rollout import Episode, Question, Rollout, seed_of
from swift.rl.score import Judges
from swift.rl.watch import Watch

_APART = -1  # in place of a round: the weights of some moment

Groups = list[list[Answer]]
"""The answers to each of some prompts."""


@dataclass(frozen=True)
class Made:
    """What one process has of the answers to some prompts."""

    answers: list[Answer]
    faults: Mapping[str, int] = field(default_factory=dict)
    lost: EngineLost | None = None  # why there are none


@dataclass(frozen=True)
class Coming:
    """The answers of a round to come."""

    prompts: range  # numbers of those, as they are drawn
    round: int  # that the weights are of
    made: Future[Made]


@dataclass
class Supply:
    """Draws prompts, has them answered and judged; every process does its share."""

    rollout: Rollout | Recorded
    judges: Judges
    questions: Sequence[Question]
    order: Order  # of the questions
    generations: int  # answers to each
    mesh: Mesh
    seed: int
    give: Callable[[int], None]  # hands the engine the weights of now, as the n-th of the run
    rest: Callable[[], None]  # when the answers of a round are there
    ahead: int = 0  # most rounds by which these may be behind
    drawn: int = 0  # prompts drawn so far
    staleness: int = 0  # rounds by which the weights of the last answers were behind
    faults: Counter[str] = field(default_factory=Counter)  # on this process, since the last report
    watch: Watch = field(default_factory=Watch)
    _coming: deque[Coming] = field(default_factory=deque)
    _begun: int = 0  # prompts drawn before this round
    _given: int = _APART  # the round whose weights the engine has
    _times: int = 0  # that weights were handed over
    _engine: threading.Lock = field(default_factory=threading.Lock)

    def next(self, round: int, count: int) -> Groups:
        """The answers to the prompts of a round, which begins now.

        Raises:
            EngineLost: nobody answers. Here as in ``more`` and ``look_ahead`` the round then counts
                as not begun.
        """
        self._begun = self._next_prompt
        if not self._coming:
            self._hand_over(round)
            self.staleness = 0
            return self.more(count)
        first = self._coming.popleft()
        self.staleness = round - first.round
        return self._grouped(self._collect(self._work(first.prompts), first.made.result()))

    def more(self, count: int) -> Groups:
        """The answers to further prompts, drawn now."""
        return self._grouped(self._collect(self._work(self._numbers(count))))

    def ask_now(self, rollout: Rollout, asked: Sequence[Question]) -> list[Answer]:
        """Answers, on every process, of the weights of now to prompts that nothing is learned of.

        Args:
            rollout: draws them, with this engine.
            asked: the prompts.

        Raises:
            EngineLost: nobody answers.
        """
        self._begun = self._next_prompt
        for one in self._coming:
            one.made.result()  # they are of the weights that the engine has
        self._hand_over(_APART)
        seeded = [(one, seed_of(self.seed, number)) for number, one in enumerate(asked)]
        found = self._collect(partial(self._make, rollout, seeded))
        self.rest()
        return found

    def look_ahead(self, round: int, count: int, left: int) -> None:
        """Begin with the rounds that follow ``round``, whose answers are all here.

        Args:
            round: is learned from next.
            count: prompts of each.
            left: rounds behind this one.
        """
        if not self.ahead or self._coming or not left:
            return
        self._hand_over(round)
        for _ in range(min(self.ahead, left)):
            prompts = self._numbers(count)
            self._coming.append(Coming(prompts, round, _begin(self._work(prompts))))

    def as_dict(self) -> dict[str, Any]:
        """What the run needs to go on from here, for JSON; waits for what is being drawn.

        All processes must ask for it. Where an answer is lost, those to come are drawn anew.
        """
        coming = []
        for one in self._coming:
            parts = self.mesh.gather(one.made.result())
            if any(part.lost for part in parts):
                return {"drawn": self._next_prompt, "coming": []}
            coming.append({
                "prompts": [one.prompts.start, one.prompts.stop], "round": one.round,
                "parts": [[a.as_dict() for a in part.answers] for part in parts],
                "faults": [dict(part.faults) for part in parts],
            })  # fmt: skip
        return {"drawn": self.drawn, "coming": coming}

    def go_on(self, record: Mapping[str, Any]) -> None:
        """Take up what ``as_dict`` gave, with as many processes or others."""
        self.drawn = record["drawn"]
        size, rank = self.mesh.world.size, self.mesh.world.rank
        for one in record.get("coming", []):
            flat = _dealt(one["parts"])
            mine = [Answer(**answer) for answer in flat[rank::size]]
            faults = sum(map(Counter, one["faults"]), Counter()) if rank == 0 else Counter[str]()
            made = Future[Made]()
            made.set_result(Made(mine, faults))
            self._coming.append(Coming(range(*one["prompts"]), one["round"], made))

    def forget(self) -> None:
        """Have the round that began count as not begun, and all behind it."""
        self.drawn = self._begun
        self._coming.clear()

    @property
    def _next_prompt(self) -> int:
        return self._coming[0].prompts.start if self._coming else self.drawn

    def _numbers(self, count: int) -> range:
        self.drawn += count
        return range(self.drawn - count, self.drawn)

    def _hand_over(self, round: int, anew: bool = False) -> None:
        """Give the engine the weights of now, unless it has them."""
        if self._given == round != _APART and not anew:
            return
        self._times += 1
        failed: SwiftError | None = None
        try:
            try:
                self.give(self._times)
            except OtherWeights:  # a server was started anew in the middle of it
                self.give(self._times)
        except SwiftError as error:
            failed = error
        self._agree(self.mesh.gather(failed))
        self._given = round

    def _agree(self, failures: Sequence[SwiftError | None]) -> None:
        """Raise on all processes what went wrong on one."""
        for failed in failures:
            if failed is not None:
                self.forget()
                raise failed

    def _work(self, prompts: range) -> Callable[[], Made]:
        """What answers these prompts, each several times."""
        seeded = [
            (replace(self._question(number), number=i), seed_of(self.seed, number, i))
            for number in prompts
            for i in range(self.generations)
        ]
        return partial(self._make, self.rollout, seeded)

    def _question(self, number: int) -> Question:
        epoch, place = divmod(number, len(self.questions))
        return self.questions[int(self.order.sequence(epoch)[place])]

    def _make(self, rollout: Rollout | Recorded, seeded: Sequence[tuple[Question, int]]) -> Made:
        """This process's share of the answers; no other process is talked to."""
        mine = seeded[self.mesh.world.rank :: self.mesh.world.size]
        with self._engine:
            try:
                with self.watch.took("rollout_s"):
                    episodes = rollout([asked for asked, _ in mine], [seed for _, seed in mine])
            except EngineLost as error:
                return Made([], lost=error)
            with self.watch.took("reward_s"):
                rewards = self._rewards(episodes)
            faults = dict(rollout.faults + self.judges.faults)
            rollout.faults.clear()
            self.judges.faults.clear()
        return Made([answer_of(e, r) for e, r in zip(episodes, rewards, strict=True)], faults)

    def _collect(self, work: Callable[[], Made], made: Made | None = None) -> list[Answer]:
        """The answers of all processes, in the order of what was asked.

        A server that was started anew gets the weights of now, and answers once more.

        Args:
            work: makes this process's share.
            made: what it made already.

        Raises:
            EngineLost: one process has none.
        """
        made = made or work()
        parts: list[Made] = self.mesh.gather(made)
        if any(isinstance(part.lost, OtherWeights) for part in parts):
            self._hand_over(self._given, anew=True)
            self.faults["engine"] += 1
            self.staleness = 0
            made = work()
            parts = self.mesh.gather(made)
        self._agree([part.lost for part in parts])
        self.faults.update(made.faults)
        return _dealt([part.answers for part in parts])

    def _grouped(self, answers: list[Answer]) -> Groups:
        k = self.generations
        return [answers[i : i + k] for i in range(0, len(answers), k)]

    def _rewards(self, episodes: Sequence[Episode]) -> list[list[float]]:
        names = sorted({name for episode in episodes for name in episode.question.columns})
        columns: dict[str, list[Any]] = {
            name: [episode.question.columns.get(name) for episode in episodes] for name in names
        }
        columns["completion_ids"] = [episode.written for episode in episodes]
        columns["finish_reasons"] = [episode.finish for episode in episodes]
        columns["messages"] = [episode.question.asked.messages for episode in episodes]
        columns["questions"] = [str(m[-1].content) for m in columns["messages"]]
        columns["environment_reward"] = [episode.reward for episode in episodes]
        texts = [None if e.finish in ("failed", "absent") else e.text for e in episodes]
        return self.judges(texts, columns)


def _dealt(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """What was dealt out to processes one by one, in its order again."""
    count, size = sum(map(len, parts)), len(parts)
    return [parts[i % size][i // size] for i in range(count)]


def _begin(work: Callable[[], Made]) -> Future[Made]:
    """Work in a thread of its own, which does not keep the process alive."""
    future: Future[Made] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="answers").start()
    return future
