"""What is asked of vLLM in several set-ups, here and as a server: a tiny model on two processes,
with guesses ahead, with and without what it keeps of prompts; and one that sees images.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contracts.engines import (
    PROMPTS,
    Subject,
    greedy_equals_a_loop_alone_and_together,
    penalties_follow_their_formulas,
    stop_ids_end_an_answer_and_belong_to_it,
)
from contracts.processors import save_tiny
from infer.test_stream import collect
from swift.chat.load import load_renderer
from swift.chat.message import Media, Message
from swift.chat.render import Renderer
from swift.errors import ConfigError, DataError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import auto_class

SIZES = {"seed": 5, "hidden_size": 128, "num_attention_heads": 4}  # vLLM has no heads of 12
GUESSING = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
SETUPS: dict[str, dict[str, Any]] = {
    "two processes": {"tensor_parallel_size": 2},
    "guessing": {"speculative_config": GUESSING},
    "nothing kept": {"enable_prefix_caching": False},
}


def what_prompts_share_changes_nothing(s: Subject) -> None:
    """The same long beginning, whose blocks a cache may keep from one answer to the next."""
    shared = [10 + i % 60 for i in range(150)]
    requests = [Request([*shared, *tail], Sampling(12)) for tail in ([], [5], [6, 7], [])]
    expected = [s.greedy(request.tokens, 12) for request in requests]
    for _ in range(2):
        assert [c.tokens for c in s.engine.generate(requests)] == expected
        assert [s.engine.generate([r])[0].tokens for r in requests] == expected


def logprobs_are_told_of_every_token(s: Subject) -> None:
    """Of greedy answers alone: with guesses on a CPU, vLLM 0.32 ends at a ``top_k``."""
    requests = [Request(prompt, Sampling(20, logprobs=2)) for prompt in PROMPTS]
    for request, found in zip(requests, s.engine.generate(requests), strict=True):
        rows = s.believed([*request.tokens, *found.tokens])[len(request.tokens) - 1 : -1]
        expected = rows.gather(1, torch.tensor(found.tokens)[:, None])[:, 0].tolist()
        assert found.logprobs == pytest.approx(expected, abs=s.rounding)
        assert found.top_logprobs is not None
        best = [row.topk(2).indices.tolist() for row in rows]
        assert [list(top) for top in found.top_logprobs] == best


def tops_of_a_prompt_are_those_of_the_plain_model(s: Subject) -> None:
    asked = Request(PROMPTS[0], Sampling(1, prompt_logprobs=True, prompt_top=3))
    [found] = s.engine.generate([asked])
    rows = s.believed(asked.tokens)[:-1]
    assert found.prompt_top is not None
    for row, top in zip(rows, found.prompt_top, strict=True):
        best = row.topk(3)
        assert list(top) == best.indices.tolist()
        assert list(top.values()) == pytest.approx(best.values.tolist(), abs=s.rounding)


ASKED = [
    greedy_equals_a_loop_alone_and_together,
    stop_ids_end_an_answer_and_belong_to_it,
    logprobs_are_told_of_every_token,
    penalties_follow_their_formulas,
    what_prompts_share_changes_nothing,
    tops_of_a_prompt_are_those_of_the_plain_model,
]


def seeing(folder: Path) -> tuple[Path, Renderer, list[Request]]:
    """A tiny Idefics3 with a text model of sizes that vLLM has, and requests with 0, 1, 2 images.

    vLLM's LLaVA and others need torchvision.
    """
    model = folder / "model"
    config = save_tiny("idefics3", model).config
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    config.text_config.update({**sizes, "max_position_embeddings": 512})
    torch.manual_seed(0)
    auto_class(config).from_config(config, dtype=torch.float32).save_pretrained(model)
    renderer = load_renderer(model)
    random = np.random.default_rng(0)
    for number in range(2):
        pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    first, second = (Media("image", str(folder / f"{number}.png")) for number in range(2))
    requests = []
    for media in ((), (first,), (second, first)):
        tokens = renderer.prompt(
            [Message("user", (*media, "What is it?") if media else "What is it?")]
        )
        requests.append(Request(tokens, Sampling(8, logprobs=0), media))
    return model, renderer, requests


def images_are_seen(engine: Any, own: TransformersEngine, requests: Sequence[Request]) -> None:
    """As the model itself sees them; what does not belong together is refused.

    Args:
        engine: vLLM's.
        own: the embedded one, of the same model.
        requests: those of :func:`seeing`.
    """
    second, first = requests[2].media
    found, expected = engine.generate(requests), own.generate(requests)
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    streamed = asyncio.run(collect(engine.stream(requests[2])))
    assert streamed.tokens == expected[2].tokens
    blind = engine.generate([replace(requests[1], media=(second,))])
    assert blind[0].logprobs != found[1].logprobs  # the image is seen
    with pytest.raises(DataError, match="its tokens are not in the prompt"):
        engine.generate([replace(requests[0], media=(first,))])
    with pytest.raises(ConfigError, match="images alone, no audio"):
        engine.generate([replace(requests[1], media=(Media("audio", "a.wav"),))])
