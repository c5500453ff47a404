"""One table: every flat flag and the setting it stands for.

The flat flags are those of ms-swift 4.x, so that its command lines run unchanged. A flag is a
setting (``FLAGS``), has nothing to switch here (``IDLE``, said aloud when used), or is known and
not supported yet (``LATER``, in later.py). Any setting can also be written as a dotted path:
--tuner.rank 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swift.config.flag import Flag, Several
from swift.config.flag import alias as _alias
from swift.config.flag import flag as _flag
from swift.config.flag import words as _words
from swift.config.rl_flags import RL
from swift.config.use_flags import USE


def _unlimited(value: Any) -> Any:
    return None if str(value) == "-1" else value


def _lines(value: Any) -> Any:
    return value.replace("\\n", "\n") if isinstance(value, str) else value


def _hub(value: Any) -> Any:
    return {"true": "huggingface", "false": "modelscope"}.get(str(value).lower(), value)


def _resume(value: Any) -> Any:
    text = str(value).lower()
    return text == "true" if text in ("true", "false") else value


def _offloaded(shard: str) -> Several:
    return Several({"parallel.shard": shard, "parallel.offload": True})


_SHARD = _words(
    zero0="none", zero1="gradients", zero2="gradients", zero3="parameters",
    zero2_offload=_offloaded("gradients"), zero3_offload=_offloaded("parameters"),
    fsdp="parameters", fsdp2="parameters",
)  # fmt: skip
_DTYPE = _words(bf16="bfloat16", fp32="float32", fp16="float16", none="auto")
_ATTENTION = _words(
    flash_attn="flash", flash_attention_2="flash", flash_attention_3="flash", none="auto"
)
_OVERFLOW = _words(delete="drop", left="cut-left", right="cut-right", **{"raise": "error"})
_SCHEDULE = _words(
    constant_with_warmup="constant", warmup_stable_decay="wsd", cosine_with_min_lr="cosine"
)
_OPTIM = _words(adamw_torch="adamw", adamw_torch_fused="adamw", adamw_hf="adamw")
_METRIC = _words(eval_loss="loss", acc="token_accuracy")
_ADVANTAGE = _words(grpo="group", rloo="leave_one_out", reinforce_plus_plus="batch")

FLAGS: dict[str, Flag] = {
    # model
    "model": _flag("model.path"),
    "model_revision": _flag("model.revision"),
    "use_hf": _alias("model.hub", _hub),
    "bf16": _alias("model.dtype", _words(true="bfloat16", false="auto")),
    "fp16": _alias("model.dtype", _words(true="float16", false="auto")),
    "torch_dtype": _flag("model.dtype", rewrite=_DTYPE),
    "attn_impl": _flag("model.attention", rewrite=_ATTENTION),
    "chat_template": _flag("model.chat_template"),
    "template": _alias("model.chat_template", _words(default=None)),
    "use_chat_template": _alias("model.chat_template", _words(true=None, false="plain")),
    "enable_thinking": _flag("model.thinking"),
    "chat_template_kwargs": _flag("model.template_kwargs"),
    "response_prefix": _flag("model.response_prefix", rewrite=_lines),
    "allow_remote_media": _flag("model.allow_remote_media"),
    "max_pixels": _flag("model.max_pixels"),
    "min_pixels": _flag("model.min_pixels"),
    "fps": _flag("model.fps"),
    "max_frames": _flag("model.max_frames"),
    "min_frames": _flag("model.min_frames"),
    "sampling_rate": _flag("model.sampling_rate"),
    "bbox_format": _flag("model.bbox_format"),
    "norm_bbox": _flag("model.norm_bbox"),
    "media_cache": _flag("model.media_cache"),
    "media_cache_gib": _flag("model.media_cache_gib"),
    "media_memory_mib": _flag("model.media_memory_mib"),
    "trust_remote_code": _flag("model.trust_remote_code"),
    "adapters": _flag("model.adapters"),
    # tuner
    "tuner_type": _flag("tuner.kind"),
    "lora_rank": _flag("tuner.rank"),
    "lora_alpha": _flag("tuner.alpha"),
    "lora_dropout": _flag("tuner.dropout"),
    "freeze_vit": _flag("tuner.freeze_vit"),
    "freeze_aligner": _flag("tuner.freeze_aligner"),
    "freeze_llm": _flag("tuner.freeze_llm"),
    "target_modules": _flag("tuner.targets"),
    "target_regex": _flag("tuner.targets_regex"),
    "modules_to_save": _flag("tuner.save_modules"),
    "use_rslora": _flag("tuner.rslora"),
    "use_dora": _flag("tuner.dora"),
    "freeze_parameters": _flag("tuner.freeze"),
    "freeze_parameters_regex": _flag("tuner.freeze_regex"),
    "trainable_parameters": _flag("tuner.learn"),
    # data
    "dataset": _flag("data.train"),
    "val_dataset": _flag("data.val"),
    "interleave_prob": _flag("data.weights"),
    "modality_shares": _flag("data.modality_shares"),
    "stopping_strategy": _flag("data.stopping"),
    "split_dataset_ratio": _flag("data.split"),
    "max_length": _flag("data.max_length"),
    "truncation_strategy": _flag("data.overflow", rewrite=_OVERFLOW),
    "packing": _flag("data.packing"),
    "packing_length": _flag("data.packing_length"),
    "packing_window": _flag("data.packing_window"),
    "group_by_length": _flag("data.group_by_length"),
    "cached_dataset": _flag("data.cached"),
    "cached_val_dataset": _flag("data.cached_val"),
    "streaming": _flag("data.streaming"),
    "shuffle_buffer_size": _flag("data.shuffle_buffer"),
    "loss_scale": _flag("data.learn"),
    "system": _flag("data.system", "serve.system"),
    "columns": _flag("data.columns"),
    "model_name": _flag("data.model_name"),
    "model_author": _flag("data.model_author"),
    "dataset_shuffle": _flag("data.shuffle"),
    "train_dataloader_shuffle": _alias("data.shuffle"),
    "data_seed": _flag("data.seed"),
    "dataset_num_proc": _flag("data.processes"),
    "dataloader_num_workers": _flag("data.workers"),
    "load_from_cache_file": _flag("data.cache"),
    "strict": _flag("data.strict"),
    # what the model gives for a text
    "task_type": _flag("task.kind"),
    "num_labels": _flag("task.num_labels"),
    "problem_type": _flag("task.problem_type"),
    "infonce_temperature": _flag("task.temperature"),
    "infonce_use_batch": _flag("task.in_batch"),
    "infonce_mask_fake_negative": _flag("task.mask_fake_negatives"),
    "infonce_fake_neg_margin": _flag("task.fake_negative_margin"),
    "contrastive_margin": _flag("task.margin"),
    "mrl_dims": _flag("task.mrl_dims"),
    # what is learned from preferences
    "rlhf_type": _flag("rlhf.kind"),
    "beta": _flag("rlhf.beta"),
    "loss_type": _flag("rlhf.loss_type", "task.loss_type"),
    "loss_weights": _flag("rlhf.loss_weights"),
    "label_smoothing": _flag("rlhf.label_smoothing"),
    "f_divergence_type": _flag("rlhf.f_divergence_type"),
    "f_alpha_divergence_coef": _flag("rlhf.f_alpha_divergence_coef"),
    "reference_free": _flag("rlhf.reference_free"),
    "rpo_alpha": _flag("rlhf.rpo_alpha"),
    "ld_alpha": _flag("rlhf.ld_alpha"),
    "discopop_tau": _flag("rlhf.discopop_tau"),
    "ref_model": _flag("rlhf.ref_model"),
    "ref_adapters": _flag("rlhf.ref_adapters"),
    "precompute_ref_log_probs": _flag("rlhf.precompute_ref_log_probs"),
    "desirable_weight": _flag("rlhf.desirable_weight"),
    "undesirable_weight": _flag("rlhf.undesirable_weight"),
    "cpo_alpha": _flag("rlhf.cpo_alpha"),
    "simpo_gamma": _flag("rlhf.simpo_gamma"),
    "center_rewards_coefficient": _flag("rlhf.center_rewards_coefficient"),
    # what is learned from a teacher
    "teacher_model": _flag("rlhf.teacher_model"),
    "teacher_adapters": _flag("rlhf.teacher_adapters"),
    "teacher_model_server": _flag("rlhf.teacher_model_server"),
    "teacher_model_server_key": _flag("rlhf.teacher_model_server_key"),
    "offload_teacher_model": _flag("rlhf.offload_teacher_model"),
    "lmbda": _flag("rlhf.lmbda"),
    "seq_kd": _flag("rlhf.seq_kd"),
    "sft_alpha": _flag("rlhf.sft_alpha"),
    "gkd_logits_topk": _flag("rlhf.logits_topk"),
    # what is learned from rewards
    "advantage_estimator": _flag("rlhf.advantage", rewrite=_ADVANTAGE),
    "scale_rewards": _flag("rlhf.scale_rewards"),
    "importance_sampling_level": _flag("rlhf.ratio"),
    "epsilon": _flag("rlhf.epsilon"),
    "epsilon_high": _flag("rlhf.epsilon_high"),
    "delta": _flag("rlhf.delta"),
    "tau_pos": _flag("rlhf.tau_pos"),
    "tau_neg": _flag("rlhf.tau_neg"),
    "fipo_decay_rate": _flag("rlhf.fipo_decay_rate"),
    "fipo_clip_range": _flag("rlhf.fipo_clip_range"),
    "fipo_clip_high_only": _flag("rlhf.fipo_clip_high_only"),
    "fipo_safety_threshold": _flag("rlhf.fipo_safety_threshold"),
    "kl_in_reward": _flag("rlhf.kl_in_reward"),
    "num_iterations": _flag("rlhf.num_iterations"),
    "steps_per_generation": _flag("rlhf.steps_per_generation"),
    "dynamic_sample": _flag("rlhf.dynamic_sample"),
    "max_resample_times": _flag("rlhf.max_resample_times"),
    "overlong_filter": _flag("rlhf.overlong_filter"),
    "top_entropy_quantile": _flag("rlhf.top_entropy_quantile"),
    "rollout_importance_sampling_mode": _flag("rlhf.correction"),
    "rollout_importance_sampling_threshold": _flag("rlhf.correction_threshold"),
    "off_policy_sequence_mask_delta": _flag("rlhf.off_policy_mask"),
    "num_generations": _flag("rollout.num_generations"),
    "max_completion_length": _flag("rollout.max_completion_length"),
    "response_length": _alias("rollout.max_completion_length"),
    "max_turns": _flag("rollout.max_turns"),
    "environment": _flag("rollout.environment"),
    "environment_settings": _flag("rollout.environment_settings"),
    "log_completions": _flag("rollout.log_completions"),
    "use_vllm": _alias("rollout.backend", _words(true="vllm", false="transformers")),
    "vllm_mode": _flag("rollout.mode"),
    "async_generate": _flag("rollout.asynchronous"),
    "max_staleness": _flag("rollout.max_staleness"),
    "vllm_server_base_url": _flag("rollout.server_url"),
    "vllm_server_host": _flag("rollout.server_host"),
    "vllm_server_port": _flag("rollout.server_port"),
    "vllm_server_timeout": _flag("rollout.server_timeout_s"),
    "sleep_level": _flag("rollout.sleep_level"),
    "offload_model": _flag("rollout.offload_model"),
    "offload_optimizer": _flag("rollout.offload_optimizer"),
    "reward_funcs": _flag("reward.funcs"),
    "reward_weights": _flag("reward.weights"),
    "reward_model": _flag("reward.models"),
    "cosine_min_len_value_wrong": _flag("reward.cosine_min_len_value_wrong"),
    "cosine_max_len_value_wrong": _flag("reward.cosine_max_len_value_wrong"),
    "cosine_min_len_value_correct": _flag("reward.cosine_min_len_value_correct"),
    "cosine_max_len_value_correct": _flag("reward.cosine_max_len_value_correct"),
    "cosine_max_len": _flag("reward.cosine_max_len"),
    "repetition_n_grams": _flag("reward.repetition_n_grams"),
    "repetition_max_penalty": _flag("reward.repetition_max_penalty"),
    "soft_max_length": _flag("reward.soft_max_length"),
    "soft_cache_length": _flag("reward.soft_cache_length"),
    **RL,
    # optimizer and schedule
    "optim": _flag("optimizer.kind", rewrite=_OPTIM),
    "learning_rate": _flag("optimizer.learning_rate"),
    "llm_lr": _alias("optimizer.learning_rate"),
    "vit_lr": _flag("optimizer.vit_lr"),
    "vision_tower_lr": _alias("optimizer.vit_lr"),
    "aligner_lr": _flag("optimizer.aligner_lr"),
    "weight_decay": _flag("optimizer.weight_decay"),
    "adam_beta1": _flag("optimizer.beta1"),
    "adam_beta2": _flag("optimizer.beta2"),
    "adam_epsilon": _flag("optimizer.epsilon"),
    "lr_scheduler_type": _flag("schedule.kind", rewrite=_SCHEDULE),
    "warmup_ratio": _flag("schedule.warmup_ratio"),
    "warmup_steps": _flag("schedule.warmup_steps"),
    # course of the run
    "num_train_epochs": _flag("train.epochs"),
    "max_epochs": _alias("train.epochs"),
    "max_steps": _flag("train.max_steps", rewrite=_unlimited),
    "per_device_train_batch_size": _flag("train.batch_size"),
    "dataloader_drop_last": _flag("train.drop_last"),
    "per_device_eval_batch_size": _flag("train.eval_batch_size"),
    "gradient_accumulation_steps": _flag("train.accumulation"),
    "max_grad_norm": _flag("train.max_grad_norm"),
    "logging_steps": _flag("train.log_every"),
    "eval_strategy": _flag("train.evaluate"),
    "eval_steps": _flag("train.eval_every"),
    "save_strategy": _flag("train.save"),
    "save_steps": _flag("train.save_every"),
    "save_total_limit": _flag("train.keep", rewrite=_unlimited),
    "metric_for_best_model": _flag(
        "train.best_metric", rewrite=_words(eval_loss="loss", acc="token_accuracy")
    ),
    "early_stop_interval": _flag("train.patience"),
    "save_only_model": _flag("train.save_only_model"),
    "gradient_checkpointing": _flag("train.gradient_checkpointing"),
    "vit_gradient_checkpointing": _flag("train.vit_gradient_checkpointing"),
    "seed": _flag("train.seed", "infer.seed"),
    "full_determinism": _flag("train.deterministic"),
    "resume": _flag("train.resume", "sample.resume", rewrite=_resume),
    "resume_from_checkpoint": _alias("train.resume", _resume),
    # several processes
    "deepspeed": _alias("parallel.shard", _SHARD),
    "fsdp": _alias("parallel.shard", _SHARD),
    "ddp_timeout": _flag("parallel.timeout_s"),
    # the run
    "output_dir": _flag("output"),
    "report_to": _flag("report"),
    "run_name": _flag("run_name"),
    "external_plugins": _flag("external_plugins"),
    "dry_run": _flag("dry_run"),
    # looking at data
    "samples": _flag("inspect.samples"),
    "page_samples": _flag("inspect.page_samples"),
    **USE,
    # export
    "to_cached_dataset": _flag("to_cached_dataset"),
    "merge_lora": _flag("model.merge"),
    "max_shard_size": _flag("shard_size"),
}


@dataclass(frozen=True)
class Idle:
    """A flag with nothing to switch here: the values that it may have, and why."""

    values: frozenset[str] | None
    why: str


def _idle(why: str, *values: str) -> Idle:
    return Idle(frozenset(values) or None, why)


IDLE: dict[str, Idle] = {
    "use_liger_kernel": _idle("the head and its loss always run in chunks over learned tokens"),
    "task_type": _idle("this command is for models that write", "causal_lm"),  # but of swift sft
    "teacher_deepspeed": _idle("a teacher is whole on each device; see --offload_teacher_model"),
    "padding_free": _idle("batches never carry padding"),
    "lazy_tokenize": _idle("tokens are made once and cached on disk"),
    "packing_num_proc": _idle("packing takes no time worth splitting"),
    "gradient_checkpointing_kwargs": _idle("the non-reentrant kind is always used"),
    "dataloader_pin_memory": _idle("memory is pinned wherever there is a GPU"),
    "dataloader_persistent_workers": _idle("workers live as long as the run"),
    "ddp_find_unused_parameters": _idle("found from the model"),
    "use_logits_to_keep": _idle("logits are made for learned tokens only"),
    "label_names": _idle("labels need no name here"),
    "remove_unused_columns": _idle("only the columns that are understood are read"),
    "check_model": _idle("every file that is read is checked"),
    "model_type": _idle("the checkpoint says what it is"),
    "load_args": _idle("an adapter's folder says what it was trained on"),
    "logging_first_step": _idle("the first step is always logged"),
    "write_batch_size": _idle("answers are written as they come"),
    "safe_serialization": _idle("weights are always safetensors", "true"),
    "save_safetensors": _idle("weights are always safetensors", "true"),
    "add_version": _idle("a new run never writes over an old one", "true"),
    "tuner_backend": _idle("adapters are PEFT's", "peft"),
    "template_backend": _idle("templates are always Jinja", "jinja"),
    "lora_bias": _idle("biases do not learn", "none"),
    "lora_dtype": _idle("adapters are kept in float32", "float32", "none"),
    "init_weights": _idle("adapters start as identity", "true"),
    "val_dataset_shuffle": _idle("the order of the evaluation changes nothing", "false"),
    "label_smoothing_factor": _idle("labels are not smoothed", "0", "0.0"),
    "num_sample_generations": _idle("every answer is written with --log_completions true"),
    "num_beams": _idle("one answer is followed", "1"),
    "sequence_parallel_size": _idle("a sequence stays on one device", "1"),
    "log_rollout_offpolicy_metrics": _idle("engine and trainer are compared in every step"),
    "vllm_server_pass_dataset": _idle("the trainer runs environments, and has the rows"),
    "vllm_server_group_port": _idle("weights go to servers over HTTP"),
    "enable_flattened_weight_sync": _idle("weights go to servers in parts of many tensors"),
    "vllm_use_async_engine": _idle("answers always join and leave a running batch"),
    "vllm_enable_lora": _idle(
        "adapters may be loaded with --adapters or --vllm_max_lora_rank; runs merge theirs"
    ),
    "vllm_reasoning_parser": _idle("swift reads the thinking of every engine itself", "none", ""),
    "router_aux_loss_coef": _idle("there is no auxiliary loss", "0", "0.0"),
}


def spelling(path: str) -> str:
    """How a setting is written on the command line: its flat flag, else the dotted path."""
    for name, flag in FLAGS.items():
        if path in flag.paths and not flag.alias:
            return f"--{name}"
    return f"--{path}"


def aliases(path: str) -> list[str]:
    """Other flat flags for the same setting."""
    return [f"--{name}" for name, flag in FLAGS.items() if path in flag.paths and flag.alias]
