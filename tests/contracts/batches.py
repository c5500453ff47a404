"""Samples with media in one batch, for any architecture that reads media: hidden states and
gradients are those of each sample alone, with media made by hand where no processor is to be had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from contracts.media import Inputs, media
from swift.chat.media.types import NAMES
from swift.data.sample import Sample
from swift.errors import ConfigError
from swift.models.attention import (
    Layout,
    attention_of,
    choose_layout,
    read,
    run_body,
    set_attention,
)
from swift.models.seeing import Proof, prove

_BY_TOKEN = ("input_ids", "attention_mask", "image_attention_mask", *NAMES)
_TAIL = 12  # tokens behind the media of the second sample


def batches(model: PreTrainedModel) -> str:
    """For every kind of media that it is known how to give, the layout in which it holds."""
    native = attention_of(model)
    found = {}
    for kind, inputs in media(model).items():
        proof = proof_of(inputs)
        try:
            layout = _layout(model, native, proof)
        except ConfigError as error:
            if "read before it is learned" not in str(error) or "token_type_ids" not in inputs:
                raise
            proof = _of_prompts(proof)
            layout = _layout(model, native, proof)
        check_gradients(model, layout, native, proof)
        found[kind] = "packed" if layout.packed else "padded"
    return ", ".join(f"{kind} {layout}" for kind, layout in found.items())


def _layout(model: PreTrainedModel, native: str, proof: Proof) -> Layout:
    set_attention(model, native)
    return prove(model, choose_layout(model), native, proof)


def proof_of(inputs: Inputs) -> Proof:
    """Two samples: what is given, and another medium in a longer text that begins later."""
    features = {n: v for n, v in inputs.items() if n not in _BY_TOKEN and v is not None}
    other = {n: 1 - v if v.is_floating_point() else v for n, v in features.items()}
    types = {n: v[0].numpy() for n, v in inputs.items() if n in NAMES}
    first = inputs["input_ids"][0].numpy()
    more = np.arange(5, 5 + _TAIL)
    second = np.concatenate([first[1:], more])
    longer = {n: np.concatenate([v[1:], np.zeros_like(more)]) for n, v in types.items()}
    return Proof(
        [_sample(first), _sample(second)],
        [_call(first, features, types), _call(second, other, longer)],
        {n: _join(v, other[n]).numpy() for n, v in features.items()},
        {n: np.concatenate([v, longer[n]]) for n, v in types.items()},
    )


def _of_prompts(proof: Proof) -> Proof:
    """The same for models whose types tell what is read (0) from what is learned (1)."""
    types = [(np.arange(len(s.tokens) - 1) >= s.lead).astype(np.int64) for s in proof.samples]
    calls = [
        {**call, "token_type_ids": own[None]} for call, own in zip(proof.calls, types, strict=True)
    ]
    return replace(proof, calls=calls, types={"token_type_ids": np.concatenate(types)})


def _join(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Media of two samples; where all patches stand in one row of an image, side by side."""
    row = one.ndim == 4 and one.shape[0] == 1 and one.shape[-1] > 2 * one.shape[-2]
    return torch.cat([one, other], dim=-1 if row else 0)


def _sample(tokens: np.ndarray) -> Sample:
    weights = np.zeros(len(tokens) + 1, np.float32)
    weights[-2:] = 1
    return Sample(np.append(tokens, 9).astype(np.int32), weights, "probe")


def _call(
    tokens: np.ndarray, features: dict[str, torch.Tensor], types: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {
        "input_ids": tokens[None],
        "attention_mask": np.ones_like(tokens)[None],
        **{n: v.numpy() for n, v in features.items()},
        **{n: v[None] for n, v in types.items()},
    }


def check_gradients(model: PreTrainedModel, layout: Layout, native: str, proof: Proof) -> None:
    """Gradients of a batch are the sums of those of its samples, each in transformers' own call."""
    generator = torch.Generator().manual_seed(0)
    width = model.get_input_embeddings().weight.shape[-1]
    ways = [torch.randn(len(s.tokens) - 1, width, generator=generator) for s in proof.samples]

    def ours() -> torch.Tensor:
        set_attention(model, layout.attention)
        laid = proof.batch(layout.packed)
        hidden = run_body(model, laid)
        total = torch.zeros(())
        for number, way in enumerate(ways):
            row, first = (0, laid.bounds[number]) if layout.packed else (number, 0)
            total = total + (hidden[row, first : first + len(way)] * way).sum()
        return total

    def theirs() -> torch.Tensor:
        set_attention(model, native)
        total = torch.zeros(())
        for call, way in zip(proof.calls, ways, strict=True):
            inputs = {n: torch.from_numpy(v) for n, v in call.items()}
            hidden = read(model, inputs)[0]
            total = total + (hidden * way).sum()
        return total

    same_gradients(gradients(model, ours), gradients(model, theirs))


def gradients(model: PreTrainedModel, run: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of all parameters that learn and that a total depends on."""
    model.zero_grad(set_to_none=True)
    run().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {name: gradient for name, gradient in found.items() if gradient.any()}


def same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal but for rounding, which is that of the largest."""
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name in found.keys() | expected.keys():
        zero = torch.zeros(())
        right = expected.get(name, zero)
        far = float((found.get(name, zero) - right).norm())
        bound = 1e-4 * float(right.norm()) + 1e-7 * largest
        assert far < bound, f"{name}: another gradient, {far:.1e} of {bound:.1e}"
