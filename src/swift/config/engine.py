"""Settings of engines that run in an environment of their own."""

from __future__ import annotations

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
