"""Whether a model sees and hears in a batch of ours as it does in transformers' own call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from transformers import PreTrainedModel

from swift.chat.media.marks import Marks
from swift.chat.media.processor import Value
from swift.chat.media.types import NAMES
from swift.chat.message import Kind, Media
from swift.data.batch import Batch, batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.errors import ConfigError
from swift.models.anatomy import body, vocabulary
from swift.models.attention import Layout, attention_of, run_body, set_attention
from swift.models.load import is_out_of_memory

_AROUND = ((0, 5), (3, 0), (1, 6))
"""How many tokens of text stand before and behind a medium of the proof. What a model does by the
place in the batch, not in the sample, shows where samples differ; one ends with its medium.
"""


@dataclass(frozen=True)
class _Proof:
    """Samples with a medium each."""

    samples: list[Sample]
    marks: list[str]
    values: list[Value]
    calls: list[dict[str, np.ndarray]]  # what the processor makes of each sample


@torch.no_grad()
def see(
    model: PreTrainedModel, layout: Layout, marks: Marks, native: str, kinds: Iterable[Kind]
) -> Layout:
    """The layout under which samples with media come out as transformers computes them.

    Args:
        model: on its device; its attention is that of ``layout``.
        layout: proven for texts.
        marks: of the checkpoint.
        native: the attention that transformers would use.
        kinds: of media.

    Raises:
        ConfigError: there is no such layout.
        RenderError: the checkpoint does not take media of such a kind.
    """
    training, current = model.training, attention_of(model)
    model.eval()
    reasons: list[str] = []
    proof = _probe(model, marks, sorted({marks.processor.as_what(kind) for kind in kinds}))
    try:
        for attention, packed in _tried(layout, current, native):
            tried = replace(layout, attention=attention, packed=packed)
            why = _guarded(lambda tried=tried: _difference(model, tried, marks, native, proof))  # type: ignore[misc]
            set_attention(model, attention)
            if not why:
                return tried
            reasons.append(why)
    finally:
        model.train(training)
    raise ConfigError(
        f"--model: {type(model).__name__} does not take the media of a batch as transformers "
        f"computes them one by one ({reasons[-1]}), so it cannot be trained on them yet"
    )


def _tried(layout: Layout, current: str, native: str) -> Iterator[tuple[str, bool]]:
    """Attention and whether samples are packed, the cheapest first."""
    yield current, layout.packed
    if layout.packed and native != current:
        yield native, True
    if layout.packed or native != current:
        yield native, False


def _guarded(prove: Callable[[], str]) -> str:
    """Why a proof fails; empty: it does not. What a model raises is a reason too."""
    try:
        return prove()
    except Exception as error:  # architectures that cannot do it say so each in its own way
        if is_out_of_memory(error):
            raise
        return str(error).strip().partition("\n")[0] or repr(error)


def _probe(model: PreTrainedModel, marks: Marks, kinds: Iterable[Kind]) -> _Proof:
    random = np.random.default_rng(0)
    found = _Proof([], [], [], [])
    for kind, (number, (before, behind)) in product(kinds, enumerate(_AROUND)):
        mark, value = marks.mark_of(Media(kind, "")), marks.processor.probe(kind, number)
        call = marks.processor.call(mark, [value])
        size = call["input_ids"].shape[1]
        text = random.integers(0, min(vocabulary(model), 256), before + behind)
        head, tail = text[:before], text[before:]
        tokens = np.concatenate([head, call["input_ids"][0], tail, [0]])
        weights = (np.arange(len(tokens)) >= before + size).astype(np.float32)
        found.marks.append(mark)
        found.values.append(value)
        found.samples.append(Sample(tokens.astype(np.int32), weights, f"{kind} {number + 1}"))
        found.calls.append(_alone(marks, call, head, tail))
    return found


def _alone(
    marks: Marks, call: dict[str, np.ndarray], head: np.ndarray, tail: np.ndarray
) -> dict[str, np.ndarray]:
    """What the processor makes of a medium, with texts around it."""
    size = call["input_ids"].shape[1]
    learned = marks.processor.types([(tail.tolist(), 0)])
    inputs = dict(call)
    for name, value in call.items():
        if name not in ("input_ids", "attention_mask", *NAMES):
            continue
        assert value.shape == (1, size)
        sides = {"input_ids": (head, tail), "attention_mask": (head * 0 + 1, tail * 0 + 1)}
        left, right = sides.get(name, (head * 0, learned.get(name, tail * 0)))
        inputs[name] = np.concatenate([left, value[0], right])[None]
    inputs.pop("labels", None)
    return inputs


def _batch(marks: Marks, proof: _Proof, layout: Layout, device: torch.device) -> Batch:
    return batch(
        pack(proof.samples),
        packed=layout.packed,
        features=marks.processor.features("".join(proof.marks), proof.values),
        types=marks.processor.types([(s.tokens[:-1].tolist(), s.lead) for s in proof.samples]),
    ).to(device)


def _difference(
    model: PreTrainedModel, layout: Layout, marks: Marks, native: str, proof: _Proof
) -> str:
    """Why samples with media come out otherwise; empty: they do not."""
    device = next(model.parameters()).device
    set_attention(model, layout.attention)
    laid = _batch(marks, proof, layout, device)
    ours = run_body(model, laid)
    exact = ours.dtype == torch.float32
    ahead = _ahead(model, laid, ours)
    if ahead > (1e-4 if exact else 5e-2):
        return "an answer is read before it is learned"
    set_attention(model, native)
    for number, (sample, call) in enumerate(zip(proof.samples, proof.calls, strict=True)):
        inputs = {name: torch.from_numpy(value).to(device) for name, value in call.items()}
        expected = body(model)(**inputs, use_cache=False).last_hidden_state[0]
        start = laid.bounds[number]
        row, first = (0, start) if layout.packed else (number, 0)
        found = ours[row, first : first + len(sample.tokens) - 1]
        bound = (1e-4 if exact else 5e-2) * float(expected.norm())
        if float((found - expected).norm()) > bound:
            return f"{sample.place} of {len(_AROUND)} differs"
    return ""


def _ahead(model: PreTrainedModel, laid: Batch, ours: torch.Tensor) -> float:
    """How much what comes before the last token read changes with it."""
    last = laid.bounds[-1] - laid.bounds[-2] - 1 if not laid.packed else laid.bounds[-1] - 1
    tokens = laid.tokens.clone()
    tokens[-1, last] = (tokens[-1, last] + 1) % min(vocabulary(model), 256)
    changed = run_body(model, replace(laid, tokens=tokens))
    before = ours[-1, :last]
    return float((changed[-1, :last] - before).norm() / before.norm())
