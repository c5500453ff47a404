"""Every reward: its definition, one by one = batch, and what is not judged."""

from __future__ import annotations

import importlib.util
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from swift import registry
from swift.config.reward import RewardSection
from swift.rl.rewards.answer import answer_in
from swift.rl.rewards.code import code
from swift.rl.rewards.number import value
from swift.rl.score import Judges, call, find

TEXTS = [
    "<think>two and two</think><answer>4</answer>",
    "<think>hm</think> <answer>5</answer>",
    "The answer is 4.",
    "",
    "again and again and again and again and again",
    '```json\n{"a": 1}\n```',
    "<think>x</think>\nAction: look\nAction Input: {}",
]
COLUMNS: dict[str, list[Any]] = {
    "solution": ["4", "4", "4", "4", None, "nothing", "4"],
    "completion_ids": [[1] * n for n in (3, 9, 12, 0, 20, 5, 7)],
    "schema": [None, None, None, {}, None, {"type": "object", "required": ["a"]}, None],
    "tests": [None, None, "assert True", None, None, None, None],
    "environment_reward": [0.5, None, 1.0, 0.0, None, None, 2.0],
    "questions": ["2 + 2?"] * 7,
}
SETTINGS: dict[str, Any] = {
    "cosine_max_len": 10,
    "soft_max_length": 10,
    "soft_cache_length": 4,
    "regex": r"The answer is \d+\.",
    "judge_url": "http://127.0.0.1:9",
}


def judged(name: str, texts: list[str] = TEXTS, **columns: Any) -> list[float | None]:
    settings = RewardSection(funcs=[name], **SETTINGS)
    found = find(settings)[name]
    return call(found, texts, {**COLUMNS, **columns})


EXPECTED: dict[str, list[float | None]] = {
    "number": [1, 0, 1, 0, None, None, 0],
    "format": [1, 1, 0, 0, 0, 0, 0],
    "react_format": [0, 0, 0, 0, 0, 0, 1],
    "regex": [0, 0, 1, 0, 0, 0, 0],
    "json_schema": [None, None, None, 0, None, 1, None],
    "environment": [0.5, None, 1.0, 0.0, None, None, 2.0],
    "soft_overlong": [0, -0.75, -1.5, 0, -3.5, 0, -0.25],
    "repetition": [0, 0, 0, 0, -5 / 7, 0, 0],
    "code": [None, None, 0, None, None, None, None],
    "accuracy": [1, 0, 1, 0, None, None, 0],
}
LIBRARY = {"accuracy": "math_verify", "json_schema": "jsonschema"}


def there(name: str) -> Any:
    missing = name in LIBRARY and importlib.util.find_spec(LIBRARY[name]) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason="not installed"))


@pytest.mark.parametrize("name", [there(name) for name in EXPECTED])
def test_rewards_are_what_they_say(name: str) -> None:
    texts = TEXTS if name != "accuracy" else [*TEXTS[:2], "4", *TEXTS[3:]]
    columns = {"solution": ["4", "4", "4", "4", None, None, "4"]} if name == "accuracy" else {}
    assert judged(name, texts, **columns) == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", [there(n) for n in registry.entries("reward") if n != "judge"])
def test_one_by_one_is_the_batch(name: str) -> None:
    whole = judged(name)
    for i, text in enumerate(TEXTS):
        own = {column: values[i : i + 1] for column, values in COLUMNS.items()}
        assert judged(name, [text], **own) == [whole[i]]


@pytest.mark.parametrize("name", [there(n) for n in registry.entries("reward") if n != "judge"])
def test_no_answer_is_not_judged(name: str) -> None:
    settings = RewardSection(funcs=[name], **SETTINGS)
    rewards = Judges(find(settings), 30)([None] * 7, COLUMNS)
    assert all(math.isnan(row[0]) for row in rewards)


