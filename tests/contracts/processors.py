"""A tiny checkpoint of any architecture that reads media, with its real processor: transformers'
class for the architecture, with a small tokenizer and the architecture's own image processor at
small sizes. What a processor needs is asked of its class, as far as its class says it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

import tiny
from contracts.tiny_multimodal import PATCH, SIDE, tiny_multimodal
from swift.chat.media.loading import load_processor
from swift.models.load import auto_class, writing_config

_TOKENS = ("image", "video", "audio", "boi", "eoi", "boa", "eoa")
_SIZES = {
    "height": SIDE, "width": SIDE, "shortest_edge": SIDE, "longest_edge": SIDE,
    "max_height": SIDE, "max_width": SIDE,
}  # fmt: skip
_AREA = {"shortest_edge": SIDE * SIDE // 2, "longest_edge": 2 * SIDE * SIDE}
_AREA_PIXELS = {"min_pixels": SIDE * SIDE // 2, "max_pixels": 2 * SIDE * SIDE}

_OWN_IMAGES: dict[str, dict[str, Any]] = {}
"""Settings of image processors that no rule says."""

_OWN_PROCESSOR: dict[str, dict[str, Any]] = {}
"""Settings of processors that no rule says."""


def save_tiny(model_type: str, folder: Path) -> PreTrainedModel:
    """A checkpoint folder with weights, tokenizer, template and processor.

    Returns:
        The model that was saved.

    Raises:
        Exception: transformers cannot make its processor, or its model, here.
    """
    config = tiny_multimodal(model_type)
    if (inner := writing_config(config)) is not config:
        config = tiny_multimodal(inner.model_type)
    kind = processor_class(config)
    tokenizer = _tokenizer(kind)
    _save_processor(config, kind, tokenizer, folder)
    processor = load_processor(str(folder))
    _agree(config, processor, tokenizer)
    torch.manual_seed(0)
    model: PreTrainedModel = auto_class(config).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def processor_class(config: PreTrainedConfig) -> Any:
    """The processor that transformers has for an architecture, or for the box that it is in."""
    if type(config) in PROCESSOR_MAPPING:
        return PROCESSOR_MAPPING[type(config)]
    for outer in PROCESSOR_MAPPING:
        if type(config) in outer.sub_configs.values():
            return PROCESSOR_MAPPING[outer]
    raise NotImplementedError(f"transformers has no processor for {config.model_type}")


def _tokenizer(kind: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with all the control tokens of which a processor's code speaks."""
    source = inspect.getsource(inspect.getmodule(kind))
    named = set(re.findall(r"tokenizer\.(\w+_token)\b", source)) - {"eos_token", "bos_token"}
    named |= {f"{name}_token" for name in _TOKENS if f"{name}_token" in source}
    named -= {"pad_token", "unk_token"}
    known = inspect.signature(kind.__init__).parameters
    tokens = {}
    for name in sorted(named):
        said = known[name].default if name in known else None
        tokens[name] = said if isinstance(said, str) else f"<{name.removesuffix('_token')}>"
    written = set(re.findall(r"[\"'](<[^\"'\s{}\\]{2,40}>)[\"']", source))
    plain = tiny.make_tokenizer()
    made = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        bos_token=plain.bos_token, eos_token=plain.eos_token, unk_token=plain.unk_token,
        pad_token=plain.pad_token, chat_template=tiny.CHATML,
        extra_special_tokens=tokens,
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": sorted(written | set(tokens.values()))})
    return made


def _image_processor(config: PreTrainedConfig) -> Any:
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type)
    for outer in PROCESSOR_MAPPING if names is None else ():
        if type(config) in outer.sub_configs.values():
            names = IMAGE_PROCESSOR_MAPPING_NAMES.get(outer.model_type, names)
    if not names or not names.get("pil"):
        raise NotImplementedError("its image processor needs torchvision")
    kind = get_image_processor_class_from_name(names["pil"])
    vision = getattr(config, "vision_config", config)
    settings: dict[str, Any] = {}
    merge = getattr(vision, "spatial_merge_size", None)
    if isinstance(size := getattr(kind, "size", None), dict):
        area = hasattr(kind, "merge_size") or "min_pixels" in size
        sizes = _AREA | _AREA_PIXELS if area else _SIZES
        settings["size"] = {name: sizes[name] for name in size}
    if getattr(kind, "crop_size", None):
        settings["crop_size"] = {"height": SIDE, "width": SIDE}
    for name, value in {
        "patch_size": PATCH,
        "merge_size": merge,
        "spatial_merge_size": merge,
        "image_grid_pinpoints": getattr(config, "image_grid_pinpoints", None),
        "temporal_patch_size": getattr(vision, "temporal_patch_size", None),
    }.items():
        if hasattr(kind, name) and value is not None:
            old = getattr(kind, name)
            settings[name] = dict.fromkeys(old, value) if isinstance(old, dict) else value
    return kind(**settings | _OWN_IMAGES.get(config.model_type, {}))


def _save_processor(
    config: PreTrainedConfig, kind: Any, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    parts = kind.get_attributes()
    found: dict[str, Any] = {"processor_class": kind.__name__}
    if "image_processor" in parts:
        found["image_processor"] = _image_processor(config).to_dict()
    if "feature_extractor" in parts:
        found["feature_extractor"] = FEATURE_EXTRACTOR_MAPPING[type(config)]().to_dict()
    said = {
        "patch_size": PATCH,
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": 1,
        "image_seq_length": getattr(config, "mm_tokens_per_image", None)
        or getattr(config, "image_seq_length", None),
        "downsample_factor": getattr(config, "downsample_factor", None),
        "spatial_merge_size": getattr(config, "spatial_merge_size", None),
        "image_token": getattr(tokenizer, "image_token", None),
    }
    known = inspect.signature(kind.__init__).parameters
    found |= {n: v for n, v in said.items() if n in known and v is not None}
    found |= _OWN_PROCESSOR.get(config.model_type, {})
    tokenizer.save_pretrained(folder)
    text = json.dumps(found, default=lambda o: o if isinstance(o, str | int) else str(o))
    (folder / "processor_config.json").write_text(text, encoding="utf-8")


def _agree(config: PreTrainedConfig, processor: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Settings of the model that speak of tokens, as the tokenizer has them."""
    for one in (config, config.get_text_config()):
        if hasattr(one, "vocab_size"):
            one.vocab_size = len(tokenizer)
    words = tokenizer.get_vocab()
    for name in vars(config):
        spoken = re.fullmatch(r"(\w+)_token_(id|index)", name)
        if not spoken or spoken[1] in ("pad", "eos", "bos"):
            continue
        ids = [i for i in getattr(processor, f"{spoken[1]}_token_ids", []) if i is not None]
        token = getattr(tokenizer, f"{spoken[1]}_token", f"<|{spoken[1]}|>")
        if ids or token in words:
            setattr(config, name, ids[0] if ids else words[token])
    if (feature := _stands(processor)) is not None:
        for name in ("image_token_id", "image_token_index"):
            if hasattr(config, name):
                setattr(config, name, feature)


def _stands(processor: Any) -> int | None:
    """The token that an image is written with."""
    image = Image.new("RGB", (2 * SIDE, SIDE))
    for name in ("image_token", "boi_token"):
        with suppress(Exception):  # processors refuse in many ways
            made = processor(text=[getattr(processor, name)], images=[image])
            return Counter(made["input_ids"][0]).most_common(1)[0][0]
    return None
