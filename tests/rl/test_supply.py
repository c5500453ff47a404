"""Drawing answers: what is counted, what is given back, what moves to make room."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stub import Stub

import tiny
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer, RendererSpec
from swift.config.rollout import RolloutSection
from swift.data.stream import Order
from swift.errors import ConfigError, EngineLost, OtherWeights
from swift.infer.engine import Completion, Request
from swift.parallel.mesh import Mesh
from swift.parallel.world import World
from swift.rl.engines import move
from swift.rl.rollout import Question, Rollout
from swift.rl.score import Judges
from swift.rl.supply import Supply

QUESTIONS = [
    Question(Conversation((Message("user", f"Question {i}?"),)), {}, f"p.jsonl:{i}")
    for i in range(6)
]

TOKENIZER = tiny.make_tokenizer()
RENDERER = Renderer(
    RendererSpec(TOKENIZER.backend_tokenizer.to_str(), {"default": tiny.CHATML}, {}, (2,), 2)
)


class Weights:
    """Weights that are numbers, a server that may lose them, and what happened."""

    def __init__(self) -> None:
        self.now, self.there = 0, -1
        self.events: list[str] = []
        self.fails: list[Exception | None] = []

    def give(self, times: int) -> None:
        self.there = self.now
        self.events.append(f"give {self.now}")

    def answer(self, request: Request) -> Completion:
        failure = self.fails.pop(0) if self.fails else None
        if failure is not None:
            raise failure
        return Completion([self.there + 5, 2], "stop", [0.0, 0.0])


def supply_of(weights: Weights, ahead: int = 0) -> Supply:
    rollout = Rollout(Stub(weights.answer), RENDERER, RolloutSection(num_generations=2))
    judges = Judges({"one": lambda texts, **_: [1.0] * len(texts)}, 5)
    mesh = Mesh(World(), torch.device("cpu"), None)
    order = Order(range(len(QUESTIONS)), shuffle=False)
    rest = lambda: weights.events.append("rest")  # noqa: E731
    return Supply(rollout, judges, QUESTIONS, order, 2, mesh, 0, weights.give, rest, ahead)


def drawn_by(groups: Any) -> set[int]:
    """Which weights drew the answers."""
    return {answer.tokens[0] - 5 for group in groups for answer in group}


def places(groups: Any) -> list[str]:
    return [group[0].place for group in groups]


def test_weights_are_handed_over_once_a_round() -> None:
    weights = Weights()
    supply = supply_of(weights)
    for round in range(3):
        weights.now = round
        assert drawn_by(supply.next(round, 2)) == {round}
        assert drawn_by(supply.more(1)) == {round}
        supply.look_ahead(round, 2, 5)
    assert weights.events == ["give 0", "give 1", "give 2"]
    assert supply.drawn == 9 and supply.staleness == 0


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_no_answer_is_older_than_is_allowed(ahead: int) -> None:
    weights = Weights()
    supply = supply_of(weights, ahead)
    behind, seen = [], []
    for round in range(8):
        weights.now = round
        groups = supply.next(round, 1)
        assert drawn_by(groups) == {round - supply.staleness}
        behind.append(supply.staleness)
        seen += places(groups)
        supply.look_ahead(round, 1, 7 - round)
    assert behind == [0, *((i % ahead) + 1 for i in range(7))]
    assert seen == [f"p.jsonl:{i % 6}" for i in range(8)]  # every prompt once, in order
    assert supply.drawn == 8  # and none behind the end of the run


def test_what_is_kept_goes_on_with_the_same_answers() -> None:
    weights = Weights()
    supply = supply_of(weights, 2)
    supply.next(0, 2)
    supply.look_ahead(0, 2, 9)
    record = supply.as_dict()
    other = supply_of(weights, 2)
    other.go_on(record)
    weights.now = 1
    for round in (1, 2):
        one, two = supply.next(round, 2), other.next(round, 2)
        assert one == two and drawn_by(one) == {0}
        assert supply.staleness == other.staleness == round
    assert supply.drawn == other.drawn == 6


def test_a_round_that_is_lost_counts_as_not_begun() -> None:
    for ahead in (0, 1):
        weights = Weights()
        supply = supply_of(weights, ahead)
        supply.next(0, 2)
        weights.fails = [EngineLost("gone")]
        supply.look_ahead(0, 2, 9)
        assert supply.as_dict() == {"drawn": 2, "coming": []}
        with pytest.raises(EngineLost, match="gone"):
            supply.next(1, 2)
        assert supply.as_dict() == {"drawn": 2, "coming": []}


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_server_that_came_back_gets_the_weights_of_now(ahead: int) -> None:
    weights = Weights()
    supply = supply_of(weights, ahead)
    supply.next(0, 2)
    weights.fails = [OtherWeights("base")]
    supply.look_ahead(0, 2, 9)
    weights.now = 1
    assert drawn_by(supply.next(1, 2)) == {1} and supply.staleness == 0
    assert supply.faults == {"engine": 1} and supply.drawn == 4
    weights.fails = [OtherWeights("base"), OtherWeights("base")]
    weights.now = 2
    with pytest.raises(OtherWeights):
        supply.next(2, 2)


def test_an_evaluation_has_the_weights_of_now_and_disturbs_nothing() -> None:
    weights = Weights()
    supply = supply_of(weights, 1)
    supply.next(0, 1)
    supply.look_ahead(0, 1, 9)
    weights.now = 1
    answers = supply.ask_now(supply.rollout, QUESTIONS[:3])
    assert [answer.place for answer in answers] == [f"p.jsonl:{i}" for i in range(3)]
    assert {answer.tokens[0] - 5 for answer in answers} == {1}
    groups = supply.next(1, 1)
    assert drawn_by(groups) == {0} and places(groups) == ["p.jsonl:1"]  # begun before
    supply.look_ahead(1, 1, 9)
    weights.now = 2
    assert drawn_by(supply.next(2, 1)) == {1}
    assert weights.events == ["give 0", "give 1", "rest", "give 1"]


def test_an_engine_that_refuses_the_weights_ends_the_run() -> None:
    weights = Weights()
    supply = supply_of(weights)

    def refuse(times: int) -> None:
        raise ConfigError("the model has no such weight")

    supply.give = refuse
    with pytest.raises(ConfigError, match="no such weight"):
        supply.next(0, 1)


def test_what_learns_moves_to_make_room() -> None:
    model = torch.nn.BatchNorm1d(3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    learner: Any = SimpleNamespace(spread=SimpleNamespace(module=model), optimizer=optimizer)
    meta = torch.device("meta")

    move(learner, meta, model=False, optimizer=True)
    state = optimizer.state[model.weight]
    assert state["exp_avg"].device == state["exp_avg_sq"].device == meta
    assert state["step"].device.type == "cpu"  # as AdamW wants it
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    move(learner, torch.device("cpu"), model=True, optimizer=False)
    now = dict(model.named_parameters())
    assert all(id(now[name]) == number for name, (number, _) in before.items())
    assert all(torch.equal(now[name], value) for name, (_, value) in before.items())