def test_cosine_is_ms_swifts() -> None:
    def curve(length: int, low: float, high: float) -> float:
        return high - (high - low) * (1 - math.cos(length * math.pi / 10)) / 2

    found = judged("cosine", ["4", "5"], solution=["4", "4"], completion_ids=[[1] * 3, [1] * 7])
    # (low, high): right answers 0.5 to 1 turned round, wrong ones from 0 to -0.5
    assert found == pytest.approx([curve(3, 0.5, 1.0), curve(7, 0.0, -0.5)])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 1,234.50 euros", "1234.5"),
        ("\\boxed{\\frac{3}{4}}", "3/4"),
        ("#### -12", "-12"),
        ("-3/6", "-1/2"),
        ("about 15%", "3/20"),
        ("2e3", "2000"),
        ("x = 7.", "7"),
        ("none", None),
        ("1/0", None),
    ],
)
def test_numbers_are_exact(text: str, number: str | None) -> None:
    found = value(answer_in(text))
    assert (None if found is None else str(found)) == (number if number != "1234.5" else "2469/2")


def test_answers_are_found() -> None:
    assert answer_in("<answer>1</answer> no, <answer> 2 </answer>") == "2"
    assert answer_in("\\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert answer_in("<think>3</think> 4") == "4"


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="not installed")
@pytest.mark.parametrize(
    ("said", "right", "reward"),
    [
        ("\\boxed{\\frac{1}{2}}", "0.5", 1),
        ("<answer>x^2 + 2x + 1</answer>", "(x+1)^2", 1),
        ("\\boxed{(1, 2)}", "(1,2)", 1),
        ("\\boxed{\\{2, 1\\}}", "\\{1,2\\}", 1),
        ("\\boxed{\\sqrt{2}}", "\\sqrt{3}", 0),
    ],
)
def test_accuracy_understands_mathematics(said: str, right: str, reward: float) -> None:
    assert judged("accuracy", [said], solution=[right]) == [reward]


PROGRAM = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```"


@pytest.mark.parametrize(
    ("text", "tests", "reward"),
    [
        (PROGRAM, "assert add(1, 2) == 3", 1),
        (PROGRAM, "assert add(1, 2) == 4", 0),
        ("import os; os._exit(0)", "assert False", 0),
        ("import sys; sys.exit(0)", "assert False", 0),
        ("this is no program", "assert True", 0),
        ("while True: pass", "assert True", 0),
    ],
)
def test_code_must_pass_its_tests(text: str, tests: str, reward: float) -> None:
    settings = RewardSection(code_time_s=1)
    assert code([text], settings, tests=[tests]) == [reward]


def test_cases_are_compared_outside() -> None:
    cases = json.dumps([{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "5\n"}])
    program = "print(sum(map(int, input().split())))"
    settings = RewardSection()
    assert code([program, "print(3)"], settings, cases=[cases, cases]) == [0.5, 0.5]


class _Reply(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][0]["content"]
        said = "Fine. Score: 0.75" if "good" in asked else "I do not know."
        text = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), _Reply)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()


def test_a_model_judges_over_http(server: str) -> None:
    settings = RewardSection(funcs=["judge"], judge_url=server, judge_prompt="{answer} {wrong}?")
    judges = Judges(find(settings), 30)
    columns = {"questions": ["q"] * 2}
    assert judges(["good", "bad"], columns)[0] == [0.75]
    assert math.isnan(judges(["good", "bad"], columns)[1][0])
    assert not judges.faults


def test_a_server_that_is_not_there_judges_nothing() -> None:
    settings = RewardSection(funcs=["judge"], judge_url="http://127.0.0.1:9", timeout_s=2)
    judges = Judges(find(settings), 5)
    assert math.isnan(judges(["a"], {"questions": ["q"]})[0][0])
    assert judges.faults["reward_error"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"funcs": ["soft_overlong"]}, "is needed by soft_overlong"),
        ({"funcs": ["regex"]}, "is needed by the reward regex"),
        ({"funcs": ["judge"]}, "is needed by the reward judge"),
        ({"funcs": ["acuracy"]}, "acuracy"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardSection(**settings)
