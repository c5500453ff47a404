"""Boxes in images: the unit, the form and the control tokens that a model was taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tiny
from contracts.processors import save_tiny
from swift.chat.boxes import BoxStyle
from swift.chat.load import load_renderer
from swift.chat.message import Box, Conversation, Media, Message, Ref
from swift.chat.render import Renderer
from swift.errors import RenderError

TOKENS = ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def knowing(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint with the control tokens of boxes."""
    from transformers import AutoProcessor

    folder: Path = tmp_path_factory.mktemp("knowing")
    processor = AutoProcessor.from_pretrained(plain)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *TOKENS]})
    processor.save_pretrained(folder)
    (folder / "config.json").write_bytes((plain / "config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Media:
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.new("RGB", (200, 80)).save(path)
    return Media("image", str(path))


def answer(renderer: Renderer, image: Media, *parts: Any) -> str:
    """What is learned of an answer with such parts."""
    asked = Message("user", (image, "Where is ", Ref("a dog"), "?"))
    [sample] = renderer.render(Conversation((asked, Message("assistant", parts))))
    learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w > 0]
    return renderer.tokenizer.decode(learned, keep_special=True)


BOX = Box((20, 8, 100, 60))
FORMS: list[tuple[str, str]] = [
    ("list", "[100, 100, 500, 750]"),
    ("pairs", "[(100,100),(500,750)]"),
    ("tokens", "<|box_start|>(100,100),(500,750)<|box_end|>"),
]


@pytest.mark.parametrize(("form", "text"), FORMS)
def test_forms(knowing: Path, image: Media, form: Any, text: str) -> None:
    renderer = load_renderer(knowing, boxes=BoxStyle(form))
    name = "<|object_ref_start|>x<|object_ref_end|>" if form == "tokens" else "x"
    assert answer(renderer, image, Ref("x"), BOX, ".") == f"{name}{text}.<|im_end|>"


def test_the_tokenizer_decides_where_nobody_says(plain: Path, knowing: Path, image: Media) -> None:
    assert answer(load_renderer(plain), image, BOX) == f"{FORMS[0][1]}<|im_end|>"
    assert answer(load_renderer(knowing), image, BOX) == f"{FORMS[2][1]}<|im_end|>"
    with pytest.raises(RenderError, match=r"--bbox_format tokens: .*no control tokens"):
        answer(load_renderer(plain, boxes=BoxStyle("tokens")), image, BOX)


def test_control_tokens_are_real_and_names_stay_text(knowing: Path, image: Media) -> None:
    renderer = load_renderer(knowing)
    asked = Message("user", (image, "Find ", Ref("<|box_end|>")))
    talk = Conversation((asked, Message("assistant", ("Here: ", BOX))))
    [sample] = renderer.render(talk)
    ids = [renderer.tokenizer.encode(token).ids for token in TOKENS]
    assert all(len(id) == 1 and sample.tokens.count(id[0]) == 1 for id in ids)
    text = "Find <|object_ref_start|><|box_end|><|object_ref_end|>"
    assert text in renderer.tokenizer.decode(sample.tokens, keep_special=True)
    prompt = renderer.prompt(talk.messages[:1])
    assert sample.tokens[: len(prompt)] == prompt


@pytest.mark.parametrize(
    ("box", "text"),
    [
        (Box((200, 80)), "[1000, 1000]"),
        (Box((0.1, 0.25, 1, 1), "norm1"), "[100, 250, 1000, 1000]"),
        (Box((10, 20, 999.6, 40), "norm1000"), "[10, 20, 1000, 40]"),
        (Box((33, 33)), "[165, 412]"),
    ],
)
def test_units_of_rows(plain: Path, image: Media, box: Box, text: str) -> None:
    assert answer(load_renderer(plain), image, box) == f"{text}<|im_end|>"


def test_boxes_are_in_the_image_as_it_is_seen(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (200, 80)).save(path, exif=exif)
    turned = Media("image", str(path))
    renderer = load_renderer(plain)
    assert answer(renderer, turned, Box((80, 200))) == "[1000, 1000]<|im_end|>"
    with pytest.raises(RenderError, match=r"\[100, 50\] is outside of its image of 80 x 200"):
        answer(renderer, turned, Box((100, 50)))


def test_each_box_is_in_its_own_image(plain: Path, image: Media, tmp_path: Path) -> None:
    path = tmp_path / "b.png"
    Image.new("RGB", (1000, 500)).save(path)
    asked = Message("user", (image, Media("image", str(path))))
    talk = Conversation((asked, Message("assistant", (Box((50, 50), image=1), Box((50, 50))))))
    renderer = load_renderer(plain)
    [sample] = renderer.render(talk)
    assert "[50, 100][250, 625]" in renderer.tokenizer.decode(sample.tokens)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_pixels_of_the_resized_image(kind: str, tmp_path: Path) -> None:
    save_tiny(kind, tmp_path)
    path = tmp_path / "a.png"
    Image.new("RGB", (213, 97)).save(path)
    image = Media("image", str(path))
    renderer = load_renderer(tmp_path, boxes=BoxStyle("list", "none"))
    grid = renderer.marks.prepare([image])["image_grid_thw"][0]
    side = 8  # of a patch of the tiny model
    width, height = int(grid[2]) * side, int(grid[1]) * side
    assert (width, height) != (213, 97)
    [sample] = renderer.render(
        Conversation((Message("user", (image, "?")), Message("assistant", (Box((213, 97)),))))
    )
    assert f"[{width}, {height}]" in renderer.tokenizer.decode(sample.tokens)


def test_a_processor_that_cuts_images_has_no_pixels_for_boxes(plain: Path, image: Media) -> None:
    renderer = load_renderer(plain, boxes=BoxStyle("list", "none"))
    with pytest.raises(RenderError, match="write --norm_bbox norm1000"):
        answer(renderer, image, BOX)


def test_the_style_decides_about_tokens(plain: Path) -> None:
    styles = [BoxStyle(), BoxStyle("pairs"), BoxStyle("pairs", "none")]
    prints = {load_renderer(plain, boxes=style).spec.fingerprint for style in styles}
    assert len(prints) == 3
