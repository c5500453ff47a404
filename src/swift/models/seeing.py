"""Whether a model sees images in a batch of ours as it does in transformers' own call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from swift.chat.media.marks import Marks
from swift.data.batch import batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.errors import ConfigError
from swift.models.anatomy import body, vocabulary
from swift.models.attention import Layout, attention_of, run_body, set_attention
from swift.models.load import is_out_of_memory

_SIZES = ((64, 48), (40, 90))  # of the images of the proof


@torch.no_grad()
def see(model: PreTrainedModel, layout: Layout, marks: Marks, native: str) -> Layout:
    """The layout under which samples with images come out as transformers computes them.

    Args:
        model: on its device; its attention is that of ``layout``.
        layout: proven for texts.
        marks: of the checkpoint.
        native: the attention that transformers would use.

    Raises:
        ConfigError: there is no such layout.
    """
    training, current = model.training, attention_of(model)
    model.eval()
    why = ""
    try:
        for attention, packed in ((current, layout.packed), (native, False)):
            tried = replace(layout, attention=attention, packed=packed)
            why = _difference(model, tried, marks, native)
            set_attention(model, attention)
            if not why:
                return tried
    finally:
        model.train(training)
    raise ConfigError(
        f"--model: {type(model).__name__} does not see the images of a batch as transformers "
        f"computes them one by one ({why}), so it cannot be trained on them yet"
    )


def _difference(model: PreTrainedModel, layout: Layout, marks: Marks, native: str) -> str:
    """Why samples with images come out otherwise; empty: they do not."""
    device = next(model.parameters()).device
    random = np.random.default_rng(0)
    samples, calls = [], []
    for size in _SIZES:
        image = Image.fromarray(random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
        text = random.integers(0, min(vocabulary(model), 256), 5)
        call = marks.processor.call(marks.mark, [image])
        calls.append((image, text, call))
        tokens = np.concatenate([call["input_ids"][0], text, text[:1]])
        samples.append(Sample(tokens.astype(np.int32), np.ones(len(tokens), np.float32), "probe"))
    features = marks.processor.features(marks.mark * len(calls), [image for image, _, _ in calls])
    try:
        set_attention(model, layout.attention)
        ours = run_body(
            model, batch(pack(samples), packed=layout.packed, features=features).to(device)
        )
        set_attention(model, native)
        for number, (_, text, call) in enumerate(calls):
            expected = _alone(model, call, text, device)
            start = sum(len(sample.tokens) - 1 for sample in samples[:number])
            row, first = (0, start) if layout.packed else (number, 0)
            found = ours[row, first : first + len(expected)]
            exact = expected.dtype == torch.float32
            bound = (1e-4 if exact else 5e-2) * float(expected.norm())
            if float((found - expected).norm()) > bound:
                return f"image {number + 1} of {len(calls)} differs"
    except Exception as error:  # architectures that cannot do it say so each in its own way
        if is_out_of_memory(error):
            raise
        return str(error).strip().partition("\n")[0] or repr(error)
    return ""


def _alone(
    model: PreTrainedModel, call: dict[str, np.ndarray], text: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Hidden states of one sample, all that the processor makes given to the model."""
    size = call["input_ids"].shape[1]
    inputs = {}
    for name, value in call.items():
        if value.ndim == 2 and value.shape[1] == size and name != "image_sizes":
            fill = {"input_ids": text, "attention_mask": np.ones_like(text)}
            rest = fill.get(name, np.zeros_like(text))
            value = np.concatenate([value, rest[None]], axis=1)
        inputs[name] = torch.from_numpy(value).to(device)
    return body(model)(**inputs, use_cache=False).last_hidden_state[0]
