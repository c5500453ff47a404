"""From logits to tokens, row by row: penalties, biases, guides, random choice, and when to end.

Every request of a batch has its own rules and its own random numbers, so that an answer with a seed
does not depend on its neighbours. Axes: N rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from swift.errors import DataError, SwiftError
from swift.infer.engine import Completion, Finish, Piece, Request
from swift.infer.guide import Guided

Decode = Callable[[list[int]], str]


class Row:
    """One answer while it is generated."""

    def __init__(
        self,
        request: Request,
        limit: int,
        decode: Decode,
        guided: Guided | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            request: what is answered.
            limit: most tokens that it may have.
            decode: tokens to text, special ones included, to find stop texts.
            guided: the state of the request's guide.
            on_token: told each token.
        """
        self.request = request
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.drawn_logprobs: list[float] = []
        self.top_logprobs: list[dict[int, float]] = []
        self.prompt_logprobs: list[float] | None = None
        self.prompt_top: list[dict[int, float]] | None = None
        self.finish: Finish | None = None
        self.error: SwiftError | None = None  # why it ended early
        self.limit = limit
        self._decode, self._guided, self.on_token = decode, guided, on_token
        seed = request.sampling.seed
        if seed is None:  # torch's own seed decides, so that a run repeats
            seed = int(torch.randint(2**62, ()))
        self._seed, self._draws = seed, 0
        longest = max((len(text.encode()) for text in request.sampling.stop), default=0)
        self._tail = longest + 8  # no token stands for less than a byte; a few for what is cut

    def draw(self) -> float:
        """The row's next random number in [0, 1): a hash of its seed and of how many came before.

        A generator of pseudorandom numbers would take longer to seed than an answer needs of it.
        """
        text = b"%d:%d" % (self._seed, self._draws)
        self._draws += 1
        found = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        return (found >> 11) * 2.0**-53

    def shape(self, logits_V: torch.Tensor) -> None:
        """Change logits in place by all rules that come before temperature."""
        s = self.request.sampling
        if self._guided is not None:
            self._guided.forbid(logits_V)
        for word in s.bad_words:
            begin = list(word[:-1])
            if not begin or self.tokens[-len(begin) :] == begin:
                logits_V[word[-1]] = -torch.inf
        if s.logit_bias:
            logits_V.index_add_(0, *_pairs(s.logit_bias, logits_V))
        if s.repetition_penalty != 1.0:
            seen = torch.tensor(sorted({*self.request.tokens, *self.tokens})).to(logits_V.device)
            old = logits_V[seen]
            p = s.repetition_penalty
            logits_V[seen] = torch.where(old > 0, old / p, old * p)
        if self.tokens and (s.presence_penalty or s.frequency_penalty):
            counts = Counter(self.tokens)
            cost = {t: -s.presence_penalty - s.frequency_penalty * n for t, n in counts.items()}
            logits_V.index_add_(0, *_pairs(cost, logits_V))

    def take(self, token: int) -> None:
        """Add a token; sets ``finish`` when the answer ends with it."""
        self.tokens.append(token)
        complete = self._guided is not None and self._guided.take(token)
        if token in self.request.sampling.stop_ids or complete or self._stopped():
            self.finish = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish = "length"
        if self.on_token is not None:
            self.on_token(token)

    def _stopped(self) -> bool:
        """Whether the last token completed a stop text."""
        if not self.request.sampling.stop:
            return False
        text = self._decode(self.tokens[-self._tail :])
        return any(stop in text for stop in self.request.sampling.stop)

    def completion(self) -> Completion:
        """What there is, once it has ended.

        Raises:
            SwiftError: it ended early.
        """
        assert self.finish is not None
        if self.error is not None:
            raise self.error
        wanted = self.request.sampling.logprobs
        return Completion(
            self.tokens,
            self.finish,
            None if wanted is None else self.logprobs,
            self.top_logprobs if wanted else None,
            self.prompt_logprobs,
            self.drawn_logprobs if wanted is not None and self.drawn_logprobs else None,
            self.prompt_top,
        )

    def piece(self, start: int) -> Piece:
        """The tokens from ``start`` on."""
        wanted = self.request.sampling.logprobs
        return Piece(
            self.tokens[start:],
            None if wanted is None else self.logprobs[start:],
            self.top_logprobs[start:] if wanted else None,
            self.finish,
        )


