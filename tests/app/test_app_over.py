"""swift app in headless Chromium over a server that runs, and says what a test wants."""

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

import pytest
from browser import Open, app, opener

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
from swift.serve.keys import Caller, Keys
from swift.serve.server import listen, uvicorn_of

KEY, SLOW = "sk-of-the-tests-12345", "sk-of-the-slow-12345"


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
