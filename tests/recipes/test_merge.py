from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from processes import fail, run
from swift.chat.message import Message
from swift.models.save import saved_keys
from swift.rl.rewards.model import judging


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    folder = tmp_path_factory.mktemp("merge")
    rows = tiny.write_rows(folder / "chats.jsonl", tiny.chats(20))
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--learning_rate", 1e-2]
    run([*words, "--max_steps", 5, "--output_dir", "run", "--report_to", "none"], folder)
    return folder / "run/checkpoint-5"


@pytest.mark.parametrize("words", [["merge-lora"], ["export", "--merge_lora", "true"]])
def test_the_merged_folder_is_a_plain_model_that_equals_model_and_adapter(
    adapter: Path, checkpoint: Path, tmp_path: Path, words: list[str]
) -> None:
    text = run([*words, "--adapters", adapter, "--output_dir", "merged"], tmp_path)
    assert "roundings of the exact sum" in text
    tokens = torch.randint(0, 400, (2, 30))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    plain = base(input_ids=tokens).logits
    beside = PeftModel.from_pretrained(base, adapter)(input_ids=tokens).logits
    torch.testing.assert_close(merged(input_ids=tokens).logits, beside, rtol=1e-5, atol=1e-5)
    assert (plain - beside).abs().max() > 1e-3
    assert saved_keys(tmp_path / "merged") == saved_keys(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(checkpoint).chat_template


def test_the_default_folder_stands_beside_the_adapter_and_is_never_written_over(
    adapter: Path, tmp_path: Path
) -> None:
    run(["merge-lora", "--adapters", adapter], tmp_path)
    merged = adapter.with_name("checkpoint-5-merged")
    assert (merged / "model.safetensors").is_file()
    code, text = fail(["merge-lora", "--adapters", adapter], tmp_path)
    assert code == 2 and "is not empty" in text


def test_merging_into_bfloat16_names_its_format(adapter: Path, tmp_path: Path) -> None:
    run(
        ["merge-lora", "--adapters", adapter, "--torch_dtype", "bfloat16", "--output_dir", "m"],
        tmp_path,
    )
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(tmp_path / "m/model.safetensors").values()} == {
        torch.bfloat16
    }


def test_an_adapter_of_another_model_is_refused(
    adapter: Path, checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    broken = shutil.copytree(adapter, tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    wide = {n: torch.cat([t, t], -1) if "lora_A" in n else t for n, t in weights.items()}
    save_file(wide, broken / "adapter_model.safetensors")
    code, text = fail(["merge-lora", "--adapters", broken], tmp_path)
    assert code == 1 and "does not fit this model" in text
    (broken / "adapter_model.safetensors").write_bytes(b"not weights")
    code, text = fail(["merge-lora", "--adapters", broken], tmp_path)
    assert code == 1 and "broken" in text


def test_nothing_to_merge_is_an_error_with_the_flag_to_add(tmp_path: Path) -> None:
    for words, hint in ((["merge-lora"], "--adapters"), (["export"], "--merge_lora true")):
        code, text = fail(words, tmp_path)
        assert code == 2 and hint in text


@pytest.mark.parametrize(
    ("problem", "label"),
    [(None, 1), ("regression", [0.5, 1.0, 0.0]), ("multi_label_classification", [0, 2])],
)
def test_a_merged_classifier_is_what_full_training_writes(
    problem: str | None, label: object, checkpoint: Path, tmp_path: Path
) -> None:
    """Its configuration is the same, and it says the same of rows as its adapter does."""
    import tiny

    rows = [{"text": f"Number {i}.", "label": label} for i in range(4)]
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["sft", "--task_type", "seq_cls", "--num_labels", 3, "--model", checkpoint]
    words += ["--problem_type", problem] if problem else []
    words += ["--dataset", data, "--max_steps", 1, "--report_to", "none", "--torch_dtype"]
    words += ["float32", "--learning_rate", 1e-2]
    for tuner in ("lora", "full"):
        run([*words, "--tuner_type", tuner, "--output_dir", tuner], tmp_path)
    adapter = tmp_path / "lora/checkpoint-1"
    run(["export", "--merge_lora", "true", "--adapters", adapter, "--output_dir", "m"], tmp_path)
    full, merged = (
        json.loads((tmp_path / folder / "config.json").read_text())
        for folder in ("full/checkpoint-1", "m")
    )
    assert merged == full
    assert merged["problem_type"] == (problem or "single_label_classification")
    said = []
    for flag, folder in (("--adapters", adapter), ("--model", "m")):
        out = f"{flag}.jsonl".strip("-")
        run(["infer", flag, folder, "--val_dataset", data, "--result_path", out], tmp_path)
        said.append([json.loads(line) for line in (tmp_path / out).read_text().splitlines()])
    key = {"regression": "scores"}.get(str(problem), "probabilities")
    for beside, alone in zip(*said, strict=True):
        assert beside.keys() == alone.keys()
        assert beside[key] == pytest.approx(alone[key], abs=1e-5)


@pytest.mark.parametrize("kind", ["seq_cls", "rm"])
def test_an_adapter_with_a_head_is_merged_with_it(
    kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    import tiny

    if kind == "rm":
        rows = [{"prompt": f"{i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]
        words = ["rlhf", "--rlhf_type", "rm"]
    else:
        rows = [{"text": f"Number {i}.", "label": i % 3} for i in range(8)]
        words = ["sft", "--task_type", "seq_cls", "--num_labels", 3]
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words += ["--model", checkpoint, "--dataset", data, "--learning_rate", 1e-2, "--max_steps", 4]
    run([*words, "--num_train_epochs", 4, "--output_dir", "run", "--report_to", "none"], tmp_path)
    adapter = tmp_path / "run/checkpoint-4"
    run(["merge-lora", "--adapters", adapter, "--output_dir", "merged"], tmp_path)
    count = 1 if kind == "rm" else 3
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=count)
    beside = PeftModel.from_pretrained(base, adapter).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokens = torch.randint(3, 400, (1, 20))
    with torch.no_grad():
        expected, found = (m(input_ids=tokens).logits for m in (beside, merged))
    assert found.shape == (1, count)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if kind == "rm":
        said = [[Message("user", "1?")]] * 2
        both = [judging(str(folder), torch.device("cpu"), "auto", print) for folder in
                (adapter, tmp_path / "merged")]  # fmt: skip
        first, second = (judge(["Yes, 1.", "No."], said) for judge in both)
        assert first == pytest.approx(second, abs=1e-5) and first[0] > first[1]
