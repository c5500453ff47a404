"""vLLM in an environment and a process of its own, behind its OpenAI-style server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from swift.config.engine import VllmSection
from swift.errors import ConfigError
from swift.infer.backends.dialects import VLLM
from swift.infer.backends.server import free_port
from swift.infer.backends.started import NAME, StartedEngine
from swift.infer.backends.weights import laid_out
from swift.infer.engine import Ability

_GUIDES = {"backend": "guidance", "disable_any_whitespace": True}
"""Else a model may write space between the parts of JSON until its tokens are used up."""
_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # routes for pause, sleep and new weights; it hears this machine
}


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
        self._folder, self._paused = model, False
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
        more = {Ability.WEIGHTS, Ability.PAUSE}
        more |= {Ability.SLEEP} if settings.enable_sleep_mode else set()
        self.abilities = (self.abilities | more) - {
            Ability.PROMPT_LOGPROBS if lora else Ability.ADAPTERS
        }

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """See :class:`swift.infer.engine.ServingEngine`; answers under way are read once more.

        Raises:
            ConfigError: they are not all weights of the model, with its shapes.
        """
        with laid_out(weights, self._folder) as folder:
            self._tell("/pause?mode=keep", {})
            try:
                path = {"weights_path": str(folder)}
                self._tell("/collective_rpc", {"method": "reload_weights", "kwargs": path})
            finally:
                if not self._paused:
                    self._tell("/resume", {})

    def pause(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._paused = True
        self._tell("/pause?mode=keep&clear_cache=false", {})

    def resume(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._paused = False
        self._tell("/resume", {})

    def sleep(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        if Ability.SLEEP not in self.abilities:
            raise ConfigError("the vllm engine has no sleep; start it with vllm.enable_sleep_mode")
        self._tell("/sleep?level=1&mode=abort", {})

    def wake(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._tell("/wake_up", {})


def command(settings: VllmSection, context: int | None) -> list[str]:
    """The settings as words of vLLM's command line.

    Raises:
        ConfigError: a setting that a server does not have.
    """
    if settings.drawn_logprobs:
        raise ConfigError("--vllm.drawn_logprobs: a vLLM server has no such logprobs beside others")
    words = []
    for name, value in arguments(settings, context).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}" if value else f"--no-{flag}"]
        else:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            words += [f"--{flag}", text]
    return words


def arguments(settings: VllmSection, context: int | None) -> dict[str, Any]:
    """The settings by the names of vLLM's ``EngineArgs``; what is left to vLLM is not there."""
    own = settings.model_dump(exclude_defaults=True, exclude={"engine_kwargs", "drawn_logprobs"})
    found: dict[str, Any] = {**own, "structured_outputs_config": dict(_GUIDES)}
    if context is not None:
        found["max_model_len"] = context
    if settings.max_lora_rank is not None:
        found |= {"enable_lora": True, "max_loras": settings.max_loras}
    return found | settings.engine_kwargs
