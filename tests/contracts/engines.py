"""What every engine promises, as functions of an engine and the model that it runs.

Each compares with a plain loop over the model's forward pass, without cache, batch or library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from swift.errors import DataError
from swift.infer.engine import Engine, Guide, Request, Sampling

PROMPTS = [[5, 6, 7, 8, 9], [20, 21], [30, 31, 32, 33, 34, 35, 36, 37], [50, 51, 52]]
Shape = Callable[[torch.Tensor, list[int]], torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """An engine under test."""

    engine: Engine
    model: torch.nn.Module  # the same weights, float32
    tokenizer: Any
    rounding: float = 2e-5  # of log-probabilities, between the engine's kernels and the model's

    def believed(self, tokens: list[int]) -> torch.Tensor:
        """Log-probabilities (T, V) of the token behind each position."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    def greedy(self, prompt: list[int], count: int, shape: Shape | None = None) -> list[int]:
        """The most likely token, again and again; ``shape`` changes the logits first."""
        new: list[int] = []
        for _ in range(count):
            logits = self.believed([*prompt, *new])[-1]
            new.append(int((shape(logits, new) if shape else logits).argmax()))
        return new

    def answer(self, prompt: list[int], **sampling: Any) -> list[int]:
        return self.engine.generate([Request(prompt, Sampling(**sampling))])[0].tokens


def greedy_equals_a_loop_alone_and_together(s: Subject) -> None:
    limits = [12, 3, 9, 1]
    requests = [Request(p, Sampling(n)) for p, n in zip(PROMPTS, limits, strict=True)]
    for request, completion in zip(requests, s.engine.generate(requests), strict=True):
        assert completion.tokens == s.greedy(request.tokens, request.sampling.max_tokens)
        assert completion.finish_reason == "length"
        assert s.engine.generate([request]) == [completion]


def stop_ids_end_an_answer_and_belong_to_it(s: Subject) -> None:
    free = s.greedy(PROMPTS[0], 12)
    stop = next(token for token in free[2:] if token not in free[:2])
    [ended, other] = s.engine.generate(
        [Request(PROMPTS[0], Sampling(12, stop_ids=(stop,))), Request(PROMPTS[1], Sampling(12))]
    )
    assert (ended.tokens, ended.finish_reason) == (free[: free.index(stop) + 1], "stop")
    assert other.tokens == s.greedy(PROMPTS[1], 12)


def stop_texts_end_an_answer(s: Subject) -> None:
    for prompt in PROMPTS:
        free = s.greedy(prompt, 16)
        text = s.tokenizer.decode(free)
        if len(text) < 8 or "\ufffd" in text:
            continue
        stop = text[4:7]
        [ended] = s.engine.generate([Request(prompt, Sampling(16, stop=("never", stop)))])
        assert ended.finish_reason == "stop"
        assert ended.tokens == free[: len(ended.tokens)]
        assert stop in s.tokenizer.decode(ended.tokens)
        assert stop not in s.tokenizer.decode(ended.tokens[:-1])
        return
    raise AssertionError("no answer is long enough")


def a_seed_decides_whatever_else_is_in_the_batch(s: Subject) -> None:
    def asked(seed: int, **more: Any) -> Request:
        return Request(PROMPTS[0], Sampling(16, temperature=1.2, seed=seed, **more))

    for more in ({}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.02}):
        [alone] = s.engine.generate([asked(1, **more)])
        others = [Request(p, Sampling(9, temperature=0.7, top_k=3, seed=8)) for p in PROMPTS]
        together = s.engine.generate([*others, asked(2, **more), asked(1, **more)])
        assert together[-1] == alone
        assert together[-2].tokens != alone.tokens


