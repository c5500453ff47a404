"""What the service itself costs, before an engine that takes no time: in its process, and behind HTTP.

    OMP_NUM_THREADS=1 python bench/serve.py [--clients 1 16] [--tokens 64] [--rounds 8]

Every client streams one answer a round, a token every 30 ms: processor time of the service for each token. Then
tokens come as fast as they are taken: how many a second, of the service, the clients and the stand-in for vLLM's
server together. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/serve")]

import psutil  # noqa: E402
import serving  # noqa: E402
from aiohttp import web  # noqa: E402
from saying import SayingEngine  # noqa: E402

from swift.config.serve import ServeSection  # noqa: E402
from swift.infer.backends.client import Address, Client  # noqa: E402
from swift.infer.backends.dialects import VLLM  # noqa: E402
from swift.infer.backends.served import ServedEngine  # noqa: E402
from swift.observe.log import Log  # noqa: E402
from swift.serve.limits import Gate  # noqa: E402
from swift.serve.server import listen, run_app  # noqa: E402

PACES_S = {"slow": 0.03, "fast": 0.0}
WORD = 40  # any token


def stand_in(tokens: int, tell: Connection) -> None:
    """A server that answers as vLLM's does, at the pace that the prompt's first message asks for."""

    async def generate(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for left in reversed(range(tokens)):
            await asyncio.sleep(PACES_S["slow" if asked["sampling_params"].get("seed") else "fast"])
            reason = None if left else "length"
            choice = {"index": 0, "logprobs": None, "finish_reason": reason, "token_ids": [WORD]}
            event = {"request_id": "generate-tokens-1", "choices": [choice], "usage": None}
            await answer.write(f"data: {json.dumps(event)}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer

    place = listen("127.0.0.1", 0)
    tell.send(f"http://127.0.0.1:{place.getsockname()[1]}")
    app = web.Application()
    app.router.add_post(VLLM.path, generate)
    web.run_app(app, sock=place, print=None)


class Paced(SayingEngine):
    """Tokens at the pace that the request asks for."""

    async def stream(self, request: Any) -> Any:
        self.pace_s = PACES_S["slow" if request.sampling.seed else "fast"]
        async for piece in super().stream(request):
            yield piece


def service(tokens: int, behind: str | None, tell: Connection) -> None:
    """The service, with an engine in its process or behind HTTP."""
    renderer = serving.renderer_of()
    text = renderer.tokenizer.decode([WORD] * (tokens - 1))
    engine: Any = Paced(renderer, text)
    if behind:
        engine = ServedEngine(Address(behind), VLLM, "m", 4096)
    app = serving.serve(engine, renderer, gate=Gate(64, 4096, 60))
    with_port = ServeSection(port=tell.recv())
    run_app(app, with_port, Log(speaking=False), "m")


async def ask(address: str, tokens: int, pace: str) -> tuple[int, float]:
    """Events with text of one answer, and seconds to the first."""
    seed = {"seed": 1} if pace == "slow" else {}
    body = {"model": "tiny", "messages": serving.user("Hi"), "stream": True, **seed}
    events, first_s, begun = 0, 0.0, time.perf_counter()
    async with Client(Address(address)) as client:
        async for event in client.events("/v1/chat/completions", {**body, "max_tokens": tokens}):
            if event["choices"][0]["delta"].get("content"):
                first_s = first_s or time.perf_counter() - begun
                events += 1
    return events, first_s


async def measure(address: str, process: psutil.Process, clients: int, given: Any) -> str:
    """A row of the table."""
    cost, first, rate = [], [], []
    for _ in range(given.rounds):
        for pace in PACES_S:
            used, begun = sum(process.cpu_times()[:2]), time.perf_counter()
            heard = await asyncio.gather(
                *(ask(address, given.tokens, pace) for _ in range(clients))
            )
            took = time.perf_counter() - begun
            if pace == "fast":
                rate.append(clients * given.tokens / took)
                continue
            cost.append((sum(process.cpu_times()[:2]) - used) / clients / given.tokens)
            first.append(median(first_s for _, first_s in heard))
    return f"{clients} | {1e6 * median(cost):.0f} | {1e3 * median(first):.1f} | {median(rate):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    here, there = multiprocessing.Pipe()
    behind = spawn.Process(target=stand_in, args=(given.tokens, there))
    behind.start()
    url = here.recv()
    print("| engine | clients | processor us a token | first event, ms | tokens/s at most |")
    print("|---|---|---|---|---|")
    for name, where in (("in the process", None), ("behind HTTP", url)):
        server = spawn.Process(target=service, args=(given.tokens, where, there))
        server.start()
        with listen("127.0.0.1", 0) as place:
            port = place.getsockname()[1]
        here.send(port)
        address = f"http://127.0.0.1:{port}"
        asyncio.run(ask(address, given.tokens, "fast"))  # it starts, and warms up
        for clients in given.clients:
            row = asyncio.run(measure(address, psutil.Process(server.pid), clients, given))
            print(f"| {name} | {row} |", flush=True)
        server.terminate()
        server.join()
    behind.terminate()


if __name__ == "__main__":
    main()
