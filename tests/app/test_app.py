"""swift app in headless Chromium: what a user sees is what the server says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from browser import Open, app, opener
from PIL import Image

import tiny
from swift.chat.message import Conversation
from swift.data.formats.form import formats, understand
from swift.infer.backends.server import free_port
from swift.models.load import load_model

KEY = "sk-of-the-tests-12345"


# over a server of its own: a tiny model that sees, with two adapters


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA and two adapters as runs leave them."""
    from peft import LoraConfig, get_peft_model

    place = tmp_path_factory.mktemp("seer")
    model = tiny.save_vision_checkpoint(place / "seer")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        settings = LoraConfig(
            r=4, init_lora_weights=False, target_modules=r".*language_model.*\.(q|v)_proj"
        )
        peft: Any = get_peft_model(load_model(model, torch.float32), settings)
        peft.save_pretrained(place / name)
        (place / name / "config.yaml").write_text(f"model: {{path: {model}}}\n")
    return place


@pytest.fixture(scope="module")
def started(seer: Path, browser: Any) -> Iterator[tuple[str, str]]:
    """The page over a server that it started, and that server."""
    port = free_port()
    words = [
        "--model", seer / "seer", "--adapters", f"a={seer / 'a'}", f"b={seer / 'b'}",
        "--max_new_tokens", 12, "--record", "requests.jsonl", "--port", port, "--api_key", KEY,
    ]  # fmt: skip
    with app(seer, *words) as (address, _):
        yield address, f"http://127.0.0.1:{port}/v1"
    with pytest.raises(httpx.ConnectError):  # it ended with the page
        httpx.get(f"http://127.0.0.1:{port}/health")


@pytest.fixture
def over_own(browser: Any, started: tuple[str, str]) -> Iterator[Open]:
    yield from opener(browser, started[0])


def said(server: str, model: str, content: Any, **more: Any) -> str:
    """What the server answers, asked without the page."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    headers = {"Authorization": f"Bearer {KEY}"}
    done = httpx.post(f"{server}/chat/completions", json=body, headers=headers, timeout=60)
    assert done.status_code == 200, done.text
    return str(done.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def question(started: tuple[str, str]) -> str:
    """One that all models answer, each in its own way, also when they choose at random."""
    for number in range(40):
        text = f"Who are you, {number}?"
        answers = {said(started[1], name, text) for name in ("seer", "a", "b")}
        answers.add(said(started[1], "seer", text, **CHOSEN))
        if len(answers) == 4 and all(map(letters, answers)):
            return text
    raise AssertionError("these models have nothing to say")


CHOSEN = {"temperature": 1.5, "seed": 7, "max_tokens": 5}


def letters(text: str) -> str:
    """What markdown leaves as it is."""
    return re.sub(r"[\W_]", "", text)


def last(text: str) -> list[str]:
    """The last answer of each conversation of a download."""
    return [json.loads(line)["messages"][-1]["content"] for line in text.splitlines()]


def test_an_answer_is_what_the_server_says(
    over_own: Open, started: tuple[str, str], question: str
) -> None:
    user = over_own()
    expected = said(started[1], "seer", question)
    assert letters(user.ask(question)) == letters(expected)
    assert last(user.download()) == [expected]
    told = user.page.locator("#told-0").inner_text()
    assert re.search(r"\d+ \+ \d+ tokens( · [\d.]+ tokens/s)? · first after [\d.]+ s", told)
    # and it goes on from there
    user.ask("And then?")
    (row,) = user.download().splitlines()
    messages = json.loads(row)["messages"]
    assert messages[:2] == [
        {"role": "user", "content": question}, {"role": "assistant", "content": expected},
    ]  # fmt: skip
    user.page.click("#new")
    user.page.wait_for_selector("#lane-0 .user-row", state="detached")
    assert letters(user.ask(question)) == letters(expected)


def test_settings_are_those_of_the_request(
    over_own: Open, started: tuple[str, str], question: str
) -> None:
    user = over_own()
    user.settings()
    assert user.page.locator("#max_tokens textarea, #max_tokens input").input_value() == "12"
    for name, value in CHOSEN.items():
        user.set(name, str(value))
    user.ask(question)
    assert last(user.download()) == [said(started[1], "seer", question, **CHOSEN)]
    user.set("seed", "seven")
    user.type("Again")
    user.page.press("#box textarea", "Enter")
    user.told("seed: 'seven' is no whole number")
    assert user.page.locator("#lane-0 .user-row").count() == 1


def test_adapters_answer_side_by_side(
    over_own: Open, started: tuple[str, str], question: str
) -> None:
    user = over_own()
    user.choose("a", "b")
    user.page.locator("#lane-2").wait_for()
    user.ask(question)
    expected = [said(started[1], name, question) for name in ("seer", "a", "b")]
    assert last(user.download()) == expected
    assert [letters(user.shown(lane)) for lane in range(3)] == [letters(one) for one in expected]
    assert user.page.locator(".lane .block.name:visible").all_inner_texts() == ["seer", "a", "b"]


def test_an_image_is_seen(
    over_own: Open, started: tuple[str, str], question: str, tmp_path: Path
) -> None:
    file = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(file)
    user = over_own()
    user.page.set_input_files("#box input[type=file]", str(file))
    user.page.locator("#box .thumbnail-item").first.wait_for()
    user.ask(question)
    row = json.loads(user.download())
    image, text = row["messages"][0]["content"]
    assert text == {"type": "text", "text": question} and image["type"] == "image"
    parts = [{"type": "image_url", "image_url": {"url": image["image"]}}, text]
    expected = said(started[1], "seer", parts)
    assert row["messages"][1]["content"] == expected
    assert user.page.locator("#lane-0 .user-row img").count() == 1
    # and the row is one that learning reads
    meaning = understand(row, formats("chat"))
    assert isinstance(meaning, Conversation) and len(meaning.media) == 1


def test_a_file_that_nobody_uploaded_is_not_read(started: tuple[str, str], tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 32)).save(secret)
    address = started[0].rstrip("/")
    sends, *_ = httpx.get(f"{address}/config").json()["dependencies"]
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    data = [{"text": "Look", "files": [file]}, ["seer"], None]
    data += [""] * (len(sends["inputs"]) - len(data))
    asked = {"data": data, "fn_index": sends["id"], "session_hash": "hostile"}
    assert httpx.post(f"{address}/gradio_api/queue/join", json=asked).status_code == 200
    url = f"{address}/gradio_api/queue/data?session_hash=hostile"
    with httpx.stream("GET", url, timeout=30) as answer:
        ends = [line for line in answer.iter_lines() if "process_" in line]
    assert '"success":false' in ends[-1] and "process_generating" not in "".join(ends)
    assert httpx.get(f"{address}/gradio_api/file={secret}").status_code == 403


def test_judgements_reach_the_record(over_own: Open, seer: Path, question: str) -> None:
    user = over_own()
    user.ask(question)
    user.press("Like")
    user.told("Recorded")
    user.press("Dislike")
    user.told("was judged before")  # the server's words
    user.rewrite(-1, "The <Swift> project.")
    user.told("your text against the answer")
    (thumb,) = rows(seer / "requests.kto.jsonl")
    (pair,) = rows(seer / "requests.dpo.jsonl")
    assert thumb["label"] is True and thumb["id"] == pair["id"]
    assert pair["messages"][-1]["content"] == "The <Swift> project."
    assert pair["rejected_messages"] == [thumb["messages"][-1]]
    assert last(user.download()) == ["The <Swift> project."]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
