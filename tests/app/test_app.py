"""swift app in headless Chromium: what a user sees is what the server says."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from browser import User, app, chromium
from PIL import Image

import tiny
from processes import fail, run

sys.path.insert(0, str(Path(__file__).parent.parent / "serve"))

import serving
from saying import SayingEngine

from swift.app.client import Api
from swift.app.reply import Reply, grown
from swift.app.talk import Lane, Question, Wish, body_of
from swift.chat.message import Conversation
from swift.config.serve import ServeSection
from swift.data.formats.form import formats, understand
from swift.errors import ServerError
from swift.infer.backends.server import free_port
from swift.models.load import load_model
from swift.serve.keys import Caller, Keys
from swift.serve.server import listen, uvicorn_of

KEY, SLOW = "sk-of-the-tests-12345", "sk-of-the-slow-12345"
Open = Callable[..., User]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


def opener(browser: Any, address: str) -> Iterator[Open]:
    users: list[User] = []

    def open_(**context: Any) -> User:
        users.append(User(browser, address, **context))
        return users[-1]

    yield open_
    for user in users:
        user.close()


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


# over a server that runs, and says what a test wants


class Told:
    """A server in this process, and its engine."""

    def __init__(self) -> None:
        renderer = serving.renderer_of()
        self.engine = SayingEngine(renderer, "Hello.", context=2048)
        slow = Caller("slow", requests_per_minute=1)
        keys = Keys({KEY: Caller("tests"), SLOW: slow}, Caller("nobody"))
        self._place = listen("127.0.0.1", 0)
        application = serving.serve(self.engine, renderer, keys=keys)
        self._server = uvicorn_of(application, ServeSection(drain_s=5))
        sockets = {"sockets": [self._place]}
        self._thread = threading.Thread(target=self._server.run, kwargs=sockets)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._place.getsockname()[1]}/v1"

    def say(self, text: str, pace_s: float = 0.0) -> None:
        self.engine.say, self.engine.pace_s = lambda request: text, pace_s

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture(scope="module")
def server() -> Iterator[Told]:
    made = Told()
    yield made
    made.close()


HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def beside(server: Told, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = ["--base_url", server.url, "--api_key", KEY, "--model", "org/tiny"]
    words += ["--studio_title", f"Birds {HOSTILE}", "--is_multimodal", "false"]
    with app(tmp_path_factory.mktemp("beside"), *words) as (address, _):
        yield address


@pytest.fixture
def over(browser: Any, beside: str) -> Iterator[Open]:
    yield from opener(browser, beside)


def test_an_answer_is_shown_while_it_is_written_and_can_be_stopped(
    over: Open, server: Told
) -> None:
    server.say("word " * 400, pace_s=0.05)
    user = over()
    user.send("Hello")
    user.page.locator("#lane-0 .bot-row", has_text="word word").wait_for()
    assert server.engine.live == 1
    user.page.click("#box .stop-button")
    user.page.locator("#lane-0 .bot-row", has_text="stopped").wait_for()
    assert server.engine.live == 0 and server.engine.told < 400
    assert 0 < user.page.locator("#lane-0 .bot-row").first.inner_text().count("word") < 400
    server.say("And on.")
    assert user.ask("Go on") == "And on."
    # a page that is closed ends what it asked for
    server.say("word " * 400, pace_s=0.05)
    user.send("Again")
    user.page.locator("#lane-0 .bot-row", has_text="word word").last.wait_for()
    user.page.close()
    assert within(lambda: server.engine.live == 0)


def within(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    import time

    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_an_error_is_told_in_the_servers_words_and_nothing_is_lost(
    over: Open, server: Told
) -> None:
    server.say("Fine.")
    user = over()
    assert user.ask("Hello") == "Fine."
    user.send("word " * 3000)
    user.page.wait_for_selector("#box [data-testid=submit-button]")
    assert "The server says" in user.shown() and "2048" in user.shown()
    server.engine.fail_at = 0
    try:
        user.send("Fail")
        user.page.wait_for_selector("#box [data-testid=submit-button]")
        assert "the engine failed; another request may work" in user.shown()
    finally:
        server.engine.fail_at = None
    user.press("Retry")
    assert user.page.locator("#lane-0 .bot-row", has_text="Fine.").nth(1).text_content()
    user.page.wait_for_selector("#box [data-testid=submit-button]")
    assert user.ask("And now?") == "Fine."
    messages = json.loads(user.download())["messages"]
    assert [one["content"] for one in messages] == [
        "Hello", "Fine.", "Fail", "Fine.", "And now?", "Fine.",
    ]  # fmt: skip
    server.say("Better.")
    user.press("Retry")
    user.page.locator("#lane-0 .bot-row", has_text="Better.").wait_for()
    user.page.wait_for_selector("#box [data-testid=submit-button]")
    user.rewrite(0, "Hello again")
    user.page.locator("#lane-0 .user-row").nth(1).wait_for(state="detached")
    user.page.locator("#lane-0 .bot-row", has_text="Better.").wait_for()
    user.page.wait_for_selector("#box [data-testid=submit-button]")
    messages = json.loads(user.download())["messages"]
    assert [one["content"] for one in messages] == ["Hello again", "Better."]


def test_html_is_text_and_nothing_is_fetched_from_elsewhere(over: Open, server: Told) -> None:
    server.say(f"{HOSTILE} ![seen](http://swift.invalid/seen.png) `<b>`\n\n```html\n<i>x</i>\n```")
    user = over()
    shown = user.ask(f"Is {HOSTILE} bold?").replace("\u2060", "")
    assert HOSTILE in shown and "<b>" in shown and "<i>x</i>" in shown
    asked = user.page.locator("#lane-0 .user-row").inner_text().replace("\u2060", "")
    assert asked == f"Is {HOSTILE} bold?"
    assert HOSTILE in user.page.locator("#title").inner_text().replace("\u2060", "")
    assert user.page.evaluate("window.hacked") is None
    assert [url for url in user.asked if re.match("(https?|wss?)://(?!127.0.0.1)", url)] in (
        [], ["http://swift.invalid/seen.png"],  # asked for, and refused by the page's own policy
    )  # fmt: skip
    row = json.loads(user.download())
    assert row["messages"][0]["content"] == f"Is {HOSTILE} bold?"
    assert user.bodies and not any(KEY in body for body in user.bodies)


def test_thinking_is_folded_and_calls_are_readable(over: Open, server: Told) -> None:
    call = serving.CALL % ("look", '{"at": "Paris", "days": 2}')
    server.say(f"<think>\nI need to look.\n</think>\n\nA moment.{call}")
    tools = [serving.tool("look", at={"type": "string"}, days={"type": "integer"})]
    user = over()
    user.settings()
    user.set("tools", json.dumps(tools))
    user.ask("What is the weather?")
    box = user.page.locator("#lane-0")
    texts = box.locator(".bot-row").all_inner_texts()
    assert texts[0].strip() == "Thinking" and texts[1] == "A moment."
    assert "look" in texts[2] and '"at": "Paris"' in texts[2]
    box.locator(".thought-group .title").first.click()
    box.get_by_text("I need to look.").wait_for()
    assert user.page.get_attribute("#box textarea", "placeholder") == "What did look answer?"
    server.say("It rains.")
    assert user.ask("rain") == "It rains."
    row = json.loads(user.download())
    called, result = row["messages"][1:3]
    assert called["reasoning_content"] == "I need to look." and row["tools"] == tools
    assert result["role"] == "tool" and result["content"] == "rain"
    assert result["tool_call_id"] == called["tool_calls"][0]["id"]
    meaning = understand(row, formats("chat"))
    assert isinstance(meaning, Conversation)
    assert dict(meaning.messages[1].tool_calls[0].arguments) == {"at": "Paris", "days": 2}


def test_a_phone_in_the_dark(over: Open, server: Told) -> None:
    server.say("A very long line: " + "swift" * 60)
    user = over(viewport={"width": 360, "height": 640}, color_scheme="dark", has_touch=True)
    user.ask("Hello")
    page = user.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#box textarea").bounding_box()
    assert box["y"] + box["height"] < 640
    assert page.locator("#box input[type=file]").count() == 0  # --is_multimodal false
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128")
    assert not light


def test_refusals_are_the_servers(server: Told) -> None:
    server.say("Fine.")
    body = body_of(Lane("tiny").asked(Question("Hi")), Wish())

    async def ask(api: Api, **changes: Any) -> str:
        reply = Reply("tiny")
        async for event in api.events({**body, **changes}):
            reply = grown(reply, event, 0.0)
        return reply.content

    def run_(coroutine: Any) -> Any:  # beside the loop that drives the browser
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, coroutine).result()

    api, slow = Api(server.url, KEY), Api(server.url, SLOW)
    assert [one.name for one in run_(api.models())] == ["tiny"]
    assert run_(ask(api)) == run_(ask(slow)) == "Fine."
    for refused, why in (
        (ask(slow), r"429: .* \(again in \d+ s\)"),
        (ask(api, model="other"), "404: there is no model 'other'; this server has tiny"),
        (ask(api, top_k=-5), "400: top_k: .* greater than or equal to -1"),
        (Api(server.url, "wrong").models(), "401: "),
        (Api(server.url.replace("/v1", "/v2"), KEY).models(), "404: GET /v2/models"),
    ):
        with pytest.raises(ServerError, match=why):
            run_(refused)
    assert run_(api.records()) is False


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--model", "other"], "has no other; it has tiny"),
        (["--adapters", "a=b"], "--adapters: belongs to a server that is started"),
        (["--infer_backend", "vllm"], "--infer_backend: belongs to a server that is started"),
        (["--lang", "fr"], "--lang"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_said(
    server: Told, tmp_path: Path, words: list[str], why: str
) -> None:
    pytest.importorskip("gradio")
    code, text = fail(["app", "--base_url", server.url, "--api_key", KEY, *words], tmp_path)
    assert code == 2 and why in text


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    url = f"http://127.0.0.1:{free_port()}/v1"
    code, text = fail(["app", "--base_url", url], tmp_path)
    assert code == 1 and f"{url} cannot be reached" in text


def test_a_dry_run_says_what_would_be_shown(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    said_ = run(["app", "--model", "some/model", "--dry_run"], tmp_path)
    assert "127.0.0.1:7860 over swift deploy with some/model" in said_
