"""Matrix products of a language model's layers by MKL and by oneDNN, both inside PyTorch.

python bench/linear.py              # SmolLM2-135M's layers on 1,024 positions, 2 threads
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{torch.backends.cpu.get_cpu_capability()}, {args.rows} rows, {args.threads} threads\n")
    print("| layer | K x N | MKL GFLOP/s | oneDNN GFLOP/s |\n|---|---|---|---|")
    for name, (size, width) in SHAPES.items():
        x, weight = torch.randn(args.rows, size), torch.randn(width, size)
        found = [gflops(product, x, weight, args.repeats) for product in (F.linear, _onednn)]
        print(f"| {name} | {size} x {width} | {found[0]:.0f} | {found[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
