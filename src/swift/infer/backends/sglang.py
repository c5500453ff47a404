"""SGLang in an environment and a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swift.config.engine import SglangSection
from swift.infer.backends.generate import SGLANG, SGLANG_DETERMINISTIC
from swift.infer.backends.server import free_port
from swift.infer.backends.started import NAME, StartedEngine
from swift.infer.engine import Ability


class SglangServer(StartedEngine):
    """Starts a server for a model, and ends it with :meth:`close`."""

    def __init__(
        self,
        model: Path,
        settings: SglangSection,
        python: str,
        log: Path,
        say: Callable[[str], None],
        *,
        dtype: str = "auto",
        context: int | None = None,
    ) -> None:
        """Start the server and wait for it; arguments and errors are those of vLLM's."""
        port = free_port()
        words = [python, "-m", "sglang.launch_server", "--model-path", str(model)]
        words += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)]
        words += ["--dtype", dtype, *command(settings, context)]
        dialect = SGLANG_DETERMINISTIC if settings.deterministic else SGLANG
        super().__init__("SGLang", dialect, words, port, log, say, context=context)
        if settings.max_lora_rank is None:
            self.abilities -= {Ability.ADAPTERS}


def command(settings: SglangSection, context: int | None) -> list[str]:
    """The settings as words of SGLang's command line (srt/arg_groups/fields of 0.5.23)."""
    words = ["--tp-size", str(settings.tp_size), "--incremental-streaming-output"]
    words += [] if context is None else ["--context-length", str(context)]
    if settings.mem_fraction_static is not None:
        words += ["--mem-fraction-static", str(settings.mem_fraction_static)]
    words += ["--enable-deterministic-inference"] if settings.deterministic else []
    if settings.max_lora_rank is not None:
        words += ["--enable-lora", "--max-lora-rank", str(settings.max_lora_rank)]
        words += ["--lora-target-modules", "all"]
    return words
