"""The embedded engine: transformers' own generation, on the live weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, StopStringCriteria
from transformers.generation.streamers import BaseStreamer

from swift.chat.media.marks import Marks
from swift.chat.message import Kind
from swift.errors import DataError
from swift.infer.engine import Ability, Completion, Request, Sampling, check
from swift.models.attention import Layout, attention_of, set_attention
from swift.models.load import context_length
from swift.models.seeing import see


class TransformersEngine:
    """Generates with a loaded model; requests of one call share their sampling."""

    abilities = frozenset({Ability.IDS, Ability.MEDIA, Ability.PENALTIES})

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        attention: str = "auto",
        marks: Callable[[], Marks] | None = None,
    ) -> None:
        """Take a model.

        Args:
            model: generates.
            tokenizer: transformers', for stop texts.
            attention: its implementation.
            marks: how media are written, asked for when there are some.
        """
        self._model = model.eval()
        self._marks = marks
        self._proven: set[Kind] = set()  # kinds of media that the model was shown to take
        self._tokenizer = tokenizer
        self.context = context_length(model.config)
        set_attention(model, "sdpa" if attention in ("auto", "packed") else attention)

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`."""
        if not requests:
            return []
        check(self.abilities, requests, "transformers")
        sampling = requests[0].sampling
        room = self._room(requests, sampling)
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        longest = max(len(request.tokens) for request in requests)
        pad = self._pad()
        rows = [[pad] * (longest - len(r.tokens)) + r.tokens for r in requests]
        mask = [[0] * (longest - len(r.tokens)) + [1] * len(r.tokens) for r in requests]
        device = self._model.device
        out = self._model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=self._settings(sampling, room, pad),
            stopping_criteria=self._stop_texts(sampling),
            streamer=None if on_token is None else _Streamer(on_token),
            **self._features(requests, longest),
        )
        new = out[:, longest:].tolist()
        return [_cut(tokens, sampling.stop_ids, pad, room) for tokens in new]

    def _features(self, requests: Sequence[Request], longest: int) -> dict[str, torch.Tensor]:
        """What the model reads beside tokens.

        Args:
            requests: of one batch.
            longest: tokens of a row.

        Raises:
            ConfigError: the model does not take media as transformers computes them.
        """
        if not any(request.media for request in requests):
            return {}
        assert self._marks is not None
        marks, attention = self._marks(), attention_of(self._model)
        kinds = {medium.kind for request in requests for medium in request.media}
        if not kinds <= self._proven:
            see(self._model, Layout(attention, packed=False), marks, attention, kinds)
            self._proven |= kinds
        found = dict(marks.features([(request.tokens, request.media) for request in requests]))
        rows = [marks.processor.types([(r.tokens, len(r.tokens))]) for r in requests]
        for name in rows[0].keys() & signature(self._model.forward).parameters.keys():
            found[name] = np.stack([_left(row[name], longest) for row in rows])
        return {name: torch.from_numpy(v).to(self._model.device) for name, v in found.items()}

    def _room(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """Tokens that may be generated within the model's context."""
        lengths = [len(request.tokens) for request in requests]
        if min(lengths) == 0:
            raise DataError("a prompt is empty")
        if self.context is None:
            return sampling.max_tokens
        if max(lengths) >= self.context:
            raise DataError(
                f"the prompt takes {max(lengths)} tokens, the model's context holds {self.context}"
            )
        return min(sampling.max_tokens, self.context - max(lengths))

    def _pad(self) -> int:
        """Any id does: padding is masked."""
        return int(self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0)

    def _settings(self, sampling: Sampling, room: int, pad: int) -> GenerationConfig:
        """Only what was asked for: a checkpoint's own generation settings do not mix in."""
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        return GenerationConfig(
            max_new_tokens=room,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=list(sampling.stop_ids) or None,
            pad_token_id=pad,
            use_cache=True,
            **chosen,
        )

    def _stop_texts(self, sampling: Sampling) -> list[Any] | None:
        if not sampling.stop:
            return None
        return [StopStringCriteria(self._tokenizer, list(sampling.stop))]


def _left(values: np.ndarray[Any, Any], longest: int) -> np.ndarray[Any, Any]:
    """Types of a row's tokens, with those of padding before them."""
    return np.pad(values, (longest - len(values), 0))


def _cut(tokens: list[int], stop_ids: Sequence[int], pad: int, room: int) -> Completion:
    """Tokens up to the first stop token; what follows is padding."""
    for i, token in enumerate(tokens):
        if token in stop_ids:
            return Completion(tokens[: i + 1], "stop")
    if len(tokens) < room:  # ended by a stop text
        while tokens and tokens[-1] == pad:
            tokens = tokens[:-1]
        return Completion(tokens, "stop")
    return Completion(tokens, "length")


class _Streamer(BaseStreamer):
    """Passes on each new token; transformers hands over the prompt first."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        for token in value.flatten().tolist():
            self._on_token(token)

    def end(self) -> None:
        pass
