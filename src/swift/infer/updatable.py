"""Engines with weights of their own that can be replaced: for runs that learn elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from swift.chat.load import load_tokenizer
from swift.chat.media.marks import Marks
from swift.config.engine import VllmSection
from swift.config.model import LoadSection
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import ServingEngine
from swift.infer.start import here
from swift.models.load import dtype_name, load_model
from swift.models.memory import free_bytes
from swift.models.prepacked import prepack


def load_updatable(
    backend: str,
    base: Path,
    section: LoadSection,
    vllm: VllmSection,
    dtype: torch.dtype,
    device: torch.device,
    context: int | None = None,
    marks: Callable[[], Marks] | None = None,
) -> ServingEngine:
    """An engine in this process.

    Args:
        backend: transformers or vllm.
        base: folder of the checkpoint.
        section: how it is loaded.
        vllm: settings of vLLM; unless they say otherwise, it tells what tokens were drawn from.
        dtype: of the weights.
        device: of the embedded engine.
        context: most tokens of prompt and answer.
        marks: how media are written, where the engine may read some.

    Raises:
        ConfigError: the engine cannot be had here.
    """
    if backend == "vllm":
        if "drawn_logprobs" not in vllm.model_fields_set:
            vllm = vllm.model_copy(update={"drawn_logprobs": vllm.max_lora_rank is None})
        return here(base, vllm, dtype=dtype_name(dtype), context=context)
    trusted = section.trust_remote_code
    model: Any = load_model(base, dtype, device=device, trust_remote_code=trusted)
    model.config.use_cache = True
    prepack(model, free_bytes(device) // 2)
    words = load_tokenizer(base, trust_remote_code=trusted)
    engine = TransformersEngine(model, words, section.attention, marks)
    if context is not None:
        engine.context = min(context, engine.context or context)
    return engine
