"""Settings of engines that run in an environment of their own."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from swift.config.section import Section


class VllmSection(Section):
    """A vLLM server that swift starts (backend vllm)."""

    tensor_parallel_size: int = Field(1, ge=1)
    """Devices that every layer is split over."""

    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of a GPU's memory that it takes. Default: vLLM's own."""

    max_num_seqs: int | None = Field(None, ge=1)
    """Most answers at once. Default: vLLM's own."""

    enforce_eager: bool = False
    """Capture no CUDA graphs: starts sooner, answers slower."""

    max_lora_rank: int | None = Field(None, ge=1)
    """Largest rank of adapters. Default: that of the adapters that are given."""

    max_loras: int = Field(4, ge=1)
    """Adapters in one batch."""


class SglangSection(Section):
    """An SGLang server that swift starts (backend sglang)."""

    tp_size: int = Field(1, ge=1)
    """Devices that every layer is split over."""

    mem_fraction_static: float | None = Field(None, gt=0, le=1)
    """Share of a GPU's memory for weights and cache. Default: SGLang's own."""

    deterministic: bool = False
    """Kernels that give a row the same answer in any batch; seeds count with them alone."""

    max_lora_rank: int | None = Field(None, ge=1)
    """Largest rank of adapters. Default: that of the adapters that are given."""


class LmdeploySection(Section):
    """An LMDeploy server that swift starts, with its PyTorch engine (backend lmdeploy)."""

    tp: int = Field(1, ge=1)
    """Devices that every layer is split over."""

    cache_max_entry_count: float | None = Field(None, gt=0, le=1)
    """Share of a GPU's free memory for the cache. Default: LMDeploy's own."""

    quant_policy: int | None = Field(None, ge=0)
    """How the cache is quantized: 0 (not), 4 or 8 bits. Default: LMDeploy's own."""


class Servers(Protocol):
    """A configuration with the settings of every server that swift starts."""

    @property
    def vllm(self) -> VllmSection:
        """Of vLLM."""

    @property
    def sglang(self) -> SglangSection:
        """Of SGLang."""

    @property
    def lmdeploy(self) -> LmdeploySection:
        """Of LMDeploy."""
