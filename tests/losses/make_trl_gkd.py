"""Writes trl_gkd.json: what TRL 1.16's GKDTrainer says of random logits, for test_distill.py.

Run by hand, in an environment of its own:

    pip install torch==2.13.0 trl==1.16.0
    python tests/losses/make_trl_gkd.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from trl.experimental.gkd import GKDTrainer

torch.manual_seed(0)
student = (torch.randn(2, 4, 50) * 3).round(decimals=3)
teacher = (torch.randn(2, 4, 50) * 3).round(decimals=3)
labels = torch.tensor([[-100, 5, 6, 7], [-100, -100, 3, -100]])
cases: list[dict[str, Any]] = []
for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
    for temperature in (1.0, 0.9):
        logits = student.clone().requires_grad_()
        loss = GKDTrainer.generalized_jsd_loss(
            logits, teacher, labels, beta=beta, temperature=temperature, reduction="sum"
        )
        loss.backward()
        assert logits.grad is not None
        gradient = [[[round(x, 8) for x in r] for r in row] for row in logits.grad.tolist()]
        cases.append(
            {
                "beta": beta,
                "temperature": temperature,
                "sum": float(loss.detach()),
                "gradient": gradient,
            }
        )
found = {
    "student": [[[round(x, 3) for x in r] for r in row] for row in student.tolist()],
    "teacher": [[[round(x, 3) for x in r] for r in row] for row in teacher.tolist()],
    "labels": labels.tolist(),
    "cases": cases,
}
Path(__file__).with_name("trl_gkd.json").write_text(json.dumps(found) + "\n")
