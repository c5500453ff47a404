"""Flat flags of what uses a model: inference, engines, sampling, the service, the page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from swift.config.engine import VllmSection
from swift.config.flag import Flag, Several, alias, flag, words


def _engine_settings(value: Any) -> Any:
    """Settings of an engine as JSON, by the names that they have here."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return (
        Several({f"infer.{k}": v for k, v in found.items()}) if isinstance(found, dict) else value
    )


_BACKEND = words(pt="transformers", hf="transformers")
_SAMPLER = words(
    pt="transformers", hf="transformers", client="http", no=Several({"sample.ask": False})
)

USE: dict[str, Flag] = {
    # inference
    "infer_backend": flag("infer.backend", rewrite=_BACKEND),
    "engine_python": flag("infer.engine_python"),
    "base_url": flag("infer.base_url", "app.base_url"),
    "max_model_len": flag("infer.max_model_len"),
    "vllm_max_model_len": replace(flag("infer.max_model_len", "rollout.max_model_len"), alias=True),
    "sglang_context_length": alias("infer.max_model_len"),
    "lmdeploy_session_len": alias("infer.max_model_len"),
    "sglang_tp_size": flag("sglang.tp_size"),
    "sglang_mem_fraction_static": flag("sglang.mem_fraction_static"),
    "sglang_deterministic": flag("sglang.deterministic"),
    "sglang_max_lora_rank": flag("sglang.max_lora_rank"),
    "lmdeploy_tp": flag("lmdeploy.tp"),
    "lmdeploy_cache_max_entry_count": flag("lmdeploy.cache_max_entry_count"),
    "lmdeploy_quant_policy": flag("lmdeploy.quant_policy"),
    **{f"vllm_{name}": flag(f"vllm.{name}") for name in VllmSection.model_fields},
    "max_new_tokens": flag("infer.max_new_tokens", "rollout.max_completion_length"),
    "temperature": flag("infer.temperature", "rollout.temperature"),
    "top_p": flag("infer.top_p", "rollout.top_p"),
    "top_k": flag("infer.top_k", "rollout.top_k"),
    "repetition_penalty": flag("infer.repetition_penalty"),
    "min_p": flag("infer.min_p", "rollout.min_p"),
    "presence_penalty": flag("infer.presence_penalty"),
    "frequency_penalty": flag("infer.frequency_penalty"),
    "stop_words": flag("infer.stop", "rollout.stop"),
    "image": flag("infer.image"),
    "video": flag("infer.video"),
    "audio": flag("infer.audio"),
    "stream": flag("infer.stream"),
    "max_batch_size": flag("infer.batch_size"),
    "load_data_args": flag("load_data_args"),
    "result_path": flag("result_path"),
    # answers to learn from
    "sampler_type": flag("sample.sampler_type"),
    "sampler_engine": alias("infer.backend", _SAMPLER),
    "num_return_sequences": flag("sample.num_return_sequences"),
    "n_best_to_keep": flag("sample.n_best_to_keep"),
    "orm_model": flag("sample.orm_model"),
    "prm_model": flag("sample.prm_model"),
    "prm_threshold": flag("sample.prm_threshold"),
    "easy_query_threshold": flag("sample.easy_query_threshold"),
    "num_sampling_batch_size": flag("sample.num_sampling_batch_size"),
    "num_sampling_batches": flag("sample.num_sampling_batches"),
    "data_range": flag("sample.data_range"),
    "cache_files": flag("sample.cache_files"),
    "output_file": flag("sample.output_file"),
    "override_exist_file": flag("sample.override_exist_file"),
    "engine_kwargs": alias("infer.base_url", _engine_settings),
    # service
    "host": flag("serve.host"),
    "port": flag("serve.port"),
    "served_model_name": flag("serve.name"),
    "owned_by": flag("serve.owner"),
    "api_key": flag("serve.api_key", "infer.api_key", "rollout.server_key"),
    "api_key_file": flag("serve.api_key_file"),
    "ssl_keyfile": flag("serve.ssl_keyfile"),
    "ssl_certfile": flag("serve.ssl_certfile"),
    "max_running": flag("serve.max_running"),
    "max_queue": flag("serve.max_queue"),
    "queue_timeout": flag("serve.queue_timeout_s"),
    "deadline": flag("serve.deadline_s"),
    "requests_per_minute": flag("serve.requests_per_minute"),
    "tokens_per_minute": flag("serve.tokens_per_minute"),
    "concurrency": flag("serve.concurrency", "sample.concurrency"),
    "max_body_mb": flag("serve.max_body_mb"),
    "max_media": flag("serve.max_media"),
    "allowed_media_domains": flag("serve.media_hosts"),
    "max_image_pixels": flag("serve.max_image_pixels"),
    "max_answers": flag("serve.max_answers"),
    "max_logprobs": flag("serve.max_logprobs"),
    "drain": flag("serve.drain_s"),
    "allow_adapter_loading": flag("serve.allow_adapter_loading"),
    "record": flag("serve.record"),
    "record_max_mb": flag("serve.record_max_mb"),
    "redact": flag("serve.redact"),
    "verbose": flag("serve.verbose"),
    "log_interval": flag("serve.log_interval_s"),
    # page
    "server_name": flag("app.server_name"),
    "server_port": flag("app.server_port"),
    "share": flag("app.share"),
    "inbrowser": flag("app.inbrowser"),
    "lang": flag("app.lang"),
    "studio_title": flag("app.title"),
    "is_multimodal": flag("app.is_multimodal"),
}
