"""A tiny configuration of any architecture: its default one with every size made small.

A table says how small a setting of a certain name may be; settings with one entry a layer are cut
to one layer of every kind. Only defaults that no model can be made of are completed by name.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

WINDOW = 16
"""Of sliding and chunked attention: longer than the samples by which a layout is chosen, shorter
than those with which it is tested."""

_LAYERS = "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_blocks"
_SIZES = (
    (r"type_vocab_size|task_type_vocab_size|qk_rope_head_dim", 4),
    (r".*vocab_size.*|encoder_hash_byte_group_vocab", 128),
    (r"qk_head_dim|index_head_dim|hidden_size_per_layer_input", 8),
    (r"qk_nope_head_dim", 4),
    (r"attention_head_dim", 16),
    (r"hidden_size|d_model|n_embd|emb_dim|embedding_dim|.*embedding_size|lru_width", 32),
    (r".*_embed_proj_dim|ple_embed_dim|mamba_d_ssm", 32),
    (r"(.*_)?intermediate_size.*|.*ffn_(dim|hidden_size)|dff|dim_ff|d_inner|feed_forward_size", 32),
    (r"(index_|swa_)?(n|num)_heads|n_head|(.*_)?attention_heads|(.*_)?mamba_n_heads", 4),
    (r"mamba_num_heads|n_mamba_heads|linear_num_value_heads|indexer_n_heads", 4),
    (r"(.*_)?num_key_value_heads|num_kv_heads|kv_n_heads|num_query_groups|linear_num_.*heads", 2),
    (r"indexer_kv_heads|n_group|topk_group|num_expert_group|.*expand", 1),
    (r"(.*_)?head_?dim|v_head_dim|(.*_)?d_head|dim_head|kv_channels|attention_head_size", 8),
    (r"rotary_dim", 8),
    (r".*_rank|hc_lowrank", 8),
    (r"(moe_)?num_experts|n_routed_experts|num_local_experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts", 2),
    (r"first_k_dense_replace|num_dense_layers|attn_layer_offset|expert_layer_offset", 1),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|rel_extent", 128),
    (r"context_length|max_target_positions|original_max_position_embeddings", 128),
    (r".*window(_size)?|.*window_len|attention_chunk_size|local_attention|floor_scale", WINDOW),
    (r"index_topk|indexer_budget|mamba_chunk_size|chunk_size", WINDOW),
    (r"mamba_d_state|(ssm_)?state_size|query_pre_attn_scalar", 8),
    (r"n_groups|mamba_n_?groups|attn_layer_period|expert_layer_period", 2),
    (r"num_kv_shared_layers|num_nextn_predict_layers", 0),
    (r"index_block_size|indexer_compress_ratio", 4),
    (r".*_token_id|.*_index", 1),
    (r"ngram_vocab_size_base|split_ngram_parts", 16),
)
_MISSING = {
    "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": WINDOW,
    "indexer_compress_ratio": 4, "logit_scale": 0.5,
}  # fmt: skip
"""Settings that some default configurations leave open."""

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

_COMPLETE: dict[str, dict[str, Any]] = {
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "xmod": {"default_language": "en_XX"},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "nemotron": {
        "num_key_value_heads": 2,
        "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
    },
    "zamba2": {"attention_hidden_size": 64, "mamba_expand": 1},
}


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The configuration of a model of some ten thousand weights."""
    return CONFIG_MAPPING[model_type].from_dict(shrink(complete(model_type)))


def complete(model_type: str) -> dict[str, Any]:
    """The settings of the default configuration, with what a model needs besides."""
    return CONFIG_MAPPING[model_type]().to_dict() | _COMPLETE.get(model_type, {})


def shrink(settings: dict[str, Any]) -> dict[str, Any]:
    layers = next((settings[n] for n in _LAYERS.split() if isinstance(settings.get(n), int)), 0)
    kept = _kept(settings, layers)
    small = {name: _small(name, value, layers, kept) for name, value in settings.items()}
    if small.keys() >= {"qk_rope_head_dim", "qk_nope_head_dim"}:  # as many keys as queries
        small["num_key_value_heads"] = small.get("num_attention_heads")
        small["qk_head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
        if "head_dim" in settings:
            small["head_dim"] = small["qk_rope_head_dim"]
    return small


def _kept(settings: dict[str, Any], layers: int) -> list[int]:
    """One layer of every kind, and at least two."""
    lists = [v for v in settings.values() if isinstance(v, list) and len(v) == layers]
    kinds: dict[tuple[str, ...], int] = {}
    for i in range(layers):
        kinds.setdefault(tuple(str(values[i]) for values in lists), i)
    first = list(kinds.values())[:4]
    return sorted({*first, *range(2)} if len(first) < 2 else first)


def _small(name: str, value: Any, layers: int, kept: list[int]) -> Any:
    if value is None:
        return _MISSING.get(name)
    if name == "per_layer_config":
        return {str(kept.index(int(i))): shrink(v) for i, v in value.items() if int(i) in kept}
    if isinstance(value, dict):
        return shrink(value)
    if isinstance(value, list):
        return _short(name, value, layers, kept)
    if name in _LAYERS.split():
        return len(kept)
    if isinstance(value, float) and re.search("drop|jitter", name):
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return value
    return next(
        (min(value, size) for pattern, size in _SIZES if re.fullmatch(pattern, name)), value
    )


def _short(name: str, value: list[Any], layers: int, kept: list[int]) -> list[Any]:
    numbers = name.endswith(("_layers", "idxs", "layer_ids"))
    if numbers and all(isinstance(i, int) for i in value):
        return [kept.index(i) for i in value if i in kept]
    if layers and len(value) == layers:
        return [_small(name, value[i], 0, []) for i in kept]
    if name == "mrope_section":
        return [2, 1, 1]
    return [1] if name.endswith("_token_id") else value
