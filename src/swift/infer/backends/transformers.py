"""The embedded engine: transformers' models, on the live weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from swift.chat.media.marks import Marks
from swift.errors import ConfigError
from swift.infer.backends.padded import generate_padded, prompt_logprobs
from swift.infer.choose import Row, room
from swift.infer.engine import Ability, Completion, Request, check
from swift.infer.guide import Guides
from swift.models.anatomy import vocabulary
from swift.models.attention import Layout, attention_of, set_attention
from swift.models.load import context_length
from swift.models.seeing import see


class TransformersEngine:
    """Generates with a loaded model; every request has its own sampling."""

    name = "transformers"
    abilities = frozenset(Ability) - {Ability.ADAPTERS, Ability.PAUSE, Ability.STREAM}

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        attention: str = "auto",
        marks: Callable[[], Marks] | None = None,
    ) -> None:
        """Take a model. Its mode and attention are its owner's again after every call, so that it
        can be trained in between.

        Args:
            model: generates.
            tokenizer: transformers', for stop texts and guides.
            attention: its implementation.
            marks: how images are written, asked for when there are some.
        """
        self._model = model
        self._marks, self._sees = marks, False
        self._tokenizer = tokenizer
        self._attention = "sdpa" if attention in ("auto", "packed") else attention
        self._lock = threading.RLock()
        self.context = context_length(model.config)

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`; the requests of a call are one batch."""
        check(self.abilities, requests, self.name)
        if not requests:
            return []
        rows = [self.row(request, on_token) for request in requests]
        with self.using() as model:
            features = self._features(requests)
            for row in rows:
                if row.request.sampling.prompt_logprobs:
                    own = self._features([row.request])
                    row.prompt_logprobs = prompt_logprobs(model, row.request.tokens, own)
            generate_padded(model, rows, self.pad, features)
        return [row.completion() for row in rows]

    def row(self, request: Request, on_token: Callable[[int], None] | None = None) -> Row:
        """A request at the beginning of its answer.

        Raises:
            DataError: its prompt or its guide cannot be used.
        """
        limit = room(request, self.context)
        guided = self._guides.start(request) if request.sampling.guide else None
        return Row(request, limit, self._tokenizer.decode, guided, on_token)

    @contextmanager
    def using(self) -> Iterator[PreTrainedModel]:
        """The model, ready to generate and nobody else's; without gradients.

        Not ``torch.inference_mode``: what a model makes and keeps in it (rotary tables, say) could
        not be trained with afterwards.
        """
        with self._lock, torch.no_grad():
            model, training = self._model, self._model.training
            attention = attention_of(model)
            model.eval()
            if attention != self._attention:
                set_attention(model, self._attention)
            try:
                yield model
            finally:
                model.train(training)
                if attention != self._attention:
                    set_attention(model, attention)

    @cached_property
    def pad(self) -> int:
        """The id that padding is written with: any does."""
        return int(self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0)

    @cached_property
    def _guides(self) -> Guides:
        return Guides(self._tokenizer, vocabulary(self._model))

    def _features(self, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
        """What the model reads beside tokens.

        Raises:
            ConfigError: the model does not see images as transformers computes them.
        """
        if not any(request.media for request in requests):
            return {}
        assert self._marks is not None
        marks, attention = self._marks(), attention_of(self._model)
        if not self._sees:
            see(self._model, Layout(attention, packed=False), marks, attention)
            self._sees = True
        found = marks.features([(request.tokens, request.media) for request in requests])
        return {name: torch.from_numpy(v).to(self._model.device) for name, v in found.items()}

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """See :class:`swift.infer.engine.ServingEngine`.

        Raises:
            ConfigError: the model has no such weight, or one of another shape.
        """
        with self._lock, torch.no_grad():
            own = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
            for name, tensor in weights:
                if name not in own:
                    raise ConfigError(f"new weights: the model has no {name}")
                if own[name].shape != tensor.shape:
                    raise ConfigError(
                        f"new weights: {name} has the shape {tuple(own[name].shape)}, "
                        f"not {tuple(tensor.shape)}"
                    )
                own[name].copy_(tensor)
