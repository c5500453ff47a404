"""A server on this machine that answers what a test tells it to, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What is answered to one request."""

    status: int = 200
    body: Any = None  # JSON, or bytes as they are
    events: list[Any] | None = None  # server-sent; a str is sent as it is, a callable is waited for
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0
    cut: bool = False  # the connection breaks before the end


@dataclass
class StandIn:
    url: str
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body, _ in self.asked]


def _bursts(events: list[Any]) -> list[Any]:
    """Events as bytes that are sent at once, and what is waited for between them."""
    found: list[Any] = [b""]
    for event in events:
        if callable(event):
            found += [event, b""]
        else:
            line = event if isinstance(event, str) else json.dumps(event)
            found[-1] += f"data: {line}\n\n".encode()
    return found


@contextmanager
def serve(answer: Callable[[int, str, dict[str, Any]], Reply]) -> Iterator[StandIn]:
    """Serve ``answer(number of the request, path, JSON)``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            with lock:
                number = len(found.asked)
                found.asked.append((self.path, body, dict(self.headers)))
            reply = answer(number, self.path, body)
            if reply.hang_s:
                time.sleep(reply.hang_s)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            text = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            texts = [text] if reply.events is None else _bursts(reply.events)
            size = sum(len(text) for text in texts if isinstance(text, bytes))
            self.send_header("Content-Length", str(size + (9 if reply.cut else 0)))
            self.end_headers()
            for text in texts:
                self.wfile.write(text) if isinstance(text, bytes) else text()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = StandIn(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
