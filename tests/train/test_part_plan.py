"""What learns is said by part before the start."""

from __future__ import annotations

from pathlib import Path

import torch

import tiny
from contracts.multimodal import build
from swift.config.runs import SftConfig
from swift.train.plan import Shape, shape_of


def shape(folder: Path, **tuner: object) -> Shape:
    values = {"model": {"path": str(folder)}, "data": {"train": ["a"]}, "tuner": tuner}
    return shape_of(SftConfig.model_validate(values), folder, torch.float32)


def test_parts_of_a_model_that_sees(tmp_path: Path) -> None:
    model = build("llava")
    model.save_pretrained(tmp_path)
    found = shape(tmp_path, kind="full", freeze_aligner=False)
    assert [part for part, _, _ in found.parts] == ["vision", "aligner", "language"]
    assert sum(total for _, total, _ in found.parts) == found.parameters
    assert sum(learning for _, _, learning in found.parts) == found.learning
    assert found.parts[0][2] == 0
    assert found.learning_parts().startswith("0.00M of 0.1M in the vision part, ")
    found = shape(tmp_path, kind="lora", freeze_vit=False, freeze_llm=True)
    assert [learning > 0 for _, _, learning in found.parts] == [True, False, False]


def test_a_language_model_is_not_taken_apart(tmp_path: Path) -> None:
    tiny.make_model().save_pretrained(tmp_path)
    found = shape(tmp_path, kind="lora")
    assert found.parts == () and found.learning_parts() == ""
