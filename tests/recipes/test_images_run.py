"""Images through the whole of it: rows, training, processes, answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import tiny
from processes import fail, run

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 230)}
FULL = ("--tuner_type", "full", "--freeze_vit", "false", "--freeze_aligner", "false")
SFT = ("--report_to", "none", "--logging_steps", 1, "--max_length", 128, "--learning_rate", 3e-3)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_vision_checkpoint(tmp_path_factory.mktemp("vision"))


def paint(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows about plain images with noise, which lie in a folder beside the rows' file."""
    random = np.random.default_rng(seed)
    (folder / "png").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        name = list(COLOURS)[number % 3]
        noise = random.integers(-30, 30, (40, 40, 3))
        pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        path = f"png/{seed}-{number}.png"
        Image.fromarray(pixels).save(folder / path)
        rows.append({"image": path, "text": "Which colour?", "answer": name})
    return rows


def losses(folder: Path, name: str) -> list[float]:
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.slow
def test_colours_are_learned_and_named(vision: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    tiny.write_rows(data / "train.jsonl", paint(data, 60))
    tiny.write_rows(data / "test.jsonl", paint(data, 18, seed=1))
    words = ["sft", "--model", vision, "--dataset", "data/train.jsonl", *SFT, *FULL,
             "--per_device_train_batch_size", 6, "--gradient_accumulation_steps", 1,
             "--num_train_epochs", 8, "--val_dataset", "data/test.jsonl",
             "--output_dir", "run"]  # fmt: skip
    run(words, tmp_path)
    checkpoint = max((tmp_path / "run").glob("checkpoint-*"))
    infer = ["infer", "--model", checkpoint, "--max_new_tokens", 8]
    run([*infer, "--val_dataset", "data/test.jsonl", "--result_path", "a.jsonl"], tmp_path)
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    right = [line["response"] == line["labels"] for line in answers]
    assert len(right) == 18 and sum(right) >= 17
    [part, _] = answers[0]["messages"][0]["content"]
    assert part == {"type": "image", "image": "data/png/1-0.png"}


def test_one_process_and_two_with_images_here_and_there(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 8)
    for i in range(8):  # so that of two processes one has images, the other has none
        rows.insert(2 * i + 1, {"query": f"Say {i}", "response": f"It is {i}."})
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, *FULL,
             "--dataset_shuffle", "false", "--max_steps", 4]  # fmt: skip
    one = ["--gradient_accumulation_steps", 4, "--output_dir", "one"]
    two = ["--gradient_accumulation_steps", 2, "--output_dir", "two"]
    run([*words, *one], tmp_path)
    run([*words, *two], tmp_path, 2)
    assert losses(tmp_path, "one") == pytest.approx(losses(tmp_path, "two"), rel=1e-5)


def test_packs_learn_what_single_samples_learn(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 6) + [{"query": "Say it", "response": "It is so."}] * 2
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, *FULL, "--max_steps", 3,
             "--dataset_shuffle", "false"]  # fmt: skip
    run([*words, "--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1,
         "--output_dir", "single"], tmp_path)  # fmt: skip
    run([*words, "--packing", "--packing_length", 1000, "--gradient_accumulation_steps", 1,
         "--output_dir", "packed"], tmp_path)  # fmt: skip
    assert losses(tmp_path, "single") == pytest.approx(losses(tmp_path, "packed"), rel=1e-4)


def test_workers_and_a_stream_make_the_same_batches(vision: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", paint(tmp_path, 8))
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, "--max_steps", 3,
             "--dataset_shuffle", "false", "--gradient_accumulation_steps", 2]  # fmt: skip
    run([*words, "--output_dir", "plain"], tmp_path)
    run([*words, "--dataloader_num_workers", 2, "--output_dir", "workers"], tmp_path)
    run([*words, "--streaming", "--output_dir", "stream"], tmp_path)
    assert losses(tmp_path, "plain") == losses(tmp_path, "workers") == losses(tmp_path, "stream")


def test_prepared_images_are_kept_on_disk(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 6)
    tiny.write_rows(tmp_path / "rows.jsonl", [*rows, *rows])
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, "--max_steps", 3,
             "--gradient_accumulation_steps", 2]  # fmt: skip
    run([*words, "--output_dir", "plain"], tmp_path)
    kept = ["--media_cache", "--media_memory_mib", 0, "--dataloader_num_workers", 2]
    place = {"SWIFT_CACHE": str(tmp_path / "cache")}
    run([*words, *kept, "--output_dir", "kept"], tmp_path, **place)
    assert losses(tmp_path, "plain") == losses(tmp_path, "kept")
    assert len(list((tmp_path / "cache/media").glob("*.safetensors"))) == 6
    run([*words, *kept, "--media_cache_gib", 0.00003, "--output_dir", "small"], tmp_path, **place)
    assert len(list((tmp_path / "cache/media").glob("*.safetensors"))) == 2


