"""The root of ``swift rollout``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.engine import VllmSection
from swift.config.model import ModelSection
from swift.config.section import Section, Strings
from swift.config.serve import ListenSection


class UpdatedSection(Section):
    """What answers; each request says how its tokens are drawn."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """The engine, in this process: transformers or vLLM."""

    max_model_len: int | None = Field(None, ge=1)
    """Most tokens of prompt and answer together. Default: what the model was made for."""


class RolloutServerConfig(Section):
    """swift rollout: answers for swift rlhf --vllm_mode server, by the weights that it sends."""

    command: Literal["rollout"] = "rollout"
    model: ModelSection
    infer: UpdatedSection = UpdatedSection()
    vllm: VllmSection = VllmSection()
    serve: ListenSection = ListenSection()

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without serving."""

    @model_validator(mode="after")
    def _check(self) -> RolloutServerConfig:
        path, why = "", ""
        if self.model.adapters:
            path, why = "model.adapters", "the run that learns sends its weights, adapter and all"
        elif bool(self.serve.ssl_keyfile) != bool(self.serve.ssl_certfile):
            path = "serve.ssl_certfile" if self.serve.ssl_keyfile else "serve.ssl_keyfile"
            why = "is needed too: HTTPS takes a key and a certificate"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self
