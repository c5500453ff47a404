"""One forward pass at a time over answers that come and go: prompts enter, a step adds a token.

Axes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from swift.infer.backends.padded import left_padded
from swift.infer.backends.window import SLACK, Keys, Window
from swift.models.load import is_out_of_memory

Call = Callable[[Sequence[str | None]], tuple[Any, Mapping[str, Any]]]
"""Adapters of the rows -> what to call, and the inputs that choose the adapters."""


@dataclass
class Prompt:
    """Tokens on their way into the model."""

    tokens: Sequence[int]
    adapter: str | None = None
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)  # of the first tokens
    featured: int = 0  # tokens that they belong to
    cache: DynamicCache = field(default_factory=DynamicCache)
    read: int = 0  # tokens that are in the cache
    shift: int = 0  # what images add to the positions behind them

    @property
    def done(self) -> bool:
        """Whether all of it was read."""
        return self.read == len(self.tokens)

    def layers(self) -> list[Keys]:
        """Keys and values of each layer."""
        return _pairs(self.cache)


def _pairs(cache: DynamicCache) -> list[Keys]:
    found: list[Keys] = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None and layer.values is not None
        found.append((layer.keys, layer.values))
    return found


class Stepper:
    """The rows of a model that runs step by step."""

    def __init__(
        self, model: PreTrainedModel, call: Call, rows: int = 1, grow: int = SLACK
    ) -> None:
        """Begin without rows.

        Args:
            model: ready to generate.
            call: what runs rows with given adapters.
            rows: as of :class:`Window`.
            grow: as of :class:`Window`.
        """
        self._device, self._call, self._sizes = model.device, call, (rows, grow)
        known = inspect.signature(model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._turning = [m for m in model.modules() if hasattr(m, "rope_deltas")]
        self._window: Window | None = None
        self._adapters: list[str | None] = []
        self._shifts: list[int] = []

    @property
    def rows(self) -> int:
        """Rows that run."""
        return len(self._adapters)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return self._window.width if self._window else 0

    def read(self, prompt: Prompt, most: int) -> torch.Tensor | None:
        """Read more of a prompt; logits (V) of what follows once all of it is read.

        Args:
            prompt: with its cache.
            most: tokens to read now. Prompts with images are read at once.
        """
        seeing = prompt.read < prompt.featured
        end = prompt.featured if seeing else min(len(prompt.tokens), prompt.read + most)
        ids = torch.tensor([list(prompt.tokens[prompt.read : end])], device=self._device)
        places = torch.arange(prompt.read, end, device=self._device)[None] + prompt.shift
        # the model itself knows the positions of images
        own = prompt.features if seeing else {"position_ids": places}
        run, more = self._call([prompt.adapter])
        logits = run(
            input_ids=ids,
            attention_mask=torch.ones(1, end, dtype=torch.int64, device=self._device),
            past_key_values=prompt.cache,
            use_cache=True,
            **{**own, **self._last, **more},
        ).logits
        prompt.read = end
        prompt.shift = self._shift() if seeing else prompt.shift
        return logits[0, -1].float() if prompt.done else None

    def read_together(self, prompts: Sequence[Prompt], pad: int) -> torch.Tensor:
        """Read whole prompts in one pass; float32 logits (B, V) of what follows each.

        Args:
            prompts: not begun, without images.
            pad: any id; padding is masked.
        """
        ids, mask = left_padded([prompt.tokens for prompt in prompts], pad)
        mask = mask.to(self._device)
        cache = DynamicCache()
        run, more = self._call([prompt.adapter for prompt in prompts])
        logits = run(
            input_ids=ids.to(self._device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            **{**self._last, **more},
        ).logits
        for i, prompt in enumerate(prompts):
            prompt.read = length = len(prompt.tokens)
            own = [(k[i : i + 1, :, -length:], v[i : i + 1, :, -length:]) for k, v in _pairs(cache)]
            prompt.cache = DynamicCache(own)
        return logits[:, -1].float()

    def join(self, prompt: Prompt, copies: int = 1) -> None:
        """Let a prompt that was read run as the last row, or several; all rows are lost where that
        fails.
        """
        keys = prompt.layers()
        if self._window is None:
            unseen = int(self._device.type == "cpu")
            self._window = Window(len(keys), *self._sizes, unseen)
        try:
            self._window.join(keys, copies)
        except BaseException:  # memory, say: some layers may have moved, others not
            self.clear()
            raise
        self._adapters += [prompt.adapter] * copies
        self._shifts += [prompt.shift] * copies

    def _shift(self) -> int:
        """By how much a model that turns images in several dimensions moved what is behind them."""
        found: list[Any] = [m.rope_deltas for m in self._turning if m.rope_deltas is not None]
        return int(found[0].flatten()[0]) if found else 0

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add each row's newest token; float32 logits (B, V) of what follows."""
        window = self._window
        assert window is not None and len(tokens) == window.rows
        window.ready()
        places = [n + shift for n, shift in zip(window.lengths, self._shifts, strict=True)]
        run, more = self._call(self._adapters)
        logits = run(
            input_ids=torch.tensor(tokens, device=self._device)[:, None],
            attention_mask=window.mask(self._device),
            position_ids=torch.tensor(places, device=self._device)[:, None],
            past_key_values=window.cache,
            use_cache=True,
            **{**self._last, **more},
        ).logits
        window.advance()
        return logits[:, -1].to(torch.float32, copy=True)

    def leave(self, row: int) -> None:
        """Take a row away; the last row takes its number."""
        assert self._window is not None
        self._window.leave(row)
        self._adapters[row], self._shifts[row] = self._adapters[-1], self._shifts[-1]
        self._adapters.pop()
        self._shifts.pop()
        if not self._adapters:
            self._window = None  # its memory is given back

    def clear(self) -> None:
        """Forget all rows."""
        self._window = None
        self._adapters.clear()
        self._shifts.clear()


