"""Recorded answers: learned as the same answers are online, without any engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tiny
from processes import fail, run
from swift import registry
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.config.runs import RlhfConfig
from swift.errors import DataError
from swift.infer.engine import Completion, Request
from swift.parallel.world import World
from swift.recipes import grpo
from swift.rl.recorded import read_answers
from swift.rl.rollout import Question

WORDS = ["blue", "I do not know", "42", "a house", "yes", "no", "perhaps", "so it is"]


def worth(text: str) -> float:
    return len(text) / 10


def rewards_of(completions: list[str], **columns: Any) -> list[float]:
    return [worth(text) for text in completions]


@pytest.fixture(autouse=True)
def rewards() -> Iterator[None]:
    registry.register("reward", "recorded_worth", f"{__name__}:rewards_of")
    yield
    registry._ENTRIES["reward"].pop("recorded_worth")


@pytest.fixture
def renderer(checkpoint: Path) -> Renderer:
    return load_renderer(checkpoint)


class Fixed:
    """Gives the answers of a list to each prompt, one after another."""

    abilities, context = frozenset[Any](), None

    def __init__(self, renderer: Renderer, count: int) -> None:
        self._renderer, self._count, self._asked = renderer, count, 0

    def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
        found = []
        for _ in requests:
            text = WORDS[self._asked % self._count]
            tokens = list(self._renderer.tokenizer.encode(text).ids)
            found.append(Completion([*tokens, min(self._renderer.stop_ids)], "stop"))
            self._asked += 1
        return found


@pytest.fixture
def learn(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    def learn(name: str, rows: list[dict[str, Any]], engine: Any = None, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "model": {"path": str(checkpoint), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(tiny.write_rows(tmp_path / f"{name}.jsonl", rows))]},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": "constant",
            "train": {"batch_size": 8, "accumulation": 1, "max_steps": 3, "log_every": 1},
            "rlhf": {"kind": "rloo"},
            "rollout": {"num_generations": 4, "max_completion_length": 16},
            "report": "none",
            "output": str(tmp_path / name),
        }
        for section, values in changes.items():
            settings[section] = {**settings.get(section, {}), **values}
        result = grpo.run(RlhfConfig.model_validate(settings), World(), engine)
        assert result is not None
        return Path(result.checkpoint)

    return learn


def metrics(checkpoint: Path) -> list[dict[str, Any]]:
    lines = (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


PROMPTS = [f"What is {i}?" for i in range(8)]


@pytest.mark.parametrize("kind", ["rloo", "grpo", "dr_grpo"])
def test_the_loss_is_that_of_the_same_answers_online(
    learn: Callable[..., Path], renderer: Renderer, kind: str
) -> None:
    rlhf = {"kind": kind, "num_iterations": 2}
    online = learn(
        "online", [{"prompt": text} for text in PROMPTS], Fixed(renderer, 4), rlhf=rlhf,
        reward={"funcs": ["recorded_worth"]},
    )  # fmt: skip
    rows = [
        {"prompt": text, "completions": WORDS[:4], "rewards": [worth(x) for x in WORDS[:4]]}
        for text in PROMPTS
    ]
    offline = learn("offline", rows, rlhf=rlhf, rollout={"recorded": True})
    assert len(metrics(online)) == 3
    for a, b in zip(metrics(online), metrics(offline), strict=True):
        for name in ("train/loss", "train/grad_norm", "train/completion_length", "train/kl"):
            assert a.get(name) == b.get(name), name
    one, other = (load_file(x / "model.safetensors") for x in (online, offline))
    assert all((one[name] == other[name]).all() for name in one)


def test_rows_of_one_answer_are_a_group_where_they_ask_the_same(
    learn: Callable[..., Path],
) -> None:
    lists = [
        {"prompt": text, "completions": WORDS[:4], "rewards": [worth(x) for x in WORDS[:4]]}
        for text in PROMPTS[:4]
    ]
    single = [
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": word},
            ],
            "reward": worth(word),
        }
        for text in PROMPTS[:4]
        for word in WORDS[:4]
    ]
    train, rollout = {"max_steps": 2}, {"recorded": True}
    one = metrics(learn("lists", lists, rollout=rollout, train=train, data={"shuffle": False}))
    two = metrics(learn("single", single, rollout=rollout, train=train, data={"shuffle": False}))
    for a, b in zip(one, two, strict=True):
        assert a["train/loss"] == b["train/loss"] and a["train/grad_norm"] == b["train/grad_norm"]


@pytest.mark.parametrize("kind", ["rloo", "dr_grpo", "dapo"])
def test_groups_of_several_sizes_are_as_they_are(learn: Callable[..., Path], kind: str) -> None:
    """Places that no answer fills count for nothing: with room for more the step is the same."""

    def row(i: int) -> dict[str, Any]:
        said = WORDS[: 2 + i % 3]
        return {"prompt": PROMPTS[i], "completions": said, "rewards": [worth(x) for x in said]}

    rows = [row(i) for i in range(4)]
    rlhf = {"kind": kind, "dynamic_sample": False}
    found = []
    for room in (4, 8):
        done = learn(
            f"room{room}", rows, rlhf=rlhf, data={"shuffle": False},
            rollout={"recorded": True, "num_generations": room, "log_completions": True},
            train={"batch_size": 4 * room, "max_steps": 1},
        )  # fmt: skip
        found.append(metrics(done)[0])
        lines = (done.parent / "completions.jsonl").read_text().splitlines()
        assert [json.loads(x)["place"].rpartition(":")[2] for x in lines] == list("11222333344")
    for name in ("train/loss", "train/grad_norm", "train/reward", "train/completion_length"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1.2e-7, abs=1e-6), name


def test_a_run_from_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": text, "completions": WORDS[:5], "rewards": [0, 1, 0.5, -1, 2], "note": "x"}
        for text in PROMPTS
    ]
    rows += [{"prompt": "Alone?", "completions": ["yes"], "rewards": [1]}]
    rows += [{"prompt": "Long?", "completions": ["so " * 400, "a", "b"], "rewards": [1, 0, 2]}]
    rows += [{"prompt": "None?"}, {"prompt": "Odd?", "completions": ["a", "b"], "rewards": [1]}]
    tiny.write_rows(tmp_path / "r.jsonl", rows)
    words = ["rlhf", "--rlhf_type", "rloo", "--model", checkpoint, "--dataset", "r.jsonl"]
    words += ["--recorded", "true", "--num_generations", 4, "--per_device_train_batch_size", 8]
    words += ["--max_steps", 2, "--report_to", "none", "--output_dir", "run", "--max_length", 200]
    text = run(words, tmp_path)
    assert "1 recorded answers are longer than max_length with their prompt: left out" in text
    assert "1 prompts have fewer than two answers with a reward: left out" in text
    assert "8 recorded answers are more than the 4 of --num_generations: left out" in text
    assert "rewards: 1 x recorded" in text
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    assert "2 completions, but 1 rewards" in json.dumps(ledger)
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/grad_norm"] > 0 and "train/mismatch" not in last


def test_answers_of_several_turns_keep_what_others_said(renderer: Renderer) -> None:
    asked = Conversation((Message("system", "Be brief."), Message("user", "Add 2 and 3.")))
    said = [
        {"role": "assistant", "content": "Shall I?"},
        {"role": "user", "content": "Yes."},
        {"role": "assistant", "content": "5"},
    ]
    columns = {"completions": [said, "5"], "rewards": [1, 0.5]}
    long, short = read_answers(Question(asked, columns, "r:1"), renderer)
    own = renderer.tokenizer.decode(
        [t for t, mine in zip(long.tokens, long.own, strict=True) if mine], keep_special=True
    )
    assert own == "Shall I?<|im_end|>5<|im_end|>" and long.own[-1]
    assert renderer.tokenizer.decode(short.tokens, keep_special=True) == "5<|im_end|>"
    assert (long.reward, short.reward) == (1.0, 0.5) and short.prompt == long.prompt


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "lists of the same length"),
        ({"completions": ["a"], "rewards": [1, 2]}, "1 completions, but 2 rewards"),
        ({"completions": ["a"], "rewards": ["good"]}, "a reward is a number, not 'good'"),
        ({"response": "a"}, "a reward is a number, not None"),
        (
            {"completions": [[{"role": "user", "content": "a"}]], "rewards": [1]},
            "begins and ends with the assistant",
        ),
    ],
)
def test_rows_that_cannot_be_used_say_why(
    renderer: Renderer, columns: dict[str, Any], message: str
) -> None:
    question = Question(Conversation((Message("user", "Hm?"),)), columns, "r:1")
    with pytest.raises(DataError, match=message):
        read_answers(question, renderer)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--environment", "gym"], "--recorded: answers of rows are not played"),
        (["--dynamic_sample", "true"], "--dynamic_sample: recorded answers stay"),
        (["--rlhf_type", "ppo"], "--recorded: answers are compared with each other"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, words: list[str], message: str) -> None:
    base = ["rlhf", "--rlhf_type", "rloo", "--model", "m", "--dataset", "d", "--recorded", "true"]
    code, text = fail([*base, *words], tmp_path)
    assert code == 2 and message in text, text
