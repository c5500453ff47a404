"""What the service itself costs: an engine that takes no time behind it, clients on this machine.

    nice python bench/serve.py [--clients 16] [--requests 400] [--tokens 64]

Prints requests and tokens a second (of the server's process and the clients' together), and the time
to the first event of a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/serve")]

import httpx  # noqa: E402
import serving  # noqa: E402
from saying import SayingEngine  # noqa: E402

from swift.config.serve import ServeSection  # noqa: E402
from swift.serve.limits import Gate  # noqa: E402
from swift.serve.server import listen, uvicorn_of  # noqa: E402


def start(tokens: int, tell: Connection) -> None:
    """The server, in a process of its own."""
    renderer = serving.renderer_of()
    text = renderer.tokenizer.decode([renderer.tokenizer.encode("a b").ids[-1]] * (tokens - 1))
    app = serving.serve(SayingEngine(renderer, text), renderer, gate=Gate(64, 4096, 60))
    place = listen("127.0.0.1", 0)
    tell.send(f"http://127.0.0.1:{place.getsockname()[1]}/v1/chat/completions")
    uvicorn_of(app, ServeSection()).run(sockets=[place])


async def measure(address: str, clients: int, requests: int, stream: bool) -> None:
    body = {"model": "tiny", "messages": serving.user("Hello"), "stream": stream}
    first_s: list[float] = []
    left = iter(range(requests))
    tokens = 0

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal tokens
        for _ in left:
            begun = time.perf_counter()
            async with client.stream("POST", address, json=body) as answer:
                assert answer.status_code == 200
                got = False
                async for line in answer.aiter_lines():
                    if line and not got:
                        got = True
                        first_s.append(time.perf_counter() - begun)
                    tokens += stream and line.startswith("data: {")

    async with httpx.AsyncClient(timeout=60) as client:
        await client.post(address, json=body)
        begun = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(clients)))
        took = time.perf_counter() - begun
    kind = "streamed" if stream else "whole"
    print(
        f"{kind:9} {requests / took:7.1f} requests/s  first {1e3 * median(first_s):6.1f} ms (median)"
        + (f"  {tokens / took:8.0f} events/s" if stream else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=64)
    said = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=start, args=(said.tokens, there))
    server.start()
    address = here.recv()
    for clients in (1, said.clients):
        print(f"{clients} client(s), {said.tokens} tokens an answer")
        for stream in (False, True):
            asyncio.run(
                measure(address, clients, said.requests // (1 if clients > 1 else 4), stream)
            )
    server.terminate()


if __name__ == "__main__":
    main()
