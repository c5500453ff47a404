"""Thinking and tool calls of an answer are shown, kept and sent on, never lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chat.templates import Family
from chat.test_dialect import ANSWERS, HEAD, KINDS, ONE, PROMPT, TAIL, answer_tokens
from swift.chat.message import Conversation, Media, Message
from swift.chat.render import Renderer
from swift.data.encode import EncodeSettings
from swift.data.source import open_sources
from swift.errors import RenderError
from swift.infer.batch import answer_all, questions
from swift.infer.engine import Completion, Request, Sampling
from swift.infer.talk import Display, Talker

TOOLS = (
    "{% for t in tools or [] %}{{ '<|im_start|>tool\n' + t | tojson + '<|im_end|>\n' }}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "get_weather"}}
ANSWER = ANSWERS["everything"]


@dataclass
class Canned:
    """An engine that gives the same answer to everything, and remembers what it was asked."""

    tokens: list[int]
    asked: list[list[int]] = field(default_factory=list)

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        self.asked += [list(request.tokens) for request in requests]
        for token in self.tokens if on_token else ():
            on_token(token)
        return [Completion(list(self.tokens), "stop") for _ in requests]


@pytest.fixture
def renderer() -> Renderer:
    return Family(TOOLS + HEAD + KINDS["hermes"] + TAIL + PROMPT, "", "<|im_end|>").renderer()


@pytest.fixture
def talker(renderer: Renderer) -> Talker:
    return Talker(renderer, Canned(answer_tokens(renderer, ANSWER)), Sampling(64))


def test_a_row_is_asked_with_its_tools_and_answered_with_all_of_it(
    talker: Talker, renderer: Renderer, tmp_path: Path
) -> None:
    turns = [
        {"role": "user", "content": "Weather?"},
        Message("assistant", "", tool_calls=(ONE,)).for_template(),
        {"role": "tool", "content": "rain"},
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": turns, "tools": [TOOL]}) + "\n")
    found = questions(open_sources([str(rows)], Path), 0, EncodeSettings("chat"))
    assert answer_all(talker, found, tmp_path / "out.jsonl", 4, lambda *_: None) == 0
    [line] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert line["response"] == ANSWER.content
    assert line["messages"] == [*turns, json.loads(json.dumps(line["messages"][-1]))]
    last = line["messages"][-1]
    assert last["reasoning_content"] == ANSWER.thinking
    assert [call["function"]["name"] for call in last["tool_calls"]] == ["find.it", "get_weather"]
    asked = talker.engine.asked[0]
    assert "get_weather" in renderer.tokenizer.decode(asked).split("user")[0]  # the tool on offer


def test_thinking_and_calls_are_shown_apart(talker: Talker) -> None:
    pieces: list[str] = []
    question = Conversation((Message("user", "Weather?"),))
    assert talker.stream(question, Display(pieces.append)).thinking == ANSWER.thinking
    assert "".join(pieces) == (
        "(thinking) Hm.\n\nBoth:\n"
        '(call) find.it {"words": ["a", "b"], "note": "say \\"hi\\"\\nnow"}\n'
        '(call) get_weather {"city": "Paris", "days": 3, "exact": true}'
    )


def test_media_are_refused_and_not_left_out(talker: Talker) -> None:
    question = Message("user", ("What is it?", Media("image", "a.png")))
    with pytest.raises(RenderError, match="takes text alone"):
        talker.answers([Conversation((question,))])
