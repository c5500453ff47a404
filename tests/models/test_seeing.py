"""Models see the images of a batch as transformers computes them, each with its real processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny
from swift.chat.load import load_renderer
from swift.errors import ConfigError
from swift.models.attention import attention_of, choose_layout
from swift.models.load import load_model
from swift.models.seeing import see

VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
GRID = [[32, 64], [64, 32], [64, 64]]


def tokenizer(*marks: str) -> Any:
    made = tiny.make_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<image>", *marks]})
    return made


def llava_next(folder: Path) -> None:
    made = tokenizer()
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=GRID,
    )
    processor = transformers.LlavaNextProcessor(
        images, made, patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1, chat_template=tiny.CHATML,
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=tiny.make_config(vocab_size=len(made)),
        image_token_index=400,
        image_grid_pinpoints=GRID,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    transformers.LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def idefics3(folder: Path) -> None:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)]
    made = tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows)
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    config = transformers.Idefics3Config(
        vision_config=VISION,
        text_config=tiny.make_config(vocab_size=len(made)).to_dict(),
        image_token_id=400,
        scale_factor=2,
    )
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    transformers.Idefics3Processor(
        images, made, image_seq_len=4, chat_template=tiny.CHATML
    ).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "llava": tiny.save_vision_checkpoint,
    "llava_next": llava_next,
    "idefics3": idefics3,
}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MAKERS[request.param](place)
    return place


def test_images_are_seen_in_packs(folder: Path) -> None:
    model, marks = load_model(folder, torch.float32), load_renderer(folder).marks
    native = attention_of(model)
    layout = choose_layout(model)
    assert layout.packed
    assert see(model, layout, marks, native, ["image"]) == layout
    assert attention_of(model) == layout.attention


def test_images_that_are_mixed_up_are_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, marks = load_model(folder, torch.float32), load_renderer(folder).marks
    native = attention_of(model)
    features = marks.processor.features

    def turned(text: str, images: Any) -> dict[str, Any]:
        found = features(text, images)
        return {**found, "pixel_values": found["pixel_values"][..., ::-1].copy()}

    monkeypatch.setattr(marks.processor, "features", turned)
    with pytest.raises(ConfigError, match=r"does not take the media .*image 1 of 3 differs"):
        see(model, choose_layout(model), marks, native, ["image"])
