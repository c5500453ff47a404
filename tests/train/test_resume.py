"""A run that was killed and goes on ends with the same weights, hash for hash."""

from __future__ import annotations

import hashlib
import json
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from processes import Command, fail, run, start
from swift.train.checkpoint import checkpoints


@dataclass(frozen=True)
class Case:
    name: str
    flags: tuple[object, ...]
    processes: int = 1


COMMON = (
    "--per_device_train_batch_size", 2, "--num_train_epochs", 2, "--save_steps", 3,
    "--logging_steps", 2, "--learning_rate", 1e-3, "--warmup_ratio", 0.1, "--report_to", "none",
)  # fmt: skip

CASES = [
    Case("lora-dropout", ("--lora_dropout", 0.2, "--gradient_accumulation_steps", 3)),
    Case("full", ("--tuner_type", "full", "--gradient_accumulation_steps", 2)),
    Case(
        "packing-workers",
        ("--packing", "--max_length", 160, "--dataloader_num_workers", 2,
         "--gradient_accumulation_steps", 1, "--split_dataset_ratio", 0.2, "--eval_steps", 2),
    ),
    Case(
        "checkpointed",
        ("--lora_dropout", 0.2, "--gradient_checkpointing", "true", "--attn_impl", "sdpa",
         "--gradient_accumulation_steps", 2, "--lr_scheduler_type", "wsd"),
    ),
    Case("two-processes", ("--lora_dropout", 0.2, "--gradient_accumulation_steps", 2), 2),
    Case(
        "two-processes-sharded",
        ("--tuner_type", "full", "--gradient_accumulation_steps", 2, "--fsdp", "fsdp2"),
        2,
    ),
]  # fmt: skip


def sft(checkpoint: Path, rows: Path, case: Case, *more: object) -> list[object]:
    return ["sft", "--model", checkpoint, "--dataset", rows, *COMMON, *case.flags, *more]


def last(folder: Path) -> Path:
    return max(checkpoints(folder))[1]


def digest(folder: Path) -> dict[str, str]:
    """The hash of every file of weights and of the optimizer in a run's last checkpoint."""
    return {
        str(file.relative_to(last(folder))): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(last(folder).rglob("*"))
        if file.suffix in (".safetensors", ".distcp")
    }


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(r["step"], r["train/loss"]) for r in map(json.loads, lines) if "train/loss" in r]


def steps_done(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def complete(folder: Path) -> bool:
    """Every checkpoint under its name is whole."""
    return all(
        (path / "trainer/state.json").exists() and (path / "config.yaml").exists()
        for _, path in checkpoints(folder)
    )


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def whole(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Path, Path]:
    """A run that nobody disturbed."""
    import tiny

    case: Case = request.param
    folder = tmp_path_factory.mktemp(case.name)
    rows = tiny.write_rows(folder / "chats.jsonl", tiny.chats(41))
    run(sft(checkpoint, rows, case, "--output_dir", "whole"), folder, case.processes)
    return case, rows, folder / "whole"


def interrupt(command: Command, folder: Path, seed: int) -> None:
    """Kill at a random moment after a random step."""
    chance = random.Random(seed)
    step = chance.choice([2, 4, 5, 6, 8])
    command.wait_for(lambda: steps_done(folder) >= step)
    pause = chance.random() * 0.05
    command.processes[0].join(pause)
    command.kill()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_run_ends_with_the_same_bits(
    whole: tuple[Case, Path, Path], checkpoint: Path, tmp_path: Path, seed: int
) -> None:
    case, rows, reference = whole
    words = sft(checkpoint, rows, case, "--output_dir", "run", "--resume", "true")
    for kill in range(2):
        command = start(words, tmp_path, case.processes)
        interrupt(command, tmp_path / "run", seed * 10 + kill)
        assert complete(tmp_path / "run")
    run(words, tmp_path, case.processes)
    assert digest(tmp_path / "run") == digest(reference)
    assert losses(tmp_path / "run") == losses(reference)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_killed_run_leaves_no_process_behind(
    method: str, checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    words = sft(checkpoint, rows, CASES[2], "--output_dir", "run", "--num_train_epochs", 50)
    command = start(words, tmp_path, START_METHOD=method)
    command.wait_for(lambda: steps_done(tmp_path / "run") >= 2)
    helpers = psutil.Process(command.processes[0].pid).children(recursive=True)
    command.kill()
    assert len(helpers) >= 2
    assert not psutil.wait_procs(helpers, timeout=20)[1]


@pytest.mark.slow
def test_a_run_killed_while_saving_keeps_whole_checkpoints(
    whole: tuple[Case, Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    case, rows, reference = whole
    words = sft(checkpoint, rows, case, "--output_dir", "run", "--resume", "--save_total_limit", 1)
    for step in (3, 6, 9):
        command = start(words, tmp_path, case.processes)
        part = tmp_path / "run" / f".checkpoint-{step}.part"
        command.wait_for(part.exists)
        command.kill()
        assert complete(tmp_path / "run")
    run(words, tmp_path, case.processes)
    assert digest(tmp_path / "run") == digest(reference)
    assert not list((tmp_path / "run").glob(".checkpoint-*"))


def test_sigterm_saves_and_the_run_goes_on_to_the_same_bits(
    whole: tuple[Case, Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    case, rows, reference = whole
    words = sft(checkpoint, rows, case, "--output_dir", "run", "--save_steps", 1000)
    command = start(words, tmp_path, case.processes)
    command.wait_for(lambda: steps_done(tmp_path / "run") >= 4)
    command.kill(signal.SIGTERM)
    assert command.wait() == 0, command.text()
    assert "stopped as asked" in command.text()
    step = max(checkpoints(tmp_path / "run"))[0]
    assert 4 <= step < max(checkpoints(reference))[0]
    run([*words, "--resume", "true"], tmp_path, case.processes)
    assert digest(tmp_path / "run") == digest(reference)


def test_resume_refuses_other_data(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    case = CASES[0]
    run(sft(checkpoint, rows, case, "--output_dir", "run", "--max_steps", 3), tmp_path)
    with rows.open("a") as file:
        file.write(rows.read_text().splitlines()[0] + "\n")
    words = sft(checkpoint, rows, case, "--output_dir", "run", "--resume", "true")
    code, text = fail(words, tmp_path)
    assert code == 1
    assert "would see other samples" in text and "samples" in text


def test_resume_without_a_checkpoint_begins_anew(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    words = sft(checkpoint, rows, CASES[0], "--output_dir", "run", "--max_steps", 2, "--resume")
    text = run(words, tmp_path)
    assert (tmp_path / "run/checkpoint-2").is_dir()
    assert "resume" not in text.splitlines()[0]
