"""The embedded engine: transformers' models, on the live weights."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from swift.chat.media.marks import Marks
from swift.chat.message import Kind
from swift.errors import ConfigError
from swift.infer.adapters import Adapters
from swift.infer.backends.drained import Pieces, drained
from swift.infer.backends.embed import Pooling, embed, pooling_of
from swift.infer.backends.padded import generate_padded, prompt_logprobs
from swift.infer.backends.scheduler import Job, Scheduler
from swift.infer.backends.stepper import cache_tokens, joins
from swift.infer.backends.together import generate_together
from swift.infer.choose import Row, room
from swift.infer.engine import Ability, Completion, Piece, Request, check
from swift.infer.guide import Guides
from swift.models.anatomy import vocabulary
from swift.models.attention import PACKED, Layout, attention_of, set_attention
from swift.models.load import context_length
from swift.models.seeing import see


class TransformersEngine:
    """Generates with a loaded model; every request has its own sampling."""

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        attention: str = "auto",
        marks: Callable[[], Marks] | None = None,
        max_rows: int = 64,
        kept: float = 0.0,
    ) -> None:
        """Take a model. Its mode and attention are its owner's again after every call, so that it
        can be trained in between.

        Args:
            model: generates.
            tokenizer: transformers', for stop texts and guides.
            attention: its implementation.
            marks: how media are written, asked for when there are some.
            max_rows: most answers of :meth:`stream` that run at once.
            kept: share of their cache for prompts that were read, so that others that begin alike
                are not read whole. Only where no weights change but by this engine.
        """
        self._model = model
        missing = {Ability.SLEEP, *([] if marks else [Ability.MEDIA])}
        self.abilities = frozenset(Ability) - missing
        self._marks = marks
        self._proven: set[Kind] = set()  # kinds of media that the model was shown to take
        self._tokenizer = tokenizer
        self._wanted = attention
        self._lock, self._next = threading.Lock(), threading.Lock()
        self._adapters, self._leaving = Adapters(model), set[str]()
        self.context = context_length(model.config)
        self._scheduler = Scheduler(
            self._using,
            self._adapters.call,
            self._features,
            joins=lambda: self._can_join,
            pad=self._pad,
            rows=max_rows,
            tokens=lambda: cache_tokens(model),
            kept=kept,
        )

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`; the requests of a call are one batch."""
        self._check(requests)
        if not requests:
            return []
        rows = [self._row(request, on_token) for request in requests]
        self._scheduler.wait_until_resumed()
        with self._using():
            for row in rows:
                if row.request.sampling.prompt_logprobs:
                    run, more = self._adapters.call([row.request.adapter])
                    more = {**self._features([row]), **more}
                    top = row.request.sampling.prompt_top
                    found, others = prompt_logprobs(run, row.request.tokens, more, top)
                    row.prompt_logprobs, row.prompt_top = found, others if top else None
            if len(rows) > 1 and not any(row.request.media for row in rows) and self._can_join:
                generate_together(self._model, self._adapters.call, rows, self._pad)
            else:
                run, more = self._adapters.call([row.request.adapter for row in rows])
                generate_padded(run, rows, self._pad, {**self._features(rows), **more})
        return [row.completion() for row in rows]

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """See :class:`swift.infer.engine.ServingEngine`.

        Raises:
            ConfigError: the request needs what the engine lacks.
            DataError: the prompt is empty or leaves no room in the model's context.
        """
        self._check([request])
        if request.sampling.prompt_logprobs:
            raise ConfigError("prompt_logprobs are not streamed; ask generate() for them")
        room(request, self.context)
        return self._pieces(request)

    async def _pieces(self, request: Request) -> AsyncIterator[Piece]:
        row = await asyncio.to_thread(self._row, request)  # a large guide takes a while
        loop, pieces = asyncio.get_running_loop(), Pieces()
        job = Job(row, lambda piece: _later(loop, pieces, piece))
        self._scheduler.submit(job)
        try:
            async for piece in drained(pieces):
                yield piece
        finally:
            self._scheduler.cancel(job)

    def pause(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`; a running :meth:`generate` ends first."""
        self._scheduler.pause()
        with self._alone():
            pass

    def resume(self) -> None:
        """See :class:`swift.infer.engine.RestingEngine`."""
        self._scheduler.resume()

    def embed(
        self, texts: Sequence[Sequence[int]], adapter: str | None = None
    ) -> list[list[float]]:
        """See :class:`swift.infer.engine.EmbeddingEngine`.

        Raises:
            ConfigError: the adapter is not loaded, or the model makes no vectors.
        """
        with self._using():
            runs, more = self._adapters.call([adapter] * len(texts))
            return embed(runs, texts, self._pad, more, self._pooling)

    @cached_property
    def _pooling(self) -> Pooling:
        folder = self._model.name_or_path
        return pooling_of(Path(folder)) if folder else "last"

    @cached_property
    def _can_join(self) -> bool:
        return joins(self._model, vocabulary(self._model))

    @property
    def joins(self) -> bool | None:
        """Whether answers can join a running batch; None: nobody has asked for one yet."""
        return self._scheduler.can_join

    @property
    def busy(self) -> int:
        """Answers of :meth:`stream` under way, those included that wait."""
        return self._scheduler.busy

    def load_adapter(self, name: str, path: str) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        with self._alone():
            self._adapters.load(name, path)

    def unload_adapter(self, name: str) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        self._adapters.known(name)
        self._leaving.add(name)
        try:
            self._scheduler.wait_until_unused(name)
            with self._alone():
                self._adapters.unload(name)
                self._scheduler.prefixes.drop(name)
        finally:
            self._leaving.discard(name)

    def close(self) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        self._scheduler.close()

    def _check(self, requests: Sequence[Request]) -> None:
        check(self.abilities, requests, self.name)
        for request in requests:
            if request.adapter is not None:
                self._adapters.known(request.adapter)
                if request.adapter in self._leaving:
                    raise ConfigError(f"the adapter {request.adapter!r} is being unloaded")

    def _row(self, request: Request, on_token: Callable[[int], None] | None = None) -> Row:
        """A request at the beginning of its answer.

        Raises:
            DataError: its prompt or its guide cannot be used.
        """
        limit = room(request, self.context)
        guided = self._guides.start(request) if request.sampling.guide else None
        return Row(request, limit, self._tokenizer.decode, guided, on_token)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else uses the model. Whoever waits is next: a busy scheduler, which asks again at
        once, keeps nobody out.
        """
        with self._next:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _using(self) -> Iterator[PreTrainedModel]:
        """The model, ready to generate and nobody else's; without gradients.

        Only modules that train are told, and told back: a round has less than a step's time for it.
        Not ``torch.inference_mode``: what a model makes and keeps in it (rotary tables, say) could
        not be trained with afterwards.
        """
        with self._alone(), torch.no_grad():
            model, attention = self._model, attention_of(self._model)
            training = [module for module in model.modules() if module.training]
            for module in training:
                module.training = False
            try:
                self._attend(attention)
                yield model
            finally:
                for module in training:
                    module.training = True
                if attention_of(model) != attention:
                    set_attention(model, attention)

    def _attend(self, current: str) -> None:
        """Choose an attention that knows a cache: that of packs, for training, does not.

        Raises:
            ConfigError: the model cannot have the one that was asked for.
        """
        if self._wanted not in ("auto", PACKED):
            choices: tuple[str, ...] = (self._wanted,)
        elif current == PACKED:
            choices = ("sdpa", "eager")  # some architectures have but the second
        else:
            return
        for name in choices:
            if name == current:
                return
            with suppress(ValueError, ImportError):
                set_attention(self._model, name)
                return
        raise ConfigError(f"--attn_impl: {type(self._model).__name__} cannot have {self._wanted}")

    @cached_property
    def _pad(self) -> int:
        """The id that padding is written with: any does."""
        return int(self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0)

    @cached_property
    def _guides(self) -> Guides:
        return Guides(self._tokenizer, vocabulary(self._model))

    def _features(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """What the model reads beside tokens.

        Raises:
            ConfigError: the model does not take media as transformers computes them.
        """
        requests = [row.request for row in rows]
        kinds = {medium.kind for request in requests for medium in request.media}
        if not kinds:
            return {}
        assert self._marks is not None
        marks, attention = self._marks(), attention_of(self._model)
        if not kinds <= self._proven:
            see(self._model, Layout(attention, packed=False), marks, attention, kinds)
            self._proven |= kinds
        found = dict(marks.features([(request.tokens, request.media) for request in requests]))
        tokens = [[*row.request.tokens, *row.tokens] for row in rows]
        longest = max(map(len, tokens))
        types = [marks.processor.types([(read, len(read))]) for read in tokens]
        for name in types[0].keys() & signature(self._model.forward).parameters.keys():
            found[name] = np.stack([_left(of_row[name], longest) for of_row in types])
        return {name: torch.from_numpy(v).to(self._model.device) for name, v in found.items()}

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """See :class:`swift.infer.engine.ServingEngine`.

        Raises:
            ConfigError: the model has no such weight, or one of another shape.
        """
        with self._alone(), torch.no_grad():
            self._scheduler.forget()
            own: dict[str, torch.Tensor] = {}
            own.update(self._model.named_parameters(remove_duplicate=False))
            own.update(self._model.named_buffers(remove_duplicate=False))
            for name, tensor in weights:
                if name not in own:
                    raise ConfigError(f"new weights: the model has no {name}")
                if own[name].shape != tensor.shape:
                    raise ConfigError(
                        f"new weights: {name} has the shape {tuple(own[name].shape)}, "
                        f"not {tuple(tensor.shape)}"
                    )
                own[name].copy_(tensor)


def _later(loop: asyncio.AbstractEventLoop, pieces: Pieces, piece: Any) -> None:
    """Hand a piece to the caller's event loop; raises when that is closed."""
    loop.call_soon_threadsafe(pieces.put_nowait, piece)


def _left(types: np.ndarray[Any, Any], longest: int) -> np.ndarray[Any, Any]:
    """Types of a row's tokens, with those of padding before them."""
    return np.pad(types, (longest - len(types), 0))
