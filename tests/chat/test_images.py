"""Images in conversations: the tokens are those of the checkpoint's own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Media, Message
from swift.chat.render import Renderer
from swift.errors import DataError, RenderError

PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "{{ 'Picture: <image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETS = PARTS.replace("'Picture: <image>\n'", "'<image>\n' if loop.first else ''")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return load_renderer(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = []
    for number, size in enumerate([(60, 90), (32, 32), (20, 200)]):
        path = place / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        made.append(str(path))
    return made


def talk(*contents: Any) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))


def expected(folder: Path, text: str, images: list[str]) -> list[int]:
    """What transformers' processor makes of a text with marks."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    opened = [Image.open(path) for path in images]
    ids: list[int] = processor(text=[text], images=opened, add_special_tokens=False)["input_ids"][0]
    return ids


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tokens_are_those_of_the_processor(
    renderer: Renderer, folder: Path, images: list[str], count: int
) -> None:
    media = tuple(Media("image", path) for path in images[:count])
    [sample] = renderer.render(talk((*media, "What is it?"), "It is so.", "Sure?", "Yes."))
    text = (
        f"<|im_start|>user\n{'<image>' * count}What is it?<|im_end|>\n<|im_start|>assistant\n"
        "It is so.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes."
        "<|im_end|>\n"
    )
    assert sample.tokens == expected(folder, text, images[:count])
    assert sample.media == media
    learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w > 0]
    said = renderer.tokenizer.decode(learned, keep_special=True)
    assert said == "It is so.<|im_end|>Yes.<|im_end|>"


def test_the_prompt_is_the_beginning_of_the_turn(renderer: Renderer, images: list[str]) -> None:
    conversation = talk(
        ("First", Media("image", images[0]), "then", Media("image", images[2])), "A"
    )
    [sample] = renderer.render(conversation)
    prompt = renderer.prompt(conversation.messages[:1])
    assert sample.tokens[: len(prompt)] == prompt
    assert sum(sample.weights[: len(prompt)]) == 0


def test_a_template_that_writes_images_itself(tmp_path: Path, images: list[str]) -> None:
    folder = tiny.save_vision_checkpoint(tmp_path, PARTS)
    renderer = load_renderer(folder)
    [sample] = renderer.render(talk(("See ", Media("image", images[0]), "it"), "Yes."))
    text = (
        "<|im_start|>user\nSee Picture: <image>\nit<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    assert sample.tokens == expected(folder, text, images[:1])


def test_a_mark_that_somebody_wrote_stays_text(renderer: Renderer, images: list[str]) -> None:
    [plain] = renderer.render(talk("What is <image>?", "A mark."))
    [sample] = renderer.render(talk((Media("image", images[0]), "What is <image>?"), "A mark."))
    id = renderer.tokenizer.encode("<image>").ids
    assert len(id) == 1
    assert plain.tokens.count(id[0]) == 0 and not plain.media
    assert sample.tokens.count(id[0]) == 17


def test_an_image_that_the_template_leaves_out(tmp_path: Path, images: list[str]) -> None:
    renderer = load_renderer(tiny.save_vision_checkpoint(tmp_path, FORGETS))
    media = [Media("image", path) for path in images[:2]]
    renderer.render(talk((media[0], "Hi"), "Yes."))
    with pytest.raises(RenderError, match="writes 1 of 2 images, videos and sounds"):
        renderer.render(talk((*media, "Hi"), "Yes."))


def test_an_image_that_cannot_be_read(renderer: Renderer, tmp_path: Path) -> None:
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no image")
    for path in (broken, tmp_path / "absent.png"):
        with pytest.raises(DataError, match=path.name):
            renderer.render(talk((Media("image", str(path)), "Hi"), "Yes."))


def test_features_name_what_changed(renderer: Renderer, images: list[str]) -> None:
    [sample] = renderer.render(talk((Media("image", images[0]), "Hi"), "Yes."))
    found = renderer.marks.features([(sample.tokens, sample.media)] * 2)
    assert found["pixel_values"].shape == (2, 3, 32, 32)
    with pytest.raises(DataError, match="its media take 34 places, its tokens hold 17"):
        renderer.marks.features([(sample.tokens, sample.media * 2)])
