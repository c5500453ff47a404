"""LMDeploy in an environment and a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swift.config.engine import LmdeploySection
from swift.errors import ConfigError
from swift.infer.backends.generate import LMDEPLOY
from swift.infer.backends.server import free_port
from swift.infer.backends.started import NAME, StartedEngine


class LmdeployServer(StartedEngine):
    """Starts a server for a model, and ends it with :meth:`close`."""

    def __init__(
        self,
        model: Path,
        settings: LmdeploySection,
        python: str,
        log: Path,
        say: Callable[[str], None],
        *,
        dtype: str = "auto",
        context: int | None = None,
    ) -> None:
        """Start the server and wait for it; arguments and errors are those of vLLM's.

        Raises:
            ConfigError: of a dtype that LMDeploy does not have.
        """
        if dtype not in ("auto", "float16", "bfloat16"):
            raise ConfigError(f"--torch_dtype {dtype}: LMDeploy has float16 and bfloat16")
        port = free_port()
        words = [python, "-m", "lmdeploy", "serve", "api_server", str(model), "--dtype", dtype]
        words += ["--model-name", NAME, "--server-name", "127.0.0.1", "--server-port", str(port)]
        words += command(settings, context)
        super().__init__("LMDeploy", LMDEPLOY, words, port, log, say, context=context)


def command(settings: LmdeploySection, context: int | None) -> list[str]:
    """The settings as words of LMDeploy's command line (cli/serve.py of 0.18.0).

    Its PyTorch engine, since that one gives logprobs before temperature; no defaults from a
    generation_config.json, since a request says everything itself.
    """
    words = ["--backend", "pytorch", "--logprobs-mode", "raw_logprobs"]
    words += ["--generation-config", "lmdeploy", "--tp", str(settings.tp)]
    optional = {
        "--session-len": context,
        "--cache-max-entry-count": settings.cache_max_entry_count,
        "--quant-policy": settings.quant_policy,
    }
    for name, value in optional.items():
        words += [] if value is None else [name, str(value)]
    return words
