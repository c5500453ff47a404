"""Writes trl_policy.json: what TRL 1.16 says of one tiny model and batch, for test_policy.py.

Run by hand, in an environment of its own:

    pip install torch==2.13.0 trl==1.16.0 peft
    python tests/losses/make_trl_policy.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False, "initializer_range": 0.3,
}  # fmt: skip
PROMPTS, COMPLETIONS = [5, 3, 4, 6], [7, 4, 6, 2]
MOST = 8  # max_completion_length

# name: (TRL's settings, ours, what the batch has beside the tokens)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "grpo": ({"loss_type": "grpo", "beta": 0.0}, {"beta": 0}, ["old"]),
    "on-policy": ({"loss_type": "grpo", "beta": 0.0}, {"beta": 0}, []),
    "kl": (
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False}, {"beta": 0.1},
        ["old", "reference"],
    ),
    "kl unbiased": (
        {"loss_type": "grpo", "beta": 0.1}, {"beta": 0.1, "kl_unbiased": True},
        ["old", "reference"],
    ),
    "two-sided": (
        {"loss_type": "grpo", "beta": 0.0, "delta": 1.5, "epsilon_high": 0.3},
        {"beta": 0, "delta": 1.5, "epsilon_high": 0.3}, ["old"],
    ),
    "dapo": (
        {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28},
        {"beta": 0, "aggregate": "token", "epsilon_high": 0.28}, ["old"],
    ),
    "bnpo": ({"loss_type": "bnpo", "beta": 0.0}, {"beta": 0, "aggregate": "token"}, ["old"]),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "beta": 0.0}, {"beta": 0, "aggregate": "constant"}, ["old"],
    ),
    "gspo": (
        {"loss_type": "grpo", "beta": 0.0, "importance_sampling_level": "sequence",
         "epsilon": 0.03, "epsilon_high": 0.04},
        {"beta": 0, "ratio": "sequence", "epsilon": 0.03, "epsilon_high": 0.04}, ["old"],
    ),
    "sapo": (
        {"loss_type": "sapo", "beta": 0.0, "sapo_temperature_pos": 1.0,
         "sapo_temperature_neg": 1.05},
        {"beta": 0, "gate": "sapo"}, ["old"],
    ),
    "cispo": (
        {"loss_type": "cispo", "beta": 0.0, "epsilon_high": 1.2},
        {"beta": 0, "gate": "cispo", "aggregate": "token", "epsilon_high": 1.2}, ["old"],
    ),
    "temperature": (
        {"loss_type": "grpo", "beta": 0.0, "temperature": 0.7}, {"beta": 0}, ["old"],
    ),
    "entropy": (
        {"loss_type": "grpo", "beta": 0.0, "top_entropy_quantile": 0.4},
        {"beta": 0, "top_entropy_quantile": 0.4}, ["old"],
    ),
    "off-policy mask": (
        {"loss_type": "grpo", "beta": 0.0, "off_policy_mask_threshold": 0.02},
        {"beta": 0, "off_policy_mask": 0.02}, ["old"],
    ),
    **{
        f"correction {mode}": (
            {"loss_type": "grpo", "beta": 0.0}, {"beta": 0, "correction": mode,
             "correction_threshold": 0.8}, ["old", "engine"],
        )
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
}  # fmt: skip

# name: (trainer, TRL's settings, ours)
ADVANTAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{
        f"group {scale}": ("grpo", {"scale_rewards": scale}, {"scale_rewards": scale})
        for scale in ("group", "batch", "none")
    },
    "gdpo": (
        "grpo", {"multi_objective_aggregation": "normalize_then_sum"}, {"advantage": "gdpo"},
    ),
    "leave one out": (
        "rloo", {"beta": 0.0}, {"advantage": "leave_one_out", "scale_rewards": "none"},
    ),
}  # fmt: skip
REWARDS: list[list[float | None]] = [
    [1.0, 0.25], [0.0, 0.5], [0.5, None], [1.0, 0.75],
    [0.0, 0.5], [0.0, 0.5], [0.0, 0.5], [0.0, 0.5],
    [2.0, -1.0], [None, None], [1.5, 0.0], [0.0, 1.0],
]  # fmt: skip
WEIGHTS = [1.0, 0.5]


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, 50))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**MODEL))


def trainer(kind: str, funcs: Any, **settings: Any) -> Any:
    config, build = {
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
    }[kind]
    args = config(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[],
        max_completion_length=MOST, disable_dropout=True,
        **{"num_generations": 4, "per_device_train_batch_size": 4, **settings},
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "w5 w6"}] * 4)
    return build(
        model=model(), reward_funcs=funcs, args=args, train_dataset=data,
        processing_class=tokenizer(),
    )  # fmt: skip


def make_batch() -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    rows = len(PROMPTS)
    prompt = torch.zeros(rows, max(PROMPTS), dtype=torch.int64)
    completion = torch.zeros(rows, max(COMPLETIONS), dtype=torch.int64)
    prompt_mask, completion_mask = torch.zeros_like(prompt), torch.zeros_like(completion)
    for i, (a, b) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        prompt[i, -a:] = torch.randint(3, 50, (a,), generator=random)
        completion[i, :b] = torch.randint(3, 50, (b,), generator=random)
        prompt_mask[i, -a:] = 1
        completion_mask[i, :b] = 1
    return {
        "prompt_ids": prompt, "prompt_mask": prompt_mask, "completion_ids": completion,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([1.2, -0.7, 0.4, -1.1]),
        "num_items_in_batch": completion_mask.sum(),
    }  # fmt: skip


def correction(difference: torch.Tensor, mode: str, most: float) -> torch.Tensor:
    """As GRPOTrainer._generate_and_score_completions makes it."""
    if mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    ratio = difference.exp()
    return ratio.clamp(max=most) if "truncate" in mode else ratio.masked_fill(ratio > most, 0.0)


def gradients(net: torch.nn.Module) -> dict[str, float]:
    """Of each parameter: the sum of its gradient times cos(0), cos(1) ..., which sees all of it."""
    found = {}
    for name, parameter in net.named_parameters():
        flat = parameter.grad.double().flatten()
        found[name] = float((flat * torch.arange(len(flat)).double().cos()).sum())
    return found


def loss_case(theirs: dict[str, Any], ours: dict[str, Any], has: list[str]) -> dict[str, Any]:
    plain = {**theirs, "beta": 0.0}  # a reference model would have to be loaded by a name
    made = trainer("grpo", lambda completions, **_: [0.0] * len(completions), **plain)
    made.beta = theirs["beta"]
    batch = make_batch()
    random = torch.Generator().manual_seed(2)
    shape = batch["completion_ids"].shape
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        now, _, _ = made._get_per_token_logps_and_entropies(made.model, ids, mask, shape[1])
    noise = {
        name: 0.25 * torch.randn(shape, generator=random) for name in ("old", "reference", "engine")
    }
    columns = {name: (now + noise[name]) for name in has}
    if "old" in columns:
        batch["old_per_token_logps"] = columns["old"]
    if "reference" in columns:
        batch["ref_per_token_logps"] = columns["reference"]
    if "engine" in columns:
        made.use_vllm = made.vllm_importance_sampling_correction = True
        difference = (columns["old"] - columns["engine"]) * batch["completion_mask"]
        batch["importance_sampling_ratio"] = correction(
            difference, ours["correction"], ours["correction_threshold"]
        )
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    loss = made._compute_loss(made.model, batch)
    loss.backward()
    metrics = {k: v[-1] for k, v in made._metrics["train"].items()}
    return {
        "ours": ours, "temperature": theirs.get("temperature", 1.0), "loss": float(loss.detach()),
        "columns": {k: v.tolist() for k, v in columns.items()},
        "logprobs": now.tolist(), "metrics": metrics, "gradients": gradients(made.model),
    }  # fmt: skip


def rloo_case() -> dict[str, Any]:
    made = trainer("rloo", lambda completions, **_: [0.0] * len(completions), beta=0.0)
    batch = make_batch()
    random = torch.Generator().manual_seed(2)
    shape = batch["completion_ids"].shape
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        now, _, _ = made._get_per_token_logps_and_entropies(made.model, ids, mask, shape[1])
    old = now + 0.05 * torch.randn(shape, generator=random)
    batch["old_logps"] = (old * batch["completion_mask"]).sum(1)
    loss = made._compute_loss(made.model, batch)
    loss.backward()
    return {
        "ours": {"ratio": "trajectory", "beta": 0}, "temperature": 1.0, "loss": float(loss),
        "columns": {"old": old.tolist()}, "logprobs": now.tolist(),
        "metrics": {k: v[-1] for k, v in made._metrics["train"].items()},
        "gradients": gradients(made.model),
    }  # fmt: skip


def advantage_case(kind: str, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    def reward(column: int) -> Any:
        def judge(completions: list[str], **_: Any) -> list[float | None]:
            return [row[column] for row in REWARDS]

        judge.__name__ = f"reward{column}"
        return judge

    made = trainer(
        kind, [reward(0), reward(1)], reward_weights=WEIGHTS, num_generations=4,
        per_device_train_batch_size=12, **theirs,
    )  # fmt: skip
    out = made._generate_and_score_completions([{"prompt": "w5 w6"}] * len(REWARDS))
    return {"ours": ours, "advantages": out["advantages"].tolist()}


def main() -> None:
    batch = make_batch()
    written = {
        "trl": trl.__version__,
        "model": MODEL,
        "most": MOST,
        "checksum": float(sum(p.double().abs().sum() for p in model().parameters())),
        "batch": {k: v.tolist() for k, v in batch.items()},
        "losses": {name: loss_case(*case) for name, case in CASES.items()} | {"rloo": rloo_case()},
        "rewards": REWARDS,
        "weights": WEIGHTS,
        "advantages": {name: advantage_case(*case) for name, case in ADVANTAGES.items()},
    }
    target = Path(__file__).with_name("trl_policy.json")
    target.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
