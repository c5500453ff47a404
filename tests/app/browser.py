"""A page of ``swift app`` in headless Chromium, and what a user does on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from processes import Command, start

PATIENCE_MS = 15_000


def chromium() -> str:
    """The browser's path; skips where there is none, or nothing to drive it with."""
    pytest.importorskip("gradio")
    pytest.importorskip("playwright")
    for name in ("chromium", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium here: apt-get install chromium")


@contextmanager
def app(place: Path, *words: object) -> Iterator[tuple[str, Command]]:
    """``swift app``: the address of its page, and the process."""
    command = start(["app", "--server_port", 0, *words], place)
    try:
        command.wait_for(lambda: "(Ctrl-C ends)" in command.text())
        found = re.search(r"the page is at (\S+)", command.text())
        assert found, command.text()
        yield found[1], command
    finally:
        command.kill(15)
        assert command.wait() == 0, command.text()


class User:
    """Somebody in front of a page."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self._context = browser.new_context(
            accept_downloads=True, **{"viewport": {"width": 1200, "height": 800}, **context}
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self.page = self._context.new_page()
        self.asked: list[str] = []  # addresses that the page asked for
        self.bodies: list[str] = []  # what it got
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("response", self._got)
        self.page.goto(address)
        self.page.wait_for_selector("#box textarea")

    def _got(self, response: Any) -> None:
        kind = response.headers.get("content-type", "")
        if "html" in kind or "json" in kind:
            self.bodies.append(response.text())

    def type(self, text: str) -> None:
        self.page.fill("#box textarea", text)

    def send(self, text: str) -> None:
        """Send a message and see it in the conversation."""
        before = self.page.locator("#lane-0 .user-row").count()
        self.type(text)
        self.page.press("#box textarea", "Enter")
        self.page.locator("#lane-0 .user-row").nth(before).wait_for()

    def ask(self, text: str) -> str:
        """Send a message and wait for the whole answer."""
        self.send(text)
        return self.answer()

    def answer(self, lane: int = 0) -> str:
        """What was answered last, once it is whole."""
        self.page.wait_for_selector("#box [data-testid=submit-button]")
        return self.shown(lane)

    def shown(self, lane: int = 0) -> str:
        """What stands there of the last answer."""
        return str(self.page.locator(f"#lane-{lane} .bot-row").last.inner_text())

    def choose(self, *models: str) -> None:
        for model in models:
            self.page.click("#models input")
            self.page.click(f"[role=option][aria-label='{model}']")
        self.page.keyboard.press("Escape")

    def settings(self) -> None:
        self.page.click("#settings .toggle-button")
        self.page.locator("#temperature input, #temperature textarea").wait_for()

    def set(self, name: str, value: str) -> None:
        field = self.page.locator(f"#{name} textarea, #{name} input").first
        field.fill(value)
        field.blur()

    def press(self, title: str, lane: int = 0) -> None:
        """Press the last button of a title beside a message."""
        self.page.locator(f"#lane-{lane} button[title='{title}']").last.click()

    def rewrite(self, button: int, text: str, lane: int = 0) -> None:
        """Edit a message of a chat box."""
        box = self.page.locator(f"#lane-{lane}")
        box.locator("button[title='Edit']").nth(button).click()
        box.locator("textarea").fill(text)
        box.locator("button[title='Submit']").click()

    def told(self, text: str) -> None:
        """Wait for a word beside the conversation."""
        self.page.locator(".toast-body", has_text=text).first.wait_for()

    def download(self) -> str:
        with self.page.expect_download() as found:
            self.page.locator("#save").dispatch_event("click")
        return Path(found.value.path()).read_text(encoding="utf-8")

    def close(self) -> None:
        self._context.close()
        assert self.wrong == []


Open = Callable[..., User]


def opener(browser: Any, address: str) -> Iterator[Open]:
    users: list[User] = []

    def open_(**context: Any) -> User:
        users.append(User(browser, address, **context))
        return users[-1]

    yield open_
    for user in users:
        user.close()
