"""A settled model in an engine of its own: vLLM here, a server that is started, one that runs."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from swift import registry
from swift.chat.media.marks import Marks
from swift.config.engine import Servers, SglangSection, VllmSection
from swift.config.infer import EngineSection, InferSection
from swift.config.model import UsedModelSection
from swift.errors import ConfigError
from swift.hub.locate import find_adapter
from swift.infer.backends.client import Address
from swift.infer.backends.generate import LMDEPLOY, SGLANG
from swift.infer.backends.lmdeploy import LmdeployServer
from swift.infer.backends.served import ServedEngine
from swift.infer.backends.sglang import SglangServer
from swift.infer.backends.started import NAME, StartedEngine
from swift.infer.backends.vllm import VllmServer
from swift.infer.engine import RestingEngine, ServingEngine
from swift.models.load import context_length, dtype_name, load_config
from swift.observe.log import Log

registry.register("engine", "vllm", "swift.infer.backends.vllm_local:VllmLocal", needs="vllm")
ADAPTER = "adapter"  # what a server calls the adapter that is given
Loads = TypeVar("Loads", VllmSection, SglangSection)
_RUNNING = {dialect.name: dialect for dialect in (SGLANG, LMDEPLOY)}


def serve(
    base: Path,
    section: UsedModelSection,
    settings: EngineSection,
    servers: Servers,
    dtype: torch.dtype,
    log: Log,
    marks: Callable[[], Marks],
) -> ServingEngine:
    """The engine that settings name, with the adapter loaded.

    Args:
        base: folder of the checkpoint.
        section: of the model.
        settings: of the answers.
        servers: of those that are started.
        dtype: of the weights.
        log: told how it goes.
        marks: how media are written, asked for when there are some.

    Raises:
        ConfigError, ServerError: it cannot be started, or the adapter cannot be loaded.
    """
    if section.merge:
        raise ConfigError(
            f"--merge_lora: the {settings.backend} engine reads a merged model: swift merge-lora"
        )
    config = load_config(base, trust_remote_code=section.trust_remote_code)
    context = settings.max_model_len or context_length(config)
    if isinstance(settings, InferSection) and settings.base_url is not None:
        url = settings.base_url.rstrip("/").removesuffix("/v1")
        address = Address(url, settings.api_key)
        return ServedEngine(address, _RUNNING[settings.backend], NAME, context)
    if settings.backend == "vllm" and settings.engine_python is None:
        log("starting vLLM here")
        vllm = allowing(servers.vllm, section.adapters)
        engine: ServingEngine = here(
            base, vllm, dtype=dtype_name(dtype), context=context, marks=marks
        )
    else:
        engine = _start(base, section, settings, servers, dtype_name(dtype), context, log, marks)
    try:
        for adapter in section.adapters:
            engine.load_adapter(ADAPTER, str(find_adapter(adapter).resolve()))
    except BaseException:
        engine.close()
        raise
    return engine


def _start(
    base: Path,
    section: UsedModelSection,
    settings: EngineSection,
    servers: Servers,
    dtype: str,
    context: int | None,
    log: Log,
    marks: Callable[[], Marks],
) -> StartedEngine:
    python = settings.engine_python or sys.executable
    file = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    path = Path("output") / settings.backend / file
    if settings.backend == "lmdeploy":
        if section.adapters:
            raise ConfigError("--adapters: the lmdeploy engine loads none: swift merge-lora")
        own = servers.lmdeploy
        return LmdeployServer(base, own, python, path, log, dtype=dtype, context=context)
    if settings.backend == "sglang":
        sglang = allowing(servers.sglang, section.adapters)
        return SglangServer(base, sglang, python, path, log, dtype=dtype, context=context)
    vllm = allowing(servers.vllm, section.adapters)
    return VllmServer(base, vllm, python, path, log, dtype=dtype, context=context, marks=marks)


def allowing(settings: Loads, adapters: Sequence[str]) -> Loads:
    """Settings with which adapters can be loaded: their largest rank, where none is set."""
    return settings.model_copy(update={"max_lora_rank": settings.max_lora_rank or _rank(adapters)})


def here(
    base: Path,
    settings: VllmSection,
    *,
    dtype: str = "auto",
    context: int | None = None,
    marks: Callable[[], Marks] | None = None,
) -> RestingEngine:
    """An engine of vLLM in this process.

    Raises:
        ConfigError: vLLM is not installed beside swift, or refuses the model or a setting.
        ServerError: it cannot be started.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "--infer_backend vllm: vLLM is not installed here; name the Python of an environment "
            "that has it: --engine_python path/to/python"
        )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    engine: RestingEngine = registry.load("engine", "vllm")(
        base, settings, dtype=dtype, context=context, marks=marks
    )
    return engine


def _rank(adapters: Sequence[str]) -> int | None:
    """The largest rank of adapters, at least vLLM's least of 8."""
    ranks = [8] * bool(adapters)
    for adapter in adapters:
        read = json.loads((find_adapter(adapter) / "adapter_config.json").read_text("utf-8"))
        ranks.append(int(read.get("r", 8)))
    return max(ranks, default=None)
