"""A page in the browser over a server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.runs import DeployConfig
from swift.config.section import Section, Word
from swift.config.serve import ServeSection


class StartedServeSection(ServeSection):
    """The server that is started for the page, on this machine alone."""

    port: int = Field(0, ge=0, le=65535)
    """Port to listen at; 0: a free one."""

    verbose: bool = False
    """Log a line for every answer."""


class AppSection(Section):
    """The page: where it is, and what it offers."""

    server_name: Word = "127.0.0.1"
    """Address of the page; 0.0.0.0: everybody who reaches this machine may ask the model."""

    server_port: int = Field(7860, ge=0, le=65535)
    """Port of the page; where it is taken, the next free one. 0: any free one."""

    share: bool = False
    """Make the page public through a tunnel of gradio.live: everybody who has the link may ask the
    model, and what is said passes that service."""

    inbrowser: bool = False
    """Open the page in this machine's browser."""

    lang: Literal["en", "zh"] = "en"
    """Language of the page."""

    title: str | None = None
    """Title of the page. Default: the name of the model."""

    base_url: Word | None = None
    """A server that runs, such as http://127.0.0.1:8000/v1; none is started then, --model names the
    one that is asked first, --api_key is what the server wants to see."""

    is_multimodal: bool | None = None
    """Offer to send images, videos and sounds. Default: those that the server says it takes."""

    start_timeout_s: float = Field(1800.0, gt=0)
    """Longest time that the server may take to be ready."""


_ASKED = frozenset(
    (
        *("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed"),
        "stream",
    )
)
"""What may be said of answers where a server runs: the page begins with it."""

_OF_A_RUNNING_SERVER = {
    "model": frozenset({"path"}),
    "infer": _ASKED,
    "serve": frozenset({"api_key", "system", "verbose"}),
    "vllm": frozenset[str](),
    "sglang": frozenset[str](),
    "lmdeploy": frozenset[str](),
}
_FIXED = ("host", "ssl_keyfile", "ssl_certfile")


class AppConfig(DeployConfig):
    """swift app: a page in the browser to talk with a model."""

    command: Literal["app"] = "app"  # type: ignore[assignment]
    serve: StartedServeSection = StartedServeSection()
    app: AppSection = AppSection()

    dry_run: bool = False
    """Check everything and say what would happen, without starting anything."""

    @model_validator(mode="after")
    def _check(self) -> AppConfig:
        path, why = "", ""
        if self.app.base_url is None:
            if not self.model.path and not self.model.adapters:
                path = "model.path"
                why = "is needed, or --adapters output/run/checkpoint-N, or --base_url"
            elif said := [name for name in _FIXED if name in self.serve.model_fields_set]:
                path = f"serve.{said[0]}"
                why = "the server of a page listens on this machine alone; run swift deploy, and "
                why += "swift app --base_url"
        else:
            for name, known in _OF_A_RUNNING_SERVER.items():
                for field in sorted(getattr(self, name).model_fields_set - known):
                    path, why = f"{name}.{field}", "belongs to a server that is started, not to "
                    why += "one that runs at --base_url"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self
