"""Media over HTTPS: from servers whose certificate holds, and from no others."""

from __future__ import annotations

import base64
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from test_fetch import get, png

import tiny
from processes import deployed
from swift.serve import fetch
from swift.serve.fetch import Fetcher
from swift.serve.refused import Refused

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")

NAME = "img.example.org"


class Shelf(BaseHTTPRequestHandler):
    """A picture, and what a host that means harm may do."""

    seen: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.seen.append((self.path, self.headers["Host"]))
        if name.startswith("to="):
            self.send_response(307)
            self.send_header("Location", name.removeprefix("to="))
            self.end_headers()
            return
        self.send_response(200)
        body = {"a.png": png(), "page": b"<!doctype html><p>Log in</p>"}.get(name, b"x" * 9000)
        self.send_header("Content-Type", "text/html" if name == "page" else "image/png")
        if name != "endless":
            self.send_header("Content-Length", str(len(body) + 1000 * (name == "broken")))
        self.end_headers()
        for at in range(0, len(body), 1000):
            self.wfile.write(body[at : at + 1000])
            time.sleep(0.3 if name == "drops" else 0)
        while name == "endless":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Shop(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        pass  # clients that go away are what is tested


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certify(folder: Path, name: str, names: str) -> None:
    """A certificate for names, signed by the folder's authority."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
            f"/CN={name}", "-addext", f"subjectAltName={names}")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-copy_extensions", "copy", "-days", "2", "-out",
            f"{name}.pem")  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and the certificates of three servers."""
    folder = tmp_path_factory.mktemp("authority")
    for name in ("ca", "stranger"):
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key", "-out",
                f"{name}.pem", "-days", "2", "-subj", f"/CN={name}", "-addext",
                f"subjectAltName=DNS:{NAME},IP:127.0.0.1")  # fmt: skip
    certify(folder, "own", f"DNS:{NAME},IP:127.0.0.1")
    certify(folder, "other", "DNS:other.example.org,IP:127.0.0.2")
    return folder


