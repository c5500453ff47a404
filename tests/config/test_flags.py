"""The flat flags of ms-swift 4.x: its users' command lines run unchanged, or say why not."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest

from swift.cli import COMMANDS, TOKENS, _load
from swift.config.flags import FLAGS, IDLE, aliases, spelling
from swift.config.later import LATER, LATER_VALUES
from swift.config.parse import read
from swift.config.runs import InferConfig
from swift.config.tree import leaves, section_at
from swift.errors import ConfigError

TABLE = Path(__file__).parents[3] / "shared" / "compat" / "ms_swift_flags.tsv"
ROOTS = {name: _load(command.config) for name, command in COMMANDS.items() if command.config}

COMMAND_LINES = {
    "self-cognition": (
        r"""swift sft --model Qwen/Qwen2.5-7B-Instruct --tuner_type lora
        --dataset 'AI-ModelScope/alpaca-gpt4-data-zh#500' 'AI-ModelScope/alpaca-gpt4-data-en#500'
        'swift/self-cognition#500' --torch_dtype bfloat16 --num_train_epochs 1
        --per_device_train_batch_size 1 --per_device_eval_batch_size 1 --learning_rate 1e-4
        --lora_rank 8 --lora_alpha 32 --target_modules all-linear --gradient_accumulation_steps 16
        --eval_steps 50 --save_steps 50 --save_total_limit 2 --logging_steps 5 --max_length 2048
        --output_dir output --system 'You are a helpful assistant.' --warmup_ratio 0.05
        --dataloader_num_workers 4 --model_author swift --model_name swift-robot""",
        {
            "model.path": "Qwen/Qwen2.5-7B-Instruct",
            "model.dtype": "bfloat16",
            "tuner.rank": 8,
            "tuner.alpha": 32.0,
            "train.accumulation": 16,
            "train.keep": 2,
            "train.eval_every": 50,
            "data.max_length": 2048,
            "data.system": "You are a helpful assistant.",
            "data.model_name": ["swift-robot"],
            "data.workers": 4,
            "schedule.warmup_ratio": 0.05,
            "optimizer.learning_rate": 1e-4,
            "output": "output",
            "data.train": [
                "AI-ModelScope/alpaca-gpt4-data-zh#500",
                "AI-ModelScope/alpaca-gpt4-data-en#500",
                "swift/self-cognition#500",
            ],
        },
    ),
    "full": (
        r"""swift sft --model Qwen/Qwen2.5-7B-Instruct --tuner_type full --dataset a#500 b#500
        --torch_dtype bfloat16 --num_train_epochs 1 --per_device_train_batch_size 1
        --per_device_eval_batch_size 1 --learning_rate 1e-5 --gradient_accumulation_steps 16
        --eval_steps 100 --save_steps 100 --save_total_limit 2 --logging_steps 5
        --max_length 2048 --warmup_ratio 0.05 --dataloader_num_workers 4 --deepspeed zero2""",
        {"tuner.kind": "full", "parallel.shard": "gradients", "optimizer.learning_rate": 1e-5},
    ),
    "full-with-a-lora-rank": (
        "swift sft --model m --tuner_type full --lora_rank 8 --lora_alpha 32 --dataset a",
        {"tuner.kind": "full", "tuner.freeze": []},
    ),
    "packing": (
        r"""swift sft --model m --tuner_type lora --dataset swift/sharegpt-gpt4:all
        --load_from_cache_file true --split_dataset_ratio 0.01 --packing true
        --attn_impl flash_attn --use_liger_kernel true --padding_free true --max_length 8192
        --dataset_num_proc 8 --packing_num_proc 1 --target_modules q_proj k_proj v_proj
        --lazy_tokenize false --gradient_checkpointing true""",
        {
            "data.packing": True,
            "data.split": 0.01,
            "data.processes": 8,
            "model.attention": "flash",
            "tuner.targets": ["q_proj", "k_proj", "v_proj"],
            "train.gradient_checkpointing": True,
        },
    ),
    "zero3-offload": (
        "swift sft --model m --dataset a.jsonl --deepspeed zero3_offload --ddp_timeout 180000000",
        {
            "parallel.shard": "parameters",
            "parallel.offload": True,
            "parallel.timeout_s": 180000000,
        },
    ),
    "custom-data": (
        r"""swift sft --model m --dataset train.jsonl --val_dataset val.jsonl
        --columns '{"text1": "query", "text2": "response"}' --truncation_strategy split
        --loss_scale last_round --strict false --dataset_shuffle false
        --train_dataloader_shuffle true --data_seed 7 --report_to tensorboard swanlab""",
        {
            "data.val": ["val.jsonl"],
            "data.columns": {"text1": "query", "text2": "response"},
            "data.overflow": "split",
            "data.learn": "last_round",
            "data.shuffle": True,
            "data.seed": 7,
            "report": ["tensorboard", "swanlab"],
        },
    ),
    "names-in-two-languages": (
        r"""swift sft --model m --dataset swift/self-cognition --model_author 魔搭 ModelScope
        --model_name 小鹰 'Swift Robot' --num_train_epochs 2.5""",
        {
            "data.model_author": ["魔搭", "ModelScope"],
            "data.model_name": ["小鹰", "Swift Robot"],
            "train.epochs": 2.5,
        },
    ),
    "schedule-and-optimizer": (
        r"""swift sft --model m --dataset a --lr_scheduler_type cosine_with_min_lr
        --optim adamw_torch --weight_decay 0.1 --adam_beta2 0.95 --adam_epsilon 1e-8
        --max_grad_norm 1.0 --warmup_steps 100 --max_steps 1000 --save_strategy epoch
        --eval_strategy no --metric_for_best_model eval_loss --save_only_model true
        --early_stop_interval 3 --save_total_limit -1""",
        {
            "schedule.kind": "cosine",
            "schedule.warmup_steps": 100,
            "optimizer.epsilon": 1e-8,
            "train.evaluate": "no",
            "train.save": "epoch",
            "train.patience": 3,
            "train.keep": None,
            "train.best_metric": "loss",
            "train.max_steps": 1000,
        },
    ),
    "resume": (
        r"""swift sft --model m --dataset a --resume_from_checkpoint output/v0/checkpoint-100
        --use_hf true --model_revision v1.0 --trust_remote_code true --full_determinism true""",
        {
            "train.resume": "output/v0/checkpoint-100",
            "model.hub": "huggingface",
            "model.revision": "v1.0",
            "model.trust_remote_code": True,
            "train.deterministic": True,
        },
    ),
    "vision-flags-of-a-text-model": (
        r"""swift sft --model m --dataset a --freeze_vit true --freeze_aligner true
        --freeze_llm false --streaming false --task_type causal_lm --modules_to_save embed_tokens
        lm_head --use_rslora true --lora_dtype float32 --init_weights true""",
        {"tuner.save_modules": ["embed_tokens", "lm_head"], "tuner.rslora": True},
    ),
    "classes": (
        r"""swift sft --model m --dataset a --task_type seq_cls --num_labels 20
        --problem_type multi_label_classification --use_chat_template false""",
        {
            "task.kind": "seq_cls",
            "task.num_labels": 20,
            "task.problem_type": "multi_label_classification",
        },
    ),
    "embedding": (
        "swift sft --model m --dataset a --task_type embedding --loss_type infonce",
        {"task.kind": "embedding", "task.loss_type": "infonce", "task.temperature": 0.1},
    ),
    "reranker": (
        "swift sft --model m --dataset a --task_type reranker --loss_type pointwise_reranker",
        {"task.kind": "reranker", "task.loss_type": "pointwise_reranker"},
    ),
    "pre-training": (
        r"""swift pt --model Qwen/Qwen2.5-7B --tuner_type full --dataset swift/chinese-c4
        --torch_dtype bfloat16 --num_train_epochs 1 --per_device_train_batch_size 1
        --per_device_eval_batch_size 1 --learning_rate 1e-5 --gradient_accumulation_steps 2
        --packing true --eval_steps 500 --save_steps 500 --save_total_limit 2 --logging_steps 5
        --deepspeed zero3 --max_length 8192 --warmup_ratio 0.05 --dataloader_num_workers 4
        --dataset_num_proc 8 --save_only_model true --output_dir output/pt
        --attn_impl flash_attn --use_liger_kernel true""",
        {
            "tuner.kind": "full",
            "data.packing": True,
            "data.overflow": "split",
            "data.learn": "all",
            "parallel.shard": "parameters",
            "train.save_only_model": True,
        },
    ),
    "infer": (
        r"""swift infer --adapters output/vx-xxx/checkpoint-xxx --stream true --temperature 0
        --max_new_tokens 2048""",
        {
            "model.adapters": ["output/vx-xxx/checkpoint-xxx"],
            "model.path": None,
            "infer.temperature": 0.0,
            "infer.max_new_tokens": 2048,
        },
    ),
    "infer-a-data-set": (
        r"""swift infer --model Qwen/Qwen2.5-7B-Instruct --infer_backend pt
        --val_dataset AI-ModelScope/alpaca-gpt4-data-zh#20 --max_batch_size 16 --stream false
        --result_path answers.jsonl --attn_impl flash_attn --max_length 8192 --top_p 0.9
        --repetition_penalty 1.05 --write_batch_size 1000""",
        {
            "infer.backend": "transformers",
            "infer.batch_size": 16,
            "data.val": ["AI-ModelScope/alpaca-gpt4-data-zh#20"],
            "infer.top_p": 0.9,
            "result_path": "answers.jsonl",
        },
    ),
    "infer-merged": (
        r"""swift infer --adapters swift/test_lora --load_data_args true --merge_lora true
        --stop_words '</s>' '<|end|>'""",
        {
            "model.merge": True,
            "load_data_args": True,
            "infer.stop": ["</s>", "<|end|>"],
        },
    ),
    "export": (
        "swift export --adapters output/vx/checkpoint-9 --merge_lora true --output_dir merged",
        {"model.merge": True, "output": "merged", "model.adapters": ["output/vx/checkpoint-9"]},
    ),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_lines_of_ms_swift_run_unchanged(name: str) -> None:
    line, expected = COMMAND_LINES[name]
    _, command, *words = shlex.split(line)
    config, _ = read(ROOTS[command], command, words)
    for path, value in expected.items():
        found: Any = config
        for part in path.split("."):
            found = getattr(found, part)
        assert (path, found) == (path, value)


def test_every_flag_of_ms_swift_is_known() -> None:
    if not TABLE.is_file():
        pytest.skip(f"{TABLE} is not there")
    with TABLE.open(encoding="utf-8") as file:
        lines = (line for line in file if not line.startswith("#"))
        table = list(csv.DictReader(lines, delimiter="\t"))
    ours = {"sft", "pt", "infer", "export"}
    wanted = [
        row["flag"]
        for row in table
        if ours & {verb.rpartition(":")[0] for verb in row["verbs"].split(",")}
    ]
    assert len(wanted) > 100
    assert [
        flag for flag in wanted if flag not in FLAGS and not {flag} & (IDLE.keys() | LATER)
    ] == []


def test_a_flag_is_in_one_table_only() -> None:
    assert FLAGS.keys() & IDLE.keys() == {"task_type"}  # a setting of one command alone
    assert FLAGS.keys() & LATER.keys() == set()
    assert IDLE.keys() & LATER.keys() == set()


def test_every_flag_leads_to_a_setting() -> None:
    roots = [*ROOTS.values(), _load(TOKENS.config)]
    known = {leaf.path for root in roots for leaf in leaves(root)}
    assert {path for flag in FLAGS.values() for path in flag.paths} <= known


def test_a_setting_has_one_spelling_and_others_beside_it() -> None:
    assert spelling("tuner.rank") == "--lora_rank"
    assert spelling("model.hub") == "--model.hub"
    assert aliases("model.dtype") == ["--bf16", "--fp16"]
    for root in ROOTS.values():
        spellings = [spelling(leaf.path) for leaf in leaves(root)]
        assert len(spellings) == len(set(spellings))


def test_no_flat_flag_hides_a_path() -> None:
    for root in ROOTS.values():
        for name, flag in FLAGS.items():
            if name in root.model_fields and not section_at(root, name):
                assert name in flag.paths


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("sft", "--tuner_type", "longlora"),
        ("sft", "--optim", "adamw_8bit"),
        ("sft", "--lr_scheduler_type", "polynomial"),
    ],
)
def test_a_value_that_is_known_and_not_supported_yet(command: str, flag: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(ROOTS[command], command, ["--model", "x", "--dataset", "y", flag, value])
    [problem] = [line for line in error.value.problems if flag in line]
    assert problem.startswith(f"{flag}: '{value}' is known from ms-swift, not supported yet; now: ")


def test_values_for_later_are_of_settings_and_not_supported() -> None:
    for path, values in LATER_VALUES.items():
        found = [leaf for root in ROOTS.values() for leaf in leaves(root) if leaf.path == path]
        assert found and not any(values & set(leaf.words) for leaf in found)


def test_flags_of_vllm_reach_its_section() -> None:
    speculative = '{"method": "ngram", "num_speculative_tokens": 3}'
    words = [
        "--model", "m", "--vllm_enable_prefix_caching", "false",
        "--vllm_limit_mm_per_prompt", '{"image": 5, "video": 2}',
        "--vllm_engine_kwargs", '{"block_size": 32}', "--vllm_speculative_config", speculative,
        "--vllm_pipeline_parallel_size", "2", "--vllm_reasoning_parser", "none",
        "--vllm_use_async_engine", "true", "--vllm_enable_lora", "true",
    ]  # fmt: skip
    config, notes = read(InferConfig, "infer", words)
    assert config.vllm.model_dump(exclude_unset=True) == {
        "enable_prefix_caching": False,
        "limit_mm_per_prompt": {"image": 5, "video": 2},
        "engine_kwargs": {"block_size": 32},
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3},
        "pipeline_parallel_size": 2,
    }
    assert len(notes) == 3
    with pytest.raises(ConfigError, match=r"qwen3: .*\(swift reads the thinking of every engine"):
        read(InferConfig, "infer", ["--model", "m", "--vllm_reasoning_parser", "qwen3"])
