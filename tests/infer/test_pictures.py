"""Prompts for engines that lay the tokens of images in themselves."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.processors import save_tiny
from swift.chat.load import load_renderer
from swift.chat.message import Media, Message
from swift.errors import ConfigError, DataError
from swift.infer.backends.pictures import data_url, marked


def picture(folder: Path, number: int) -> Media:
    pixels = np.random.default_rng(number).integers(0, 255, (40, 30 + 9 * number, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.png")
    return Media("image", str(folder / f"{number}.png"))


@pytest.mark.parametrize("model_type", ["llava", "idefics3", "qwen2_vl", "gemma3"])
def test_each_image_becomes_one_mark(model_type: str, tmp_path: Path) -> None:
    save_tiny(model_type, tmp_path)
    renderer = load_renderer(tmp_path)
    first, second = picture(tmp_path, 1), picture(tmp_path, 2)
    media = (first, second)
    tokens = renderer.prompt([Message("user", (first, "and", second, "?"))])

    def encode(text: str) -> list[int]:
        return list(renderer.tokenizer.encode(text).ids)

    short, images = marked(tokens, media, renderer.marks, encode)
    [mark] = encode(renderer.marks.mark)
    assert short.count(mark) == 2 and len(short) < len(tokens)
    assert [image.size for image in images] == [(39, 40), (48, 40)]
    whole: list[int] = []
    left = iter(media)
    for token in short:
        whole += renderer.marks.ids(next(left)) if token == mark else [token]
    assert whole == tokens
    with pytest.raises(DataError, match="its tokens are not in the prompt"):
        marked(tokens, (*media, first), renderer.marks, encode)
    with pytest.raises(ConfigError, match="images alone, no video"):
        marked(tokens, (Media("video", "a.mp4"),), renderer.marks, encode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_image_in_an_address_keeps_every_pixel(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, len(mode)), np.uint8)
    image = Image.fromarray(pixels.squeeze())
    assert image.mode == mode
    head, _, data = data_url(image).partition(",")
    again = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64" and again.mode == mode
    assert np.array_equal(np.asarray(again), np.asarray(image))
