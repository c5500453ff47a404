"""A real server on a real socket: readers that go, heads that never come, SIGTERM under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving
from serving import SayingEngine, serve, user

from swift.chat.render import Renderer
from swift.config.serve import ServeSection
from swift.infer.engine import Sampling
from swift.serve.http import EventStream
from swift.serve.limits import Gate
from swift.serve.server import listen, uvicorn_of

HERE = Path(__file__).parent
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


@contextmanager
def listening(app: Any, send_buffer: int = 0, **settings: Any) -> Iterator[str]:
    """An application on a free port, served in a thread."""
    place = listen("127.0.0.1", 0)
    if send_buffer:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = uvicorn_of(app, ServeSection(drain_s=5, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def until(holds: Any, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(holds())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_when_the_client_goes_the_generation_ends(
    renderer: Renderer, stream: bool, count: int
) -> None:
    engine = SayingEngine(renderer, "word " * 200, pace_s=0.02)
    gate = Gate(4, 4, 1)
    app = serve(engine, renderer, gate=gate)
    body = {"model": "tiny", "messages": user("Hello"), "stream": stream, "n": count}
    with listening(app) as address:
        timeout = httpx.Timeout(5, read=0.3)
        with httpx.Client(timeout=timeout) as client:
            asked = client.build_request("POST", f"{address}/v1/chat/completions", json=body)
            if stream:
                answer = client.send(asked, stream=True)
                assert next(answer.iter_lines()).startswith("data: ")
                answer.close()
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.send(asked)
        assert until(lambda: engine.live == 0 and gate.running == 0)
        assert engine.broken_off == count and engine.told < 200 * count
        assert httpx.get(f"{address}/health").status_code == 200


def test_small_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio turns Nagle's algorithm off only where a socket says that it is TCP's."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def met(reader: Any, writer: asyncio.StreamWriter) -> None:
            one = writer.get_extra_info("socket")
            found.set_result(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        place = listen("127.0.0.1", 0)
        async with await asyncio.start_server(met, sock=place):
            _, writer = await asyncio.open_connection("127.0.0.1", place.getsockname()[1])
            writer.close()
            return await found

    assert asyncio.run(accepted()) == 1


def test_a_head_that_never_ends_is_not_waited_for(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    with listening(app, header_timeout_s=0.3) as address:
        port = int(address.rpartition(":")[2])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for one in slow:
            one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-A: ")
        begun = time.monotonic()
        assert httpx.get(f"{address}/health").status_code == 200  # others are served meanwhile
        for number, one in enumerate(slow):
            one.settimeout(5)
            if number == 0:
                time.sleep(0.1)
                one.sendall(b"b")  # a byte now and then gains no time
            assert one.recv(100) == b""
            one.close()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"b"], ids=["headers", "one header"])
@pytest.mark.parametrize("first", [b"", HEALTH], ids=["first", "second"])
def test_a_head_without_end_is_not_held(renderer: Renderer, piece: bytes, first: bytes) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    with listening(app) as address:
        one = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        one.settimeout(5)
        one.sendall(first + b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: ")
        sent, most = 0, 64 << 20
        with contextlib.suppress(ConnectionError):
            while sent < most:
                sent += one.send(piece * (4096 // len(piece)))
        assert sent < most  # the socket's own buffers hold some megabytes
        one.close()


def test_a_body_that_never_ends_is_not_waited_for(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer, body_timeout_s=0.3)
    with listening(app) as address:
        one = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")
        one.settimeout(5)
        assert b"408" in one.recv(100)
        one.close()


def test_a_reader_that_takes_nothing_holds_no_place(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventStream, "patience_s", 0.3)
    engine = SayingEngine(renderer, "word " * 4000, context=None)
    gate = Gate(4, 4, 1)
    app = serve(engine, renderer, gate=gate, sampling=Sampling(5000))
    body = json.dumps({"model": "tiny", "messages": user("Hello"), "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    with listening(app, send_buffer=4096) as address, socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        one.sendall(head.encode() + body)
        assert until(lambda: engine.live == 1)
        assert until(lambda: engine.live == 0 and gate.running == 0)
        assert 0 < engine.told < 4000 and engine.broken_off == 1
        assert httpx.get(f"{address}/health").status_code == 200


def test_a_head_without_measure_is_refused(renderer: Renderer) -> None:
    with listening(serve(SayingEngine(renderer, "x"), renderer)) as address:
        for head in (b"X-A: " + b"a" * 1_000_000, b"X-A: \xff\x00", b"\x16\x03\x01\x02"):
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as one:
                one.settimeout(5)
                with contextlib.suppress(ConnectionError):  # it hangs up while we still talk
                    one.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n")
                    assert b" 400 " in one.recv(1000)
        assert httpx.get(f"{address}/health").status_code == 200


def test_the_first_piece_comes_before_the_last_is_made(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "word " * 20, pace_s=0.05)
    body = {"model": "tiny", "messages": user("Hello"), "stream": True}
    with (
        listening(serve(engine, renderer)) as address,
        httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        next(lines := answer.iter_lines())
        assert engine.live == 1 and engine.told < 10
        lines.close()


SERVER = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from saying import SayingEngine
from swift.chat.render import Renderer
from swift.config.serve import ServeSection
from swift.infer.engine import Sampling
from swift.infer.talk import Talker
from swift.observe.log import Log
from swift.serve.server import Served, serve
renderer = Renderer(pickle.loads(Path(sys.argv[2]).read_bytes()))
engine = SayingEngine(renderer, "one two three four five", pace_s=0.05)
section = ServeSection(port=0, max_running=4, max_queue=100, drain_s=30, verbose=False)
serve(Served(Talker(renderer, engine, Sampling(32)), "tiny", {}, None), section, Log())
"""


def test_sigterm_under_load_loses_no_admitted_request(renderer: Renderer, tmp_path: Path) -> None:
    spec = tmp_path / "spec.pickle"
    spec.write_bytes(pickle.dumps(renderer.spec))
    command = [sys.executable, "-c", SERVER, str(HERE), str(spec)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("serving tiny at http://127.0.0.1:"), line
    address = line.split()[3].removesuffix("/v1")
    said: list[str] = []

    async def one(client: httpx.AsyncClient, stream: bool) -> None:
        body = {"model": "tiny", "messages": user("Hello"), "stream": stream}
        done = await client.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        if stream:
            found = serving.events(done)
            assert found[-1] is None
            deltas = [c["delta"].get("content", "") for e in found[:-1] for c in e["choices"]]
            said.append("".join(deltas))
        else:
            said.append(done.json()["choices"][0]["message"]["content"])

    async def held(client: httpx.AsyncClient) -> float:
        text = (await client.get(f"{address}/metrics")).text
        return sum(map(float, re.findall(r"^swift_(?:running|waiting) (.*)$", text, re.M)))

    async def load() -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
            tasks = [asyncio.create_task(one(client, i % 2 == 0)) for i in range(24)]
            while not said or len(said) + await held(client) < 24:  # all are admitted
                await asyncio.sleep(0.02)
            assert len(said) < 24  # some are answered, some run, most wait
            process.send_signal(signal.SIGTERM)
            await asyncio.gather(*tasks)
        async with httpx.AsyncClient() as other:  # a kept connection would be closed, not refused
            with pytest.raises(httpx.ConnectError):
                await other.get(f"{address}/health")

    asyncio.run(load())
    assert said == ["one two three four five"] * 24
    assert process.wait(20) == 0
    assert "every request that was admitted has its answer" in process.stderr.read()
