"""vLLM in an environment and a process of its own, behind its OpenAI-style server."""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from swift.chat.load import load_tokenizer
from swift.chat.media.marks import Marks
from swift.config.engine import VllmSection
from swift.errors import ConfigError
from swift.infer.backends.bad_words import forbidden
from swift.infer.backends.dialects import VLLM, Body
from swift.infer.backends.pictures import data_url, marked
from swift.infer.backends.started import NAME, StartedEngine
from swift.infer.backends.weights import laid_out
from swift.infer.engine import Ability, Request

_GUIDES = {"backend": "guidance", "disable_any_whitespace": True}
"""Else a model may write space between the parts of JSON until its tokens are used up."""
_MOST = 20  # logprobs at a token, where nothing else is set
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # routes for pause, sleep and new weights; it hears this machine
}


class VllmServer(StartedEngine):
    """Starts a server for a model, and ends it with :meth:`close`.

    It answers at a socket in a folder that nobody else may open: it asks for no key, and whoever
    reaches it may change its weights. A token also takes less time on that way than by TCP.
    """

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
        marks: Callable[[], Marks] | None = None,
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
            marks: how images are written, asked for when there are some.
            start_s: most seconds until it is ready.

        Raises:
            ConfigError, ServerError: it cannot be started.
        """
        self._folder, self._marks, self._paused = model, marks, False
        self._marking = threading.Lock()
        self._room = tempfile.TemporaryDirectory(prefix="swift-", dir=_short_place())
        socket = Path(self._room.name) / "vllm"
        words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        words += ["--served-model-name", NAME, "--uds", str(socket)]
        words += ["--enable-scale-out", "--dtype", dtype, *command(settings, context)]
        super().__init__(
            "vLLM", replace(VLLM, ask=self._ask), words, socket, log, say,
            environment=_ENVIRONMENT | binding(settings), context=context, start_s=start_s,
        )  # fmt: skip
        more = {Ability.WEIGHTS, Ability.PAUSE, Ability.SLEEP, Ability.BAD_WORDS}
        more |= {Ability.MEDIA} if marks else set()
        self.abilities = (self.abilities | more) - lacks(settings)

    def close(self) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        super().close()
        self._room.cleanup()

    def _ask(self, request: Request, model: str, stream: bool) -> Body:
        """The JSON of a request, with its images and bad words.

        Raises:
            ConfigError, DataError: they cannot be said.
        """
        body = VLLM.ask(request, model, stream)
        if request.media:
            assert self._marks is not None

            def encode(mark: str) -> list[int]:
                return list(self._tokenizer.encode(mark, add_special_tokens=False))

            with self._marking:
                tokens, images = marked(request.tokens, request.media, self._marks(), encode)
            parts = [{"type": "image_url", "url": data_url(image)} for image in images]
            body |= {"token_ids": tokens, "content_parts": parts}
        if words := request.sampling.bad_words:
            biased = Ability.LOGIT_BIAS in self.abilities
            texts, biases = forbidden(words, self._tokenizer, biased=biased)
            sampling = body["sampling_params"]
            never = {str(token): bias for token, bias in biases.items()}
            sampling |= {"bad_words": texts}
            sampling |= {"logit_bias": sampling.get("logit_bias", {}) | never} if never else {}
        return body

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._folder)

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
            raise ConfigError(
                "the vllm engine has no sleep; start it with --vllm_enable_sleep_mode"
            )
        self._tell("/sleep?level=1&mode=abort", {})

    def wake(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._tell("/wake_up", {})


def _short_place() -> str | None:
    """A folder for sockets, whose paths may have some 100 characters; None: the usual one."""
    return "/tmp" if len(tempfile.gettempdir()) > 60 else None


def command(settings: VllmSection, context: int | None) -> list[str]:
    """The settings as words of vLLM's command line.

    Raises:
        ConfigError: a setting that a server does not have.
    """
    if settings.drawn_logprobs:
        raise ConfigError("--vllm_drawn_logprobs: a vLLM server has no such logprobs beside others")
    words, given = [], arguments(settings, context)
    most = given.get("max_logprobs", _MOST)
    given["max_logprobs"] = most + 1 if most >= 0 else most  # see the dialect's "logprobs"
    for name, value in given.items():
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


def lacks(settings: VllmSection) -> frozenset[Ability]:
    """What vLLM 0.32 cannot do as it is set up, beside what it never can."""
    # with adapters it does not refuse prompt_logprobs: its engine dies of them
    lora = settings.max_lora_rank is not None
    found = {Ability.PROMPT_LOGPROBS, Ability.PROMPT_TOP} if lora else {Ability.ADAPTERS}
    if not settings.enable_sleep_mode:
        found.add(Ability.SLEEP)
    if settings.speculative_config:
        found |= {Ability.MIN_P, Ability.LOGIT_BIAS}
    return frozenset(found)


def binding(settings: VllmSection) -> dict[str, str]:
    """For vLLM on CPUs: those of each of its processes, where there are several.

    By itself it gives a NUMA node to each, and does not start where there are not as many. GPUs do
    not read the variable; one that the user has set is left alone.
    """
    sizes = settings.tensor_parallel_size, settings.pipeline_parallel_size
    count = math.prod((*sizes, settings.data_parallel_size))
    if count == 1 or _BINDING in os.environ:
        return {}
    cpus = sorted(os.sched_getaffinity(0))
    share = max(1, len(cpus) // count)
    parts = [cpus[i * share : (i + 1) * share] or [cpus[i % len(cpus)]] for i in range(count)]
    return {_BINDING: "|".join(",".join(map(str, part)) for part in parts)}
