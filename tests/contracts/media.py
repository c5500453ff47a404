"""Media for a tiny model of any architecture: the conventions by which models take them are tried,
one after the other, and the model itself says how many tokens they stand for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from contracts.tiny_multimodal import AUDIO, IMAGE, PATCH, SIDE

Inputs = dict[str, Any]
_ROW = SIDE // PATCH


def _patches(width: int, temporal: int) -> torch.Tensor:
    return torch.rand(_ROW * _ROW, width * temporal * PATCH * PATCH)


def _images() -> Iterator[Inputs]:
    """Ways to hand over one image."""
    image, size = torch.rand(1, 3, SIDE, SIDE), torch.tensor([[SIDE, SIDE]])
    grid = {
        "image_grid_thw": torch.tensor([[1, _ROW, _ROW]]),
        "grid_thw": torch.tensor([[1, _ROW, _ROW]]),
        "image_grid_hw": torch.tensor([[_ROW, _ROW]]),
        "image_merge_sizes": torch.tensor([2]),
        "target_sizes": torch.tensor([[_ROW, _ROW]]),
        "spatial_shapes": torch.tensor([[_ROW, _ROW]]),
    }
    yield {"pixel_values": image}
    yield {"pixel_values": image, "image_sizes": size}
    yield {"pixel_values": image[:, None].expand(1, 2, -1, -1, -1), "image_sizes": size}
    mask = torch.ones(1, 1, SIDE, SIDE, dtype=torch.int64)
    yield {"pixel_values": image[:, None], "pixel_attention_mask": mask}
    for temporal in (2, 1):
        yield {"pixel_values": _patches(3, temporal), **grid}
    yield {"pixel_values": torch.rand(1, 3, PATCH, PATCH * _ROW * _ROW), **grid}
    yield {"pixel_values": torch.rand(_ROW * _ROW, 3, PATCH, PATCH), **grid}
    yield {"pixel_values": torch.rand(1, _ROW * _ROW, 3, PATCH, PATCH), **grid}
    seen = torch.ones(1, _ROW * _ROW, dtype=torch.int64)
    flat = torch.rand(1, _ROW * _ROW, 3 * PATCH * PATCH)
    yield {"pixel_values": flat, "pixel_attention_mask": seen, **grid}
    place = torch.stack(torch.meshgrid(torch.arange(_ROW), torch.arange(_ROW), indexing="ij"), -1)
    yield {"pixel_values": flat, "image_position_ids": place.view(1, -1, 2)}
    yield {
        "pixel_values": image[:, None, None].expand(-1, -1, 2, -1, -1, -1),
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.int64),
        "aspect_ratio_mask": torch.ones(1, 1, 2, dtype=torch.int64),
        "cross_attention_mask": None,
    }


def _sounds() -> Iterator[Inputs]:
    """Ways to hand over one sound."""
    for frames in (32, 16):
        mask = torch.ones(1, frames, dtype=torch.int64)
        masks = {
            "feature_attention_mask": mask,
            "input_features_mask": mask,
            "audio_feature_lengths": torch.tensor([frames]),
        }
        yield {"input_features": torch.rand(1, 16, frames), **masks}
        yield {"input_features": torch.rand(1, frames, 16), **masks}
        yield {"input_features": torch.rand(1, frames, 16)}
        yield {"input_features": torch.rand(1, frames, 128), **masks}


def media(model: PreTrainedModel) -> dict[str, Inputs]:
    """For every kind of media that a model reads, inputs with one of them, in which it is seen."""
    found = {}
    tried = (
        ("image", "pixel_values", _images(), IMAGE),
        ("audio", "input_features", _sounds(), AUDIO),
    )
    for kind, name, ways, token in tried:
        if name in _names(model.forward):
            found[kind] = _first_that_runs(model, kind, ways, token)
    return found


def _names(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


@torch.no_grad()
def _first_that_runs(
    model: PreTrainedModel, kind: str, ways: Iterator[Inputs], token: int
) -> Inputs:
    problems = []
    for way, count in ((way, count) for way in ways for count in (None, _ROW, 2 * _ROW)):
        try:
            inputs = _inputs(model, kind, way, token, count)
            out = model(**inputs, use_cache=False).logits
            if not torch.isfinite(out).all() or out.shape[1] != inputs["input_ids"].shape[1]:
                problems.append("not finite, or not one result for each token")
            elif torch.equal(out, model(**_other(inputs), use_cache=False).logits):
                problems.append("not seen")
            else:
                return inputs
        except Exception as error:  # every architecture refuses in its own way
            problem = f"{type(error).__name__}: {error}".splitlines()[0][:90]
            if problem not in problems:
                problems.append(problem)
    raise NotImplementedError(f"no way is known to give it {kind}: {'; '.join(problems)}")


def _other(inputs: Inputs) -> Inputs:
    """The same with another image or sound."""
    media = ("pixel_values", "input_features")
    return {name: 1 - value if name in media else value for name, value in inputs.items()}


def _inputs(
    model: PreTrainedModel, kind: str, way: Inputs, token: int, count: int | None
) -> Inputs:
    known = _names(model.forward)
    given = {name: value for name, value in way.items() if name in known}
    count = count or _count(model, kind, way)
    feature = getattr(model, f"get_{kind}_features", None)
    tokens = torch.tensor([[5, 6, *[token] * count, 7, 8, 9]])
    here = (tokens == token).long()
    marks = {"mm_token_type_ids": here * (3 if kind == "audio" else 1), "token_type_ids": here}
    if kind == "image" and not feature:
        marks["image_attention_mask"] = torch.ones(1, tokens.shape[1], 1, dtype=torch.int64)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        **given,
        **{name: value for name, value in marks.items() if name in known},
    }


def _count(model: PreTrainedModel, kind: str, way: Inputs) -> int:
    """Tokens that the media stand for."""
    inner = getattr(model.base_model, f"get_{kind}_features", None)
    make = getattr(model, f"get_{kind}_features", inner)
    if make is None:
        return 1
    names, inner = _names(make), inner or make
    wanted = names | _names(inner)
    out = make(**{name: value for name, value in way.items() if name in wanted})
    if getattr(out, "pooler_output", None) is not None:
        out = out.pooler_output
    out = getattr(out, "last_hidden_state", out)
    rows = out if isinstance(out, list | tuple) else [out]
    return sum(row.shape[:-1].numel() for row in rows)
