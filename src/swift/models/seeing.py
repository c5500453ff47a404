"""Whether a model sees and hears in a batch of ours as it does in transformers' own call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from transformers import PreTrainedModel

from swift.chat.media.marks import Features, Marks
from swift.chat.media.types import NAMES, Types
from swift.chat.message import Kind, Media
from swift.data.batch import Batch, batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.errors import ConfigError, DataError, RenderError
from swift.models.anatomy import vocabulary
from swift.models.attention import Layout, read, run_body, set_attention
from swift.models.load import is_out_of_memory

_AROUND = ((0, 5), (3, 0), (1, 6))
"""How many tokens of text stand before and behind a medium of the proof. What a model does by the
place in the batch, not in the sample, shows where samples differ; one ends with its medium.
"""


@dataclass(frozen=True)
class Proof:
    """Samples with media, as a batch of ours takes them and as transformers computes each."""

    samples: list[Sample]
    calls: list[dict[str, np.ndarray]]  # by the names of the model's arguments
    features: Features  # of all samples
    types: Types

    def batch(self, packed: bool) -> Batch:
        """All samples in one batch."""
        return batch(pack(self.samples), packed=packed, features=self.features, types=self.types)


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
    """
    try:
        proof = _probe(model, marks, sorted({marks.processor.as_what(kind) for kind in kinds}))
    except (DataError, RenderError) as error:
        raise _refusal(model, str(error)) from None
    return prove(model, layout, native, proof)


@torch.no_grad()
def prove(model: PreTrainedModel, layout: Layout, native: str, proof: Proof) -> Layout:
    """The layout under which samples come out as transformers computes each; the cheapest.

    Args:
        model: on its device; its attention is that of ``layout``.
        layout: proven for texts.
        native: the attention that transformers would use.
        proof: samples with media.

    Raises:
        ConfigError: there is no such layout.
    """
    training = model.training
    model.eval()
    why = ""
    try:
        for attention, packed in _tried(layout, native):
            tried = replace(layout, attention=attention, packed=packed)
            why = _guarded(lambda tried=tried: _difference(model, tried, native, proof))  # type: ignore[misc]
            set_attention(model, attention)
            if not why:
                return tried
    finally:
        model.train(training)
    raise _refusal(model, why)


def _refusal(model: PreTrainedModel, why: str) -> ConfigError:
    return ConfigError(
        f"--model: {type(model).__name__} does not take the media of a batch as transformers "
        f"computes them one by one ({why}), so it cannot be trained on them yet"
    )


def _tried(layout: Layout, native: str) -> Iterator[tuple[str, bool]]:
    """Attention and whether samples are packed, the cheapest first."""
    yield layout.attention, layout.packed
    if layout.packed and native != layout.attention:
        yield native, True
    if layout.packed or native != layout.attention:
        yield native, False


def _guarded(prove: Callable[[], str]) -> str:
    """Why a proof fails; empty: it does not. What a model raises is a reason too."""
    try:
        return prove()
    except Exception as error:  # architectures that cannot do it say so each in its own way
        if is_out_of_memory(error):
            raise
        return str(error).strip().partition("\n")[0] or repr(error)


def _probe(model: PreTrainedModel, marks: Marks, kinds: Iterable[Kind]) -> Proof:
    """Media with text around them."""
    random = np.random.default_rng(0)
    text, values, samples, calls = "", [], [], []
    for kind, (number, (before, behind)) in product(kinds, enumerate(_AROUND)):
        mark, value = marks.mark_of(Media(kind, "")), marks.processor.probe(kind, number)
        text += mark
        values.append(value)
        call = marks.processor.call(mark, [value])
        size = call["input_ids"].shape[1]
        around = random.integers(0, min(vocabulary(model), 256), before + behind)
        head, tail = around[:before], around[before:]
        tokens = np.concatenate([head, call["input_ids"][0], tail, [0]])
        weights = (np.arange(len(tokens)) >= before + size).astype(np.float32)
        samples.append(Sample(tokens.astype(np.int32), weights, f"{kind} {number + 1}"))
        calls.append(_alone(marks, call, head, tail))
    return Proof(
        samples,
        calls,
        features=marks.processor.features(text, values),
        types=marks.processor.types([(s.tokens[:-1].tolist(), s.lead) for s in samples]),
    )


def _alone(
    marks: Marks, call: dict[str, np.ndarray], head: np.ndarray, tail: np.ndarray
) -> dict[str, np.ndarray]:
    """What the processor makes of a medium, with texts around it."""
    learned = marks.processor.types([(tail.tolist(), 0)])
    inputs = {name: value for name, value in call.items() if name != "labels"}
    for name in {"input_ids", "attention_mask", *NAMES} & inputs.keys():
        sides = {"input_ids": (head, tail), "attention_mask": (head * 0 + 1, tail * 0 + 1)}
        left, right = sides.get(name, (head * 0, learned.get(name, tail * 0)))
        inputs[name] = np.concatenate([left, inputs[name][0], right])[None]
    return inputs


def _difference(model: PreTrainedModel, layout: Layout, native: str, proof: Proof) -> str:
    """Why samples with images come out otherwise; empty: they do not."""
    device = next(model.parameters()).device
    set_attention(model, layout.attention)
    laid = proof.batch(layout.packed).to(device)
    ours = run_body(model, laid)
    near = 1e-4 if ours.dtype == torch.float32 else 5e-2
    if _ahead(model, laid, ours) > near:
        return "an answer is read before it is learned"
    set_attention(model, native)
    for number, (sample, call) in enumerate(zip(proof.samples, proof.calls, strict=True)):
        inputs = {name: torch.from_numpy(value).to(device) for name, value in call.items()}
        expected = read(model, inputs)[0]
        row, first = (0, laid.bounds[number]) if layout.packed else (number, 0)
        found = ours[row, first : first + len(sample.tokens) - 1]
        if float((found - expected).norm()) > near * float(expected.norm()):
            return f"{sample.place} of {len(_AROUND)} differs"
    return ""


def _ahead(model: PreTrainedModel, laid: Batch, ours: torch.Tensor) -> float:
    """How much what comes before the last token that is read changes with it."""
    last = laid.bounds[-1] - 1 - (0 if laid.packed else laid.bounds[-2])
    tokens = laid.tokens.clone()
    tokens[-1, last] = (tokens[-1, last] + 1) % min(vocabulary(model), 256)
    changed = run_body(model, replace(laid, tokens=tokens))
    before = ours[-1, :last]
    return float((changed[-1, :last] - before).norm() / before.norm())
