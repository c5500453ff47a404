"""Direct preference optimization on long prompts: shared, plain, and TRL, in pairs a second.

The same model, pairs, batch and threads; each contender in a process of its own, in turn, several
times over. Reported are medians over rounds.

    python bench/dpo.py --trl /path/to/trl/bin/python

Environment of TRL: see bench/sft.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def pairs(args: argparse.Namespace) -> list[dict[str, list[int]]]:
    """Pairs of random tokens: their lengths are all that matters for speed."""
    import numpy as np

    random = np.random.default_rng(0)
    sizes = {"prompt": args.prompt, "chosen": args.answer, "rejected": args.answer}
    return [
        {name: random.integers(100, 40000, size).tolist() for name, size in sizes.items()}
        for _ in range(args.steps * args.batch)
    ]


def swift_seconds(args: argparse.Namespace, *, share: bool) -> list[float]:
    """Seconds of every step of ours: adapter, reference by the adapter switched off."""
    import numpy as np
    import torch

    from swift.config.alignment import DpoSection
    from swift.config.tuner import LoraSection
    from swift.data.batch import batch
    from swift.data.pack import pack
    from swift.data.sample import Sample
    from swift.models.attention import set_attention
    from swift.models.heads import find_head
    from swift.models.kernels import fast_linear, keep_freed_memory, row_multiple
    from swift.models.load import load_model
    from swift.train.preference import dpo
    from swift.train.reference import Reference, without_adapter
    from swift.tune.lora import attach

    keep_freed_memory()
    model = load_model(Path(args.model), torch.float32)
    tuned = attach(LoraSection(rank=16), model, [], "")
    assert tuned.peft is not None
    set_attention(model, "packed")
    ask = without_adapter(tuned.peft, model, find_head(model))
    objective = dpo(DpoSection(), model, Reference(ask)).train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5)
    made = []
    for row in pairs(args):
        sides = [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]
        weights = ([0.0] * args.prompt + [1.0] * args.answer) * 2
        tokens = np.array([t for side in sides for t in side], np.int32)
        parts = tuple(map(len, sides))
        made.append(Sample(tokens, np.array(weights, np.float32), "", (), parts))
    seconds = []
    for step in range(args.steps):
        begun = time.perf_counter()
        chosen = made[step * args.batch :][: args.batch]
        given = batch(pack(chosen, row_multiple(model.device), share=share), weight=args.batch)
        with fast_linear():
            (objective(given)["total"] / args.batch).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds


def trl_seconds(args: argparse.Namespace) -> list[float]:
    """The same of TRL's trainer, on ready tokens."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.begun, self.seconds = 0.0, []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.begun)

    rows = [{f"{name}_ids": ids for name, ids in row.items()} for row in pairs(args)]
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            folder, per_device_train_batch_size=args.batch, max_steps=args.steps, report_to="none",
            use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=1e-5,
            max_length=None, save_strategy="no", disable_tqdm=True, logging_steps=100,
        )  # fmt: skip
        trainer = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}),
            processing_class=AutoTokenizer.from_pretrained(args.model),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[watch],
        )
        trainer.train_dataset = Dataset.from_list(rows)  # ready tokens, as ours has them
        trainer.train()
    return watch.seconds


def main() -> None:
    """Run every contender in turn, and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompt", type=int, default=448)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="the first is not counted")
    parser.add_argument("--batch", type=int, default=2, help="pairs of a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl", help="a Python that has TRL")
    parser.add_argument("--only", choices=["shared", "plain", "trl"])
    args = parser.parse_args()
    if args.only:
        found = (
            trl_seconds(args)
            if args.only == "trl"
            else swift_seconds(args, share=args.only == "shared")
        )
        print(json.dumps(found))
        return
    contenders = {"shared": sys.executable, "plain": sys.executable, "trl": args.trl}
    speeds: dict[str, list[float]] = {name: [] for name, python in contenders.items() if python}
    for _ in range(args.rounds):
        for name in speeds:
            words = [contenders[name], __file__, "--only", name, "--model", args.model]
            for option in ("prompt", "answer", "steps", "batch"):
                words += [f"--{option}", str(getattr(args, option))]
            done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
            if done.returncode:
                sys.exit(done.stderr)
            seconds = json.loads(done.stdout.splitlines()[-1])
            speeds[name].append(args.batch / statistics.median(seconds[1:]))
    for name, found in speeds.items():
        print(f"{name:<8} {statistics.median(found):.3f} pairs/s   {[round(x, 3) for x in found]}")


if __name__ == "__main__":
    main()
