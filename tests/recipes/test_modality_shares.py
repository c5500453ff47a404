"""Images and texts in the shares that are asked for, through training and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from processes import fail, run
from recipes.test_images_run import FULL, SFT, losses, paint


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows with images and twelve without, one kind behind the other."""
    place = tmp_path_factory.mktemp("rows")
    texts = [{"query": f"Say {i}", "response": f"It is {i}."} for i in range(12)]
    tiny.write_rows(place / "rows.jsonl", [*paint(place, 4), *texts])
    return place


def places(folder: Path, name: str, step: int) -> list[int]:
    """Lines of the rows of a step, by swift trace."""
    text = run(["trace", name, "--step", step], folder)
    rows = [word for word in text.split() if word.startswith("rows.jsonl:")]
    return [int(row.rpartition(":")[2].strip(",")) for row in rows]


def test_one_process_two_and_a_resumed_run(vision: Path, folder: Path) -> None:
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, *FULL,
             "--modality_shares", "image=0.5", "text=0.5", "--save_steps", 2]  # fmt: skip
    steps = ["--max_steps", 6, "--lr_scheduler_type", "constant"]
    one = ["--gradient_accumulation_steps", 4, "--output_dir", "one"]
    text = run([*words, *steps, *one], folder)
    assert "by modality: image 50% (4 an epoch, of 4), text 50% (4 an epoch, of 12)" in text
    two = ["--gradient_accumulation_steps", 2, "--output_dir", "two"]
    run([*words, *steps, *two], folder, 2)
    assert losses(folder, "one") == pytest.approx(losses(folder, "two"), rel=1e-5)
    for step in (1, 2, 3):
        lines = places(folder, "one", step)
        assert len(lines) == 4 and sum(line <= 4 for line in lines) == 2, lines
    run([*words, "--max_steps", 4, *steps[2:], *one[:2], "--output_dir", "cut"], folder)
    resume = ["--resume_from_checkpoint", "cut/checkpoint-4"]
    run([*words, *steps, *one[:2], "--output_dir", "cut", *resume], folder)
    assert losses(folder, "one") == pytest.approx(losses(folder, "cut"), rel=1e-6)


def test_packs_hold_one_modality(vision: Path, folder: Path) -> None:
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, "--packing",
             "--packing_length", 128, "--modality_shares", json.dumps({"image": 1, "text": 1}),
             "--max_steps", 2, "--gradient_accumulation_steps", 2, "--output_dir",
             "packs"]  # fmt: skip
    run(words, folder)
    for step in (1, 2):
        lines = places(folder, "packs", step)
        assert 0 < sum(line <= 4 for line in lines) < len(lines)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["image=1"], "the samples are of image, text: give each of these a share"),
        (["image=0", "text=1"], "every share should be above 0"),
        (["image", "text=1"], "write a share as name=number"),
        (["image=x", "text=1"], "--modality_shares"),
        (["image=1", "text=1", "--group_by_length"], "give one of the two"),
        (["image=1", "text=1", "--interleave_prob", 1], "give one of the two"),
        (["image=1", "text=1", "--streaming", "--max_steps", 3], "of a stream they are not known"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    vision: Path, folder: Path, words: list[object], why: str
) -> None:
    base = ["check", "--model", vision, "--dataset", "rows.jsonl", "--max_length", 128]
    code, text = fail([*base, "--modality_shares", *words], folder)
    assert code == 2 and why in " ".join(text.split())
