"""Every registered choice of policy training runs, from flags to a step that moves the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from swift import registry
from swift.config.parse import read
from swift.config.runs import RlhfConfig
from swift.parallel.world import World
from swift.recipes import grpo

ADVANTAGES = [
    ["--advantage_estimator", "grpo", "--scale_rewards", scale]
    for scale in ("group", "batch", "none")
]
ADVANTAGES += [["--advantage_estimator", name] for name in ("rloo", "reinforce_plus_plus", "gdpo")]
OTHERS = [
    ["--delta", "1.5", "--epsilon_high", "0.3"],
    ["--kl_in_reward", "true"],
    ["--rlhf.kl_unbiased", "true"],
    ["--rlhf_type", "dapo", "--max_resample_times", "1", "--overlong_filter", "false"],
    ["--num_iterations", "2"],
    ["--top_entropy_quantile", "0.3"],
    ["--rlhf.off_policy_mask", "0.1"],
    ["--reward_funcs", "soft_overlong", "choice_vowels", "--soft_cache_length", "4"],
    ["--reward_funcs", "choice_vowels", "repetition", "--reward_weights", "1", "0.5"],
    *(
        ["--rollout_importance_sampling_mode", mode]
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none")
    ),
    *(
        ["--loss_type", name, "--epsilon_high", "5"]
        for name in ("bnpo", "dr_grpo", "sapo", "cispo", "fipo")
    ),
]
PARTS = [
    [f"--rlhf.{group}", name]
    for group in ("ratio", "gate", "aggregate", "kl")
    for name in registry.entries(group)
]


def vowels(completions: list[str], **columns: Any) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]


@pytest.fixture(autouse=True)
def rewards() -> Iterator[None]:
    registry.register("reward", "choice_vowels", f"{__name__}:vowels")
    yield
    registry._ENTRIES["reward"].pop("choice_vowels")


@pytest.mark.parametrize("words", [*ADVANTAGES, *PARTS, *OTHERS], ids=" ".join)
def test_a_choice_runs(checkpoint: Path, tmp_path: Path, words: list[str]) -> None:
    data = tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": f"Add {i}."} for i in range(4)])
    base = ["--rlhf_type", "grpo", "--model", str(checkpoint), "--dataset", str(data)]
    base += ["--reward_funcs", "choice_vowels", "--num_generations", "4", "--beta", "0.1"]
    base += ["--max_completion_length", "6", "--per_device_train_batch_size", "8"]
    base += ["--gradient_accumulation_steps", "1", "--max_steps", "1", "--tuner_type", "full"]
    base += ["--report_to", "none", "--dataset_num_proc", "1", "--save_only_model", "true"]
    base += ["--output_dir", str(tmp_path / "run"), "--torch_dtype", "float32"]
    if "cispo" in words and "--epsilon_high" not in words:
        base += ["--epsilon_high", "5"]
    config, _ = read(RlhfConfig, "rlhf", [*base, *words])
    assert isinstance(config, RlhfConfig)
    assert grpo.run(config, World()) is not None
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert math.isfinite(line["train/loss"]) and line["train/grad_norm"] > 0