def logprobs_are_those_of_the_plain_model(s: Subject) -> None:
    hot = {"temperature": 1.5, "top_k": 5, "repetition_penalty": 1.3, "seed": 3}
    requests = [
        Request(PROMPTS[0], Sampling(6, logprobs=0)),
        Request(PROMPTS[1], Sampling(8, logprobs=3, prompt_logprobs=True, **hot)),
        Request(PROMPTS[2], Sampling(4)),
        Request(PROMPTS[3], Sampling(4, prompt_logprobs=True)),
    ]
    done = s.engine.generate(requests)
    for request, completion in zip(requests, done, strict=True):
        known = s.believed([*request.tokens, *completion.tokens])
        start, wanted = len(request.tokens) - 1, request.sampling.logprobs
        if wanted is not None:
            rows = known[start:-1]
            expected = rows.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
            assert torch.tensor(completion.logprobs) == pytest.approx(expected, abs=s.rounding)
        if wanted:
            assert completion.top_logprobs is not None
            assert len(completion.top_logprobs) == len(completion.tokens)
            for row, found in zip(rows, completion.top_logprobs, strict=True):
                best = row.topk(wanted)
                assert list(found) == best.indices.tolist()
                assert list(found.values()) == pytest.approx(best.values.tolist(), abs=s.rounding)
        if request.sampling.prompt_logprobs:
            following = torch.tensor(request.tokens[1:])[:, None]
            expected = known[:start].gather(1, following)[:, 0]
            assert torch.tensor(completion.prompt_logprobs) == pytest.approx(
                expected, abs=s.rounding
            )
    assert done[0].top_logprobs is done[0].prompt_logprobs is done[2].logprobs is None


def penalties_follow_their_formulas(s: Subject) -> None:
    prompt = PROMPTS[2]

    def repeated(logits: torch.Tensor, new: list[int]) -> torch.Tensor:
        out = logits.clone()
        for token in {*prompt, *new}:
            out[token] = out[token] / 1.7 if out[token] > 0 else out[token] * 1.7
        return out

    def counted(logits: torch.Tensor, new: list[int]) -> torch.Tensor:
        out = logits.clone()
        for token in set(new):
            out[token] -= 0.9 + 0.6 * new.count(token)
        return out

    def logits_of(shape: Shape) -> Shape:
        """The repetition penalty asks for logits, not for log-probabilities."""

        def changed(_: torch.Tensor, new: list[int]) -> torch.Tensor:
            with torch.no_grad():
                ids = torch.tensor([[*prompt, *new]])
                return shape(s.model(input_ids=ids, use_cache=False).logits[0, -1].float(), new)

        return changed

    free = s.greedy(prompt, 20)
    expected = s.greedy(prompt, 20, logits_of(repeated))
    assert s.answer(prompt, max_tokens=20, repetition_penalty=1.7) == expected != free
    expected = s.greedy(prompt, 20, counted)
    found = s.answer(prompt, max_tokens=20, presence_penalty=0.9, frequency_penalty=0.6)
    assert found == expected != free


def bad_words_never_come(s: Subject) -> None:
    free = s.greedy(PROMPTS[0], 8)
    these_never_come(s, PROMPTS[0], ((free[0],), (free[1], free[2])))


def these_never_come(s: Subject, prompt: list[int], words: tuple[tuple[int, ...], ...]) -> None:
    """Of token sequences, some of which would come."""

    def without(logits: torch.Tensor, new: list[int]) -> torch.Tensor:
        out = logits.clone()
        for *begin, last in words:
            if not begin or new[-len(begin) :] == begin:
                out[last] = -torch.inf
        return out

    expected = s.greedy(prompt, 8, without)
    assert s.answer(prompt, max_tokens=8, bad_words=words) == expected != s.greedy(prompt, 8)


def sayable(s: Subject) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """A prompt, and words that an engine can forbid which is told of texts: a token and all that
    a text of two tokens that would come is, with a space before it and without.
    """

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(s.tokenizer.encode(text, add_special_tokens=False))

    for prompt in PROMPTS:
        free = s.greedy(prompt, 8)
        for pair in pairwise(free[1:]):
            text = s.tokenizer.decode(list(pair)).lstrip()
            forms = {tokens(text), tokens(" " + text)}
            if pair in forms and free[0] not in pair and all(len(form) == 2 for form in forms):
                return prompt, ((free[0],), *sorted(forms))
    raise AssertionError("no answer has such a pair")


