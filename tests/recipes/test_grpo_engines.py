"""Where rollouts come from: the same run with every engine, and engines that die."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file

import tiny
from processes import Command, fail, run, start
from swift.chat.load import load_tokenizer
from swift.config.parse import read
from swift.config.runs import RlhfConfig
from swift.infer.backends.server import free_port
from swift.losses.drawn import Draw, drawn_logprob
from swift.models.load import load_model

PLUGIN = """
from swift import registry
def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]
registry.register("reward", "vowels", f"{__name__}:vowels")
"""
WORDS = [
    "rlhf", "--rlhf_type", "grpo", "--external_plugins", "plug.py", "--reward_funcs", "vowels",
    "--num_generations", 4, "--max_completion_length", 8, "--per_device_train_batch_size", 8,
    "--gradient_accumulation_steps", 1, "--max_steps", 3, "--logging_steps", 1, "--report_to",
    "none", "--num_train_epochs", 100, "--learning_rate", "1e-3", "--lr_scheduler_type", "constant",
    "--torch_dtype", "float32", "--dataset", "p.jsonl",
]  # fmt: skip
FULL, LORA = ["--tuner_type", "full"], ["--lora_rank", 4, "--lora_dropout", 0.1]
COPY = ["--vllm_mode", "colocate"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Add {i} and two.", "solution": str(i + 2)} for i in range(12)]
    tiny.write_rows(tmp_path / "p.jsonl", rows)
    (tmp_path / "plug.py").write_text(PLUGIN)
    return tmp_path


@pytest.fixture
def words(checkpoint: Path) -> list[Any]:
    return [*WORDS, "--model", checkpoint]


@contextmanager
def rollout(
    checkpoint: Path, folder: Path, port: int | None = None, *more: Any
) -> Iterator[tuple[Command, int]]:
    """A server that is ready."""
    port = port or free_port()
    words = ["rollout", "--model", checkpoint, "--port", port, "--torch_dtype", "float32", *more]
    command = start(words, folder)
    try:
        command.wait_for(lambda: "serving" in command.text())
        yield command, port
    finally:
        command.kill()


def at(*ports: int) -> list[Any]:
    hosts = ["127.0.0.1"] * len(ports)
    return ["--vllm_mode", "server", "--vllm_server_host", *hosts, "--vllm_server_port", *ports]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a: Path, b: Path, bound: float = 1e-6) -> None:
    """The same metrics but for time and memory, and the same answers."""
    left, right = metrics(a), metrics(b)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for name, value in one.items():
            if not (name.endswith("_s") or "memory" in name):
                assert other[name] == pytest.approx(value, abs=bound, rel=bound), name


@pytest.mark.slow
@pytest.mark.parametrize("tuner", [FULL, LORA], ids=["full", "lora"])
def test_every_engine_gives_the_run_of_the_live_one(
    checkpoint: Path, place: Path, words: list[Any], tuner: list[Any]
) -> None:
    told = [*words, *tuner, "--log_completions", "true"]
    run([*told, "--output_dir", "live"], place)
    run([*told, *COPY, "--output_dir", "copy"], place)
    with rollout(checkpoint, place) as (_, one), rollout(checkpoint, place) as (_, two):
        run([*told, *at(one), "--output_dir", "server"], place)
        run([*told, *at(one, two), "--output_dir", "servers"], place)
    said = [(place / "live/completions.jsonl").read_text()]
    assert metrics(place / "live")[-1]["train/grad_norm"] > 0
    for name in ("copy", "server", "servers"):
        same(place / "live", place / name)
        if tuner == FULL:  # the trainer's own log-probabilities are those under dropout
            assert metrics(place / name)[-1]["train/mismatch"] < 1e-5
        said.append((place / name / "completions.jsonl").read_text())
    texts = [[json.loads(x)["completion"] for x in lines.splitlines()] for lines in said]
    assert all(one == texts[0] for one in texts)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def difference(a: Path, b: Path) -> float:
    one, other = weights(a), weights(b)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def shown(port: int) -> Any:
    return httpx.get(f"http://127.0.0.1:{port}/version").json()


def test_two_processes_share_a_server(checkpoint: Path, place: Path, words: list[Any]) -> None:
    told = [*words, *FULL]
    with rollout(checkpoint, place) as (_, port):
        run([*told, *at(port), "--output_dir", "one"], place)
        half = ["--per_device_train_batch_size", 4]
        two = start([*told, *at(port), *half, "--output_dir", "two"], place, processes=2)
        assert two.wait() == 0, two.text()
    same(place / "one", place / "two", 1e-4)


def test_a_server_that_dies_is_named_and_what_was_learned_is_kept(
    checkpoint: Path, place: Path, words: list[Any]
) -> None:
    told = [*words, *FULL, "--max_steps", 16, "--save_steps", 1000]
    with rollout(checkpoint, place) as (server, port):
        run([*told, *at(port), "--output_dir", "whole"], place)
        short = [*told, *at(port), "--vllm_server_timeout", 1, "--output_dir", "cut"]
        trainer = start(short, place)
        file = place / "cut/metrics.jsonl"
        trainer.wait_for(lambda: file.is_file() and file.read_text().count("\n") >= 3)
        server.kill(signal.SIGKILL)
        assert trainer.wait() == 1
        text = trainer.text()
        assert "Traceback" not in text
        assert f"a rollout server is lost: http://127.0.0.1:{port}/" in text
        kept = next((place / "cut").glob("checkpoint-*"))
        assert f"--resume true goes on from {Path('cut') / kept.name}" in text
    with rollout(checkpoint, place, port):
        run([*short, "--resume", "true"], place)
    assert difference(place / "whole/checkpoint-16", place / "cut/checkpoint-16") == 0
    same(place / "whole", place / "cut")


def test_a_server_that_comes_back_gets_the_weights_and_the_run_goes_on(
    checkpoint: Path, place: Path, words: list[Any]
) -> None:
    told = [*words, *FULL, "--max_steps", 16, "--save_steps", 1000]
    run([*told, "--output_dir", "live"], place)
    with rollout(checkpoint, place) as (server, port):
        trainer = start([*told, *at(port), "--output_dir", "run"], place)
        file = place / "run/metrics.jsonl"
        trainer.wait_for(lambda: file.is_file() and file.read_text().count("\n") >= 3)
        server.kill(signal.SIGKILL)
    with rollout(checkpoint, place, port):
        assert trainer.wait() == 0, trainer.text()
        # 16 rounds; one more where it was lost with the weights of a round
        assert int(shown(port)["version"].rpartition("-")[2]) in (16, 17)
    same_but = [x["train/reward"] for x in metrics(place / "run")]
    assert same_but == pytest.approx([x["train/reward"] for x in metrics(place / "live")])
    assert difference(place / "live/checkpoint-16", place / "run/checkpoint-16") < 1e-5


def test_nobody_there_is_said_before_anything_is_learned(place: Path, words: list[Any]) -> None:
    port = free_port()
    code, text = fail([*words, *FULL, *at(port), "--vllm_server_timeout", 0.5], place)
    assert code == 1 and f"http://127.0.0.1:{port}/version cannot be reached" in text


@pytest.mark.parametrize("staleness", [1, 2])
def test_answers_ahead_of_time_are_corrected_by_the_ratio_of_what_learns_to_what_drew(
    checkpoint: Path, place: Path, words: list[Any], staleness: int
) -> None:
    told = [*words, *FULL, *COPY, "--async_generate", "true", "--max_staleness", staleness]
    told += ["--save_steps", 1, "--learning_rate", "1e-2", "--max_steps", 4]
    told += ["--rollout_importance_sampling_threshold", 1000]
    run([*told, "--output_dir", "run"], place)
    found = metrics(place / "run")
    behind = [int(line["train/staleness"]) for line in found]
    assert behind == ([0, 1, 1, 1] if staleness == 1 else [0, 1, 2, 1])
    assert found[0]["train/correction"] == pytest.approx(1, abs=1e-5)
    folders = [checkpoint, *(place / f"run/checkpoint-{i}" for i in range(1, 4))]
    models = [load_model(one, torch.float32, device=torch.device("cpu")).eval() for one in folders]
    for step in range(1, 4):
        record = json.loads((folders[step] / "trainer/state.json").read_text())
        coming = record["flow"]["coming"][0]
        assert coming["round"] == step - behind[step]
        ratios: list[float] = []
        for one in coming["parts"][0]:
            ratios += ratio(models[step], models[coming["round"]], one["prompt"], one["tokens"])
        mean = sum(ratios) / len(ratios)
        assert found[step]["train/correction"] == pytest.approx(mean, rel=1e-4), step
        assert abs(mean - 1) > 1e-3


@torch.no_grad()
def ratio(new: Any, old: Any, prompt: list[int], tokens: list[int]) -> list[float]:
    """Of every token of an answer: how much likelier the newer model finds it."""
    ids = torch.tensor([[*prompt, *tokens]])
    said = [
        drawn_logprob(
            m(input_ids=ids).logits[0, len(prompt) - 1 : -1], ids[0, len(prompt) :], Draw()
        )
        for m in (new, old)
    ]
    return (said[0] - said[1]).exp().tolist()


@pytest.mark.parametrize("at_step", [1, 2, 3])
def test_an_asynchronous_run_resumes_to_the_bit(
    place: Path, words: list[Any], at_step: int
) -> None:
    told = [*words, *FULL, *COPY, "--async_generate", "true", "--max_steps", 6]
    told += ["--steps_per_generation", 2, "--per_device_train_batch_size", 4]
    run([*told, "--save_steps", at_step, "--output_dir", "run"], place)
    whole = weights(place / "run/checkpoint-6")
    told += ["--output_dir", "run", "--save_steps", 1000]
    run([*told, "--resume", f"run/checkpoint-{at_step}"], place)
    again = weights(place / "run/checkpoint-6")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_two_processes_draw_ahead_and_resume_together(place: Path, words: list[Any]) -> None:
    told = [*words, *FULL, *COPY, "--async_generate", "true", "--max_steps", 4]
    run([*told, "--output_dir", "one"], place)
    told += ["--per_device_train_batch_size", 4, "--save_steps", 2]
    two = start([*told, "--output_dir", "two"], place, processes=2)
    assert two.wait() == 0, two.text()
    same(place / "one", place / "two", 1e-4)
    whole = weights(place / "two/checkpoint-4")
    more = ["--output_dir", "two", "--resume", "two/checkpoint-2"]
    again = start([*told, *more], place, processes=2)
    assert again.wait() == 0, again.text()
    found = weights(place / "two/checkpoint-4")
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["--async_generate", "true"], "needs an engine with weights of its own"),
        (["--vllm_mode", "server"], "--vllm_server_host: is needed"),
        ([*at(1), "--vllm_server_port", "1", "2"], "2 for 1 hosts"),
        (["--sleep_level", "1"], "belongs to --vllm_mode colocate"),
        ([*COPY, "--sleep_level", "1"], "belongs to --use_vllm true"),
        (["--use_vllm", "true", "--vllm_mode", "live"], "through transformers alone"),
    ],
)
def test_what_cannot_be_answered_by_is_said(
    place: Path, words: list[Any], said: list[Any], message: str
) -> None:
    code, text = fail([*words, *said], place)
    assert code == 2 and message in text, text


@pytest.mark.parametrize("source", [[], COPY, [*COPY, "--async_generate", "true"]])
def test_held_out_prompts_evaluate_by_their_rewards(
    checkpoint: Path, place: Path, words: list[Any], source: list[Any]
) -> None:
    rows = [{"prompt": f"Subtract {i} from two."} for i in range(5)]
    tiny.write_rows(place / "held.jsonl", rows)
    told = [*words, *FULL, *source, "--val_dataset", "held.jsonl", "--eval_steps", 2]
    told += ["--save_steps", 2, "--max_steps", 6, "--learning_rate", "1e-2", "--output_dir", "run"]
    text = run(told, place)
    assert text.count("evaluation at step") == 3
    lines = [line for line in metrics(place / "run") if "eval/reward" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        found = greedy(place / f"run/checkpoint-{line['step']}", [row["prompt"] for row in rows])
        assert line["eval/reward"] == line["eval/reward/vowels"]
        assert line["eval/reward"] == pytest.approx(sum(found) / len(found))
    whole = weights(place / "run/checkpoint-6")
    run([*told, "--resume", "run/checkpoint-2"], place)
    again = weights(place / "run/checkpoint-6")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def greedy(checkpoint: Path, prompts: list[str]) -> list[float]:
    """The vowels in the likeliest answer to each prompt, by transformers' own ``generate``."""
    model = load_model(checkpoint, torch.float32, device=torch.device("cpu")).eval()
    words = load_tokenizer(checkpoint)
    found = []
    for prompt in prompts:
        ids = words.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt",
            return_dict=False,
        )  # fmt: skip
        answer = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        text = words.decode([t for t in answer.tolist() if t != words.eos_token_id])
        found.append(sum(letter in "aeiou" for letter in text) / 10)
    return found


