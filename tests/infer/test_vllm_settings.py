"""vLLM's settings: as words of its command line, and what follows from them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from swift.config.engine import VllmSection
from swift.errors import ConfigError, ServerError
from swift.infer.backends.vllm import _GUIDES, VllmServer, binding, command, lacks
from swift.infer.engine import Ability


def test_settings_become_words_of_vllms_command_line() -> None:
    guides = ["--structured-outputs-config", json.dumps(_GUIDES)]
    most = ["--max-logprobs", "21"]
    assert command(VllmSection(), None) == [*guides, *most]
    section = VllmSection(
        tensor_parallel_size=2, gpu_memory_utilization=0.5, max_num_seqs=8, enforce_eager=True,
        enable_prefix_caching=False, limit_mm_per_prompt={"image": 2}, max_lora_rank=16,
        engine_kwargs={"swap_space": 2, "max_num_seqs": 9, "max_logprobs": -1},
    )  # fmt: skip
    assert command(section, 512) == [
        "--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5", "--max-num-seqs", "9",
        "--enforce-eager", "--no-enable-prefix-caching", "--limit-mm-per-prompt", '{"image": 2}',
        "--max-lora-rank", "16", *guides, "--max-model-len", "512", "--enable-lora",
        "--max-loras", "4", "--swap-space", "2", "--max-logprobs", "-1",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="a vLLM server has no such logprobs"):
        command(VllmSection(drawn_logprobs=True), None)


def test_what_vllm_lacks_depends_on_its_settings() -> None:
    assert lacks(VllmSection()) == {Ability.ADAPTERS, Ability.SLEEP}
    lora = VllmSection(max_lora_rank=8, enable_sleep_mode=True)
    assert lacks(lora) == {Ability.PROMPT_LOGPROBS, Ability.PROMPT_TOP}
    guessing = VllmSection(speculative_config={"method": "ngram"}, enable_sleep_mode=True)
    assert lacks(guessing) == {Ability.ADAPTERS, Ability.MIN_P, Ability.LOGIT_BIAS}


def test_processes_on_a_cpu_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    two, six = VllmSection(tensor_parallel_size=2), VllmSection(
        tensor_parallel_size=3, data_parallel_size=2
    )  # fmt: skip
    for cpus, settings, words in (
        ({0, 1, 4, 5, 6}, two, "0,1|4,5"),
        ({3}, two, "3|3"),
        (range(6), six, "0|1|2|3|4|5"),
        ({0, 1}, six, "0|1|0|1|0|1"),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: set(cpus))
        assert binding(settings) == {"VLLM_CPU_OMP_THREADS_BIND": words}
    assert binding(VllmSection()) == {}
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "auto")
    assert binding(two) == {}


def test_a_python_without_vllm_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="No module named 'vllm'"):
        VllmServer(tmp_path, VllmSection(), sys.executable, tmp_path / "log", lambda _: None)
