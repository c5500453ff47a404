"""Settings of engines that run in an environment of their own."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from swift.config.section import Counts, Options, Section, Word


class VllmSection(Section):
    """vLLM, in this process or as a server that swift starts (backend vllm)."""

    tensor_parallel_size: int = Field(1, ge=1)
    """Devices that every layer is split over."""

    pipeline_parallel_size: int = Field(1, ge=1)
    """Devices that the layers are spread over."""

    data_parallel_size: int = Field(1, ge=1)
    """Copies of the model that share the answers."""

    enable_expert_parallel: bool = False
    """Spread the experts of a mixture over the devices, instead of splitting each."""

    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of a GPU's memory that it takes. Default: vLLM's own."""

    max_num_seqs: int | None = Field(None, ge=1)
    """Most answers at once. Default: vLLM's own."""

    enforce_eager: bool = False
    """Capture no CUDA graphs: starts sooner, answers slower."""

    enable_prefix_caching: bool | None = None
    """Keep what was read of prompts for others that begin alike. Default: vLLM's own."""

    quantization: Word | None = None
    """How the weights are quantized. Default: as the checkpoint says."""

    speculative_config: Options = {}
    """Settings of speculative decoding, as JSON: {"method": "ngram", ...}. Empty: none."""

    limit_mm_per_prompt: Counts = {}
    """Most media of a prompt by their kind: {"image": 5}. Default: vLLM's own."""

    mm_processor_cache_gb: float | None = Field(None, ge=0)
    """Memory for media that were prepared before. Default: vLLM's own."""

    disable_custom_all_reduce: bool = False
    """Add up between GPUs by NCCL alone."""

    disable_cascade_attn: bool = False
    """Do not read what prompts share in one pass."""

    max_lora_rank: int | None = Field(None, ge=1)
    """Largest rank of adapters. Default: that of the adapters that are given."""

    max_loras: int = Field(4, ge=1)
    """Adapters in one batch."""

    enable_sleep_mode: bool = False
    """Be able to give the memory of a GPU back for a while."""

    drawn_logprobs: bool = False
    """Tell the log-probabilities of what was drawn from in all cases; those of the model itself
    cost another reading of the answer then, where they differ. In this process alone."""

    engine_kwargs: Options = {}
    """Any other arguments of vLLM's engine, by their names there, as JSON."""


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
