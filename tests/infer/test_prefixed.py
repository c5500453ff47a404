"""Answers that begin with a given text, in the chat and for whole data sets."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from chat.templates import Family
from chat.test_prefix import THINKS
from infer.test_answers import Canned
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.config.model import UsedModelSection
from swift.config.parse import read
from swift.config.runs import InferConfig
from swift.data.encode import EncodeSettings
from swift.data.source import open_sources
from swift.infer.batch import answer_all, questions
from swift.infer.engine import Sampling
from swift.infer.load import settle
from swift.infer.talk import Display, Talker, Terminal

QUESTION = Message("user", "Who are you?")


def talker(template: str, generated: str, prefix: str = "", stop: tuple[str, ...] = ()) -> Talker:
    plain = Family(template, "", "").renderer()
    renderer = Renderer(replace(plain.spec, prefix=prefix))
    return Talker(
        renderer, Canned(renderer.tokenizer.encode(generated).ids), Sampling(64, stop=stop)
    )


def answers(talker: Talker, rows: list[dict[str, Any]], folder: Path, **settings: Any) -> list[Any]:
    file, out = tiny.write_rows(folder / "rows.jsonl", rows), folder / "out.jsonl"
    sources = open_sources([str(file)], Path)
    found = questions(sources, 0, EncodeSettings("chat", **settings))
    answer_all(talker, found, out, 4, lambda *_: None)
    return [json.loads(line) for line in out.read_text().splitlines()]


def sent(talker: Talker) -> list[str]:
    decode = talker.renderer.tokenizer.decode
    return [decode(tokens, keep_special=True) for tokens in talker.engine.asked]


def test_a_thinking_that_the_prefix_opens_is_shown_as_thinking() -> None:
    pieces: list[str] = []
    one = talker(THINKS, "Hm.\n</think>\n\nApus.<|im_end|>", "<think>\n")
    asked = Conversation((QUESTION,))
    streamed = one.stream(asked, Display(pieces.append))
    [(whole, _)] = one.answers([asked])
    assert streamed == whole == Message("assistant", "Apus.", thinking="Hm.")
    assert "".join(pieces) == "(thinking) Hm.\n\nApus."
    assert all(text.endswith("<|im_start|>assistant\n<think>\n") for text in sent(one))


def test_the_answer_that_is_shown_holds_the_prefix() -> None:
    pieces: list[str] = []
    one = talker(tiny.CHATML, " name is Apus.<|im_end|>", "My")
    assert one.stream(Conversation((QUESTION,)), Display(pieces.append)).content == "".join(pieces)
    assert "".join(pieces) == "My name is Apus."


def test_a_stop_text_in_what_is_given_is_no_end() -> None:
    one = talker(tiny.CHATML, " name. Is Apus.<|im_end|>", "My.", (".",))
    assert one.answers([Conversation((QUESTION,))])[0][0].content == "My. name"


@pytest.mark.parametrize("streaming", [False, True])
def test_the_history_of_a_chat_is_that_of_training(
    streaming: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = talker(tiny.CHATML, " it is.<|im_end|>", "Well,")
    monkeypatch.setattr(sys, "stdin", StringIO("Is it?\nSure?\n"))
    Terminal(one, streaming=streaming).run()
    assert capsys.readouterr().out.splitlines() == ["Well, it is."] * 2
    turns = [Message("user", "Is it?"), Message("assistant", " it is."), Message("user", "Sure?")]
    row = Conversation((*turns, Message("assistant", " it is.")))
    samples = one.renderer.render(row)
    for prompt in one.engine.asked:
        [found] = [s for s in samples if s.tokens[: len(prompt)] == prompt][:1]
        assert found.weights[len(prompt) - 1] == 0 < found.weights[len(prompt)]


def test_a_row_goes_on_behind_its_own_prefix(tmp_path: Path) -> None:
    one = talker(tiny.CHATML, " name is Apus.<|im_end|>")
    begun = {"role": "assistant", "content": "My", "prefix": True}
    whole = {"role": "assistant", "content": "My name", "prefix": "My"}
    asked = QUESTION.for_template()
    lines = answers(one, [{"messages": [asked, last]} for last in (begun, whole)], tmp_path)
    assert [line["response"] for line in lines] == ["My name is Apus."] * 2
    assert [line["labels"] for line in lines] == [None, "My name"]
    answer = {"role": "assistant", "content": "My name is Apus."}
    assert lines[0]["messages"] == [asked, answer]
    assert [text[-len("assistant\nMy") :] for text in sent(one)] == ["assistant\nMy"] * 2


def test_rows_are_read_as_in_training(tmp_path: Path) -> None:
    one = talker(tiny.CHATML, "Yes.<|im_end|>")
    rows = [{"ask": "Are you {{NAME}}?"}, {"text": "a document"}]
    lines = answers(
        *(one, rows, tmp_path),
        system="Be {{NAME}}.",
        columns=(("ask", "query"),),
        names=(("{{NAME}}", ("Apus",)),),
    )
    assert lines[0]["response"] == "Yes." and "Are you Apus?" in sent(one)[0]
    assert lines[1]["error"] == "a text is no question"


@pytest.mark.parametrize(
    ("given", "expected"), [([], "<think>\n"), (["--response_prefix", ""], "")]
)
def test_an_adapter_remembers_the_prefix(given: list[str], expected: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    known = {"model": {"path": "x", "response_prefix": "<think>\n"}}
    (adapter / "config.yaml").write_text(yaml.safe_dump(known))
    config, _ = read(InferConfig, "infer", ["--adapters", str(adapter), *given])
    assert settle(config.model)[0].response_prefix == expected
    assert UsedModelSection(path="x").response_prefix is None


@pytest.mark.parametrize("given", [[], ["--model"]], ids=["adapter", "model"])
def test_media_are_read_as_in_training(given: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    known = {"model": {"path": "x", "fps": 4.0, "max_frames": 9, "max_pixels": 5000}}
    (folder / "config.yaml").write_text(yaml.safe_dump(known))
    words = [*(given or ["--adapters"]), str(folder), "--max_frames", "5"]
    config, _ = read(InferConfig, "infer", words)
    found, _ = settle(config.model)
    assert (found.fps, found.max_frames, found.max_pixels) == (4.0, 5, 5000)


def test_a_line_end_can_be_written_as_in_ms_swift() -> None:
    config, _ = read(InferConfig, "infer", ["--model", "x", "--response_prefix", "<think>\\n"])
    assert config.model.response_prefix == "<think>\n"
