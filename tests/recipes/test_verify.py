"""swift verify: the table of shapes, the user's rows, what is kept, how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from swift import cli
from swift.chat import trial
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.chat.properties import PROPERTIES
from swift.chat.shapes import SHAPES
from swift.chat.trial import kept_shapes
from swift.chat.unanswered import verify_prompt
from swift.errors import ResourceError

LOWERS_QUESTIONS = tiny.CHATML.replace(
    "message['content']",
    "(message['content'] if message['role'] == 'assistant' else message['content'] | lower)",
)


@pytest.fixture
def lowers(tmp_path: Path) -> Path:
    """A template that writes questions in small letters."""
    file = tmp_path / "lowers.jinja"
    file.write_text(LOWERS_QUESTIONS, encoding="utf-8")
    return file


def verify(*words: object) -> int:
    return cli.main(["verify", *map(str, words)])


def test_a_good_template_and_good_rows(
    checkpoint: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("--model", checkpoint, "--dataset", rows) == 0
    said = capsys.readouterr().out
    assert all(shape in said for shape in SHAPES)
    assert "violated:" not in said
    assert "refused: the template does not write tool calls (tool call, tool result, " in said
    assert "40 rows" in said


def test_rows_are_named_and_the_exit_code_says_it(
    checkpoint: Path,
    lowers: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swift.chat.render.check_heard", lambda *_: None)  # else it is refused
    said = [("hi", "Hello"), ("HI", "Hello"), ("hi", "")]
    rows = tiny.write_rows(
        tmp_path / "a.jsonl",
        [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in said
        ],
    )
    assert verify("--model", checkpoint, "--chat_template", lowers, "--dataset", rows) == 1
    printed = capsys.readouterr()
    text = " ".join(printed.out.split())
    assert "a.jsonl:2: all is written: message 1 (user): its text is not in the prompt" in text
    assert "a.jsonl:3: same tokens: message 2 (assistant) is empty" in text
    assert "a.jsonl:1" not in text
    assert "swift verify: " in printed.err and "checks are violated" in printed.err


def test_rows_that_are_no_conversations_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"text": "a"}\nno json\n{"what": 1}\n')
    assert verify("--model", checkpoint, "--dataset", file) == 0
    text = " ".join(capsys.readouterr().out.split())
    for line, why in enumerate(["a plain text has no turns", "not JSON", "columns not under"], 1):
        assert f"odd.jsonl:{line}: same tokens: {why}" in text


def test_rows_of_every_task_are_tried(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask, say = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    rows = [
        {"messages": [ask, say]},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"messages": [ask, say], "label": True},
        {"messages": [ask], "solution": "4"},
        {"anchor": "Hi", "positive": "Hello", "negative": ["Go"]},
        {"query": "Hi", "documents": ["a", "b"], "labels": [1, 0]},
        {"text": "Hi <|im_end|>", "label": 1},
        {"prompt": "Hi", "chosen": "Hello", "rejected": ""},
        {"prompt": "Hi", "image": "a.png"},
    ]
    file = tiny.write_rows(tmp_path / "all.jsonl", rows)
    assert verify("--model", checkpoint, "--dataset", file) == 0
    text = " ".join(capsys.readouterr().out.split())
    kinds = "preference 2, prompt 2, conversation 1, unpaired 1, embedding 1, ranking 1"
    assert f"9 rows: {kinds}, classification 1" in text
    assert "all.jsonl:7: same tokens: not comparable: apply_chat_template takes quoted" in text
    assert "all.jsonl:8: same tokens: message 2 (assistant) is empty" in text
    assert "all.jsonl:9: same tokens: there are images, video or audio in it" in text
    assert not any(f"all.jsonl:{line}:" in text for line in range(1, 7))


def test_a_prompt_that_is_written_differently_is_found(checkpoint: Path) -> None:
    renderer = load_renderer(checkpoint)
    talk = Conversation((Message("user", "Hi there"),))

    def other(*_: object) -> list[int]:
        return [7, 8, 9]

    found = {result.name: result for result in verify_prompt(renderer, other, talk)}
    assert found["same tokens"].status == "violated"
    assert found["same tokens"].why.startswith("the prompt differs at token 0: ")
    assert all(r.status == "held" for name, r in found.items() if name != "same tokens")
    assert {result.name for result in verify_prompt(renderer, None, talk)} < set(PROPERTIES)


def test_nothing_is_tried_in_a_dry_run(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("--model", checkpoint, "--dry_run") == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "would try" in printed.err


def test_everything_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--model", "./absent", "--dataset", "./none.jsonl") == 2
    said = capsys.readouterr().err
    assert "./absent does not exist" in said and "./none.jsonl does not exist" in said
    assert verify() == 2


def test_results_are_kept_for_a_renderer(
    checkpoint: Path, tmp_path: Path, lowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    renderer = load_renderer(checkpoint)

    def reference() -> None:
        asked.append(1)

    first = kept_shapes(renderer, reference, tmp_path / "kept")
    assert kept_shapes(renderer, reference, tmp_path / "kept") == first
    assert len(asked) == 1
    [file] = (tmp_path / "kept").iterdir()
    file.write_text(json.dumps({"one round": 3}))
    assert kept_shapes(renderer, reference, tmp_path / "kept") == first
    assert len(asked) == 2
    other = load_renderer(checkpoint, chat_template=str(lowers))
    assert kept_shapes(other, reference, tmp_path / "kept") != first
    monkeypatch.setattr(trial, "_code", lambda: "changed")
    kept_shapes(renderer, reference, tmp_path / "kept")
    assert len(asked) == 4


def test_a_folder_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file.*; set SWIFT_CACHE to a folder of yours"):
        kept_shapes(load_renderer(checkpoint), lambda: None, tmp_path / "file" / "kept")
