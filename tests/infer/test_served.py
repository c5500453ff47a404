"""Servers that take token ids: what they are asked, what is read from replies that were recorded,
and their processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.engines import PROMPTS
from infer.stand_in import Reply, StandIn, serve
from infer.test_stream import collect
from swift.config.engine import VllmSection
from swift.errors import ConfigError, DataError, ServerError
from swift.infer.backends.client import Address
from swift.infer.backends.dialects import VLLM
from swift.infer.backends.served import ServedEngine
from swift.infer.backends.server import Server, free_port
from swift.infer.backends.vllm import _GUIDES, VllmServer, command
from swift.infer.engine import Completion, Guide, Request, Sampling


def vllm_choice(tokens: list[int], reason: str | None, **more: Any) -> dict[str, Any]:
    """As vLLM 0.32.0 answered, but for what is not read."""
    top = [{f"token_id:{t}": -0.5, "token_id:60": -2.25, "token_id:61": -1.5} for t in tokens]
    logprobs = {"token_logprobs": [-0.5] * len(tokens), "top_logprobs": top,
                "tokens": [f"token_id:{t}" for t in tokens]}  # fmt: skip
    return {"index": 0, "text": "...", "finish_reason": reason, "stop_reason": None,
            "token_ids": tokens, "logprobs": logprobs, **more}  # fmt: skip


def engine(server: StandIn, context: int | None = 32) -> ServedEngine:
    return ServedEngine(Address(server.url, pause_s=0.01, timeout_s=5), VLLM, "m", context)


def test_every_part_of_a_request_is_sent() -> None:
    guide = Guide("json", {"type": "object"})
    sampling = Sampling(
        9, 0.5, 0.9, 7, 0.1, 1.2, 0.3, 0.4, (2,), ("end",), (), {5: 1.5}, 11, 2, False, guide
    )
    reply = Reply(body={"choices": [vllm_choice([4, 2], "stop")]})
    with serve(lambda *_: reply) as server:
        [found] = engine(server).generate([Request(PROMPTS[0], sampling)])
    assert server.bodies == [
        {
            "model": "m", "prompt": PROMPTS[0], "stream": False, "max_tokens": 9,
            "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2,
            "presence_penalty": 0.3, "frequency_penalty": 0.4, "stop": ["end"],
            "stop_token_ids": [2], "ignore_eos": True, "add_special_tokens": False,
            "skip_special_tokens": False, "return_token_ids": True,
            "return_tokens_as_token_ids": True, "seed": 11, "logprobs": 2,
            "logit_bias": {"5": 1.5}, "structured_outputs": {"json": {"type": "object"}},
        }
    ]  # fmt: skip
    assert server.asked[0][0] == "/v1/completions"
    top = [{4: -0.5, 61: -1.5}, {2: -0.5, 61: -1.5}]
    assert found == Completion([4, 2], "stop", [-0.5, -0.5], top)


def test_an_answer_is_bounded_by_the_context() -> None:
    reply = Reply(body={"choices": [vllm_choice([4], "length")]})
    with serve(lambda *_: reply) as server:
        one = engine(server, context=8)
        assert one.generate([Request(PROMPTS[0], Sampling(100))])[0].logprobs is None
        assert server.bodies[0]["max_tokens"] == 3
        with pytest.raises(DataError, match="8 tokens, the model's context holds 8"):
            one.generate([Request(PROMPTS[2], Sampling(100))])
        with pytest.raises(ConfigError, match="the vllm engine has no bad_words"):
            one.generate([Request(PROMPTS[0], Sampling(3, bad_words=((5,),)))])
        assert len(server.asked) == 1


def test_prompt_logprobs_are_those_of_the_prompts_own_tokens() -> None:
    rows = [None, {"6": {"logprob": -3.5}, "9": {"logprob": -0.1}}, {"7": {"logprob": -2.0}}]
    choice = vllm_choice([4], "length", prompt_logprobs=rows, prompt_token_ids=[5, 6, 7])
    with serve(lambda *_: Reply(body={"choices": [choice]})) as server:
        [found] = engine(server).generate([Request([5, 6, 7], Sampling(1, prompt_logprobs=True))])
    assert found.prompt_logprobs == [-3.5, -2.0]


def test_a_stream_is_the_answer_in_pieces() -> None:
    events = [
        {"choices": [vllm_choice([4], None)]},
        {"choices": [vllm_choice([], None)]},
        {"choices": [vllm_choice([8, 9], "length")]},
        {"choices": [], "usage": {}},
        "[DONE]",
    ]
    asked = Request(PROMPTS[0], Sampling(3, logprobs=0))
    with serve(lambda *_: Reply(events=events)) as server:
        streamed = asyncio.run(collect(engine(server).stream(asked)))
        heard: list[int] = []
        [whole] = engine(server).generate([asked], on_token=heard.append)
    assert streamed == whole == Completion([4, 8, 9], "length", [-0.5] * 3)
    assert heard == [4, 8, 9]
    assert [body["stream"] for body in server.bodies] == [True, True]


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"temperature": 1.0}, True),
        ({"temperature": 1.0, "logprobs": None}, False),
        ({"temperature": 0.0}, False),
        ({"temperature": 0.7}, False),
        ({"temperature": 1.0, "top_p": 0.9}, False),
        ({"temperature": 1.0, "top_k": 5}, False),
        ({"temperature": 1.0, "min_p": 0.1}, False),
        ({"temperature": 1.0, "repetition_penalty": 1.1}, False),
        ({"temperature": 1.0, "presence_penalty": 0.1}, False),
        ({"temperature": 1.0, "frequency_penalty": 0.1}, False),
        ({"temperature": 1.0, "logit_bias": {5: 1.0}}, False),
        ({"temperature": 1.0, "guide": Guide("regex", "a")}, False),
    ],
)
def test_drawn_logprobs_are_told_where_nothing_changes_them(
    sampling: dict[str, Any], said: bool
) -> None:
    asked = Request(PROMPTS[0], Sampling(**{"max_tokens": 1, "logprobs": 0, **sampling}))
    choice = vllm_choice([4], "length")
    with serve(lambda *_: Reply(body={"choices": [choice]})) as server:
        [whole] = engine(server).generate([asked])
    with serve(lambda *_: Reply(events=[{"choices": [choice]}, "[DONE]"])) as server:
        [pieces] = engine(server).generate([asked], on_token=lambda _: None)
    assert whole.drawn_logprobs == pieces.drawn_logprobs == ([-0.5] if said else None)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"choices": []}, "has no 0"),
        ({"object": "error"}, "has no 'choices'"),
        ({"choices": [{"text": "a", "finish_reason": "stop"}]}, "has no 'token_ids'"),
        ({"choices": [vllm_choice([4], None)]}, "without its end"),
        ({"choices": [{**vllm_choice([4], "stop"), "logprobs": None}]}, "without its end"),
    ],
)
def test_a_server_of_another_kind_is_noticed(body: Any, why: str) -> None:
    with serve(lambda *_: Reply(body=body)) as server, pytest.raises(ServerError, match=why):
        engine(server).generate([Request(PROMPTS[0], Sampling(3, logprobs=0))])


def test_a_stream_without_an_end_is_noticed() -> None:
    events = [{"choices": [vllm_choice([4], None)]}, "[DONE]"]
    with serve(lambda *_: Reply(events=events)) as server:
        pieces = engine(server).stream(Request(PROMPTS[0], Sampling(3)))
        with pytest.raises(ServerError, match="ended without a reason"):
            asyncio.run(collect(pieces))


def test_adapters_are_loaded_named_and_unloaded() -> None:
    def answer(_: int, path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/completions":
            return Reply(body={"choices": [vllm_choice([4], "length")]})
        return Reply(body=b"Success")  # no JSON: so vLLM answers

    with serve(answer) as server:
        one = engine(server)
        asked = Request(PROMPTS[0], Sampling(1), adapter="a")
        with pytest.raises(ConfigError, match="no adapter 'a' is loaded"):
            one.generate([asked])
        one.load_adapter("a", "/runs/a")
        one.generate([asked])
        one.unload_adapter("a")
        with pytest.raises(ConfigError, match="no adapter 'a' is loaded"):
            one.stream(asked)
    assert [(path, body.get("model")) for path, body, _ in server.asked] == [
        ("/v1/load_lora_adapter", None), ("/v1/completions", "a"), ("/v1/unload_lora_adapter", None)
    ]  # fmt: skip
    assert server.bodies[0] == {"lora_name": "a", "lora_path": "/runs/a"}


def test_settings_become_words_of_vllms_command_line() -> None:
    guides = ["--structured-outputs-config", json.dumps(_GUIDES)]
    assert command(VllmSection(), None) == guides
    section = VllmSection(
        tensor_parallel_size=2, gpu_memory_utilization=0.5, max_num_seqs=8, enforce_eager=True,
        enable_prefix_caching=False, limit_mm_per_prompt={"image": 2}, max_lora_rank=16,
        engine_kwargs={"swap_space": 2, "max_num_seqs": 9},
    )  # fmt: skip
    assert command(section, 512) == [
        "--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5", "--max-num-seqs", "9",
        "--enforce-eager", "--no-enable-prefix-caching", "--limit-mm-per-prompt", '{"image": 2}',
        "--max-lora-rank", "16", *guides, "--max-model-len", "512", "--enable-lora",
        "--max-loras", "4", "--swap-space", "2",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="a vLLM server has no such logprobs"):
        command(VllmSection(drawn_logprobs=True), None)


CHILD = """
import http.server, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_process_is_waited_for_and_ended_with_its_children(tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-c", CHILD, str(port)]
    server = Server(words, f"http://127.0.0.1:{port}", tmp_path / "logs" / "log")
    server.wait(30, lambda _: None)
    child = int(server.tail().split("child ")[1].split()[0])
    assert server.alive and os.kill(child, 0) is None
    server.close()
    assert not server.alive
    gone(child)


def gone(process: int) -> None:
    for _ in range(200):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it lives on")


PARENT = """
import sys, time
from pathlib import Path
from swift.infer.backends.server import Server
server = Server(sys.argv[2:], f"http://127.0.0.1:{sys.argv[1]}", Path("log"))
server.wait(60, print)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_ends_with_us_however_we_end(tmp_path: Path) -> None:
    port = str(free_port())
    words = [sys.executable, "-c", PARENT, port, sys.executable, "-c", CHILD, port]
    us = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert us.stdout is not None and us.stdout.readline() == "ready\n"
    child = int((tmp_path / "log").read_text().split("child ")[1].split()[0])
    us.kill()
    us.wait()
    us.stdout.close()
    gone(child)


def test_a_process_that_ends_or_takes_too_long_is_named_with_its_log(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    broken = "print('no kernel for this device', flush=True); raise SystemExit(3)"
    server = Server([sys.executable, "-c", broken], url, tmp_path / "a")
    with pytest.raises(ServerError, match=r"code 3 before it was ready(.|\n)*no kernel for"):
        server.wait(30, lambda _: None)
    slow = Server([sys.executable, "-c", "import time; time.sleep(60)"], url, tmp_path / "b")
    with pytest.raises(ServerError, match=r"not ready after 0\.3 seconds"):
        slow.wait(0.3, lambda _: None)
    assert not slow.alive
    with pytest.raises(ConfigError, match="--engine_python: nowhere/python cannot be run"):
        Server(["nowhere/python"], url, tmp_path / "c")


def test_a_python_without_vllm_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="No module named 'vllm'"):
        VllmServer(tmp_path, VllmSection(), sys.executable, tmp_path / "log", lambda _: None)
