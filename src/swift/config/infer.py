"""How answers are generated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Section, Strings, Word

_Engine = Literal["transformers", "vllm", "sglang", "lmdeploy"]


class EngineSection(Section):
    """How answers are generated."""

    backend: _Engine = "transformers"
    """The engine: transformers or vLLM in this process, or a server of vLLM, SGLang or LMDeploy
    that is started and ended."""

    engine_python: Word | None = None
    """Python of the environment that the engine is installed in; vLLM is a server then. Default:
    this one."""

    max_model_len: int | None = Field(None, ge=1)
    """Most tokens of prompt and answer together. Default: what the model was made for."""

    max_new_tokens: int = Field(2048, ge=1)
    """Longest answer in tokens."""

    temperature: float = Field(0.0, ge=0)
    """Randomness of the choice of a token; 0: always the most likely one."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Choose among the most likely tokens that together have this probability."""

    top_k: int = Field(0, ge=0)
    """Choose among this many most likely tokens; 0: all."""

    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1: tokens that were used before become less likely (arXiv:1909.05858)."""

    min_p: float = Field(0.0, ge=0, le=1)
    """Choose among tokens with this share of the most likely one's probability
    (arXiv:2407.01082)."""

    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Above 0: tokens of the answer so far become less likely, once each."""

    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Above 0: tokens of the answer so far become less likely, each time more."""

    stop: Strings = []
    """Texts that end an answer; they are not part of it."""

    seed: int | None = None
    """Seed of the random choices."""

    image: Strings = []
    """Images that are shown with the first message of a chat."""

    video: Strings = []
    """Videos that are shown with the first message of a chat."""

    audio: Strings = []
    """Sounds that are played with the first message of a chat."""

    stream: bool = True
    """Show an answer token by token in the chat."""

    batch_size: int = Field(8, ge=1)
    """Rows answered at once when a whole data set is answered."""


class InferSection(EngineSection):
    """How answers are generated, here or by a server that is there."""

    backend: Literal[_Engine, "http"] = "transformers"  # type: ignore[assignment]
    """The engine: transformers or vLLM in this process, a server of vLLM, SGLang or LMDeploy that
    is started and ended, or any OpenAI-compatible server (http)."""

    base_url: Word | None = None
    """Where the server is (backend http), such as http://127.0.0.1:8000/v1; with sglang and
    lmdeploy: one that runs, instead of one that is started."""

    api_key: str | None = None
    """What the server at --base_url wants to see as a bearer token."""
