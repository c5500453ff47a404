"""A batch of answers step by step: a prompt with several answers is read once, and an answer that
has ended leaves, so that not all are computed for as long as the longest takes.

For models whose rows can leave a running batch (:func:`swift.infer.backends.stepper.joins`).
Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from swift.infer.backends.stepper import Call, Prompt, Stepper
from swift.infer.backends.window import SLACK
from swift.infer.choose import Row, advance

_READ = 8192  # tokens, padding included, that are read at once


def generate_together(model: PreTrainedModel, call: Call, rows: Sequence[Row], pad: int) -> None:
    """Generate until every row has ended.

    Args:
        model: in evaluation mode, with an attention that knows padding.
        call: what runs rows with given adapters.
        rows: at their beginning, without media.
        pad: any id; padding is masked.
    """
    stepper = Stepper(model, call, len(rows), min(SLACK, max(row.limit for row in rows)))
    alike: dict[tuple[str | None, tuple[int, ...]], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.request.adapter, tuple(row.request.tokens)].append(row)
    running: list[Row] = []
    first: list[torch.Tensor] = []
    for part in _parts([Prompt(tokens, adapter) for adapter, tokens in alike]):
        for prompt, logits_V in zip(part, stepper.read_together(part, pad), strict=True):
            members = alike[prompt.adapter, tuple(prompt.tokens)]
            stepper.join(prompt, len(members))
            running += members
            first += [logits_V] * len(members)
    logits_BV = torch.stack(first)
    while running:
        tokens = advance(running, logits_BV)
        for i in reversed(range(len(running))):
            if running[i].finish is not None:
                stepper.leave(i)
                running[i], tokens[i] = running[-1], tokens[-1]
                del running[-1], tokens[-1]
        if running:
            logits_BV = stepper.step(tokens)


def _parts(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts of similar length to read at once, the longest first."""
    part: list[Prompt] = []
    for prompt in sorted(prompts, key=lambda one: -len(one.tokens)):
        if part and (len(part) + 1) * len(part[0].tokens) > _READ:
            yield part
            part = []
        part.append(prompt)
    yield part