@contextmanager
def shop(authority: Path, name: str, names: list[Any] | None = None) -> Iterator[int]:
    """The port of a server with one of the certificates; the names that it is asked by."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / f"{name}.pem", authority / f"{name}.key")
    if names is not None:
        context.sni_callback = lambda sock, asked, own: names.append(asked)
    server = Shop(("127.0.0.1", 0), Shelf)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def port(authority: Path) -> Iterator[int]:
    with shop(authority, "own") as found:
        yield found


@pytest.fixture
def trusting(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))


DATA = "data:image/png;base64," + base64.b64encode(png()).decode()


async def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@pytest.mark.usefixtures("trusting")
def test_a_certificate_that_holds(port: int) -> None:
    fetcher = Fetcher((f"127.0.0.1:{port}",), 10_000, 5)
    base = f"https://127.0.0.1:{port}"
    assert (
        get(fetcher, f"{base}/a.png", f"{base}/to=/a.png", f"{base}/to={base}/a.png") == [DATA] * 3
    )


@pytest.mark.usefixtures("trusting")
def test_it_is_that_of_the_name_though_an_address_is_asked(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    names: list[Any] = []
    with shop(authority, "own", names) as port:
        fetcher = Fetcher((f"*.example.org:{port}",), 10_000, 5, here)
        assert get(fetcher, f"https://{NAME}:{port}/a.png") == [DATA]
        assert names == [NAME] and Shelf.seen[-1] == ("/a.png", f"{NAME}:{port}")
        with pytest.raises(Refused, match=r"does not hold: Hostname mismatch.*'b.example.org'"):
            get(fetcher, f"https://b.example.org:{port}/a.png")


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("name", "why"), [("stranger", "self-signed certificate"), ("other", "IP address mismatch")]
)
def test_a_certificate_that_does_not(authority: Path, name: str, why: str) -> None:
    before = len(Shelf.seen)
    with shop(authority, name) as port:
        fetcher = Fetcher((f"127.0.0.1:{port}",), 10_000, 5)
        with pytest.raises(Refused, match=f"certificate does not hold: {why}") as refused:
            get(fetcher, f"https://127.0.0.1:{port}/a.png")
    assert refused.value.status == 400 and len(Shelf.seen) == before  # nothing was asked for


def test_an_authority_is_trusted_only_where_it_is_named(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with pytest.raises(Refused, match="certificate does not hold: unable to get local issuer"):
        get(Fetcher((f"127.0.0.1:{port}",), 10_000, 5), f"https://127.0.0.1:{port}/a.png")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(Refused, match=r"SSL_CERT_FILE .* cannot be read") as refused:
        get(Fetcher((f"127.0.0.1:{port}",), 10_000, 5), f"https://127.0.0.1:{port}/a.png")
    assert refused.value.status == 500


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("to=http://127.0.0.1:{port}/a.png", "https to what is not"),
        ("to=ftp://127.0.0.1:{port}/a.png", "https to what is not"),
        ("to=https://169.254.169.254/latest", "not at a host"),
        ("to=https://localhost:{port}/a.png", "not at a host"),
        ("to=https://127.0.0.1:1/a.png", "not at a host"),
        ("to=//u@127.0.0.1:{port}/a.png", "not at a host"),
        ("drops", "not read in 0.8 s"),
        ("endless", "more than 10000 bytes"),
        ("broken", "broke off"),
    ],
)
def test_what_a_host_may_try_over_https(port: int, name: str, why: str) -> None:
    fetcher = Fetcher((f"127.0.0.1:{port}",), 10_000, 0.8)
    with pytest.raises(Refused, match=f"not fetched: .*{why}") as refused:
        get(fetcher, f"https://127.0.0.1:{port}/{name.format(port=port)}")
    assert refused.value.status == 400


@pytest.mark.usefixtures("trusting")
def test_a_name_within_that_leads_inside_is_refused(port: int) -> None:
    fetcher = Fetcher((f"localhost:{port}",), 10_000, 5)
    with pytest.raises(Refused, match="not a public one"):
        get(fetcher, f"https://localhost:{port}/a.png")


def test_a_host_that_shakes_no_hand() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(Refused, match="not fetched"):
            get(Fetcher((f"127.0.0.1:{port}",), 10_000, 0.3), f"https://127.0.0.1:{port}/a.png")
        assert time.monotonic() - began < 5


def test_a_server_that_was_started_fetches_pictures(
    port: int, authority: Path, tmp_path: Path
) -> None:
    """The command itself: what is fetched is seen as what comes along."""
    eyes = tiny.save_vision_checkpoint(tmp_path / "eyes")
    words = ["--model", eyes, "--served_model_name", "eyes", "--torch_dtype", "float32"]
    words += ["--allowed_media_domains", f"127.0.0.1:{port}"]
    with deployed(tmp_path, *words, SSL_CERT_FILE=str(authority / "ca.pem")) as found:

        def ask(url: str) -> httpx.Response:
            part = {"type": "image_url", "image_url": {"url": url}}
            said = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
            body = {"model": "eyes", "messages": said, "max_tokens": 6, "logprobs": True}
            return httpx.post(f"{found[0]}/chat/completions", json=body, timeout=60)

        base = f"https://127.0.0.1:{port}"
        fetched, given = ask(f"{base}/a.png"), ask(DATA)
        assert fetched.status_code == given.status_code == 200, fetched.text
        assert fetched.json()["choices"] == given.json()["choices"]
        assert fetched.json()["usage"] == given.json()["usage"]
        for url, why in (
            (f"{base}/page", "an HTML page"),
            (f"{base}/x", "not readable as an image"),
            (f"{base}/to=http://127.0.0.1:{port}/a.png", "https to what is not"),
            ("https://example.org/a.png", "does not fetch from"),
        ):
            done = ask(url)
            assert done.status_code == 400 and why in done.json()["error"]["message"], done.text
