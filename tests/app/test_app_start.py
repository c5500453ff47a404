"""What swift app starts, and with what: no page, no server."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from swift.app.client import Model
from swift.config.app import AppConfig
from swift.config.parse import read
from swift.config.runs import DeployConfig
from swift.errors import ConfigError

pytest.importorskip("gradio")

from swift.app.serve import child_config, look_of, ordered, port_of, takes


def config(*words: str) -> AppConfig:
    return read(AppConfig, "app", list(words))[0]


OVER = ("--base_url", "http://127.0.0.1:8000/v1")


def test_command_lines_of_ms_swift_mean_the_same() -> None:
    words = """
    --model Qwen/Qwen2.5-7B-Instruct --stream true --infer_backend vllm --max_new_tokens 2048
    --vllm_max_model_len 8192 --vllm_gpu_memory_utilization 0.9 --lang zh --verbose false
    --studio_title Swift --server_name 0.0.0.0 --server_port 7861 --share false
    --is_multimodal true --adapters a=x b=y --system Hi --temperature 0.7
    """
    read_ = config(*words.split())
    assert (read_.app.lang, read_.app.title, read_.app.server_port) == ("zh", "Swift", 7861)
    assert (read_.infer.backend, read_.infer.max_model_len) == ("vllm", 8192)
    words = "--model Qwen/Qwen2.5-7B-Instruct --max_new_tokens 512 --stream false"
    beside = config(*words.split(), *OVER)
    assert not look_of(beside, [Model("m")]).streams
    assert beside.app.base_url == OVER[1]


def test_one_file_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text("command: app\nmodel: {path: m}\napp: {lang: zh, title: T}\ntop_k: 5\n")
    found = config(str(file), "--lang", "en")
    assert (found.app.title, found.app.lang, found.infer.top_k) == ("T", "en", 5)


def test_the_server_is_given_everything_but_the_page() -> None:
    words = ["--model", "m", "--adapters", "a=x", "--top_p", "0.9", "--record", "r.jsonl"]
    given = child_config(config(*words, "--api_key", "mine", "--lang", "zh"), "fresh", 1234)
    deploy = DeployConfig.model_validate(given)
    assert given["command"] == "deploy" and "app" not in given
    assert (deploy.model.path, deploy.model.adapters, deploy.infer.top_p) == ("m", ["a=x"], 0.9)
    serve = deploy.serve
    assert (serve.host, serve.port, serve.record) == ("127.0.0.1", 1234, "r.jsonl")
    assert serve.api_key == ["fresh", "mine"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "--model: is needed, or --adapters output/run/checkpoint-N, or --base_url"),
        (["--model", "m", "--host", "0.0.0.0"], "--host: the server of a page listens on this"),
        (["--model", "m", "--ssl_keyfile", "k"], "--ssl_keyfile: the server of a page"),
        ([*OVER, "--adapters", "a=x"], "--adapters: belongs to a server that is started"),
        ([*OVER, "--vllm_max_num_seqs", "4"], "--vllm_max_num_seqs: belongs to a server"),
        ([*OVER, "--record", "r.jsonl"], "--record: belongs to a server that is started"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*words)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("named", "found"),
    [(None, "a"), ("b", "b"), ("org/b", "b"), ("org/b/", "b"), ("c", None)],
)
def test_the_model_that_is_meant_comes_first(named: str | None, found: str | None) -> None:
    words = [*OVER, *(("--model", named) if named else ())]
    models = [Model("a"), Model("b")]
    if found is None:
        with pytest.raises(ConfigError, match="has no c; it has a, b"):
            ordered(models, config(*words))
        return
    assert ordered(models, config(*words))[0].name == found
    with pytest.raises(ConfigError, match="has no models"):
        ordered([], config(*words))


@pytest.mark.parametrize(
    ("said", "server", "found"),
    [
        ((), None, ()),
        ((), ("image",), ("image",)),
        (("--is_multimodal", "true"), None, ("image", "video", "audio")),
        (("--is_multimodal", "true"), ("audio",), ("audio",)),
        (("--is_multimodal", "false"), ("image",), ()),
    ],
)
def test_media_are_offered_that_the_server_takes(said: Any, server: Any, found: Any) -> None:
    assert takes(config(*OVER, *said), [Model("m", server)]) == found


def test_the_page_begins_with_what_was_said() -> None:
    own = look_of(config("--model", "m", "--temperature", "0.5"), [Model("m"), Model("a")])
    assert own.numbers["temperature"] == 0.5 and own.numbers["max_new_tokens"] == 2048
    assert (own.title, own.models, own.lang) == ("m", ["m", "a"], "en")
    other = look_of(config(*OVER, "--temperature", "0.5"), [Model("m")])
    assert other.numbers == {"temperature": 0.5}  # the rest is the server's


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        first = port_of("127.0.0.1", 0)
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert first < port_of("127.0.0.1", first) < first + 100
    with pytest.raises(ConfigError, match="--server_name 203"):
        port_of("203.0.113.1", 7860)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from swift.errors import MissingExtra
    from swift.parallel.world import World
    from swift.recipes.app import run

    for name in [name for name in sys.modules if name.startswith("swift.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtra, match=r"pip install 'swift-llm\[app\]'"):
        run(config("--model", "m", "--dry_run"), World())
