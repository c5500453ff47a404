"""A teacher behind HTTP: it is sent token ids, and tells the most likely ones at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from swift.data.sample import Sample
from swift.errors import ConfigError, ServerError
from swift.infer.backends.client import Address, Client, ask_all
from swift.infer.backends.dialects import member

_PATH = "/v1/completions"


@dataclass(frozen=True)
class Told:
    """What a teacher believes of the learned tokens of a sample. Axes: N tokens, K told of."""

    logprobs: torch.Tensor  # float32 (N, K)
    ids: torch.Tensor  # int64 (N, K)


class Tutor:
    """Asks a server that knows ``prompt_logprobs`` (vLLM, ``swift deploy``)."""

    def __init__(self, url: str, top: int, vocabulary: int, key: str | None = None) -> None:
        """Find out what the server calls its model.

        Args:
            url: of the server, with or without /v1.
            top: tokens that it tells of.
            vocabulary: of the student; every token must be one of it.
            key: that the server asks for.

        Raises:
            ConfigError: the server refuses the key.
            ServerError: it cannot be reached.
        """
        self._address = Address(url.rstrip("/").removesuffix("/v1"), key)
        self._top, self._vocabulary = top, vocabulary
        [models] = ask_all(self._address, ["/v1/models"], lambda client, path: client.look(path))
        self._model = str(member(member(member(models, "data"), 0), "id"))

    def __call__(self, samples: Sequence[Sample]) -> list[Told]:
        """What the teacher believes of each sample's learned tokens.

        Raises:
            ConfigError: the server refuses, tells of too few tokens or of some that the student
                has not.
            ServerError: it fails.
        """
        return ask_all(self._address, samples, self._told)

    async def _told(self, client: Client, sample: Sample) -> Told:
        tokens = sample.tokens.tolist()
        body = {
            "model": self._model, "prompt": tokens, "max_tokens": 1, "temperature": 0.0,
            "prompt_logprobs": self._top,
        }  # fmt: skip
        rows = member(
            member(member(await client.ask(_PATH, body), "choices"), 0), "prompt_logprobs"
        )
        if not isinstance(rows, list) or len(rows) != len(tokens):
            raise ServerError(
                f"{self._address.url}: it was sent {len(tokens)} tokens and told of "
                f"{len(rows or [])}; --teacher_model_server needs one that knows prompt_logprobs"
            )
        learned = np.flatnonzero(sample.weights[1:] > 0) + 1  # nothing predicts the first
        found = [self._row(rows[place], tokens[place]) for place in learned.tolist()]
        shape = (len(found), self._top)
        values = torch.tensor([[p for _, p in row] for row in found], dtype=torch.float32)
        ids = torch.tensor([[id for id, _ in row] for row in found], dtype=torch.int64)
        return Told(values.view(shape), ids.view(shape))

    def _row(self, told: Any, token: int) -> list[tuple[int, float]]:
        """The most likely tokens at a position; servers add the one that is there."""
        pairs = [(int(id), float(member(entry, "logprob"))) for id, entry in (told or {}).items()]
        likely = sorted(pairs, key=lambda pair: -pair[1])[: self._top]
        if len(likely) < self._top:
            raise ConfigError(
                f"--gkd_logits_topk: the server tells of {len(likely)} tokens, not of {self._top}; "
                "start it with more (vLLM: --max-logprobs), or ask for fewer"
            )
        worst = max(token, *(id for id, _ in likely))
        if worst >= self._vocabulary:
            raise ConfigError(
                f"--teacher_model_server: it tells of token {worst}, the model's vocabulary has "
                f"{self._vocabulary}; a teacher with the same tokenizer is needed"
            )
        return likely
