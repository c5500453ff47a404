"""Segments attended for in blocks, against each one by itself."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch

from swift.models.packed import packed_attention

HEADS, SIZE = 4, 8


def naive(
    columns: list[torch.Tensor], bounds: list[int], parents: list[int], window: int | None,
    cap: float | None, sinks_H: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """(T, H, D): every position by itself, over what its text has before it."""
    query, key, value = (x[0].double() for x in columns)
    spans, out = list(pairwise(bounds)), []
    for number, (start, stop) in enumerate(spans):
        first, last = spans[parents[number]] if parents and parents[number] >= 0 else (0, 0)
        for t in range(start, stop):
            seen = [*range(first, last), *range(start, t + 1)][-(window or 1 << 30) :]
            rows = []
            for head in range(HEADS):
                scores = key[head // 2, seen] @ query[head, t] * SIZE**-0.5
                if cap is not None:
                    scores = cap * torch.tanh(scores / cap)
                if sinks_H is not None:
                    scores = torch.cat([scores, sinks_H[head : head + 1].double()])
                rows.append(scores.softmax(-1)[: len(seen)] @ value[head // 2, seen])
            out.append(torch.stack(rows))
    return torch.stack(out)


def segments(seed: int) -> tuple[list[int], list[int]]:
    """Bounds and parents of short and long segments, some of which go on from others."""
    draw = random.Random(seed)
    lengths = [draw.choice([1, 2, 9, 16, 17, 40, 140]) for _ in range(draw.randint(2, 9))]
    bounds = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    roots = [n for n in range(len(lengths)) if n == 0 or draw.random() < 0.4]
    parents = [-1 if n in roots else draw.choice([r for r in roots if r < n]) for n in range(
        len(lengths))]  # fmt: skip
    return bounds, parents


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("window", "cap", "sinks"), [(None, None, False), (12, None, False), (None, 2.0, True)]
)
def test_blocks_are_every_segment_by_itself(
    seed: int, window: int | None, cap: float | None, sinks: bool
) -> None:
    bounds, parents = segments(seed)
    if seed % 2:
        parents = []
    torch.manual_seed(seed)
    columns = [torch.randn(1, n, bounds[-1], SIZE, requires_grad=True) for n in (HEADS, 2, 2)]
    sinks_H = torch.randn(HEADS) if sinks else None
    more: dict[str, Any] = {"sliding_window": window, "softcap": cap, "s_aux": sinks_H}
    found, _ = packed_attention(
        torch.nn.Identity(), *columns, None, parents=tuple(parents),
        cu_seq_lens_q=torch.tensor(bounds, dtype=torch.int32), **more,
    )  # fmt: skip
    expected = naive(columns, bounds, parents, window, cap, sinks_H)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((found[0] * weights).sum(), columns)
    theirs = torch.autograd.grad((expected * weights).sum(), columns)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)


def test_what_fills_up_a_block_is_never_seen() -> None:
    """Not even where its values are no numbers."""
    bounds, parents = torch.tensor([0, 5, 8, 17, 19], dtype=torch.int32), (-1, 0, -1, 2)
    columns = [torch.randn(1, n, 19, SIZE) for n in (HEADS, 2, 2)]
    spoilt = [x.clone() for x in columns]
    for x in spoilt:
        x[:, :, 8:] = torch.nan  # the second text
    kept, changed = (
        packed_attention(torch.nn.Identity(), *x, None, parents=parents, cu_seq_lens_q=bounds)[0]
        for x in (columns, spoilt)
    )
    assert torch.equal(kept[0, :8], changed[0, :8])
    assert changed[0, 8:].isnan().all()
