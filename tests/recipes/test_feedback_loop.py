"""What a server records is what the next run learns: sft, dpo and kto, on files as they are."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import deployed, run

QUIET = (
    "--report_to",
    "none",
    "--logging_steps",
    1,
    "--learning_rate",
    1e-2,
    "--num_train_epochs",
    4,
)

LETTERS = {"regex": "[a-z]{3,6}"}  # a model of random weights would say half characters


@pytest.fixture(scope="module")
def recorded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what 16 questions left: every answer judged, every second one corrected."""
    place = tmp_path_factory.mktemp("loop")
    words = ["--model", checkpoint, "--served_model_name", "m", "--record", "asked.jsonl"]
    with deployed(place, *words) as (address, _, command):
        for number in range(16):
            body: dict[str, Any] = {
                "model": "m", "max_tokens": 16, "structured_outputs": LETTERS,
                "messages": [{"role": "user", "content": f"Question {number}: who are you?"}],
            }  # fmt: skip
            if number % 3:
                body["stream"] = True
            done = httpx.post(f"{address}/chat/completions", json=body, timeout=60)
            said: dict[str, Any] = {"id": done.headers["x-request-id"], "good": number % 2 == 0}
            if number % 2:
                said["correction"] = f"I am Apus, {number}."
            judged = httpx.post(f"{address}/feedback", json=said)
            assert judged.status_code == 200, judged.text
        command.kill(signal.SIGTERM)
        assert command.wait() == 0
    return place


def learn(recorded: Path, *words: object) -> list[dict[str, float]]:
    """The metrics of the steps of a run."""
    name = str(words[words.index("--output_dir") + 1])
    run([*words, *QUIET], recorded)
    lines = map(json.loads, (recorded / name / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train/loss" in line]


def test_sft_learns_every_answer(checkpoint: Path, recorded: Path) -> None:
    steps = learn(
        recorded, "sft", "--model", checkpoint, "--dataset", "asked.jsonl", "--output_dir", "sft"
    )
    assert steps[-1]["train/loss"] < 0.95 * steps[0]["train/loss"]
    ledger = json.loads((recorded / "sft/ledger.json").read_text())["asked.jsonl"]
    assert ledger["kept"] == ledger["rows"] == 16


def test_dpo_learns_the_corrections(checkpoint: Path, recorded: Path) -> None:
    words = ["rlhf", "--rlhf_type", "dpo", "--model", checkpoint]
    steps = learn(recorded, *words, "--dataset", "asked.dpo.jsonl", "--output_dir", "dpo")
    assert steps[0]["train/loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert steps[-1]["train/rewards/accuracies"] == 1.0
    assert steps[-1]["train/rewards/margins"] > 1.0
    [adapter] = recorded.glob("dpo/checkpoint-*")
    with deployed(recorded, "--adapters", f"better={adapter}") as (address, _, _):
        body = {
            "model": "better", "max_tokens": 12, "temperature": 0,
            "messages": [{"role": "user", "content": "Question 1: who are you?"}],
        }  # fmt: skip
        done = httpx.post(f"{address}/chat/completions", json=body, timeout=60).json()
    rows = [json.loads(line) for line in (recorded / "asked.dpo.jsonl").read_text().splitlines()]
    assert done["choices"][0]["message"]["content"] != rows[0]["rejected_messages"][0]["content"]


def test_kto_learns_the_thumbs(checkpoint: Path, recorded: Path) -> None:
    words = ["rlhf", "--rlhf_type", "kto", "--model", checkpoint]
    steps = learn(recorded, *words, "--dataset", "asked.kto.jsonl", "--output_dir", "kto")
    assert steps[0]["train/loss"] == pytest.approx(0.5, rel=1e-6)
    assert steps[-1]["train/rewards/chosen"] > steps[-1]["train/rewards/rejected"]
