"""Images on the page and in the terminal: thumbnails, sizes, the tokens that stand for them."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from processes import run
from swift.chat.load import load_renderer
from swift.chat.message import Media
from swift.data.sample import Sample
from swift.data.seen import see

FIGURE = re.compile(
    r'<figure>(?:<img src="data:image/jpeg;base64,([^"]+)" alt="">)?<figcaption>(.*?)</figcaption>'
)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("vision"))


def test_images_are_shown_with_their_tokens(vision: Path, tmp_path: Path) -> None:
    wide = '<b> & "c".png'
    Image.new("RGB", (300, 120), (200, 30, 30)).save(tmp_path / wide)
    Image.new("RGB", (20, 50), (30, 30, 200)).save(tmp_path / "tall.png")
    rows = [
        {"query": "<image> or <image>?", "response": "Red.", "images": [wide, "tall.png"]},
        {"query": "Who?", "response": "Me."},
    ]
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["inspect", "--model", vision, "--dataset", "rows.jsonl", "--max_length", 128]
    terminal = run([*words, "--output_dir", "page"], tmp_path)
    page = (tmp_path / "page/inspect.html").read_text(encoding="utf-8")

    figures = [(picture, unescape(text)) for picture, text in FIGURE.findall(page)]
    assert len(figures) == 2 and page.count("<img") == 2
    captions = ["300 x 120 pixels, 17 tokens, {} to {}", "20 x 50 pixels, 17 tokens, {} to {}"]
    tokens = [int(id) for id in re.findall(r'<b[^>]*data-i="(\d+)"', page)]
    mark = load_renderer(vision).tokenizer.encode("<image>").ids[0]
    first = tokens.index(mark)
    second = next(i for i in range(first + 17, len(tokens)) if tokens[i] == mark)
    for start, caption, (picture, text), name, size, pixel in zip(
        (first, second), captions, figures, (wide, "tall.png"), ((96, 38), (20, 50)),
        ((200, 30, 30), (30, 30, 200)), strict=True,
    ):  # fmt: skip
        assert text.endswith(f"{name}: {caption.format(start, start + 16)}")
        assert f"{name}: {caption.format(start, start + 16)}" in terminal
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert image.size == size
        assert image.getpixel((5, 5)) == pytest.approx(pixel, abs=8)


def test_an_image_that_is_gone_or_changed_is_said(vision: Path, tmp_path: Path) -> None:
    renderer = load_renderer(vision)
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path)
    ids = renderer.marks.ids(Media("image", str(path)))

    def sample(tokens: list[int], name: Path) -> Sample:
        weights = np.ones(len(tokens), np.float32)
        return Sample(np.array(tokens, np.int32), weights, "x", (Media("image", str(name)),))

    [there] = see(sample([5, *ids, 6], path), renderer)
    assert (there.start, there.stop) == (1, 18) and there.picture
    [other] = see(sample([5, *ids[:-1], 6], path), renderer)
    assert "not the one that the tokens were made of" in str(other) and not other.stop
    [gone] = see(sample([5, *ids], tmp_path / "b.png"), renderer)
    assert "b.png: does not exist" in str(gone) and not gone.picture