def test_a_share_of_the_prompts_is_held_out(place: Path, words: list[Any]) -> None:
    told = [*words, *FULL, "--split_dataset_ratio", "0.25", "--output_dir", "run"]
    assert "9 prompts of up to" in run(told, place)
    assert "eval/reward" in metrics(place / "run")[-1]


def test_flags_of_ms_swift_choose_the_engine_that_they_chose() -> None:
    def said(*words: str) -> tuple[RlhfConfig, list[str]]:
        base = ["--rlhf_type", "grpo", "--model", "m", "--dataset", "d", "--reward_funcs", "number"]
        return read(RlhfConfig, "rlhf", [*base, *words])

    one, notes = said(
        "--use_vllm", "true", "--vllm_mode", "colocate", "--vllm_gpu_memory_utilization", "0.5",
        "--vllm_max_model_len", "8192", "--vllm_tensor_parallel_size", "4", "--sleep_level", "1",
        "--offload_model", "true", "--offload_optimizer", "true", "--async_generate", "false",
        "--log_rollout_offpolicy_metrics", "true", "--vllm_enable_lora", "true",
    )  # fmt: skip
    assert (one.rollout.place, one.rollout.backend) == ("colocate", "vllm")
    assert (one.vllm.gpu_memory_utilization, one.vllm.tensor_parallel_size) == (0.5, 4)
    assert (one.rollout.sleep_level, one.rollout.max_model_len) == (1, 8192)
    assert one.rollout.offload_model and one.rollout.offload_optimizer and len(notes) == 2
    assert said("--use_vllm")[0].rollout.place == "colocate"
    assert said("--use_vllm", "false")[0].rollout.place == "live"
    server = ["--use_vllm", "true", "--vllm_mode", "server", "--vllm_server_host"]
    two, notes = said(
        *server, "a", "b", "--vllm_server_port", "8000", "8001", "--vllm_server_timeout", "9",
        "--vllm_server_pass_dataset", "true", "--async_generate", "true", "--api_key", "secret",
    )  # fmt: skip
    assert two.rollout.addresses == ["http://a:8000", "http://b:8001"] and len(notes) == 1
    assert (two.rollout.server_timeout_s, two.rollout.server_key) == (9, "secret")
    assert said(*server, "a", "b")[0].rollout.addresses == ["http://a:8000", "http://b:8000"]
    whole = said("--vllm_mode", "server", "--vllm_server_base_url", "https://x/y/")[0]
    assert whole.rollout.addresses == ["https://x/y"]
