"""Write trl_numbers.json: what TRL makes of the pairs and models of pairs.py.

Run where TRL is (it is no dependency): PYTHONPATH=src:tests:tests/losses python
tests/losses/make_trl_numbers.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from pairs import CASES, Pair, lengths_of, models, pairs
from transformers import LlamaForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import tiny

PAD = 2
COMMON: dict[str, Any] = {
    "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    "per_device_train_batch_size": 2,
}  # fmt: skip
SLOPES = (
    "embed_tokens.weight",
    "0.self_attn.q_proj.weight",
    "1.mlp.down_proj.weight",
    "score.weight",
)
TEXTS = {"prompt": ["a b", "c"], "chosen": [" d e", " f"], "rejected": [" g", " h i"]}


def padded(rows: list[list[int]], fill: int = PAD) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def masks(prompts: list[list[int]], answers: list[list[int]]) -> dict[str, torch.Tensor]:
    both = list(zip(prompts, answers, strict=True))
    return {
        "input_ids": padded([p + a for p, a in both]),
        "attention_mask": padded([[1] * len(p + a) for p, a in both], 0),
        "completion_mask": padded([[0] * len(p) + [1] * len(a) for p, a in both], 0),
    }


def dpo(settings: dict[str, Any], made: list[Pair], folder: str) -> tuple[Any, torch.Tensor]:
    model, reference = models()
    args = DPOConfig(folder, **COMMON, **settings)
    data = Dataset.from_dict(TEXTS)
    trainer = DPOTrainer(
        model, reference, args=args, train_dataset=data, processing_class=tiny.make_tokenizer()
    )
    prompts = [pair.prompt for pair in made] * 2
    inputs = masks(prompts, [p.chosen for p in made] + [p.rejected for p in made])
    return trainer, trainer._compute_loss(trainer.model, inputs, False)


def kto(settings: dict[str, Any], made: list[Pair], folder: str) -> tuple[Any, torch.Tensor]:
    model, reference = models()
    args = KTOConfig(folder, **COMMON, **settings)
    data = Dataset.from_dict(
        {"prompt": ["a", "b"], "completion": [" c", " d"], "label": [True, False]}
    )
    trainer = KTOTrainer(
        model, reference, args=args, train_dataset=data, processing_class=tiny.make_tokenizer()
    )
    prompts = [pair.prompt for pair in made]
    labels = [i % 2 == 0 for i in range(len(made))]
    answers = [p.chosen if good else p.rejected for p, good in zip(made, labels, strict=True)]
    other = masks(prompts, [answers[-1], *answers[:-1]])
    inputs = masks(prompts, answers) | {f"KL_{name}": value for name, value in other.items()}
    inputs["label"] = torch.tensor(labels)
    return trainer, trainer._compute_loss(trainer.model, inputs, False)


def _compared(trainer: Any, made: list[Pair]) -> torch.Tensor:
    batch = {}
    for name in ("chosen", "rejected"):
        prompts, answers = [p.prompt for p in made], [getattr(p, name) for p in made]
        found = masks(prompts, answers)
        labels = found["input_ids"].masked_fill(found.pop("completion_mask") == 0, -100)
        batch |= {f"{name}_{key}": value for key, value in found.items()}
        batch[f"{name}_labels"] = labels
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    trainer._metrics = {"train": {name: [value] for name, value in metrics.items()}}
    return loss


def cpo(settings: dict[str, Any], made: list[Pair], folder: str) -> tuple[Any, torch.Tensor]:
    args = CPOConfig(folder, **COMMON, **settings)
    data = Dataset.from_dict(TEXTS)
    trainer = CPOTrainer(
        models()[0], args=args, train_dataset=data, processing_class=tiny.make_tokenizer()
    )
    return trainer, _compared(trainer, made)


def simpo(settings: dict[str, Any], made: list[Pair], folder: str) -> tuple[Any, torch.Tensor]:
    return cpo({"loss_type": "simpo", **settings}, made, folder)


def orpo(settings: dict[str, Any], made: list[Pair], folder: str) -> tuple[Any, torch.Tensor]:
    args = ORPOConfig(folder, **COMMON, **settings)
    data = Dataset.from_dict(TEXTS)
    trainer = ORPOTrainer(
        models()[0], args=args, train_dataset=data, processing_class=tiny.make_tokenizer()
    )
    return trainer, _compared(trainer, made)


def rm(settings: dict[str, Any], made: list[Pair], folder: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(tiny.make_config(num_labels=1))
    args = RewardConfig(folder, **COMMON, **settings)
    data = Dataset.from_dict({name: TEXTS[name] for name in ("chosen", "rejected")})
    trainer = RewardTrainer(
        model, args=args, train_dataset=data, processing_class=tiny.make_tokenizer()
    )
    prompts = [pair.prompt for pair in made] * 2
    inputs = masks(prompts, [p.chosen for p in made] + [p.rejected for p in made])
    inputs.pop("completion_mask")
    return trainer, trainer.compute_loss(trainer.model, inputs)


def numbers(case: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        trainer, loss = globals()[kind](settings, pairs(lengths_of(case)), folder)
    loss.backward()
    slopes = {
        name: float((p.grad.flatten() * torch.arange(p.numel()).cos()).sum())
        for name, p in trainer.model.named_parameters()
        if name.endswith(SLOPES)
    }
    metrics = {name: value[-1] for name, value in trainer._metrics["train"].items()}
    return {"loss": float(loss), "metrics": metrics, "slopes": slopes}


if __name__ == "__main__":
    found = {case: numbers(case, *how) for case, how in CASES.items()}
    text = json.dumps({"trl": trl.__version__, "torch": torch.__version__, "cases": found})
    Path(__file__).with_name("trl_numbers.json").write_text(text.replace('}, "', '},\n"') + "\n")
