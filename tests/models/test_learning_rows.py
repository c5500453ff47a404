"""Popular architectures learn from files of images with their real processors, as transformers
computes it; bench/architectures.py --multimodal runs all.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contracts.learning import Learning, learns
from contracts.processors import save_tiny
from swift.chat.load import load_tokenizer
from swift.errors import ConfigError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.attention import Layout, check_one_way, set_attention
from swift.models.seeing import see

LAYOUTS = {
    "qwen2_vl": "packed",  # positions on three axes, a processor with a part for video
    "qwen2_5_vl": "packed",
    "qwen3_vl": "packed",
    "glm4v": "packed",
    "gemma3": "packed",  # an image is read in both directions
    "llava": "packed",
    "idefics3": "packed",
    "internvl": "packed",
    "lighton_ocr": "packed",  # Pixtral's tower and image processor
    "qwen3_5": "padded",  # carries a state along the row
    "paligemma": "padded",  # a prompt is read in both directions
}


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_rows_with_images_learn(model_type: str, tmp_path: Path) -> None:
    assert learns(model_type, tmp_path) == LAYOUTS[model_type]


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Learning:
    folder = tmp_path_factory.mktemp("paligemma")
    save_tiny("paligemma", folder)
    return Learning(folder)


def test_an_answer_that_would_be_read_ahead_is_refused(
    paligemma: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, marks = paligemma, paligemma.marks
    types = marks.processor.types

    def all_read(rows: list[tuple[list[int], int]]) -> dict[str, object]:
        return types([(tokens, len(tokens)) for tokens, _ in rows])

    monkeypatch.setattr(marks.processor, "types", all_read)
    with pytest.raises(ConfigError, match="an answer is read before it is learned"):
        see(one.model, Layout(one.native, packed=False), marks, one.native, ["image"])


def test_a_text_that_is_read_in_both_directions_is_refused(paligemma: Learning) -> None:
    with pytest.raises(ConfigError, match=r"both directions.*rows with images"):
        check_one_way(paligemma.model)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "gemma3", "paligemma"])
def test_answers_to_images_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    save_tiny(model_type, tmp_path)
    one = Learning(tmp_path)
    engine = TransformersEngine(one.model, load_tokenizer(tmp_path), "sdpa", lambda: one.marks)
    sampling = Sampling(max_tokens=6)
    chosen, requests = (0, 2), []
    for i in chosen:
        tokens = one.calls[i]["input_ids"][0].tolist()
        requests.append(Request(tokens, sampling, one.samples[i].media))
    found = engine.generate(requests)
    set_attention(one.model, one.native)
    for i, completion in zip(chosen, found, strict=True):
        call = dict(one.calls[i])
        if model_type == "paligemma":  # all of it is a prompt
            call["token_type_ids"] = torch.zeros_like(call["token_type_ids"])
        size = call["input_ids"].shape[1]
        out = one.model.generate(**call, max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert completion.tokens == out[0, size:].tolist()
