"""Input that means harm: refused in the protocol's own shape, and the next request works."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import serving
from PIL import Image
from serving import SayingEngine, chat, post, serve, user

import tiny
from swift.chat.load import load_renderer
from swift.chat.media.settings import MediaSettings
from swift.chat.render import Renderer
from swift.config.serve import ServeSection
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Ability, Sampling
from swift.infer.talk import Talker
from swift.observe.log import Log
from swift.serve.server import Served, make_service


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


DEEP = b'{"model": "tiny", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DEEP_TOOL = (
    b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "tools": [{"type": '
    b'"function", "function": {"name": "a", "parameters": '
    + b'{"a":' * 5000
    + b"1"
    + b"}" * 5000
    + b"}}]}"
)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"model": "\xc3\x28"}', DEEP, DEEP_TOOL,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "model": 3}', b'{"temperature": NaN}', b'{"temperature": 1e999}',
        b'{"n": 99999999999999999999999999}', b"a" * 1000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": {"a": 1}}]}',
    ],
    ids=lambda body: str(body[:40]),
)  # fmt: skip
@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"],
)
def test_broken_bodies(renderer: Renderer, body: bytes, path: str) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    done = post(app, path, body)
    assert done.status_code == 400, done.text
    assert done.json()["error"]["message"]


def test_texts_that_are_odd_but_texts_are_answered(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer)
    for text in ("a\0b", "‮", "<|im_end|>", "\U0001f9d1‍\U0001f680", "\ue000 1 \ue001"):
        assert chat(app, messages=user(text)).status_code == 200
        ids = engine.seen[-1].tokens
        assert ids.count(2) == 1  # the template's own end of the turn; none that was spelled


@pytest.mark.parametrize("size", [1 << 20, 12 << 20])
def test_ten_megabytes(renderer: Renderer, size: int) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer, max_body=10 << 20)
    done = chat(app, messages=user("word " * (size // 5)))
    assert done.status_code == (413 if size > 10 << 20 else 400)
    assert done.json()["error"]["code"] in ("too_large", "context_length_exceeded")
    assert chat(app).status_code == 200


def test_a_body_without_a_length_is_counted(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer, max_body=10_000)

    async def pieces() -> Any:
        for _ in range(100):
            yield b" " * 1000

    async def send() -> int:
        async with serving.client_of(app) as client:
            return (await client.post("/v1/chat/completions", content=pieces())).status_code

    assert asyncio.run(send()) == 413


def test_bodies_of_all_requests_together_have_a_bound(renderer: Renderer) -> None:
    """Many large bodies that never end: memory is held by none that is refused."""
    app = serve(SayingEngine(renderer, "x"), renderer, together=100_000)
    most = 0

    async def endless() -> Any:
        nonlocal most
        for _ in range(200):
            yield b" " * 1000
            await asyncio.sleep(0)
            most = max(most, bodies.held)

    async def send(client: Any) -> int:
        return int((await client.post("/v1/chat/completions", content=endless())).status_code)

    async def flood() -> list[int]:
        async with serving.client_of(app) as client:
            return await asyncio.gather(*(send(client) for _ in range(40)))

    bodies = next(m.kwargs["bodies"] for m in app.user_middleware)
    codes = asyncio.run(flood())
    assert set(codes) <= {400, 429} and codes.count(429) > 30
    assert most <= 100_000 + 1000 and bodies.held == 0
    assert chat(app).status_code == 200


def picture(*size: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", size or (8, 8), (200, 30, 30)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def bomb() -> str:
    """A PNG of a few kilobytes that says it is 60000 x 60000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return len(data).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    size = (60000).to_bytes(4, "big")
    head = chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
    body = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    png = b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def seeing(url: str, count: int = 1) -> list[dict[str, Any]]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return user([*[part] * count, {"type": "text", "text": "What is it?"}])


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/", "https://example.org/a.png", "ftp://a/b",
        "//example.org/a.png", "~/.ssh/id_rsa", "", " data:image/png;base64,AAAA", "\0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["image_url", "video_url"])
