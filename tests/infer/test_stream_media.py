"""Images in a running batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from contracts.tiny_multimodal import tiny_multimodal
from infer.test_stream import Streaming
from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.message import Media, Message
from swift.infer.backends.padded import left_padded
from swift.infer.backends.stepper import Prompt, Stepper
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import auto_class, load_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TransformersEngine, Path]]:
    folder = tiny.save_vision_checkpoint(tmp_path_factory.mktemp("vision"))
    renderer = load_renderer(folder)
    one = TransformersEngine(
        load_model(folder, torch.float32), load_tokenizer(folder), marks=lambda: renderer.marks
    )
    yield one, folder
    one.close()


def test_images_join_texts_and_leave_them(
    engine: tuple[TransformersEngine, Path], tmp_path: Path
) -> None:
    one, folder = engine
    renderer = load_renderer(folder)
    random = np.random.default_rng(0)
    requests = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
        image = Media("image", str(path))
        content = (image, "What is it?") if number % 2 else f"Say {number}"
        tokens = renderer.prompt([Message("user", content)])
        media = (image,) if number % 2 else ()
        requests.append(Request(tokens, Sampling(5 + 3 * number), media))
    alone = [one.generate([request])[0].tokens for request in requests]
    assert [c.tokens for c in Streaming(one).generate(requests)] == alone
    assert one.joins
    blind = [one.generate([Request(r.tokens, r.sampling)])[0].tokens for r in requests[1::2]]
    assert blind != alone[1::2]  # the images are seen


def test_positions_behind_an_image_of_several_dimensions(tmp_path: Path) -> None:
    """Qwen2-VL counts an image's positions by its sides; what is behind it moves."""
    torch.manual_seed(0)
    config = tiny_multimodal("qwen2_vl")
    model = auto_class(config).from_config(config, dtype=torch.float32).eval()
    height, width, merge = 8, 4, config.vision_config.spatial_merge_size
    patch = config.vision_config.patch_size**2 * config.vision_config.temporal_patch_size * 3
    count = height * width // merge**2
    assert count > max(height, width) // merge  # so that there is a shift
    text, behind = [5, 6, 7], [8, 9]
    tokens = [*text, *[config.image_token_id] * count, *behind]
    features = {
        "pixel_values": torch.randn(height * width, patch),
        "image_grid_thw": torch.tensor([[1, height, width]]),
        "mm_token_type_ids": torch.tensor([[0] * 3 + [1] * count + [0] * 2]),
    }
    ids, mask = left_padded([tokens], 0)
    with torch.no_grad():
        whole = model.generate(
            input_ids=ids, attention_mask=mask, **features, max_new_tokens=6, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )[0, len(tokens) :].tolist()  # fmt: skip
        stepper = Stepper(model, lambda _: (model, {}))
        plain = Prompt([11, 12, 13, 14])
        stepper.read(plain, 512)
        stepper.join(plain)
        prompt = Prompt(tokens, None, features, len(tokens))
        logits = stepper.read(prompt, 512)
        assert logits is not None and prompt.shift != 0
        stepper.join(prompt)
        found = [int(logits.argmax())]
        while len(found) < len(whole):
            found.append(int(stepper.step([15, found[-1]])[1].argmax()))
        assert found == whole
        # read once more with what was said, as after new weights
        again = Prompt([*tokens, *found[:3]], None, features, len(tokens))
        assert stepper.read(again, 512) is None
        logits = stepper.read(again, 512)
        assert logits is not None and int(logits.argmax()) == whole[3]
