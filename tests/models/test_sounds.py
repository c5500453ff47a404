"""Architectures that hear: parts, batches and recomputation, with sounds made by hand."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import tiny
from contracts.batches import gradients, proof_of, same_gradients
from contracts.media import media
from contracts.multimodal import build, check_batch, check_freeze, check_media, check_parts
from swift.errors import ConfigError
from swift.models.attention import attention_of, choose_layout, run_body
from swift.models.parts import parts
from swift.models.recompute import recompute
from swift.models.seeing import prove

HEARING = (
    "qwen2_audio", "voxtral", "granite_speech", "audioflamingo3", "qwen2_5_omni_thinker",
)  # fmt: skip
"""Of granite_speech, transformers can recompute the language model, not the tower."""


@pytest.mark.parametrize("model_type", HEARING)
def test_sounds_in_packs_are_heard_as_each_alone(model_type: str, tmp_path: Path) -> None:
    model = build(model_type)
    assert parts(model).audio and "audio" in check_parts(model, tmp_path)
    assert "audio" in check_media(model, tmp_path)
    assert "audio packed" in check_batch(model, tmp_path)
    assert check_freeze(model, tmp_path) == "exact"


@pytest.mark.parametrize("model_type", HEARING)
def test_recomputed_towers_give_the_same_gradients(model_type: str) -> None:
    model = build(model_type)
    native = attention_of(model)
    proof = proof_of(media(model)["audio"])
    layout = prove(model, choose_layout(model), native, proof)
    batch = proof.batch(layout.packed)

    def total() -> torch.Tensor:
        return run_body(model, batch).square().sum()

    model.train()
    torch.manual_seed(0)
    runs = _count_runs(model)
    once = gradients(model, total)
    first = sum(runs.values())
    recompute(
        model, language=True, towers=True,
        settings={"use_reentrant": False, "context_fn": lambda: (nullcontext(), nullcontext())},
    )  # fmt: skip
    again = gradients(model, total)
    same_gradients(again, once)
    second = sum(runs.values()) - first
    assert (second > first) == (model_type != "granite_speech")


def test_a_model_that_cannot_compute_again_says_so() -> None:
    model = tiny.make_model()
    model.supports_gradient_checkpointing = model.model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"--gradient_checkpointing true.*use false"):
        recompute(model, language=True, towers=True, settings={"use_reentrant": False})


def _count_runs(model: torch.nn.Module) -> dict[str, int]:
    """How often each module of a tower runs, from now on."""
    runs: dict[str, int] = {}

    def note(name: str) -> None:
        runs[name] = 0

        def count(*_: object) -> None:
            runs[name] += 1

        model.get_submodule(name).register_forward_pre_hook(count)

    found = parts(model)
    for name, _ in model.named_modules():
        if name and found.of(name) == "audio":
            note(name)
    return runs