def test_no_address_and_no_file_is_read_for_a_client(
    renderer: Renderer, url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def never(*args: Any, **more: Any) -> Any:
        raise AssertionError("the server looked for it")

    app = serve(SayingEngine(renderer, "x"), renderer)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    done = chat(app, messages=user([{"type": kind, kind: {"url": url}}]))
    assert (done.status_code, done.json()["error"]["code"]) == (400, "unsupported_media")


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An application over a model that sees, and its renderer."""
    import torch

    from swift.chat.load import load_tokenizer
    from swift.models.load import load_model

    folder = tiny.save_vision_checkpoint(tmp_path_factory.mktemp("seer"))
    renderer = load_renderer(folder, media=MediaSettings(max_image_pixels=10_000))
    engine = TransformersEngine(
        load_model(folder, torch.float32), load_tokenizer(folder), "auto", lambda: renderer.marks
    )
    return serve(engine, renderer, most_media=2)


def test_an_image_is_seen(seer: Any) -> None:
    plain = chat(seer, messages=user("What is it?"), max_tokens=4).json()
    seen = chat(seer, messages=seeing(picture()), max_tokens=4)
    assert seen.status_code == 200, seen.text
    more = seen.json()["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"]
    assert more == 17


def text_bomb() -> str:
    """A PNG of 8 x 8 whose comment is 50 MB once it is unpacked."""
    text = b"Comment\0\0" + zlib.compress(bytes(50 << 20))
    kind = b"zTXt" + text
    extra = len(text).to_bytes(4, "big") + kind + zlib.crc32(kind).to_bytes(4, "big")
    plain = base64.b64decode(picture().partition(",")[2])
    return "data:image/png;base64," + base64.b64encode(plain[:33] + extra + plain[33:]).decode()


def archive() -> str:
    """A zip of 10 MB of nothing, called a picture."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", bytes(10 << 20))
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_body_that_is_packed_is_not_unpacked(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    body = gzip.compress(b'{"model": "' + b"a" * (50 << 20) + b'"}')
    tracemalloc.start()
    done = post(app, "/v1/chat/completions", body, **{"Content-Encoding": "gzip"})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.status_code == 415 and "Content-Encoding" in done.json()["error"]["message"]
    assert most < 5 << 20
    assert chat(app).status_code == 200


def test_the_list_of_models_says_what_they_take(seer: Any, renderer: Renderer) -> None:
    known = seer.state.service.answerer
    for engine, reads, takes in (
        (known.engine, known.renderer, ["text", "image", "video"]),  # a video as its frames
        (known.engine, renderer, ["text"]),
        (SayingEngine(known.renderer, "x"), known.renderer, ["text"]),
    ):
        served = Served(Talker(reads, engine, Sampling(4)), "tiny", {}, None)
        service, _ = make_service(served, ServeSection(), Log(speaking=False))
        assert service.models.one("tiny")["input_modalities"] == takes


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (text_bomb(), "image"),
        (archive(), "image"),
        (bomb(), "pixels"),
        (picture(400, 400), "pixels"),
        ("data:image/png;base64,!!!!", "base64"),
        ("data:image/png,plain", "base64"),
        ("data:image/png;base64," + base64.b64encode(b"%PDF-1.4 no picture").decode(), "image"),
        ("data:image/png;base64," + picture()[22:90], "image"),
    ],
    ids=["text bomb", "archive", "bomb", "large", "base64", "plain", "pdf", "cut"],
)
def test_images_that_are_none(seer: Any, url: str, word: str) -> None:
    done = chat(seer, messages=seeing(url), max_tokens=2)
    assert done.status_code == 400 and word in done.json()["error"]["message"]
    assert len(done.text) < 1000  # the picture itself is not sent back


def test_too_many_images(seer: Any) -> None:
    done = chat(seer, messages=seeing(picture(), 3), max_tokens=2)
    assert (done.status_code, done.json()["error"]["code"]) == (400, "too_many_media")


def test_a_model_of_text_refuses_images(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    done = chat(app, messages=seeing(picture()))
    assert done.status_code == 400 and "text alone" in done.json()["error"]["message"]
    assert Ability.MEDIA not in SayingEngine.abilities


def test_switches_of_a_template_are_few_so_none_is_remembered_for_ever(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    for value in (True, False, "low", "high"):
        assert chat(app, chat_template_kwargs={"enable_thinking": value}).status_code == 200
    for value in (0, 1.5, None, "x", [], {}):
        assert chat(app, chat_template_kwargs={"enable_thinking": value}).status_code == 400


def test_a_fault_of_the_server_itself_has_the_shape_too(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("inside")

    app = serve(SayingEngine(renderer, "x"), renderer)
    monkeypatch.setattr("swift.serve.models.Models.listed", broken)

    async def ask() -> Any:
        async with serving.client_of(app) as client:
            return await client.get("/v1/models")

    done = asyncio.run(ask())
    assert done.status_code == 500 and done.json()["error"]["code"] == "internal"
    assert "inside" not in done.text


def test_errors_never_show_the_inside(renderer: Renderer, tmp_path: Path) -> None:
    engine = SayingEngine(renderer, "x")
    engine.fail_at = 0
    text = chat(serve(engine, renderer)).text
    assert "Traceback" not in text and "CUDA" not in text and ".py" not in text
    assert json.loads(text)["error"]["type"] == "server_error"
