"""Media at addresses: from hosts that the operator names, and no way around that."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import serving
from PIL import Image
from serving import SayingEngine, chat, post, serve, user

from swift.chat.message import Conversation, Media, Message
from swift.config.serve import ServeSection
from swift.errors import ConfigError
from swift.serve import fetch
from swift.serve.fetch import Fetcher, is_host, is_public, permitted
from swift.serve.refused import Refused
from swift.serve.server import check


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


class Shelf(BaseHTTPRequestHandler):
    """A picture, and what a host that means harm may do."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        name = self.path.strip("/")
        if name.startswith("to="):
            self.send_response(302)
            self.send_header("Location", name.removeprefix("to="))
            self.end_headers()
            return
        body = png() if name == "a.png" else b"x" * 5000
        self.send_response(404 if name == "none" else 200)
        self.send_header("Content-Type", "image/png\r\nX: y" if name == "odd" else "image/png")
        if name == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if name == "slow":
            time.sleep(1)
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def shelf() -> Iterator[int]:
    """The port of a server of media on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()


def get(fetcher: Fetcher, *urls: str) -> list[str]:
    """What becomes of addresses."""
    parts = tuple(Media("image", url) for url in urls)
    asked = Conversation((Message("user", parts),))
    return [str(one.source) for one in asyncio.run(fetcher(asked)).media]


def test_a_picture_of_a_known_host_is_what_it_is_as_data(shelf: int) -> None:
    fetcher = Fetcher((f"127.0.0.1:{shelf}",), 10_000, 5)
    base = f"http://127.0.0.1:{shelf}"
    data = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert get(fetcher, f"{base}/a.png", data, f"{base}/to=/a.png") == [data] * 3


@pytest.mark.parametrize(
    "name",
    ["none", "gzip", "slow", "large", "to=/to=/to=/to=/a.png", "to=file:///etc/passwd",
     "to=http://169.254.169.254/latest", "to=http://localhost:{port}/a.png",
     "to=http://127.0.0.1:1/a.png", "to=//a@127.0.0.1:{port}/a.png", "to=", "to=/loop"],
)  # fmt: skip
def test_what_a_host_may_try(shelf: int, name: str) -> None:
    most = 4000 if name == "large" else 10_000
    fetcher = Fetcher((f"127.0.0.1:{shelf}",), most, 0.4)
    url = f"http://127.0.0.1:{shelf}/{name.format(port=shelf)}"
    if name == "to=/loop":
        url = f"http://127.0.0.1:{shelf}/to=/to=/to=/to=/to=/a.png"
    with pytest.raises(Refused, match="not fetched") as refused:
        get(fetcher, url)
    assert refused.value.status == 400


def test_all_media_together_have_one_bound(shelf: int) -> None:
    fetcher = Fetcher((f"127.0.0.1:{shelf}",), 12_000, 5)
    url = f"http://127.0.0.1:{shelf}/x"
    assert len(get(fetcher, url, url)) == 2
    with pytest.raises(Refused, match="12000 bytes"):
        get(fetcher, url, url, url)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1",
     "fe80::1%eth0", "fc00::1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::a00:1",
     "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "224.0.0.1", "255.255.255.255"],
)  # fmt: skip
def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14", address]  # one of several is enough

    assert is_public("93.184.215.14") and not is_public(address)
    with pytest.raises(Refused, match="not a public one"):
        get(Fetcher(("img.example.org",), 100, 1, resolve), "http://img.example.org/a")


def test_a_name_is_resolved_once_and_asked_at_that_very_address(
    shelf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look would be the way in: the name may lead elsewhere by then."""
    looks: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        looks.append(host)
        return ["127.0.0.1" if len(looks) == 1 else "127.0.0.2"]

    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr("socket.getaddrinfo", None)
    fetcher = Fetcher((f"img.example.org:{shelf}",), 10_000, 5, resolve)
    url = f"http://img.example.org:{shelf}"
    assert get(fetcher, f"{url}/a.png")[0].startswith("data:image/png;base64,iVBOR")
    assert looks == ["img.example.org"]
    assert Shelf.asked[-1] == ("/a.png", f"img.example.org:{shelf}")
    looks.clear()
    with pytest.raises(Refused, match="not a public one"):  # the redirection is looked at anew
        get(fetcher, f"{url}/to=/a.png")


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("https://example.org/a.png", True), ("HTTP://EXAMPLE.ORG/a?b#c", True),
        ("http://example.org:80/", True), ("https://example.org:8443/", False),
        ("https://a.b.cdn.example.net/x", True), ("https://cdn.example.net/x", False),
        ("https://own.example.com:8443/x", True), ("https://own.example.com/x", False),
        ("https://evilexample.org/", False), ("https://example.org.evil.net/", False),
        ("https://example.org@evil.net/", False), ("https://evil.net#@example.org/", False),
        ("https://evil.net\\@example.org/", False), ("https://u:p@example.org/", False),
        ("https://example.org\t/", False), ("https://example.org:x/", False),
        ("https://exämple.org/", False), ("https:///a", False), ("ftp://example.org/", False),
        ("https://[2001:db8::1]/a", True), ("https://[2001:db8::2]/a", False),
    ],
)  # fmt: skip
def test_which_addresses_are_at_a_host(url: str, is_one: bool) -> None:
    hosts = ("example.org", "*.cdn.example.net", "own.example.com:8443", "[2001:db8::1]")
    assert all(map(is_host, hosts))
    assert permitted(url, hosts) is is_one


@pytest.mark.parametrize("host", ["*", "https://a.org", "a.org/x", "*.", "a b", "a@b", "a:b"])
def test_a_host_that_is_none_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(ConfigError, match="--allowed_media_domains"):
        check(ServeSection(media_hosts=[host]))


def test_routes_fetch_what_is_permitted_and_refuse_the_rest_by_name(shelf: int) -> None:
    renderer = serving.renderer_of()
    fetcher = Fetcher((f"127.0.0.1:{shelf}",), 10_000, 5)
    app = serve(SayingEngine(renderer, "x"), renderer, fetcher=fetcher)
    before = len(Shelf.asked)

    def said(url: str) -> str:
        part = {"type": "image_url", "image_url": {"url": url}}
        done = chat(app, messages=user([part]))
        assert done.status_code == 400
        return str(done.json()["error"]["message"])

    assert "text alone" in said(
        f"http://127.0.0.1:{shelf}/a.png"
    )  # fetched; then the model refuses
    assert len(Shelf.asked) == before + 1
    assert f"does not fetch from (it does from 127.0.0.1:{shelf})" in said(
        "http://169.254.169.254/"
    )
    assert "reads no file" in said("file:///etc/passwd")
    part = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{shelf}/a.png"}}
    many = post(app, "/tokenize", {"messages": user([part] * 17)})
    assert many.json()["error"]["code"] == "too_many_media"
    assert len(Shelf.asked) == before + 1
