"""Runs that vLLM answers for: in this process, and behind ``swift rollout``.

Run it with the Python of an environment that has vLLM (docs/engines.md).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import tiny
from swift import registry
from swift.config.runs import RlhfConfig
from swift.infer.backends.server import free_port
from swift.parallel.world import World
from swift.recipes import grpo

pytest.importorskip("vllm", reason="vLLM is not installed beside swift")
pytestmark = pytest.mark.slow
SIZES = {"seed": 5, "hidden_size": 128, "num_attention_heads": 4}  # vLLM has no heads of 12
MEMORY = ["--vllm_gpu_memory_utilization", "0.1", "--vllm_enforce_eager", "true"]
DRAW = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}


def vowels(completions: list[str], **columns: Any) -> list[float | None]:
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]


@pytest.fixture(autouse=True)
def rewards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("swift.train.setup.plot_loss", lambda *_: None)  # matplotlib may be absent
    registry.register("reward", "test_vowels", f"{__name__}:vowels")
    yield
    registry._ENTRIES["reward"].pop("test_vowels")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("model"), **SIZES)


def learn(model: Path, folder: Path, tuner: Any = "full", **rollout: Any) -> list[dict[str, Any]]:
    """The metrics of a run of four steps."""
    rows = [{"prompt": f"Add {i} and two."} for i in range(12)]
    settings = {
        "model": {"path": str(model), "dtype": "float32"},
        "tuner": tuner,
        "data": {"train": [str(tiny.write_rows(folder / "p.jsonl", rows))], "processes": 1},
        "optimizer": {"learning_rate": 1e-2},
        "schedule": "constant",
        "train": {"batch_size": 16, "accumulation": 1, "max_steps": 4, "epochs": 9, "log_every": 1},
        "rlhf": {"kind": "grpo"},
        "rollout": {"num_generations": 4, "max_completion_length": 16, **rollout},
        "vllm": {"enforce_eager": True, "max_num_seqs": 16, "gpu_memory_utilization": 0.1}
        if rollout.get("backend") == "vllm" else {},
        "reward": {"funcs": ["test_vowels"]},
        "report": "none",
        "output": str(folder / "run"),
    }  # fmt: skip
    assert grpo.run(RlhfConfig.model_validate(settings), World()) is not None
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def agrees(found: list[dict[str, Any]]) -> None:
    """Trainer and vLLM think the same of every token, after every update of the weights."""
    assert [line["train/fault/engine"] for line in found] == [0] * 4
    assert max(line["train/mismatch"] for line in found) < 1e-4
    assert all(line["train/correction"] == pytest.approx(1, abs=1e-3) for line in found)
    assert found[-1]["train/kl"] > 1e-3  # it is not the model of the beginning any more


@pytest.mark.parametrize("tuner", ["full", {"kind": "lora", "rank": 4, "dropout": 0.0}])
def test_vllm_answers_in_this_process_by_the_weights_that_learn(
    model: Path, tmp_path: Path, tuner: Any
) -> None:
    agrees(learn(model, tmp_path, tuner, backend="vllm", max_model_len=128, **DRAW))


def test_vllm_draws_ahead_of_time(model: Path, tmp_path: Path) -> None:
    found = learn(model, tmp_path, backend="vllm", max_model_len=128, asynchronous=True)
    assert [line["train/staleness"] for line in found] == [0, 1, 1, 1]
    assert found[0]["train/mismatch"] < 1e-4 < 1e-3 < found[1]["train/mismatch"]


@contextmanager
def rollout(model: Path, folder: Path) -> Iterator[int]:
    port = free_port()
    words = ["rollout", "--model", model, "--infer_backend", "vllm", "--torch_dtype", "float32"]
    words += ["--vllm_max_model_len", 128, "--vllm_max_num_seqs", 16, "--port", port, *MEMORY]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "swift", *map(str, words)], stdout=log, stderr=log
        )
    try:
        while not _ready(port):
            assert server.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield port
        server.terminate()
        assert server.wait(60) == 0
        assert (
            "every batch that was admitted has its answers" in (folder / "server.log").read_text()
        )
    finally:
        server.kill()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_vllm_answers_behind_a_rollout_server(model: Path, tmp_path: Path) -> None:
    with rollout(model, tmp_path) as port:
        place = {"mode": "server", "server_host": ["127.0.0.1"], "server_port": [port]}
        agrees(learn(model, tmp_path, **place, **DRAW))
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert "swift_weight_updates_total 4.0" in text
