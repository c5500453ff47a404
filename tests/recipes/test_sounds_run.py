"""Sounds and videos through the whole of it: rows, packs with texts, processes, answers."""

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

soundfile = pytest.importorskip("soundfile", reason="pip install 'swift-llm[media]'")

FULL = ("--tuner_type", "full", "--freeze_vit", "false", "--freeze_aligner", "false")
SFT = ("--report_to", "none", "--logging_steps", 1, "--learning_rate", 3e-3, "--max_length", 200,
       "--gradient_accumulation_steps", 1)  # fmt: skip


def tones(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows about tones of half a second, high or low; each third row is a text alone."""
    random = np.random.default_rng(0)
    (folder / "wav").mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(count):
        if number % 3 == 2:
            rows.append({"query": f"Say {number}.", "response": str(number)})
            continue
        high = bool(random.random() < 0.5)
        wave = np.sin(np.arange(8000) / 16_000 * 2 * np.pi * (2000 if high else 300))
        samples = (wave * 0.3 + random.normal(0, 0.02, len(wave))).astype(np.float32)
        soundfile.write(folder / f"wav/{number}.wav", samples, 16_000)
        answer = "high" if high else "low"
        rows.append({"audio": f"wav/{number}.wav", "text": "High or low?", "answer": answer})
    return rows


def films(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows about videos that are given as their frames."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        names = []
        for frame in range(3):
            path = folder / f"{number}-{frame}.png"
            Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
            names.append(path.name)
        rows.append({"videos": [names], "query": "<video>What?", "response": str(number % 3)})
    return rows


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heard")
    tiny.save_audio_checkpoint(folder / "model")
    tiny.write_rows(folder / "rows.jsonl", tones(folder, 24))
    words = ["sft", "--model", "model", "--dataset", "rows.jsonl", *SFT, *FULL, "--max_steps", 3,
             "--packing", "true"]  # fmt: skip
    run([*words, "--per_device_train_batch_size", 2, "--output_dir", "one"], folder)
    run([*words, "--output_dir", "two"], folder, processes=2)
    return folder


def test_sounds_and_texts_are_learned_in_packs(heard: Path) -> None:
    before = load_file(heard / "model/model.safetensors")
    after = load_file(heard / "one/checkpoint-3/model.safetensors")
    for part in ("audio_tower", "multi_modal_projector", "language_model"):
        assert any(not before[n].equal(after[n]) for n in before if part in n), part


def test_two_processes_hear_what_one_hears(heard: Path) -> None:
    assert losses(heard / "two") == pytest.approx(losses(heard / "one"), rel=1e-4)


def test_questions_about_sounds_are_answered(heard: Path) -> None:
    words = ["infer", "--model", "one/checkpoint-3", "--val_dataset", "rows.jsonl#6"]
    run([*words, "--max_new_tokens", 3, "--result_path", "answers.jsonl"], heard)
    lines = [json.loads(line) for line in (heard / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and not any("error" in line for line in lines)


def test_videos_are_learned_as_their_frames(tmp_path: Path) -> None:
    tiny.save_vision_checkpoint(tmp_path / "model")
    tiny.write_rows(tmp_path / "rows.jsonl", films(tmp_path, 6))
    words = ["sft", "--model", "model", "--dataset", "rows.jsonl", *SFT, *FULL, "--max_steps", 2,
             "--per_device_train_batch_size", 3, "--output_dir", "run"]  # fmt: skip
    run([*words, "--max_frames", 2], tmp_path)
    told = run(["check", *words[1:-2], "--max_frames", 2], tmp_path)
    assert "<image>" in told
    assert len(losses(tmp_path / "run")) == 2


def test_a_sound_that_is_no_sound_is_named(tmp_path: Path) -> None:
    tiny.save_audio_checkpoint(tmp_path / "model")
    (tmp_path / "a.wav").write_bytes(b"RIFF, or not")
    row = {"audio": "a.wav", "text": "High or low?", "answer": "low"}
    tiny.write_rows(tmp_path / "rows.jsonl", [row])
    code, said = fail(["sft", "--model", "model", "--dataset", "rows.jsonl", *SFT], tmp_path)
    assert code == 2 and "a.wav" in said
