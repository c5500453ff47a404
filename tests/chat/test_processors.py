"""Processors as checkpoints bring them: with a part for video, with code of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from PIL import Image
from transformers.utils.import_utils import is_torchvision_available

import tiny
from swift.chat.load import load_renderer
from swift.chat.media.loading import load_processor
from swift.errors import RenderError

IMAGE = "<|image_pad|>"
CODE = """
from transformers import LlavaProcessor

class OwnProcessor(LlavaProcessor):
    brought = True
"""


def save_qwen(folder: Path, kind: str) -> Path:
    """The files of such a checkpoint on the hub, with settings of a small image."""
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, "<|video_pad|>"]})
    tokenizer.save_pretrained(folder)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": kind, "merge_size": 2,
        "min_pixels": 1024, "max_pixels": 4096, "patch_size": 8, "temporal_patch_size": 2,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor"])
def test_a_processor_with_a_part_for_video_reads_images(tmp_path: Path, kind: str) -> None:
    processor = load_processor(str(save_qwen(tmp_path, kind)))
    assert isinstance(processor, getattr(transformers, kind))
    made = processor(text=[IMAGE], images=[Image.new("RGB", (64, 48))], return_tensors="np")
    pixels = transformers.AutoImageProcessor.from_pretrained(tmp_path)(
        [Image.new("RGB", (64, 48))], return_tensors="np"
    )
    assert (made["pixel_values"] == pixels["pixel_values"]).all()
    assert len(made["input_ids"][0]) == pixels["image_grid_thw"].prod() // 4
    assert made["mm_token_type_ids"].all()


def test_settings_of_the_part_for_video_are_there_without_it(tmp_path: Path) -> None:
    save_qwen(tmp_path, "Qwen2VLProcessor")
    (tmp_path / "video_preprocessor_config.json").write_text('{"merge_size": 2, "fps": 3}')
    processor = load_processor(str(tmp_path))
    assert processor.video_processor.fps == 3
    with pytest.raises(AttributeError, match="unknown"):
        _ = processor.video_processor.unknown


def test_a_processor_brings_its_own_code_only_where_that_is_allowed(tmp_path: Path) -> None:
    tiny.save_vision_checkpoint(tmp_path)
    (tmp_path / "own.py").write_text(CODE)
    file = tmp_path / "processor_config.json"
    settings = json.loads(file.read_text())
    settings |= {
        "processor_class": "OwnProcessor",
        "auto_map": {"AutoProcessor": "own.OwnProcessor"},
    }
    file.write_text(json.dumps(settings))
    with pytest.raises(RenderError, match="--trust_remote_code true"):
        _ = load_renderer(tmp_path).marks.mark
    marks = load_renderer(tmp_path, trust_remote_code=True).marks
    assert marks.mark == "<image>"
    assert load_processor(str(tmp_path), trust_remote_code=True).brought


@pytest.mark.skipif(is_torchvision_available(), reason="the package is there")
def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    save_qwen(tmp_path, "PixtralProcessor")
    with pytest.raises(RenderError, match=r"not installed.*PixtralProcessor.*orch"):
        load_processor(str(tmp_path))


def test_a_processor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    save_qwen(tmp_path, "NoSuchProcessor")
    with pytest.raises(RenderError, match="transformers finds no processor"):
        load_processor(str(tmp_path))
