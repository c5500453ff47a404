"""Servers that take token ids: what they are asked, what is read from replies that were recorded,
and their processes."""

from __future__ import annotations

import asyncio
import json
import math
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
from swift.chat.message import Media
from swift.errors import ConfigError, DataError, ServerError, SwiftError
from swift.infer.backends.client import Address, ask_all
from swift.infer.backends.dialects import VLLM
from swift.infer.backends.served import ServedEngine
from swift.infer.backends.server import Server, free_port
from swift.infer.engine import Completion, Guide, Request, Sampling

SAID = json.loads((Path(__file__).parent / "vllm_replies.json").read_text())
"""What vLLM 0.32.0 really answered: see record_vllm.py."""


def said(name: str) -> Reply:
    one = SAID[name]
    if isinstance(one["said"], list):
        return Reply(one["status"], events=one["said"])
    return Reply(one["status"], one["said"])


def chosen(tokens: list[int], reason: str | None, *, logprobs: bool = True) -> dict[str, Any]:
    """Of the form of a recorded choice, with other tokens."""
    row = SAID["unlikely"]["said"]["choices"][0]["logprobs"]["content"][0]
    rows = [{**row, "token_id": token, "logprob": -0.5} for token in tokens]
    return {
        **SAID["stopped"]["said"]["choices"][0], "token_ids": tokens, "finish_reason": reason,
        "logprobs": {"content": rows} if logprobs else None,
    }  # fmt: skip


def answered(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**SAID["stopped"]["said"], "choices": list(choices), **more}


def engine(server: StandIn, context: int | None = 32) -> ServedEngine:
    return ServedEngine(Address(server.url, pause_s=0.01, timeout_s=5), VLLM, "m", context)


def test_every_part_of_a_request_is_sent() -> None:
    guide = Guide("json", {"type": "object"})
    sampling = Sampling(
        9, 0.5, 0.9, 7, 0.1, 1.2, 0.3, 0.4, (2,), ("end",), (), {5: 1.5}, 11, 2, False, guide
    )
    with serve(lambda *_: said("unlikely")) as server:
        [found] = engine(server).generate([Request(PROMPTS[0], sampling)])
    assert server.bodies == [
        {
            "model": "m", "token_ids": PROMPTS[0], "stream": False,
            "sampling_params": {
                "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
                "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.4,
                "stop": ["end"], "stop_token_ids": [2], "ignore_eos": True, "detokenize": True,
                "skip_special_tokens": False, "seed": 11, "logprobs": 3, "logit_bias": {"5": 1.5},
                "structured_outputs": {"json": {"type": "object"}},
            },
        }
    ]  # fmt: skip
    assert server.asked[0][0] == "/inference/v1/generate"
    assert found.finish_reason == "length" and len(found.tokens) == 2
    plain = VLLM.ask(Request([5], Sampling(3, logprobs=0)), "m", True)
    assert plain["stream"] and not plain["sampling_params"]["detokenize"]
    assert plain["sampling_params"]["logprobs"] == 0


def test_an_answer_is_read_with_its_logprobs() -> None:
    sampling = Sampling(3, logprobs=2, prompt_logprobs=True, prompt_top=2)
    with serve(lambda *_: said("whole")) as server:
        [found] = engine(server).generate([Request(PROMPTS[0], sampling)])
    [one] = SAID["whole"]["said"]["choices"]
    rows = one["logprobs"]["content"]
    assert found.tokens == one["token_ids"] and found.finish_reason == "length"
    assert found.logprobs == [row["logprob"] for row in rows]
    best = [{e["token_id"]: e["logprob"] for e in row["top_logprobs"][:2]} for row in rows]
    assert found.top_logprobs == best
    read = SAID["whole"]["said"]["prompt_logprobs"]
    assert found.prompt_logprobs == [
        row[str(token)]["logprob"] for row, token in zip(read[1:], PROMPTS[0][1:], strict=True)
    ]
    tops = [{e["rank"]: int(token) for token, e in row.items()} for row in read[1:]]
    assert found.prompt_top is not None
    assert [list(row) for row in found.prompt_top] == [[top[1], top[2]] for top in tops]