def a_bias_is_added(s: Subject) -> None:
    bias = {60: 3.0, 61: 2.5, s.greedy(PROMPTS[1], 1)[0]: -4.0}

    def shape(logits: torch.Tensor, new: list[int]) -> torch.Tensor:
        out = logits.clone()
        for token, value in bias.items():
            out[token] += value
        return out

    expected = s.greedy(PROMPTS[1], 8, shape)
    assert s.answer(PROMPTS[1], max_tokens=8, logit_bias=bias) == expected
    assert s.answer(PROMPTS[1], max_tokens=3, logit_bias={77: 100.0}) == [77] * 3


def draws_follow_the_distribution(s: Subject) -> None:
    """First tokens of many seeds against the probabilities that the rules leave (chi-square)."""
    believed = s.believed(PROMPTS[0])[-1].double()
    count = 600
    for rules in (
        {"temperature": 0.7, "top_k": 6},
        {"temperature": 0.9, "top_p": 0.25},
        {"temperature": 0.6, "min_p": 0.2},
    ):
        p = (believed / rules["temperature"]).softmax(-1)
        order = p.argsort(descending=True, stable=True)
        sorted_p = p[order]
        keep = torch.ones_like(p, dtype=torch.bool)
        keep[order] = (
            (torch.arange(len(p)) < rules.get("top_k", len(p)))
            & (sorted_p.cumsum(0) - sorted_p < rules.get("top_p", 1.0))
            & (sorted_p >= rules.get("min_p", 0.0) * sorted_p[0])
        )
        p = torch.where(keep, p, 0.0) / p[keep].sum()
        requests = [Request(PROMPTS[0], Sampling(1, seed=i, **rules)) for i in range(count)]
        drawn = torch.tensor([c.tokens[0] for c in s.engine.generate(requests)])
        assert keep[drawn].all()
        observed = torch.bincount(drawn, minlength=len(p))[keep].double()
        expected = p[keep] * count
        freedom = int(keep.sum()) - 1
        assert freedom >= 1
        chi = float(((observed - expected) ** 2 / expected).sum())
        assert chi < freedom + 4 * (2 * freedom) ** 0.5  # about one in 10,000


def guides_are_followed(s: Subject) -> None:
    end = s.tokenizer.eos_token_id
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 10, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }

    def texts(guide: Guide, *stop_ids: int) -> list[str]:
        hot = [Sampling(90, 1.5, seed=i, guide=guide, stop_ids=stop_ids) for i in range(2)]
        done = s.engine.generate([Request(PROMPTS[0], one) for one in (Sampling(4), *hot)])
        assert done[0].tokens == s.greedy(PROMPTS[0], 4)
        assert {completion.finish_reason for completion in done[1:]} == {"stop"}
        return [s.tokenizer.decode(c.tokens, skip_special_tokens=True) for c in done[1:]]

    assert all(re.fullmatch("[0-9]{3}-x+y", t) for t in texts(Guide("regex", "[0-9]{3}-x{1,5}y")))
    assert {*texts(Guide("choice", ("Paris", "New York")), end)} <= {"Paris", "New York"}
    assert all(10 <= json.loads(text)["age"] <= 99 for text in texts(Guide("json", schema), end))
    grammar = 'root ::= "<" [a-c] [a-c] ">"'
    assert all(re.fullmatch("<[a-c]{2}>", text) for text in texts(Guide("grammar", grammar)))


def a_full_context_is_named(s: Subject) -> None:
    context = s.engine.context
    assert context is not None
    with pytest.raises(
        DataError, match=f"{context + 9} tokens, the model's context holds {context}"
    ):
        s.answer([5] * (context + 9), max_tokens=3)
    assert len(s.answer([5] * (context - 2), max_tokens=30)) == 2
    with pytest.raises(DataError, match="empty"):
        s.answer([], max_tokens=3)


PROMISES = [
    greedy_equals_a_loop_alone_and_together,
    stop_ids_end_an_answer_and_belong_to_it,
    stop_texts_end_an_answer,
    a_seed_decides_whatever_else_is_in_the_batch,
    logprobs_are_those_of_the_plain_model,
    penalties_follow_their_formulas,
    bad_words_never_come,
    a_bias_is_added,
    draws_follow_the_distribution,
    guides_are_followed,
    a_full_context_is_named,
]
