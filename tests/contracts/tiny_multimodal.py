"""A tiny configuration of any architecture that reads media: tiny_config's, with towers of another
width than the text's, and with what the parts must agree on made to agree.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as MULTIMODAL,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ_TO_SEQ,
)

from contracts.tiny_config import complete, shrink

TEXT, TOWER = 32, 64  # widths
SIDE, PATCH = 32, 8  # pixels
IMAGE, VIDEO, AUDIO = 120, 121, 122  # tokens that media take the place of

_TOWER: dict[str, Any] = {
    "hidden_size": TOWER, "embed_dim": TOWER, "d_model": TOWER, "hidden_dim": TOWER,
    "intermediate_size": 48, "encoder_ffn_dim": 48, "num_attention_heads": 4, "num_heads": 4,
    "attention_heads": 4, "encoder_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
    "dim_head": 16, "depth": 2, "num_hidden_layers": 2, "encoder_layers": 2, "num_layers": 2,
    "num_global_layers": 1, "intermediate_layers_indices": [0], "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0], "global_attn_indexes": [1], "image_size": SIDE,
    "patch_size": PATCH, "out_hidden_size": TEXT, "output_dim": TEXT, "projection_dim": TEXT,
    "window_size": 2 * PATCH, "num_position_embeddings": 16, "num_mel_bins": 16,
    "max_source_positions": 16, "n_window": 8, "n_window_infer": 16, "vision_output_dim": 2 * TOWER,
    "projector_input_dim": TOWER, "projector_output_dim": TOWER, "pos_emb_height": 4,
    "pos_emb_width": 4, "downsample_hidden_size": 16, "conv_out_dim": 16, "input_dim": 16,
    "context_size": 8, "max_pos_emb": 16, "text_hidden_size": TEXT, "resampler_n_latents": 4,
    "resampler_depth": 1, "resampler_n_heads": 4, "resampler_head_dim": 8,
    "encoder_hidden_size": TOWER, "output_channels": 32,
}  # fmt: skip
_WHOLE: dict[str, Any] = {
    "image_token_id": IMAGE, "image_token_index": IMAGE, "video_token_id": VIDEO,
    "video_token_index": VIDEO, "audio_token_id": AUDIO, "audio_token_index": AUDIO,
    "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE]], "mm_tokens_per_image": 4,
    "image_seq_length": 16, "projection_dim": TEXT, "projection_hidden_size": TOWER,
    "window_size": 10, "num_query_tokens": 4, "insert_layer_id": 0,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "idefics2": {"perceiver_config": {"hidden_size": TEXT, "num_key_value_heads": 4}},
    "qwen2_vl": {"vision_config": {"hidden_size": TEXT}},
    "vipllava": {"vision_feature_layers": [-2, -1]},
    "mllama": {
        "vision_config": {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]},
        "text_config": {"cross_attention_layers": [1]},
    },
    "llama4": {"vision_config": {"intermediate_size": 4 * TOWER, "vision_output_dim": TOWER}},
    "internvl": {"image_seq_length": 4},
    "voxtral": {"audio_config": {"intermediate_size": 4 * TOWER}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 117},
    "qwen3_omni_moe_thinker": {
        "vision_start_token_id": 117,
        "audio_config": {"n_window": 50, "n_window_infer": 400},
    },
}  # fmt: skip
"""What no rule says."""

_SECTIONS = {"mrope_section": [2, 1, 1]}


def multimodal_types() -> list[str]:
    """Types of models that read media and write text; those that no table of them has, too."""
    more = [name for name in SEQ_TO_SEQ if "audio_config" in CONFIG_MAPPING[name].sub_configs]
    return list(dict.fromkeys([*MULTIMODAL, *more]))


def tiny_multimodal(model_type: str) -> PreTrainedConfig:
    """The configuration of a model of some hundred thousand weights."""
    kind = CONFIG_MAPPING[model_type]
    settings = complete(model_type)
    for name, inner in kind.sub_configs.items():
        if settings.get(name) is None and hasattr(inner, "model_type"):
            settings[name] = inner().to_dict()
    small = shrink(settings)
    _fit(small, settings, _WHOLE)
    for name in kind.sub_configs:
        if isinstance(small.get(name), dict) and name != "text_config":
            _fit(small[name], settings[name], _TOWER)
    rope = small.get("text_config", {}).get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope and "video_token" in " ".join(small):
        rope |= _SECTIONS
    for name, value in _OWN.get(model_type, {}).items():
        small[name] = small[name] | value if isinstance(value, dict) else value
    return kind.from_dict(small)


def _fit(small: dict[str, Any], settings: dict[str, Any], sizes: dict[str, Any]) -> None:
    for name, size in sizes.items():
        before = settings.get(name)
        if name not in settings or isinstance(before, bool):
            continue
        if before is None and "_token_i" not in name:
            continue
        pair = isinstance(before, list) and isinstance(size, int)
        small[name] = [size] * len(before) if pair else size
