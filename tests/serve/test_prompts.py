"""What is believed of the tokens of a prompt, over HTTP: the model's own numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from serving import post, renderer_of, serve

import tiny
from swift.infer.backends.transformers import TransformersEngine


@pytest.fixture(scope="module")
def app() -> Any:
    engine = TransformersEngine(tiny.make_model(), tiny.make_tokenizer())
    return serve(engine, renderer_of())


@pytest.mark.parametrize("top", [0, 5])
def test_tokens_of_a_prompt_and_the_likeliest_there(app: Any, top: int) -> None:
    tokens = [5, 17, 300, 17, 9]
    body = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}
    answer = post(app, "/v1/completions", body)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    first, *rows = choice["prompt_logprobs"]
    assert first is None and len(rows) == 4
    with torch.no_grad():
        known = tiny.make_model().eval()(torch.tensor([tokens])).logits[0].log_softmax(-1)
    for place, row in enumerate(rows):
        likely = known[place].topk(top).indices.tolist()
        assert set(row) == {str(id) for id in {*likely, tokens[place + 1]}}
        for id, entry in row.items():
            assert entry["logprob"] == pytest.approx(float(known[place, int(id)]), abs=1e-5)


def test_what_is_not_asked_for_is_not_told(app: Any) -> None:
    plain = post(app, "/v1/completions", {"prompt": [5, 17], "max_tokens": 1}).json()
    assert "prompt_logprobs" not in plain["choices"][0]
    for more in ({"stream": True}, {"prompt_logprobs": 10_000}, {"prompt_logprobs": -1}):
        body = {"prompt": [5, 17], "max_tokens": 1, "prompt_logprobs": 2, **more}
        found = post(app, "/v1/completions", body)
        assert found.status_code in (400, 422) and "prompt_logprobs" in found.text
