"""Writes trl_prm.json: how TRL 0.29's PRMTrainer lays out steps, and its loss, for test_steps.py.

Run by hand, where transformers is (TRL 1.16 has no such trainer any more):

    pip install --no-deps --target trl029 trl==0.29.0
    PYTHONPATH=trl029:src:tests python tests/losses/make_trl_prm.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlamaForTokenClassification
from trl.experimental.prm import PRMTrainer

import tiny

ROWS = [
    {"prompt": "Add two and three.", "completions": ["Two and three", "five."], "labels": [1, 1]},
    {"prompt": "Who are you?", "completions": ["My name is", "Apus", "or Paris."],
     "labels": [1, 1, 0]},
]  # fmt: skip

tokenizer = tiny.make_tokenizer()
tokenizer.bos_token = None  # TRL writes it before every prompt, also where a template has one
torch.manual_seed(0)
model = LlamaForTokenClassification(tiny.make_config(num_labels=2)).eval()
found = []
total, count = torch.zeros(()), 0
for row in ROWS:
    asked = [{"role": "user", "content": row["prompt"]}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    made = PRMTrainer.tokenize_row(
        {**row, "prompt": text}, tokenizer, "\n", None, None, False, False
    )
    found.append(made)
    labels = torch.tensor([made["labels"]])
    learned = int((labels != -100).sum())
    loss = model(input_ids=torch.tensor([made["input_ids"]]), labels=labels).loss
    total, count = total + loss.detach() * learned, count + learned
out = {"rows": ROWS, "samples": found, "loss": float(total / count)}
Path(__file__).with_name("trl_prm.json").write_text(json.dumps(out) + "\n")