def test_boxes_are_written_as_asked_for(vision: Path, tmp_path: Path) -> None:
    [row] = paint(tmp_path, 1)
    objects = {"ref": ["a wall"], "bbox": [[10, 10, 20, 40]]}
    turns = [
        {"role": "user", "content": "<image>Find <ref-object>"},
        {"role": "assistant", "content": "At <bbox>"},
    ]
    outside = {**objects, "bbox": [[10, 10, 20, 41]]}
    tiny.write_rows(tmp_path / "rows.jsonl", [
        {"messages": turns, "images": [row["image"]], "objects": one} for one in (objects, outside)
    ])  # fmt: skip
    words = ["check", "--model", vision, "--dataset", "rows.jsonl", "--max_length", 128]
    text = run(words, tmp_path)
    assert "At [250, 250, 500, 1000]" in text and "Find a wall" in text
    assert "rows.jsonl:2: the box [10.0, 10.0, 20.0, 41.0] is outside" in " ".join(text.split())
    assert "At [(250,250),(500,1000)]" in run([*words, "--bbox_format", "pairs"], tmp_path)


def test_images_that_cannot_be_read_are_in_the_ledger(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 4)
    (tmp_path / rows[1]["image"]).write_bytes(b"")
    (tmp_path / rows[2]["image"]).unlink()
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["check", "--model", vision, "--dataset", "rows.jsonl", "--max_length", 128]
    text = run(words, tmp_path)
    assert "2 to train on" in text
    assert "rows.jsonl:2: " in text and "rows.jsonl:3: " in text
    paint(tmp_path, 4)  # there by now
    assert "4 to train on" in run(words, tmp_path)


def test_an_image_that_goes_away_is_named(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 4)
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, "--max_steps", 2,
             "--gradient_accumulation_steps", 4, "--output_dir", "run"]  # fmt: skip
    run(["check", *words[1:]], tmp_path)
    (tmp_path / rows[3]["image"]).unlink()
    _, text = fail(words, tmp_path)
    assert "rows.jsonl:4: " in text and "0-3.png" in text


def test_samples_with_images_are_never_cut(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 2)
    rows[0]["answer"] = "red, and " * 40
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["check", "--model", vision, "--dataset", "rows.jsonl", "--max_length", 60]
    for how in ("cut-left", "cut-right", "split", "drop"):
        text = run([*words, "--truncation_strategy", how], tmp_path)
        assert "1 to train on" in text and "rows.jsonl:1: too long" in text


def test_a_model_of_text_alone_says_so(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", paint(tmp_path, 2))
    code, text = fail(["check", "--model", checkpoint, "--dataset", "rows.jsonl"], tmp_path)
    assert code != 0 and "takes text alone" in text


def test_each_part_learns_at_its_own_rate(vision: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", paint(tmp_path, 4))
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, *FULL, "--max_steps", 2,
             "--weight_decay", 0, "--gradient_accumulation_steps", 2, "--warmup_ratio", 0,
             "--lr_scheduler_type", "constant"]  # fmt: skip
    text = run([*words, "--vit_lr", 3e-5, "--aligner_lr", 3e-4, "--output_dir", "run"], tmp_path)
    assert "in the vision part" in text
    before = load_file(vision / "model.safetensors")
    after = load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    # Adam's first steps are about as long as the rate
    for part, rate in (("vision_tower", 3e-5), ("projector", 3e-4), ("language_model", 3e-3)):
        most = max(value for name, value in moved.items() if part in name)
        assert most == pytest.approx(2 * rate, rel=0.3), part
    code, text = fail([*words, "--freeze_vit", "true", "--vit_lr", 1e-4], tmp_path)
    assert code == 2 and "--vit_lr: no tower learns" in text


def test_frozen_parts_stay_as_they_are(vision: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", paint(tmp_path, 4))
    words = ["sft", "--model", vision, "--dataset", "rows.jsonl", *SFT, "--max_steps", 2,
             "--gradient_accumulation_steps", 2, "--tuner_type", "full"]  # fmt: skip
    run([*words, "--output_dir", "run"], tmp_path)
    before = load_file(vision / "model.safetensors")
    after = load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    same = {name: bool((after[name] == before[name]).all()) for name in before}
    assert all(same[name] for name in same if "vision" in name or "projector" in name)
    assert not any(
        same[name] for name in same if "layers.0.self_attn.q_proj" in name and "lang" in name
    )


def test_rows_with_images_are_verified(vision: Path, tmp_path: Path) -> None:
    rows = paint(tmp_path, 3)
    (tmp_path / rows[1]["image"]).unlink()
    pair = {
        "prompt": "<image>Which?",
        "chosen": "red",
        "rejected": "blue",
        "images": ["png/0-0.png"],
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "png").rename(tmp_path / "data/png")
    tiny.write_rows(tmp_path / "data/rows.jsonl", [*rows, pair])
    text = run(["verify", "--model", vision, "--dataset", "data/rows.jsonl"], tmp_path)
    flat = " ".join(text.split())
    assert "4 rows: conversation 3, preference 1" in flat
    assert "rows.jsonl:2: " in flat and "0-1.png" in flat
    assert "rows.jsonl:1: same tokens: not comparable" in flat
