"""The loop back into training: what is recorded is read by the row formats as it was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import serving
from serving import CALL, SayingEngine, chat, post, serve, tool, user

from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.data.formats.form import formats, understand
from swift.data.formats.meaning import Preference, Unpaired
from swift.errors import ConfigError
from swift.serve.keys import Caller, Keys
from swift.serve.record import Recorder
from swift.serve.server import redaction


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


SAID = "<think>\nHm.\n</think>\n\nWait." + CALL % ("look", '{"at": "Paris"}')


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_answered_is_a_row_for_sft(
    renderer: Renderer, tmp_path: Path, stream: bool
) -> None:
    file = tmp_path / "requests.jsonl"
    app = serve(
        SayingEngine(renderer, SAID, size=3), renderer, system="Be brief.",
        recorder=Recorder(file, 1 << 20),
    )  # fmt: skip
    tools = [tool("look", at={"type": "string"})]
    done = chat(app, tools=tools, stream=stream, chat_template_kwargs={"enable_thinking": True})
    (row,) = rows(file)
    meaning = understand(row, formats("chat"))
    assert isinstance(meaning, Conversation)
    system, asked, answer = meaning.messages
    assert (system, asked) == (Message("system", "Be brief."), Message("user", "Hello"))
    assert (answer.content, answer.thinking) == ("Wait.", "Hm.")
    assert dict(answer.tool_calls[0].arguments) == {"at": "Paris"}
    assert meaning.tools == tuple(tools)
    assert meaning.template_kwargs == {"enable_thinking": True}
    assert row["id"] == done.headers["x-request-id"]
    # and it is learned as it was asked: the prompt of the row is the prompt that the engine saw
    before = renderer.prompt(meaning.messages[:-1], meaning.tools, meaning.template_kwargs)
    assert renderer.render(meaning)[0].tokens[: len(before)] == before


def test_thumbs_are_rows_for_kto_and_corrections_for_dpo(
    renderer: Renderer, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    app = serve(SayingEngine(renderer, "Berlin."), renderer, recorder=Recorder(file, 1 << 20))
    ids = [chat(app).json()["id"] for _ in range(3)]
    assert post_feedback(app, id=ids[0], good=True).status_code == 200
    assert post_feedback(app, id=ids[1], correction="Paris.").status_code == 200
    message = {"role": "assistant", "content": "Paris!", "reasoning_content": "Hm."}
    both = post_feedback(app, id=ids[2], good=False, correction=message)
    assert both.json()["written"] == ["requests.kto.jsonl", "requests.dpo.jsonl"]
    labels = [understand(row, formats("unpaired")) for row in rows(tmp_path / "requests.kto.jsonl")]
    assert all(isinstance(one, Unpaired) for one in labels)
    assert [one.good for one in labels] == [True, False]  # type: ignore[union-attr]
    pairs = [
        understand(row, formats("preference")) for row in rows(tmp_path / "requests.dpo.jsonl")
    ]
    for pair, better in zip(pairs, ("Paris.", "Paris!"), strict=True):
        assert isinstance(pair, Preference)
        assert pair.chosen.messages[-1].content == better
        assert pair.rejected.messages[-1].content == "Berlin."
        assert pair.chosen.messages[:-1] == pair.rejected.messages[:-1]
    assert len(rows(file)) == 3


def post_feedback(app: Any, **body: Any) -> Any:
    return post(app, "/v1/feedback", json.dumps(body).encode())


def test_feedback_that_cannot_be_kept_is_refused(renderer: Renderer, tmp_path: Path) -> None:
    engine = SayingEngine(renderer, "Berlin.")
    app = serve(engine, renderer, recorder=Recorder(tmp_path / "requests.jsonl", 1 << 20))
    id = chat(app).json()["id"]
    for body, status in (
        ({"id": "chatcmpl-unknown", "good": True}, 404),
        ({"id": id}, 400),
        ({"id": id, "correction": ""}, 400),
        ({"id": id, "correction": "Berlin."}, 400),
        ({"id": id, "thumb": 1}, 400),
        ({"id": id, "good": True}, 200),
        ({"id": id, "good": False}, 409),
        ({"id": id, "good": False, "correction": "Paris."}, 409),
        ({"id": id, "correction": "Paris."}, 200),  # a thumb, and a correction afterwards
        ({"id": id, "correction": "Rome."}, 409),
    ):
        assert post_feedback(app, **body).status_code == status, body
    assert post_feedback(serve(engine, renderer), id=id, good=True).status_code == 404


def test_only_who_asked_may_judge(renderer: Renderer, tmp_path: Path) -> None:
    keys = Keys({"key-of-a": Caller("a"), "key-of-b": Caller("b")}, Caller("-"))
    recorder = Recorder(tmp_path / "requests.jsonl", 1 << 20)
    app = serve(SayingEngine(renderer, "x"), renderer, keys=keys, recorder=recorder)
    body = json.dumps({"model": "tiny", "messages": user("a")}).encode()
    id = post(app, "/v1/chat/completions", body, Authorization="Bearer key-of-a").json()["id"]
    said = json.dumps({"id": id, "good": True}).encode()
    assert post(app, "/v1/feedback", said, Authorization="Bearer key-of-b").status_code == 404
    assert post(app, "/v1/feedback", said, Authorization="Bearer key-of-a").status_code == 200


def test_what_was_not_answered_whole_is_not_recorded(renderer: Renderer, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    engine = SayingEngine(renderer, "one two")
    app = serve(engine, renderer, recorder=Recorder(file, 1 << 20))
    engine.fail_at = 1
    chat(app)
    chat(app, stream=True)
    engine.fail_at, engine.say = None, lambda request: ""
    chat(app)
    assert file.read_text() == ""


def test_a_full_file_is_put_aside_and_its_rows_are_still_found(
    renderer: Renderer, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    app = serve(SayingEngine(renderer, "x"), renderer, recorder=Recorder(file, 700))
    ids = [chat(app).json()["id"] for _ in range(9)]
    parts = sorted(tmp_path.glob("requests*.jsonl"))
    assert len(parts) > 2 and all(part.stat().st_size <= 700 for part in parts)
    assert sorted(row["id"] for part in parts for row in rows(part)) == sorted(ids)
    for id in ids:
        assert post_feedback(app, id=id, good=True).status_code == 200
    judged = rows(tmp_path / "requests.kto.jsonl")
    assert [row["id"] for row in judged] == ids


def test_a_server_that_starts_again_knows_its_file(renderer: Renderer, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer, recorder=Recorder(file, 1 << 20))
    first, second = (chat(app).json()["id"] for _ in range(2))
    post_feedback(app, id=first, good=True)
    with file.open("ab") as lines:
        lines.write(b'{"id": "chatcmpl-half')  # killed while it wrote
    again = serve(engine, renderer, recorder=Recorder(file, 1 << 20))
    assert post_feedback(again, id=second, good=True).status_code == 200
    assert post_feedback(again, id=first, good=True).status_code == 409
    assert post_feedback(again, id=first, correction="y").status_code == 200
    third = chat(again).json()["id"]
    assert post_feedback(again, id=third, good=True).status_code == 200


def test_an_answer_that_cannot_be_recorded_is_still_an_answer(
    renderer: Renderer, tmp_path: Path
) -> None:
    def fails(row: dict[str, Any]) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    file = tmp_path / "requests.jsonl"
    app = serve(SayingEngine(renderer, "x"), renderer, recorder=Recorder(file, 1 << 20, fails))
    assert chat(app).json()["choices"][0]["message"]["content"] == "x"
    assert serving.events(chat(app, stream=True))[-1] is None
    assert file.read_text() == ""


def hide(row: dict[str, Any]) -> dict[str, Any] | None:
    text = json.dumps(row)
    return None if "drop me" in text else json.loads(text.replace("555-1234", "<phone>"))


def test_a_redaction_sees_every_row_first(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "requests.jsonl"
    recorder = Recorder(file, 1 << 20, redaction(f"{__name__}:hide"))
    app = serve(SayingEngine(renderer, "Call 555-1234."), renderer, recorder=recorder)
    kept = chat(app, messages=user("I am 555-1234")).json()["id"]
    chat(app, messages=user("drop me"))
    assert "555-1234" not in file.read_text() and len(rows(file)) == 1
    assert post_feedback(app, id=kept, good=True).status_code == 200
    with pytest.raises(ConfigError, match="--redact"):
        redaction("no.such:thing")
