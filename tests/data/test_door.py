"""Rows and batches for scripts: a run's samples, with the tensors of the processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

import swift
import tiny
from swift.chat.message import Media, Message
from swift.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    made = []
    for i in range(5):
        pixels = random.integers(0, 255, (40, 30 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        made.append({"image": f"{i}.png", "text": f"What is {i}?", "answer": f"It is {i}."})
    made.append({"query": "Who?", "response": "Me."})
    return tiny.write_rows(folder / "rows.jsonl", made)


def test_rows_of_a_file(rows: Path) -> None:
    data = swift.load_dataset(str(rows))
    assert len(data) == 6
    assert data[0].messages == (
        Message("user", (Media("image", str(rows.parent / "0.png")), "What is 0?")),
        Message("assistant", "It is 0."),
    )
    assert data[-1].messages[1].content == "Me." and len(data[1:3]) == 2
    assert data.place(5) == f"{rows}:6"
    assert len(swift.load_dataset(f"{rows}#2")) == 2
    with pytest.raises(ConfigError):
        swift.load_dataset("no/such/thing.jsonl")


def test_rows_that_cannot_be_understood_are_named(tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "a.jsonl", [{"query": "a", "response": "b"}, {"x": 1}])
    data = swift.load_dataset(str(file))
    assert len(data) == 2 and data[0].messages[0].content == "a"
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        data[1]


def images_of(rows: Path, vision: Path, names: list[str]) -> torch.Tensor:
    opened = [Image.open(rows.parent / name) for name in names]
    processor = AutoProcessor.from_pretrained(vision)
    found: torch.Tensor = processor.image_processor(opened, return_tensors="pt")["pixel_values"]
    return found


@pytest.mark.parametrize("whole", [True, False])
def test_batches_are_what_the_processor_makes(rows: Path, vision: Path, whole: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(vision)
    kind: Any = AutoProcessor if whole else AutoImageProcessor
    options: Any = {} if whole else {"backend": "pil"}
    loader = swift.MultiModalDataLoader(
        swift.load_dataset(str(rows)), kind.from_pretrained(vision, **options), tokenizer,
        batch_size=4, shuffle=False, max_length=200,
    )  # fmt: skip
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    names = [[f"{i}.png" for i in range(4)], ["4.png"]]
    for batch, some in zip(batches, names, strict=True):
        assert torch.equal(batch.media["pixel_values"], images_of(rows, vision, some))
    assert batches[0].tokens.shape[0] == 4 and not batches[0].packed
    learned = tokenizer.decode(batches[0].targets_N)
    assert learned == "".join(f"It is {i}.<|im_end|>" for i in range(4))


def test_epochs_and_packs(rows: Path, vision: Path) -> None:
    processor, tokenizer = (
        AutoProcessor.from_pretrained(vision),
        AutoTokenizer.from_pretrained(vision),
    )
    data = [json.loads(line) for line in rows.read_text().splitlines()]
    data = [
        {**row, "image": str(rows.parent / row["image"])} if "image" in row else row for row in data
    ]
    loader = swift.MultiModalDataLoader(
        data, processor, tokenizer, packing_length=150, max_length=150
    )
    epochs = [[place for batch in loader for place in batch.places] for _ in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs) and len(epochs[0]) == 6
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert all(batch.packed and batch.tokens.shape[1] <= 150 for batch in loader)
    assert loader.ledger.unused == 0


def test_an_image_processor_alone_needs_its_checkpoint(rows: Path, vision: Path) -> None:
    alone = AutoProcessor.from_pretrained(vision).image_processor
    with pytest.raises(ConfigError, match="whole processor"):
        swift.MultiModalDataLoader(str(rows), alone, tiny.make_tokenizer())
