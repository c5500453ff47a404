"""Memory and time of the distillation loss: in chunks, and with all logits as TRL computes it.

    python bench/distill.py --positions 2048 --vocabulary 49152 --hidden 576

Each way runs in a process of its own; the peak is what it added to the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F


def all_logits(
    hidden: torch.Tensor, head: torch.nn.Linear, theirs: torch.Tensor, their_head: torch.nn.Linear
) -> torch.Tensor:
    """Equation 1 over all positions at once, with beta 0.5."""
    student, teacher = head(hidden).log_softmax(-1), their_head(theirs).log_softmax(-1)
    half = torch.log(torch.tensor(0.5))
    mixed = torch.logsumexp(torch.stack([student + half, teacher + half]), 0)
    away = F.kl_div(mixed, teacher, reduction="none", log_target=True)
    back = F.kl_div(mixed, student, reduction="none", log_target=True)
    return (0.5 * away + 0.5 * back).sum()


def chunks(
    hidden: torch.Tensor, head: torch.nn.Linear, theirs: torch.Tensor, their_head: torch.nn.Linear
) -> torch.Tensor:
    """The loss of swift."""
    from swift.losses.distill import distillation

    def told(part: slice) -> tuple[torch.Tensor, None]:
        with torch.no_grad():
            return their_head(theirs[part]), None

    weights = torch.ones(len(hidden))
    size = head.weight.shape[0]
    return distillation(hidden, weights, head, list(head.parameters()), size, told).total


WAYS = {"chunks": chunks, "all logits": all_logits}


def measure(way: str, positions: int, vocabulary: int, hidden: int) -> dict[str, float]:
    """Loss, seconds and peak of one way."""
    import swift.losses.distill  # noqa: F401  # its memory is not the loss's

    torch.manual_seed(0)
    states = torch.randn(positions, hidden, requires_grad=True)
    head = torch.nn.Linear(hidden, vocabulary, bias=False)
    theirs, their_head = torch.randn(positions, hidden), torch.nn.Linear(hidden, vocabulary)
    their_head.requires_grad_(False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    loss = WAYS[way](states, head, theirs, their_head)
    loss.backward()
    took = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"loss": float(loss.detach()) / positions, "seconds": took, "gib": peak / 2**20}


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--way")
    given = parser.parse_args()
    sizes = (given.positions, given.vocabulary, given.hidden)
    if given.way:
        print(json.dumps(measure(given.way, *sizes)))
        return
    for way in WAYS:
        words = [sys.executable, __file__, "--way", way]
        for name, value in zip(("positions", "vocabulary", "hidden"), sizes, strict=True):
            words += [f"--{name}", str(value)]
        found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        print(
            f"{way}: loss {found['loss']:.6f}, {found['seconds']:.2f} CPU-s, {found['gib']:.2f} GiB"
        )


if __name__ == "__main__":
    main()