def joins(model: PreTrainedModel, tokens: int) -> bool:
    """Whether rows of this model can join and leave a running batch.

    The proof is a trial: two rows of different lengths, one that joins late and stays alone in the
    end, come out as the model computes them whole.

    Args:
        model: ready to generate.
        tokens: ids below this exist.
    """
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    try:
        return _try(model, min(tokens, 200))
    except Exception as error:  # architectures that cannot do it say so each in its own way
        if is_out_of_memory(error):
            raise
        return False


def _try(model: PreTrainedModel, tokens: int) -> bool:
    stepper = Stepper(model, lambda _: (model, {}))
    random = torch.Generator().manual_seed(0)
    short, long = (torch.randint(0, tokens, (n,), generator=random).tolist() for n in (6, 12))
    one, other = Prompt(short[:3]), Prompt(long[:9])
    pairs = []
    runs: Any = model

    def compare(found_V: torch.Tensor | None, seen: list[int]) -> None:
        assert found_V is not None
        whole = runs(input_ids=torch.tensor([seen], device=model.device), use_cache=False)
        pairs.append((found_V, whole.logits[0, -1].float()))

    compare(stepper.read(one, 512), short[:3])
    stepper.join(one)
    compare(stepper.step([short[3]])[0], short[:4])
    assert stepper.read(other, 5) is None
    compare(stepper.read(other, 5), long[:9])
    stepper.join(other)
    both = stepper.step([short[4], long[9]])
    compare(both[0], short[:5])
    compare(both[1], long[:10])
    stepper.leave(0)
    compare(stepper.step([long[10]])[0], long[:11])
    bound = 1e-3 if model.dtype == torch.float32 else 5e-2
    return all(float((a - b).norm()) <= bound * float(b.norm()) for a, b in pairs)


def cache_tokens(model: PreTrainedModel) -> int:
    """Tokens whose keys and values fit into a share of the memory: half of what is free on a GPU, a
    quarter of all on a CPU. The buffers need twice as much while they move.
    """
    prompt = Prompt([0])
    Stepper(model, lambda _: (model, {})).read(prompt, 1)
    size = sum(part.numel() * part.element_size() for pair in prompt.layers() for part in pair)
    if model.device.type == "cuda":
        share = torch.cuda.mem_get_info(model.device)[0] // 2
    else:
        share = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return max(1, share // 2 // size)