def test_the_most_likely_tokens_are_those_beside_an_unlikely_one() -> None:
    """vLLM counts the chosen one among those that it tells, so one more is asked for."""
    with serve(lambda *_: said("unlikely")) as server:
        [found] = engine(server).generate(
            [Request(PROMPTS[0], Sampling(2, 2.0, seed=1, logprobs=2))]
        )
    rows = SAID["unlikely"]["said"]["choices"][0]["logprobs"]["content"]
    assert found.top_logprobs is not None and any(row["rank"] > 3 for row in rows)
    for row, top in zip(rows, found.top_logprobs, strict=True):
        by_rank = {e["rank"]: e["token_id"] for e in row["top_logprobs"]}
        assert list(top) == [by_rank[1], by_rank[2]]


def test_a_stop_token_ends_an_answer() -> None:
    with serve(lambda *_: said("stopped")) as server:
        [found] = engine(server).generate([Request(PROMPTS[0], Sampling(9, stop_ids=(267,)))])
    assert found == Completion([333, 267], "stop")


@pytest.mark.parametrize(("rank", "value"), [(7, -math.inf), (None, None)])
def test_no_probability_is_minus_infinity_and_no_number_an_error(
    rank: int | None, value: float | None
) -> None:
    """vLLM writes -9999 for both; a logit that is no number has no rank."""
    choice = chosen([4], "length")
    choice["logprobs"]["content"][0] |= {"logprob": -9999.0, "rank": rank}
    with serve(lambda *_: Reply(body=answered(choice))) as server:
        one, asked = engine(server), [Request(PROMPTS[0], Sampling(1, logprobs=0))]
        if value is None:
            with pytest.raises(ServerError, match="no log-probability of the token 4"):
                one.generate(asked)
        else:
            assert one.generate(asked)[0].logprobs == [value]


def test_what_vllm_refuses_is_said_in_its_words() -> None:
    why = "Requested sample logprobs of 100, which is greater than max allowed"
    with serve(lambda *_: said("refused")) as server, pytest.raises(ConfigError, match=why):
        engine(server).generate([Request(PROMPTS[0], Sampling(3, logprobs=99))])
    with serve(lambda *_: said("refused stream")) as server:
        pieces = engine(server).stream(Request(PROMPTS[0], Sampling(3, logprobs=99)))
        with pytest.raises(SwiftError, match=why):
            asyncio.run(collect(pieces))


def test_a_prompt_of_which_vllm_makes_other_tokens_is_refused() -> None:
    asked = Request([5, 6, 6, 7], Sampling(3), (Media("image", "a.png"),))
    for found, right in (([5, 6, 6, 7], True), ([5, 6, 6, 6, 7], False), ([5, 6, 8, 7], False)):
        whole = answered(chosen([4], "length", logprobs=False), prompt_token_ids=found)
        if right:
            assert VLLM.hear(whole, asked, 0).tokens == [4]
        else:
            with pytest.raises(ConfigError, match=f"as {len(found)} tokens, .* as 4, and"):
                VLLM.hear(whole, asked, 0)
    later = answered(chosen([4], None, logprobs=False))  # only the first event has them
    assert VLLM.hear(later, asked, 1).tokens == [4]


def test_an_answer_is_bounded_by_the_context() -> None:
    reply = Reply(body=answered(chosen([4], "length")))
    with serve(lambda *_: reply) as server:
        one = engine(server, context=8)
        assert one.generate([Request(PROMPTS[0], Sampling(100))])[0].logprobs is None
        assert server.bodies[0]["sampling_params"]["max_tokens"] == 3
        with pytest.raises(DataError, match="8 tokens, the model's context holds 8"):
            one.generate([Request(PROMPTS[2], Sampling(100))])
        with pytest.raises(ConfigError, match="the vllm engine has no bad_words"):
            one.generate([Request(PROMPTS[0], Sampling(3, bad_words=((5,),)))])
        assert len(server.asked) == 1


def test_missing_logprobs_of_a_prompt_are_noticed() -> None:
    whole = answered(chosen([4], "length"), prompt_logprobs=None, prompt_token_ids=[5, 6, 7])
    reply = Reply(body=whole)
    with serve(lambda *_: reply) as server, pytest.raises(ServerError, match="of the prompt"):
        engine(server).generate([Request([5, 6, 7], Sampling(1, prompt_logprobs=True))])


def test_logprobs_of_a_prompt_do_not_come_in_pieces() -> None:
    asked = Request(PROMPTS[0], Sampling(2, prompt_logprobs=True))
    with serve(lambda *_: Reply(body={})) as server:
        with pytest.raises(ConfigError, match="not streamed"):
            engine(server).stream(asked)
        with pytest.raises(ConfigError, match="not streamed"):
            engine(server).generate([asked], on_token=lambda _: None)
        assert not server.asked


