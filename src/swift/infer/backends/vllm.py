"""vLLM in an environment and a process of its own, behind its OpenAI-style server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from swift.config.engine import VllmSection
from swift.infer.backends.dialects import VLLM
from swift.infer.backends.server import free_port
from swift.infer.backends.started import NAME, StartedEngine
from swift.infer.engine import Ability

_GUIDES = {"backend": "guidance", "disable_any_whitespace": True}
"""Else a model may write space between the parts of JSON until its tokens are used up."""
_ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}


class VllmServer(StartedEngine):
    """Starts a server for a model, and ends it with :meth:`close`."""

    def __init__(
        self,
        model: Path,
        settings: VllmSection,
        python: str,
        log: Path,
        say: Callable[[str], None],
        *,
        dtype: str = "auto",
        context: int | None = None,
        start_s: float = 600.0,
    ) -> None:
        """Start the server and wait for it.

        Args:
            model: folder of the checkpoint.
            settings: the server's.
            python: of an environment with vLLM.
            log: file for the server's output.
            say: told how it goes.
            dtype: of the weights.
            context: most tokens of prompt and answer.
            start_s: most seconds until it is ready.

        Raises:
            ConfigError, ServerError: it cannot be started.
        """
        port = free_port()
        words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        words += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)]
        words += ["--dtype", dtype, *command(settings, context)]
        super().__init__(
            "vLLM", VLLM, words, port, log, say,
            environment=_ENVIRONMENT, context=context, start_s=start_s,
        )  # fmt: skip
        # with adapters vLLM 0.32.0 does not refuse prompt_logprobs: its engine dies of them
        lora = settings.max_lora_rank is not None
        self.abilities -= {Ability.PROMPT_LOGPROBS if lora else Ability.ADAPTERS}


def command(settings: VllmSection, context: int | None) -> list[str]:
    """The settings as words of vLLM's command line."""
    words = ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    words += ["--structured-outputs-config", json.dumps(_GUIDES)]
    optional = {
        "--max-model-len": context,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--max-num-seqs": settings.max_num_seqs,
    }
    for name, value in optional.items():
        words += [] if value is None else [name, str(value)]
    words += ["--enforce-eager"] if settings.enforce_eager else []
    if settings.max_lora_rank is not None:
        words += ["--enable-lora", "--max-lora-rank", str(settings.max_lora_rank)]
        words += ["--max-loras", str(settings.max_loras)]
    return words
