"""Rows with images learn as transformers computes them: what an architecture with its real
processor must keep, from files of images to gradients, and from a step to a folder that
transformers loads.
"""

from __future__ import annotations

import copy
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import PreTrainedModel

from contracts.batches import gradients, same_gradients
from contracts.processors import save_tiny
from swift.chat.load import load_renderer
from swift.chat.media.marks import Marks
from swift.chat.media.types import NAMES
from swift.chat.message import Media
from swift.chat.render import Renderer
from swift.config.tuner import FullSection, LoraSection
from swift.data.batch import Batch
from swift.data.sample import Sample
from swift.data.stream import Collate
from swift.models.attention import attention_of, choose_layout, set_attention
from swift.models.heads import find_head
from swift.models.load import auto_class, load_model
from swift.models.parts import parts
from swift.models.save import save_model
from swift.models.seeing import see
from swift.train.objective import Objective
from swift.tune.full import attach as attach_full
from swift.tune.lora import attach as attach_lora
from swift.tune.merge import merge

_TEXTS = ("What is it? The capital", "Who are you? My name is Apus", "Add two and three: five.")
_SIZES = ((64, 48), None, (40, 90))  # the second sample is a text
_LEARNED = 5  # tokens at the end of each sample

Call = dict[str, torch.Tensor]


class Learning:
    """A tiny checkpoint with three samples, as a batch of ours and as calls of transformers'."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = load_model(folder, torch.float32)
        self.renderer = load_renderer(folder)
        self.native = attention_of(self.model)
        self.layout = see(self.model, choose_layout(self.model), self.marks, self.native, ["image"])
        taken = {*NAMES} & signature(self.model.forward).parameters.keys()
        made = [_sample(self.renderer, folder, i, taken) for i in range(len(_TEXTS))]
        self.samples, self.calls = [s for s, _ in made], [call for _, call in made]

    @property
    def marks(self) -> Marks:
        return self.renderer.marks

    def batch(self) -> Batch:
        """The samples in the layout that was proven."""
        return Collate(packed=self.layout.packed, spec=self.renderer.spec)(self.samples)

    def check_gradients(self) -> str:
        """With all weights learning, gradients of the batch's loss are the sums of those of each
        sample alone, in transformers' own call.
        """
        model = self.model
        everything = FullSection(freeze_vit=False, freeze_aligner=False)
        attach_full(everything, model, [], "")
        ours = gradients(model, lambda: _total(model, self.batch()))
        set_attention(model, self.native)
        theirs = gradients(model, self._alone)
        set_attention(model, self.layout.attention)
        same_gradients(ours, theirs)
        return "packed" if self.layout.packed else "padded"

    def _alone(self) -> torch.Tensor:
        total = torch.zeros(())
        for call, sample in zip(self.calls, self.samples, strict=True):
            logits = self.model(**call, use_cache=False).logits[0, -_LEARNED - 1 : -1]
            targets = torch.from_numpy(sample.tokens[-_LEARNED:].astype(np.int64))
            total = total + F.cross_entropy(logits.float(), targets, reduction="sum")
        return total

    def check_step(self, folder: Path) -> None:
        """A step with adapters, and one with all weights, lowers the loss and moves only what
        learns; saved (adapters merged), transformers loads the same model.
        """
        lora, full = copy.deepcopy(self.model), copy.deepcopy(self.model)
        peft = attach_lora(LoraSection(rank=2), lora, [], "base").peft
        assert peft is not None
        self._step(lora)
        self._same_when_loaded(merge(peft).model, folder / "merged", rtol=1e-3, atol=1e-3)
        attach_full(FullSection(), full, [], "")
        self._step(full)
        self._same_when_loaded(full, folder / "full", rtol=1e-5, atol=1e-5)

    def _step(self, model: PreTrainedModel) -> None:
        found = parts(model)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=1e-4)
        first = _total(model, self.batch())
        first.backward()
        optimizer.step()
        assert float(_total(model, self.batch()).detach()) < float(first.detach())
        for name, parameter in model.named_parameters():
            if found.of(name) != "language":
                assert torch.equal(parameter, before[name]), f"{name} is frozen"

    def _same_when_loaded(self, model: PreTrainedModel, folder: Path, **near: float) -> None:
        set_attention(model, self.native)
        save_model(model, folder, dtype=torch.float32)
        loaded = auto_class(model.config).from_pretrained(folder, dtype="auto").eval()
        for call in self.calls:
            with torch.no_grad():
                before = model.eval()(**call, use_cache=False).logits
                after = loaded(**call, use_cache=False).logits
            torch.testing.assert_close(after, before, **near)


def _sample(renderer: Renderer, folder: Path, number: int, taken: set[str]) -> tuple[Sample, Call]:
    """A sample, and the same as transformers' processor makes it of an image and a text."""
    text, size, media, images = _TEXTS[number], _SIZES[number], (), []
    if size is not None:
        random = np.random.default_rng(number)
        pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        file = folder / f"{number}.png"
        Image.fromarray(pixels).save(file)
        images, media = [Image.fromarray(pixels)], (Media("image", str(file)),)
        made = dict(renderer.marks.processor.call(renderer.marks.mark + text, images))
    else:
        ids = renderer.tokenizer.encode(text).ids
        made = {"input_ids": np.array([ids])}
    made.pop("labels", None)
    tokens = made["input_ids"][0]
    weights = (np.arange(len(tokens)) >= len(tokens) - _LEARNED).astype(np.float32)
    read = len(tokens) - _LEARNED if media else 0
    made |= {
        name: value[None]
        for name, value in renderer.marks.processor.types([(tokens.tolist(), read)]).items()
        if name in taken
    }
    call: dict[str, Any] = {name: torch.from_numpy(np.asarray(v)) for name, v in made.items()}
    return Sample(tokens.astype(np.int32), weights, f"row {number}", media), call


def _total(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    return Objective(model, find_head(model))(batch)["total"]


def learns(model_type: str, folder: Path) -> str:
    """All of it for a type of model; the layout that holds."""
    save_tiny(model_type, folder)
    one = Learning(folder)
    layout = one.check_gradients()
    one.check_step(folder)
    return layout