def _pairs(values: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor(list(values), dtype=torch.int64).to(like.device)
    return ids, torch.tensor(list(values.values()), dtype=like.dtype).to(like.device)


def advance(rows: Sequence[Row], logits_NV: torch.Tensor) -> list[int]:
    """Choose the next token of every row that has not ended, and give it to the row.

    Args:
        rows: the answers.
        logits_NV: float32, what the model itself believes; changed in place.

    Returns:
        The tokens; 0 for rows that had ended.
    """
    live = [i for i, row in enumerate(rows) if row.finish is None]
    believed = _log_softmax(rows, live, logits_NV)
    for i in live:
        try:
            rows[i].shape(logits_NV[i])
        except SwiftError as error:  # this row's alone, such as a guide that grew too large
            rows[i].error, rows[i].finish = error, "cancelled"
    live = [i for i in live if rows[i].finish is None]
    tokens = [0] * len(rows)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i in live:
        s = rows[i].request.sampling
        groups[None if s.temperature == 0 else (s.top_k, s.top_p < 1, s.min_p > 0)].append(i)
    for way, members in groups.items():
        part_NV = logits_NV if len(members) == len(rows) else logits_NV[members]
        chosen = [rows[i] for i in members]
        found = part_NV.argmax(-1).tolist() if way is None else _sample(chosen, part_NV)
        for i, token in zip(members, found, strict=True):
            tokens[i] = token
    _note(rows, {i: believed[i] for i in live if i in believed}, tokens)
    for i in live:
        rows[i].take(tokens[i])
    return tokens


def _log_softmax(
    rows: Sequence[Row], live: list[int], logits_NV: torch.Tensor
) -> dict[int, torch.Tensor]:
    """Log-probabilities (V) of the rows that want some."""
    wanted = [i for i in live if rows[i].request.sampling.logprobs is not None]
    if not wanted:
        return {}
    return dict(zip(wanted, logits_NV[wanted].log_softmax(-1), strict=True))


def _note(rows: Sequence[Row], believed: dict[int, torch.Tensor], tokens: list[int]) -> None:
    if not believed:
        return
    table = torch.stack(list(believed.values()))
    ids = torch.tensor([tokens[i] for i in believed]).to(table.device)
    own = table.gather(1, ids[:, None])[:, 0].tolist()
    for i, value, log_V in zip(believed, own, table, strict=True):
        row = rows[i]
        row.logprobs.append(value)
        if count := row.request.sampling.logprobs:
            top = log_V.topk(min(count, len(log_V)))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            row.top_logprobs.append(dict(pairs))


def _sample(rows: Sequence[Row], logits_NV: torch.Tensor) -> list[int]:
    """Draw from each row's distribution; all rows take the same way through it.

    Inverse of the cumulative distribution in float64: one random number a row.
    """

    def column(name: str) -> torch.Tensor:
        values = [getattr(row.request.sampling, name) for row in rows]
        return torch.tensor(values, dtype=torch.float64)[:, None].to(logits_NV.device)

    first = rows[0].request.sampling
    work, ids = logits_NV, None
    if 0 < first.top_k < work.shape[1]:
        work, ids = work.topk(first.top_k)
    elif first.top_p < 1:
        work, ids = work.sort(stable=True, dim=-1, descending=True)
    probabilities = (work.double() / column("temperature")).softmax(-1)
    if first.top_p < 1:  # keep the likeliest until top_p is reached; the first always
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= column("top_p"), 0)
    if first.min_p > 0:
        least = probabilities.amax(-1, keepdim=True) * column("min_p")
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    total = probabilities.cumsum(-1)
    at = torch.tensor([row.draw() for row in rows], dtype=torch.float64)[:, None].to(work.device)
    place = torch.searchsorted(total, at * total[:, -1:], right=True)
    place = place.clamp(max=work.shape[1] - 1)
    drawn = (probabilities.gather(1, place) / total[:, -1:]).log()[:, 0].tolist()
    for row, value in zip(rows, drawn, strict=True):
        row.drawn_logprobs.append(value)
    return (place if ids is None else ids.gather(1, place))[:, 0].tolist()


def room(request: Request, context: int | None) -> int:
    """Tokens that an answer may have within the model's context.

    Raises:
        DataError: the prompt is empty or fills the context.
    """
    if not request.tokens:
        raise DataError("a prompt is empty")
    length, limit = len(request.tokens), request.sampling.max_tokens
    if context is None:
        return limit
    if length >= context:
        raise DataError(f"the prompt takes {length} tokens, the model's context holds {context}")
    return min(limit, context - length)
