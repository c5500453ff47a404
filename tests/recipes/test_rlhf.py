"""``swift rlhf`` end to end, on a tiny model: every kind, every reference, resumed, on two
processes.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import tiny
from processes import fail, run
from swift.chat.load import renderer_for
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.config.model import ModelSection

QUIET = ("--report_to", "none", "--logging_steps", 1, "--learning_rate", 1e-2)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """24 preferences; the better answers begin alike."""
    rows = []
    for i in range(24):
        asked = {"role": "user", "content": f"Question {i}: " + "what is it? " * (1 + i % 5)}
        better = {"role": "assistant", "content": f"Paris, {i}."}
        worse = "I do not know. " * (1 + i % 3)
        rows.append({"messages": [asked, better], "rejected_response": worse})
    return tiny.write_rows(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """24 answers, every second of them good."""
    rows: list[dict[str, Any]] = []
    for i in range(24):
        asked = {"role": "user", "content": f"Question {i // 2}: what is it?"}
        said = f"Paris, {i}." if i % 2 else "I do not know."
        messages = [asked, {"role": "assistant", "content": said}]
        rows.append({"messages": messages, "label": bool(i % 2)})
    return tiny.write_rows(tmp_path / "answers.jsonl", rows)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name.removeprefix("train/"): value for name, value in json.loads(line).items()}
        for line in lines
    ]


def train(
    where: Path, model: Path, data: Path, *words: object, **more: Any
) -> list[dict[str, float]]:
    name = str(words[words.index("--output_dir") + 1])
    run(["rlhf", "--model", model, "--dataset", data, *QUIET, *words], where, **more)
    return metrics(where / name)


@pytest.mark.parametrize("kind", ["dpo", "cpo", "simpo", "orpo", "rm"])
def test_pairs_are_learned(kind: str, checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    words = ["--rlhf_type", kind, "--max_steps", 6, "--split_dataset_ratio", 0.2]
    lines = train(tmp_path, checkpoint, pairs, *words, "--output_dir", "run")
    steps = [line for line in lines if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["rewards/accuracies"] == 1.0
    assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"]
    judged = [line for line in lines if "eval/loss" in line]
    assert judged[-1]["eval/rewards/accuracies"] == 1.0
    assert steps[0]["learned_pairs"] == 16
    if kind == "dpo":
        assert steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
        assert steps[0]["rewards/chosen"] == 0.0


def test_single_answers_are_learned(checkpoint: Path, answers: Path, tmp_path: Path) -> None:
    words = ["--rlhf_type", "kto", "--max_steps", 8, "--output_dir", "run"]
    lines = train(tmp_path, checkpoint, answers, *words)
    assert lines[0]["loss"] == pytest.approx(0.5, rel=1e-6) and lines[0]["kl"] == 0.0
    assert lines[-1]["loss"] < 0.45
    assert lines[-1]["rewards/chosen"] > 0 > lines[-1]["rewards/rejected"]


@pytest.mark.slow
def test_every_reference_is_the_same_model(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    """Without the adapter, as a second model, and asked before the start."""
    ways = {
        "adapter": [],
        "second": ["--ref_model", checkpoint],
        "before": ["--precompute_ref_log_probs", "true"],
    }
    found = {
        name: train(tmp_path, checkpoint, pairs, *words, "--max_steps", 4, "--output_dir", name)
        for name, words in ways.items()
    }
    for name in ("second", "before"):
        for mine, first in zip(found[name], found["adapter"], strict=True):
            for key in ("loss", "grad_norm", "rewards/margins"):
                assert mine[key] == pytest.approx(first[key], rel=1e-4, abs=1e-5)
    words = ["--tuner_type", "full", "--max_steps", 3]
    full = train(tmp_path, checkpoint, pairs, *words, "--output_dir", "full")
    words += ["--precompute_ref_log_probs", "true", "--output_dir", "full-before"]
    again = train(tmp_path, checkpoint, pairs, *words)
    for mine, first in zip(again, full, strict=True):
        assert mine["loss"] == pytest.approx(first["loss"], rel=1e-4)
    words += ["--output_dir", "once-more"]
    log = run(["rlhf", "--model", checkpoint, "--dataset", pairs, *QUIET, *words], tmp_path)
    assert "asking the reference about 24" in log


def test_an_adapter_that_is_trained_on_is_its_own_reference(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    train(tmp_path, checkpoint, pairs, "--max_steps", 3, "--output_dir", "first")
    adapter = tmp_path / "first/checkpoint-3"
    words = ["--max_steps", 2, "--adapters", adapter, "--output_dir", "second"]
    lines = train(tmp_path, checkpoint, pairs, *words)
    assert lines[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    before, after = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (adapter, tmp_path / "second/checkpoint-2")
    )
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)
    words = ["--max_steps", 2, "--adapters", adapter, "--output_dir", "third"]
    other = train(tmp_path, checkpoint, pairs, *words, "--ref_adapters", adapter)
    assert other[1]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    words = ["--num_train_epochs", 2, "--save_steps", 2, "--packing", "true", "--max_length", 200]
    train(tmp_path, checkpoint, pairs, *words, "--output_dir", "whole")
    train(tmp_path, checkpoint, pairs, *words, "--output_dir", "cut")
    last = max((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    assert last.name != "checkpoint-2"
    shutil.rmtree(last)
    train(tmp_path, checkpoint, pairs, *words, "--output_dir", "cut", "--resume", "true")
    ours, theirs = (
        load_file(tmp_path / name / last.name / "adapter_model.safetensors")
        for name in ("cut", "whole")
    )
    assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "kto", "rm"])
def test_two_processes_equal_one(
    kind: str, checkpoint: Path, pairs: Path, answers: Path, tmp_path: Path
) -> None:
    data = answers if kind == "kto" else pairs
    words = ["--rlhf_type", kind, "--max_steps", 3, "--output_dir"]
    steps = ["--gradient_accumulation_steps"]
    one = train(tmp_path, checkpoint, data, *words, "one", *steps, 8)
    two = train(tmp_path, checkpoint, data, *words, "two", *steps, 4, processes=2)
    for mine, first in zip(two, one, strict=True):
        for key in ("loss", "grad_norm", "rewards/chosen"):
            assert mine[key] == pytest.approx(first[key], rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_sharded_model_and_its_reference_equal_whole_ones(
    tuner: str, checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    words = ["--tuner_type", tuner, "--max_steps", 3, "--output_dir"]
    steps = ["--gradient_accumulation_steps"]
    one = train(tmp_path, checkpoint, pairs, *words, "one", *steps, 8)
    sharded = ["two", *steps, 4, "--deepspeed", "zero3"]
    two = train(tmp_path, checkpoint, pairs, *words, *sharded, processes=2)
    for mine, first in zip(two, one, strict=True):
        for key in ("loss", "grad_norm", "rewards/chosen"):
            assert mine[key] == pytest.approx(first[key], rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_transformers_loads_a_reward_model_and_gives_its_scores(
    tuner: str, checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    words = ["--rlhf_type", "rm", "--tuner_type", tuner, "--max_steps", 3, "--output_dir", "run"]
    lines = train(tmp_path, checkpoint, pairs, *words, "--val_dataset", pairs)
    folder = tmp_path / "run/checkpoint-3"
    if tuner == "full":
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    else:
        torch.manual_seed(0)
        base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
        model = PeftModel.from_pretrained(base, str(folder))
    model.eval()
    assert model.config.num_labels == 1
    renderer = renderer_for(checkpoint, ModelSection(path=str(checkpoint)))
    scores = {"chosen": [], "rejected": []}
    for line in pairs.read_text().splitlines():
        row = json.loads(line)
        asked, better = row["messages"]
        for name, said in (("chosen", better["content"]), ("rejected", row["rejected_response"])):
            tokens = spoken(renderer, asked["content"], said)
            with torch.no_grad():
                scores[name].append(float(model(torch.tensor([tokens])).logits[0, 0]))
    judged = next(line for line in lines if "eval/loss" in line)
    for name, found in scores.items():
        assert sum(found) / 24 == pytest.approx(judged[f"eval/rewards/{name}"], rel=1e-4, abs=1e-5)


def spoken(renderer: Renderer, asked: str, said: str) -> list[int]:
    """Prompt and answer up to its stop token."""
    turns = (Message("user", asked), Message("assistant", said))
    (found,) = renderer.render(Conversation(turns), "last_round")
    last = max(i for i, weight in enumerate(found.weights) if weight)
    return list(found.tokens[: last + 1])


def test_a_pair_is_kept_cut_or_dropped_as_a_whole(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[3]["rejected_response"] = "far too long " * 40
    rows[5]["messages"][1]["content"] = "far too long " * 40
    rows[7] = {"messages": rows[7]["messages"]}
    tiny.write_rows(pairs, rows)
    for how, kept in (("delete", 21), ("right", 23)):
        words = ["--max_steps", 1, "--max_length", 150, "--truncation_strategy", how]
        train(tmp_path, checkpoint, pairs, *words, "--output_dir", how)
        ledger = json.loads((tmp_path / how / "ledger.json").read_text())
        text = json.dumps(ledger)
        assert f'"samples": {kept}' in text, text
        assert "pairs.jsonl:8" in text
    words = ["--max_length", 150, "--truncation_strategy", "raise", "--output_dir", "no"]
    code, text = fail(["rlhf", "--model", checkpoint, "--dataset", pairs, *words], tmp_path)
    assert code == 2 and "pairs.jsonl:4" in text and "more than max_length 150" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loss_type", "sigmoyd"], "'sigmoyd' is not one of sigmoid, hinge"),
        (["--loss_type", "sigmoid", "sft", "--loss_weights", "1"], "1 given for 2 losses"),
        (["--loss_type", "aot", "--f_divergence_type", "forward_kl"], "reverse_kl alone"),
        (["--truncation_strategy", "split"], "--truncation_strategy"),
        (["--rlhf_type", "dpo2"], "dpo, kto, cpo, simpo, orpo, rm"),
        (["--precompute_ref_log_probs", "true", "--deepspeed", "zero3"], "sharded"),
    ],
)
def test_what_cannot_be_is_said_before_the_start(
    words: list[str], said: str, checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    code, text = fail(["rlhf", "--model", checkpoint, "--dataset", pairs, *words], tmp_path)
    assert code == 2 and said in text


def test_flags_of_another_kind_are_noted(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    words = ["--rlhf_type", "orpo", "--simpo_gamma", 1, "--dry_run", "--beta", 0.2]
    text = run(["rlhf", "--model", checkpoint, "--dataset", pairs, *words], tmp_path)
    assert "--simpo_gamma: not used with rlhf.kind orpo" in text


def test_the_rows_of_a_step_are_traced(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    train(tmp_path, checkpoint, pairs, "--max_steps", 2, "--output_dir", "run")
    text = run(["trace", "run", "--step", 2], tmp_path)
    assert "8 learned pairs, as metrics.jsonl says" in text and "8 samples" in text


def test_a_loss_of_ones_own(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from swift import registry\n"
        "registry.register('pair loss', 'mine', f'{__name__}:mine')\n"
        "def mine(pairs, section):\n"
        "    return (pairs.rejected_ratio - pairs.chosen_ratio).exp()\n"
    )
    words = ["--external_plugins", "mine.py", "--loss_type", "mine", "--max_steps", 1]
    lines = train(tmp_path, checkpoint, pairs, *words, "--output_dir", "run")
    assert lines[0]["loss"] == pytest.approx(1.0)


def test_pairs_with_images_are_learned(tmp_path: Path) -> None:
    model = tiny.save_vision_checkpoint(tmp_path / "llava")
    rows = []
    for i in range(6):
        Image.new("RGB", (32, 32), (40 * i, 9, 200)).save(tmp_path / f"{i}.png")
        asked = {"role": "user", "content": f"<image>What is {i}?"}
        messages = [asked, {"role": "assistant", "content": f"It is {i}."}]
        rows.append({"messages": messages, "images": [f"{i}.png"], "rejected_response": "No."})
    data = tiny.write_rows(tmp_path / "seen.jsonl", rows)
    words = ["--max_steps", 3, "--output_dir", "run"]
    text = run(["rlhf", "--model", model, "--dataset", data, *QUIET, *words], tmp_path)
    assert "prompts are not shared: rows hold media" in text
    lines = metrics(tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert lines[-1]["loss"] < 0.5


def test_attention_without_branches_reads_both_texts(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    words = ["--max_steps", 2, "--output_dir"]
    branched = train(tmp_path, checkpoint, pairs, *words, "branched")
    words += ["plain", "--attn_impl", "sdpa"]
    text = run(["rlhf", "--model", checkpoint, "--dataset", pairs, *QUIET, *words], tmp_path)
    assert "prompts are not shared: sdpa attention has no branches" in text
    for mine, first in zip(metrics(tmp_path / "plain"), branched, strict=True):
        for key in ("loss", "grad_norm", "rewards/margins"):
            assert mine[key] == pytest.approx(first[key], rel=1e-4, abs=1e-5)