def test_a_stream_is_the_answer_in_pieces() -> None:
    events = SAID["stream"]["said"]
    usage = {**events[0], "choices": [], "usage": {}}
    asked = Request(PROMPTS[0], Sampling(3, logprobs=1))
    with serve(lambda *_: Reply(events=[*events[:-1], usage, events[-1]])) as server:
        streamed = asyncio.run(collect(engine(server).stream(asked)))
        heard: list[int] = []
        [whole] = engine(server).generate([asked], on_token=heard.append)
    assert events[-1] == "[DONE]" and len(events) == 4
    rows = SAID["whole"]["said"]["choices"][0]["logprobs"]["content"]
    first = [{row["token_id"]: row["logprob"]} for row in rows]
    assert whole.logprobs is not None and whole.top_logprobs is not None
    assert streamed == whole and whole.tokens == SAID["whole"]["said"]["choices"][0]["token_ids"]
    assert whole.logprobs == pytest.approx([row["logprob"] for row in rows], abs=1e-5)
    assert [list(one) for one in whole.top_logprobs] == [list(one) for one in first]
    assert heard == whole.tokens
    assert [body["stream"] for body in server.bodies] == [True, True]


@pytest.mark.parametrize(
    ("sampling", "told"),
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
    sampling: dict[str, Any], told: bool
) -> None:
    asked = Request(PROMPTS[0], Sampling(**{"max_tokens": 1, "logprobs": 0, **sampling}))
    choice = chosen([4], "length", logprobs=asked.sampling.logprobs is not None)
    with serve(lambda *_: Reply(body=answered(choice))) as server:
        [whole] = engine(server).generate([asked])
    with serve(lambda *_: Reply(events=[answered(choice), "[DONE]"])) as server:
        [pieces] = engine(server).generate([asked], on_token=lambda _: None)
    assert whole.drawn_logprobs == pieces.drawn_logprobs == ([-0.5] if told else None)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"choices": []}, "has no 0"),
        ({"object": "error"}, "has no 'choices'"),
        ({"choices": [{"text": "a", "finish_reason": "stop"}]}, "has no 'token_ids'"),
        (answered(chosen([4], None)), "without its end"),
        (answered(chosen([4], "stop", logprobs=False)), "without its end"),
    ],
)
def test_a_server_of_another_kind_is_noticed(body: Any, why: str) -> None:
    with serve(lambda *_: Reply(body=body)) as server, pytest.raises(ServerError, match=why):
        engine(server).generate([Request(PROMPTS[0], Sampling(3, logprobs=0))])


def test_a_stream_without_an_end_is_noticed() -> None:
    events = [*SAID["stream"]["said"][:2], "[DONE]"]
    with serve(lambda *_: Reply(events=events)) as server:
        pieces = engine(server).stream(Request(PROMPTS[0], Sampling(3)))
        with pytest.raises(ServerError, match="ended without a reason"):
            asyncio.run(collect(pieces))


def test_adapters_are_loaded_named_and_unloaded() -> None:
    def answer(_: int, path: str, body: dict[str, Any]) -> Reply:
        if path == "/inference/v1/generate":
            return Reply(body=answered(chosen([4], "length")))
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
        ("/v1/load_lora_adapter", None), (VLLM.path, "a"), ("/v1/unload_lora_adapter", None)
    ]  # fmt: skip
    assert server.bodies[0] == {"lora_name": "a", "lora_path": "/runs/a"}


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


BY_SOCKET = """
import sys
from aiohttp import web

async def health(request):
    return web.Response()

async def echo(request):
    return web.json_response(await request.json())

app = web.Application()
app.router.add_get("/health", health)
app.router.add_post("/echo", echo)
web.run_app(app, path=sys.argv[1])
"""


def test_a_server_at_a_unix_socket_is_waited_for_and_asked(tmp_path: Path) -> None:
    place, url = tmp_path / "socket", "http://localhost"
    words = [sys.executable, "-c", BY_SOCKET, str(place)]
    server = Server(words, url, tmp_path / "log", socket=place)
    address = Address(url, socket=place, tries=1)
    try:
        server.wait(30, lambda _: None)
        assert ask_all(address, [{"a": 1}], lambda one, body: one.ask("/echo", body)) == [{"a": 1}]
    finally:
        server.close()
    with pytest.raises(ServerError, match="/echo cannot be reached"):
        ask_all(address, [{}], lambda one, body: one.ask("/echo", body))


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
