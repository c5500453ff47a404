"""swift deploy from the command line: what it says, what it serves, how it ends."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import tiny
from processes import deployed, fail, run
from swift.chat.load import load_renderer
from swift.chat.manifest import FILE, text_of
from swift.models.load import load_model


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters as a run leaves them: one learned with a system prompt."""
    from peft import LoraConfig, get_peft_model

    made = []
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp(name)
        settings = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
        peft: Any = get_peft_model(load_model(checkpoint, torch.float32), settings)
        peft.save_pretrained(folder)
        (folder / "config.yaml").write_text(f"model: {{path: {checkpoint}}}\n")
        made.append(folder)
    (made[1] / FILE).write_text(text_of(load_renderer(checkpoint), "Be a bird."))
    return made


def ask(address: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}]}
    done = httpx.post(f"{address}/chat/completions", json={**body, "max_tokens": 8}, timeout=60)
    assert done.status_code == 200, done.text
    return str(done.json()["choices"][0]["message"]["content"])


def test_adapters_by_name_warnings_and_an_orderly_end(
    checkpoint: Path, adapters: list[Path], tmp_path: Path
) -> None:
    named = [f"a={adapters[0]}", f"b={adapters[1]}"]
    with deployed(tmp_path, "--served_model_name", "bird", "--adapters", *named) as found:
        address, said, command = found
        warnings = [line for line in said.splitlines() if line.startswith("warning:")]
        assert len(warnings) == 1 and "the system prompt is not what" in warnings[0]
        models = httpx.get(f"{address}/models").json()["data"]
        assert [one["id"] for one in models] == ["bird", "a", "b"]
        assert len({ask(address, name) for name in ("bird", "a", "b")}) == 3
        command.kill(signal.SIGTERM)
        assert command.wait() == 0


def test_one_adapter_without_a_name_is_a_part_of_the_model(
    checkpoint: Path, adapters: list[Path], tmp_path: Path
) -> None:
    words = ["--adapters", adapters[0], "--served_model_name", "m"]
    with (
        deployed(tmp_path, *words, "--merge_lora", "true") as (merged, _, _),
        deployed(tmp_path, *words) as (beside, _, _),
        deployed(tmp_path, "--adapters", f"a={adapters[0]}") as (named, _, _),
    ):
        assert ask(merged, "m") == ask(beside, "m") == ask(named, "a")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--served_model_name", "x"], "serve x"),
        (["--adapters", "a=A", "b=B"], "serve tiny-llama, a, b"),
        (["--adapters", "a=A", "a=B"], "each name once"),
        (["--adapters", "a=A", "--merge_lora", "true"], "named ones not"),
        (["--adapters", "a=nowhere"], "nowhere"),
        (["--ssl_keyfile", "k"], "--ssl_certfile"),
        (["--ssl_keyfile", "k", "--ssl_certfile", "c"], "--ssl_keyfile: k does not exist"),
        (["--api_key_file", "keys.yaml"], "--api_key_file: keys.yaml"),
        (["--redact", "nothing"], "--redact"),
        (["--port", "70000"], "--port"),
    ],
    ids=str,
)
def test_everything_is_checked_before_weights_are_loaded(
    checkpoint: Path, adapters: list[Path], tmp_path: Path, words: list[str], said: str
) -> None:
    words = [word.replace("=A", f"={adapters[0]}").replace("=B", f"={adapters[1]}")
             for word in words]  # fmt: skip
    words = ["deploy", "--model", str(checkpoint), "--dry_run", *words]
    if said.startswith("serve "):
        run(words, tmp_path)
        return
    code, text = fail(words, tmp_path)
    assert code == 2 and said in text and "Traceback" not in text


def test_a_port_that_is_taken_is_one_clear_line(checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, text = fail(["deploy", "--model", checkpoint, "--port", port], tmp_path)
    assert code == 2 and f"--port {port}" in text and "Traceback" not in text


def test_a_checkpoint_of_embeddings_reads_texts_as_it_learned_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    rows = [{"anchor": f"Who, {i}?", "positive": f"Apus, {i}."} for i in range(8)]
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    words = ["sft", "--task_type", "embedding", "--model", checkpoint, "--dataset", data]
    words += ["--tuner_type", "full", "--max_steps", 2, "--report_to", "none"]
    run([*words, "--per_device_train_batch_size", 4, "--output_dir", "run"], tmp_path)
    folder = tmp_path / "run/checkpoint-2"
    asked = [{"role": "user", "content": "Who, 3?"}]
    ids = tiny.make_tokenizer().apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    model: Any = load_model(folder, torch.float32)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(model.model(ids).last_hidden_state[0, -1], dim=-1)
    with deployed(tmp_path, "--model", folder, "--torch_dtype", "float32") as (address, _, _):
        body = {"model": "checkpoint-2", "input": "Who, 3?"}
        found = httpx.post(f"{address}/embeddings", json=body, timeout=60).json()
    vector = torch.tensor(found["data"][0]["embedding"])
    torch.testing.assert_close(vector, wanted, rtol=0, atol=1e-5)
