"""SGLang and LMDeploy: what they are asked, and what is read from replies of the types in their
source (generate_replies.json); neither server is run here."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.engines import PROMPTS
from infer.stand_in import Reply, StandIn, serve
from infer.test_stream import collect
from swift.chat.message import Conversation, Message
from swift.config.engine import LmdeploySection, SglangSection
from swift.config.parse import read
from swift.config.runs import InferConfig
from swift.errors import ConfigError, ServerError
from swift.infer.backends import lmdeploy, sglang
from swift.infer.backends.client import Address
from swift.infer.backends.dialects import Dialect
from swift.infer.backends.generate import LMDEPLOY, SGLANG, SGLANG_DETERMINISTIC
from swift.infer.backends.served import ServedEngine
from swift.infer.engine import Completion, Guide, Request, Sampling
from swift.infer.load import answers_of, settled
from swift.observe.log import Log

SAID = json.loads((Path(__file__).parent / "generate_replies.json").read_text())
BOTH = pytest.mark.parametrize("dialect", [SGLANG, LMDEPLOY], ids=lambda one: one.name)


def engine(server: StandIn, dialect: Dialect) -> ServedEngine:
    return ServedEngine(Address(server.url, pause_s=0.01, timeout_s=5, tries=2), dialect, "m", 32)


def asked(dialect: Dialect, sampling: Sampling, adapter: str | None = None) -> dict[str, Any]:
    return dialect.ask(Request(PROMPTS[0], sampling, adapter=adapter), "m", False)


def test_sglang_is_told_every_part_of_a_request() -> None:
    s = Sampling(9, 0.5, 0.9, 7, 0.1, 1.0, 0.3, 0.4, (2,), ("end",), (), {5: 1.5}, 11)
    assert asked(SGLANG, s, "a") == {
        "input_ids": PROMPTS[0], "stream": False, "lora_path": "a",
        "sampling_params": {
            "max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
            "repetition_penalty": 1.0, "presence_penalty": 0.3, "frequency_penalty": 0.4,
            "stop_token_ids": [2], "ignore_eos": False, "stop": ["end"], "no_stop_trim": True,
            "skip_special_tokens": False, "logit_bias": {"5": 1.5}, "sampling_seed": 11,
        },
    }  # fmt: skip
    plain = asked(SGLANG, Sampling(9, logprobs=2, prompt_logprobs=True))
    assert plain["sampling_params"]["top_k"] == -1 and plain["sampling_params"]["ignore_eos"]
    found = {name: plain[name] for name in plain if "logprob" in name}
    assert found == {"return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": 0}


@pytest.mark.parametrize(
    ("guide", "sent"),
    [
        (Guide("json", {"type": "object"}), {"json_schema": '{"type": "object"}'}),
        (Guide("regex", "a+"), {"regex": "a+"}),
        (Guide("grammar", 'root ::= "a"'), {"ebnf": 'root ::= "a"'}),
        (Guide("choice", ("yes", 'n"o')), {"ebnf": 'root ::= "yes" | "n\\"o"'}),
    ],
)
def test_sglang_is_told_guides(guide: Guide, sent: dict[str, str]) -> None:
    chosen = asked(SGLANG, Sampling(9, guide=guide))["sampling_params"]
    assert sent.items() <= chosen.items() and not chosen["ignore_eos"]


def test_lmdeploy_is_told_every_part_of_a_request() -> None:
    assert asked(LMDEPLOY, Sampling(9, 0.5, 0.9, 7, 0.1, stop_ids=(2,), logprobs=2)) == {
        "input_ids": PROMPTS[0], "stream": False, "max_tokens": 9, "temperature": 0.5,
        "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.0,
        "stop_token_ids": [2], "ignore_eos": False, "skip_special_tokens": False,
        "include_stop_str_in_output": True, "return_logprob": True, "top_logprobs_num": 2,
    }  # fmt: skip


@BOTH
def test_a_whole_answer_is_read(dialect: Dialect) -> None:
    request = Request(PROMPTS[0], Sampling(3, stop_ids=(2,), logprobs=2))
    with serve(lambda *_: Reply(body=SAID[dialect.name]["whole"])) as server:
        [found] = engine(server, dialect).generate([request])
    top = [{4: -0.5, 61: -1.5}, {8: -0.25, 61: -2.5}, {60: -0.75, 2: -1.0}]
    assert found == Completion([4, 8, 2], "stop", [-0.5, -0.25, -1.0], top)
    assert server.asked[0][0] == "/generate"


def test_sglang_says_what_it_thinks_of_a_prompt() -> None:
    with serve(lambda *_: Reply(body=SAID["sglang"]["whole"])) as server:
        request = Request([5, 6, 7], Sampling(3, prompt_logprobs=True))
        [found] = engine(server, SGLANG).generate([request])
    assert found.prompt_logprobs == [-3.5, -2.0] and found.logprobs is None


@pytest.mark.parametrize(
    ("dialect", "events"),
    [(SGLANG, "cumulative"), (SGLANG, "incremental"), (LMDEPLOY, "events")],
)
def test_a_stream_is_the_answer_in_pieces(dialect: Dialect, events: str) -> None:
    """Each comes when it is there; what came together is one."""
    request = Request(PROMPTS[0], Sampling(3, temperature=1, logprobs=0))
    first, *others = SAID[dialect.name][events]
    heard = threading.Event()

    def answer(number: int, *_: Any) -> Reply:
        wait = [lambda: heard.wait(10)] if number == 0 else []
        return Reply(events=[first, *wait, *others, "[DONE]"])

    with serve(answer) as server:

        async def take() -> list[list[int]]:
            pieces = []
            async for piece in engine(server, dialect).stream(request):
                pieces.append(piece.tokens)
                heard.set()
            return [tokens for tokens in pieces if tokens]

        assert asyncio.run(take()) == [[4], [8, 9]]
        assert asyncio.run(take()) == [[4, 8, 9]]
        told: list[int] = []
        [whole] = engine(server, dialect).generate([request], on_token=told.append)
    assert told == [4, 8, 9]
    logprobs = [-0.5, -0.25, -1.0]
    assert whole == Completion([4, 8, 9], "length", logprobs, drawn_logprobs=logprobs)


@BOTH
def test_an_answer_that_was_aborted_is_cancelled(dialect: Dialect) -> None:
    with serve(lambda *_: Reply(body=SAID[dialect.name]["aborted"])) as server:
        [found] = engine(server, dialect).generate([Request(PROMPTS[0], Sampling(3))])
    assert found.finish_reason == "cancelled"


@BOTH
def test_refusals_are_said_and_failures_tried_again(dialect: Dialect) -> None:
    request = Request(PROMPTS[0], Sampling(3))
    bad = Reply(status=400, body=SAID[dialect.name]["bad_request"])
    with serve(lambda *_: bad) as server, pytest.raises(ConfigError, match=r"400 .*top_p .*must"):
        engine(server, dialect).generate([request])
    assert len(server.asked) == 1
    whole = Reply(body=SAID[dialect.name]["whole"])
    with serve(lambda n, *_: whole if n else Reply(status=500, body=b"x")) as server:
        assert engine(server, dialect).generate([request])[0].tokens == [4, 8, 2]
    failing, why = Reply(status=500, body=b"no memory"), r"500 no memory \(2 tries\)"
    with serve(lambda *_: failing) as server, pytest.raises(ServerError, match=why):
        engine(server, dialect).generate([request])


def test_failures_inside_a_stream_are_said() -> None:
    request = Request(PROMPTS[0], Sampling(3))
    for dialect, event, why in [
        (SGLANG, SAID["sglang"]["given_up"], "The request queue is full"),
        (SGLANG, SAID["sglang"]["bad_request"], "top_p must be"),
        (LMDEPLOY, SAID["lmdeploy"]["broken_stream"], "engine is gone"),
    ]:
        reply = Reply(events=[event, "[DONE]"])
        with serve(lambda *_, r=reply: r) as server, pytest.raises(ServerError, match=why):
            asyncio.run(collect(engine(server, dialect).stream(request)))


@pytest.mark.parametrize("count", [0, 7])
def test_tokens_that_are_lost_are_noticed(count: int) -> None:
    events = json.loads(json.dumps(SAID["sglang"]["incremental"]))
    events[1]["meta_info"]["completion_tokens"] = count
    reply, why = Reply(events=events), f"counts {count} tokens and sent 3"
    with serve(lambda *_: reply) as server, pytest.raises(ServerError, match=why):
        asyncio.run(collect(engine(server, SGLANG).stream(Request([5], Sampling(3)))))


REFUSED: list[tuple[Dialect, Sampling, str]] = [
    (SGLANG, Sampling(3, seed=1), "the sglang engine takes a seed with --sglang_deterministic"),
    (SGLANG, Sampling(3, repetition_penalty=1.2), "no repetition_penalty that counts the prompt"),
    (SGLANG, Sampling(3, temperature=0.5, logprobs=0), "at temperature 0 or 1 alone"),
    (SGLANG, Sampling(3, temperature=0.5, prompt_logprobs=True), "temperature 0 or 1 alone"),
    (SGLANG, Sampling(3, logit_bias={5: 1.0}, logprobs=0), "no logprobs beside penalties"),
    (SGLANG, Sampling(3, bad_words=((1,),)), "has no bad_words"),
    (LMDEPLOY, Sampling(3, seed=1), "the lmdeploy engine takes no seed"),
    (LMDEPLOY, Sampling(3, stop=("a",)), "no stop texts of more than one token"),
    (LMDEPLOY, Sampling(3, temperature=2.5), "no temperature above 2"),
    (LMDEPLOY, Sampling(3, guide=Guide("regex", "a")), "has no guided generation"),
    (LMDEPLOY, Sampling(3, presence_penalty=1.0), "has no penalties"),
    (LMDEPLOY, Sampling(3, logit_bias={5: 1.0}), "has no logit_bias"),
    (LMDEPLOY, Sampling(3, prompt_logprobs=True), "has no prompt_logprobs"),
]


@pytest.mark.parametrize(("dialect", "sampling", "why"), REFUSED)
def test_what_a_server_cannot_do_is_not_sent(
    dialect: Dialect, sampling: Sampling, why: str
) -> None:
    with serve(lambda *_: Reply(body={})) as server, pytest.raises(ConfigError, match=why):
        engine(server, dialect).generate([Request(PROMPTS[0], sampling)])
    assert not server.asked


def test_sglangs_seeds_count_in_its_deterministic_mode() -> None:
    with serve(lambda *_: Reply(body=SAID["sglang"]["whole"])) as server:
        engine(server, SGLANG_DETERMINISTIC).generate([Request([5], Sampling(3, 1.0, seed=4))])
    assert server.bodies[0]["sampling_params"]["sampling_seed"] == 4


def test_adapters_are_loaded_named_and_unloaded() -> None:
    said = SAID["sglang"]

    def answer(_: int, path: str, body: dict[str, Any]) -> Reply:
        if path == "/generate":
            return Reply(body=said["whole"])
        if body["lora_name"] == "b":
            return Reply(status=400, body=said["lora_refused"])
        return Reply(body=said["lora_loaded"])

    with serve(answer) as server:
        one = engine(server, SGLANG)
        one.load_adapter("a", "/runs/a")
        one.generate([Request([5], Sampling(3), adapter="a")])
        one.unload_adapter("a")
        with pytest.raises(ConfigError, match="LoRA is not enabled"):
            one.load_adapter("b", "/runs/b")
        with pytest.raises(ConfigError, match="no adapter 'b' is loaded"):
            one.generate([Request([5], Sampling(3), adapter="b")])
        with pytest.raises(ConfigError, match="lmdeploy engine has no adapters loaded at run time"):
            engine(server, LMDEPLOY).load_adapter("a", "/runs/a")
    assert [path for path, *_ in server.asked] == [
        "/load_lora_adapter", "/generate", "/unload_lora_adapter", "/load_lora_adapter"
    ]  # fmt: skip
    assert server.bodies[1]["lora_path"] == "a"


def test_settings_become_words_of_their_command_lines() -> None:
    assert sglang.command(SglangSection(), None) == [
        "--tp-size", "1", "--incremental-streaming-output"
    ]  # fmt: skip
    own = SglangSection(tp_size=2, mem_fraction_static=0.5, deterministic=True, max_lora_rank=16)
    assert sglang.command(own, 512) == [
        "--tp-size", "2", "--incremental-streaming-output", "--context-length", "512",
        "--mem-fraction-static", "0.5", "--enable-deterministic-inference",
        "--enable-lora", "--max-lora-rank", "16", "--lora-target-modules", "all",
    ]  # fmt: skip
    always = ["--backend", "pytorch", "--logprobs-mode", "raw_logprobs"]
    always += ["--generation-config", "lmdeploy", "--tp"]
    assert lmdeploy.command(LmdeploySection(), None) == [*always, "1"]
    settings = LmdeploySection(tp=2, cache_max_entry_count=0.5, quant_policy=8)
    assert lmdeploy.command(settings, 512) == [
        *always, "2", "--session-len", "512", "--cache-max-entry-count", "0.5",
        "--quant-policy", "8",
    ]  # fmt: skip


def test_a_python_without_them_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ServerError, match=r"SGLang|No module named 'sglang'"):
        sglang.SglangServer(tmp_path, SglangSection(), sys.executable, log, lambda _: None)
    with pytest.raises(ServerError, match="No module named lmdeploy"):
        lmdeploy.LmdeployServer(tmp_path, LmdeploySection(), sys.executable, log, lambda _: None)
    with pytest.raises(ConfigError, match="LMDeploy has float16 and bfloat16"):
        lmdeploy.LmdeployServer(
            tmp_path, LmdeploySection(), sys.executable, log, lambda _: None, dtype="float32"
        )


@BOTH
def test_a_server_that_runs_answers_messages(dialect: Dialect, checkpoint: Path) -> None:
    with serve(lambda *_: Reply(body=SAID[dialect.name]["whole"])) as server:
        words = ["--model", str(checkpoint), "--infer_backend", dialect.name, "--api_key", "k"]
        config, _ = read(InferConfig, "infer", [*words, "--base_url", server.url + "/v1/"])
        section, _ = settled(config)
        talker = answers_of(config, section, torch.device("cpu"), Log(False))
        [(message, completion)] = talker.answers([Conversation((Message("user", "Hi"),))])
    assert completion.tokens == [4, 8, 2] and message.role == "assistant"
    [(path, body, headers)] = server.asked
    assert path == "/generate" and headers["Authorization"] == "Bearer k"
    assert body["input_ids"] and all(isinstance(token, int) for token in body["input_ids"])


def test_a_server_that_runs_has_its_own_adapters() -> None:
    words = [
        "--model",
        "m",
        "--infer_backend",
        "sglang",
        "--base_url",
        "http://x",
        "--adapters",
        "a",
    ]
    with pytest.raises(ConfigError, match="a server loads its own"):
        read(InferConfig, "infer", words)
    with pytest.raises(ConfigError, match="belongs to --infer_backend http, sglang or lmdeploy"):
        read(InferConfig, "infer", ["--model", "m", "--base_url", "http://x"])


def test_adapters_that_cannot_be_loaded_are_refused_before_a_start(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 16}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    words = ["--model", str(checkpoint), "--adapters", str(tmp_path), "--engine_python", "nowhere"]
    for backend, more, why in [
        ("lmdeploy", [], "the lmdeploy engine loads none: swift merge-lora"),
        ("sglang", ["--merge_lora", "true"], "the sglang engine reads a merged model"),
        ("sglang", [], "--engine_python: nowhere cannot be run"),
    ]:
        config, _ = read(InferConfig, "infer", [*words, "--infer_backend", backend, *more])
        with pytest.raises(ConfigError, match=why):
            answers_of(config, config.model, torch.device("cpu"), Log(False))
