"""Writes trl_ppo.json: one update of TRL's PPOTrainer on a tiny model, with everything in it.

    python tests/rl/make_trl_ppo.py     (needs TRL 0.29; TRL_EXPERIMENTAL_SILENCE=1)

Value and policy are on one body (``shared``, as a value head is), or the value model has its own.
Answers fill their length: TRL gives one that ends a further state behind its last token.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False, "initializer_range": 0.3,
}  # fmt: skip
PROMPTS = ["w5 w6 w7", "w8", "w9 w10 w11 w12", "w13 w14"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "whitened": {"whiten_rewards": True, "gamma": 0.9, "lam": 0.8},
    "narrow": {"kl_coef": 0.1, "cliprange": 0.02, "cliprange_value": 0.01, "vf_coef": 0.3},
}
COLUMNS = ("logprobs", "ref_logprobs", "values", "advantages", "returns")


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, 50))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        padding_side="left",
    )  # fmt: skip


def seeded(kind: Any, seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    return kind(LlamaConfig(**MODEL, **more))


def flat(gradient: torch.Tensor) -> float:
    """A number that sees all of a gradient."""
    values = gradient.double().flatten()
    return float((values * torch.arange(len(values)).double().cos()).sum())


def clipped(seen: dict[str, Any]) -> float:
    """The share of tokens that the clip decides; TRL works it out behind the backward pass."""
    return float((seen["pg_losses2"] > seen["pg_losses"]).float().mean())


def case(settings: dict[str, Any], shared: bool) -> dict[str, Any]:
    policy = seeded(LlamaForCausalLM, 0)
    value = seeded(LlamaForSequenceClassification, 1, num_labels=1)
    torch.nn.init.normal_(value.score.weight, std=0.3)
    if shared:
        value.model = policy.model
    learning = list({id(p): p for p in [*policy.parameters(), *value.parameters()]}.values())
    words = tokenizer()
    rows = [{"input_ids": words(text)["input_ids"]} for text in PROMPTS * 2]
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[], learning_rate=3e-3,
        per_device_train_batch_size=8, gradient_accumulation_steps=1, total_episodes=8,
        num_ppo_epochs=2, response_length=6, temperature=1.0, num_sample_generations=0,
        save_strategy="no", max_grad_norm=0.0, seed=5, gradient_checkpointing=False,
        **settings,
    )  # fmt: skip
    made = PPOTrainer(
        args=args, processing_class=words, model=policy, ref_model=seeded(LlamaForCausalLM, 2),
        reward_model=seeded(LlamaForSequenceClassification, 3, num_labels=1), value_model=value,
        train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows),
        optimizers=(torch.optim.SGD(learning, lr=0.05), None),
    )  # fmt: skip
    found: dict[str, Any] = {"epochs": []}
    backward = made.accelerator.backward

    def record(loss: torch.Tensor) -> None:
        seen = sys._getframe(1).f_locals
        backward(loss)
        order = torch.as_tensor(seen["micro_batch_inds"]).argsort()
        found.update({name: seen[name].tolist() for name in COLUMNS})
        found["prompts"] = [[t for t in row if t] for row in seen["queries"].tolist()]
        found["responses"], found["scores"] = seen["responses"].tolist(), seen["scores"].tolist()
        found["epochs"].append(
            {
                "loss": float(loss.detach()), "policy": float(seen["pg_loss"]),
                "value": float(seen["vf_loss"]), "value_clip": float(seen["vf_clipfrac"]),
                "clip": clipped(seen),
                "new": seen["new_logprobs"][order].tolist(),
                "values": seen["vpred"][order].tolist(),
                "gradients": {
                    name: flat(p.grad) for name, p in seen["model"].named_parameters()
                },
            }
        )  # fmt: skip

    made.accelerator.backward = record
    made.train()
    return {"settings": settings, "shared": shared, **found}


def main() -> None:
    cases = {
        f"{name}, {'head' if shared else 'model'}": case(settings, shared)
        for name, settings in SETTINGS.items()
        for shared in (True, False)
    }
    target = Path(__file__).with_name("trl_ppo.json")
    target.write_text(json.dumps({"trl": trl.__version__, "model": MODEL, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
