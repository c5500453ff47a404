"""``swift rlhf --rlhf_type ppo``: whole runs with a critic, cut, resumed, served without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny
from processes import fail, run, start
from swift.config.parse import read
from swift.config.ppo import PpoSection
from swift.config.runs import RlhfConfig
from swift.errors import CheckpointError
from swift.parallel.world import World
from swift.recipes import grpo

PLUGIN = """
from swift import registry
def vowels(completions, **columns):
    return [1 + sum(letter in "aeiou" for letter in text) / 10 for text in completions]
registry.register("reward", "ppo_vowels", f"{__name__}:vowels")
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "plug.py").write_text(PLUGIN)
    return tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": f"Add {i} to it."} for i in range(12)])


@pytest.fixture
def learn(checkpoint: Path, prompts: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run in this process; returns the last checkpoint."""

    def learn(name: str, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "model": {"path": str(checkpoint), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(prompts)], "processes": 1},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": "constant",
            "train": {"batch_size": 8, "accumulation": 1, "max_steps": 4, "log_every": 1},
            "rlhf": {"kind": "ppo", "num_iterations": 2},
            "rollout": {"max_completion_length": 8},
            "reward": {"funcs": ["ppo_vowels"]},
            "report": "none",
            "external_plugins": [str(tmp_path / "plug.py")],
            "output": str(tmp_path / name),
        }
        for section, values in changes.items():
            old = settings.get(section)
            settings[section] = {**old, **values} if isinstance(old, dict) else values
        config, _ = read(RlhfConfig, "rlhf", [str(write(tmp_path / f"{name}.yaml", settings))])
        assert isinstance(config, RlhfConfig)
        result = grpo.run(config, World())
        assert result is not None
        return Path(result.checkpoint)

    return learn


def write(file: Path, settings: dict[str, Any]) -> Path:
    file.write_text(json.dumps(settings))  # JSON is YAML
    return file


def metrics(checkpoint: Path) -> list[dict[str, Any]]:
    lines = (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def difference(a: Path, b: Path, file: str = "model.safetensors") -> float:
    one, other = load_file(a / file), load_file(b / file)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


CRITIC = "trainer/critic.safetensors"


def test_a_command_line_of_ms_swift_runs(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    score = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
    score.save_pretrained(tmp_path / "reward")
    for file in (*checkpoint.glob("tokenizer*"), *checkpoint.glob("*.jinja")):
        (tmp_path / "reward" / file.name).write_bytes(file.read_bytes())
    words = ["rlhf", "--rlhf_type", "ppo", "--model", checkpoint, "--reward_model", "reward"]
    words += ["--tuner_type", "lora", "--dataset", prompts, "--torch_dtype", "float32"]
    words += ["--num_ppo_epochs", 2, "--num_mini_batches", 2, "--kl_coef", 0.1, "--cliprange", 0.3]
    words += ["--vf_coef", 0.2, "--cliprange_value", 0.4, "--gamma", 0.99, "--lam", 0.9]
    words += ["--whiten_rewards", "true", "--missing_eos_penalty", 1, "--response_length", 6]
    words += ["--local_rollout_forward_batch_size", 4, "--num_sample_generations", 0]
    words += ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    words += ["--max_steps", 4, "--logging_steps", 1, "--report_to", "none", "--output_dir", "run"]
    text = run(words, tmp_path)
    assert "16 prompts x 1 answers a generation, learned from in 4 steps" in text
    done = tmp_path / "run/checkpoint-4"
    assert (done / "adapter_model.safetensors").is_file() and (done / CRITIC).is_file()
    last = metrics(done)[-1]
    assert last["train/value_loss"] > 0 and last["train/grad_norm"] > 0


def test_the_critic_learns_and_is_not_served(learn: Callable[..., Path]) -> None:
    done = learn("run", train={"max_steps": 40, "epochs": 20}, rlhf={"vf_coef": 1.0})
    found = metrics(done)
    assert found[0]["train/value"] == 0  # of a head that knows nothing yet
    assert abs(found[0]["train/kl"]) < 1e-6 and found[-2]["train/kl"] != 0
    assert found[-1]["train/value_loss"] < found[0]["train/value_loss"] / 2
    _, report = AutoModelForCausalLM.from_pretrained(done, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    assert set(load_file(done / CRITIC)) == {"score.weight", "score.bias"}


@pytest.mark.parametrize("at", [1, 4])
def test_a_resumed_run_is_the_same_to_the_bit(learn: Callable[..., Path], at: int) -> None:
    train = {"max_steps": 6, "save_every": at}
    whole = learn("whole", train=train)
    again = learn("whole", train={**train, "resume": str(whole.parent / f"checkpoint-{at}")})
    assert again == whole
    fresh = learn("fresh", train={"max_steps": 6})
    assert difference(again, fresh) == 0 and difference(again, fresh, CRITIC) == 0
    (again / CRITIC).unlink()
    with pytest.raises(CheckpointError, match=r"critic.safetensors is absent"):
        learn("whole", train={"max_steps": 8, "resume": str(again)})


def test_a_step_means_the_same_however_it_is_cut(learn: Callable[..., Path]) -> None:
    whole = learn("whole")
    cut = learn("cut", train={"batch_size": 2, "accumulation": 4})
    padded = learn("padded", model={"attention": "eager"})
    for other in (cut, padded):
        for a, b in zip(metrics(whole)[:2], metrics(other)[:2], strict=True):
            for name in ("train/loss", "train/grad_norm", "train/value_loss"):
                assert a[name] == pytest.approx(b[name], abs=1e-4), name
    assert difference(whole, cut) < 1e-4


def test_two_processes_are_one(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    words = ["rlhf", "--rlhf_type", "ppo", "--model", checkpoint, "--dataset", prompts]
    words += ["--external_plugins", "plug.py", "--reward_funcs", "ppo_vowels", "--max_steps", 2]
    words += ["--max_completion_length", 8, "--tuner_type", "full", "--logging_steps", 1]
    words += ["--report_to", "none", "--learning_rate", "1e-3", "--torch_dtype", "float32"]
    one = start([*words, "--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1,
                 "--output_dir", "one"], tmp_path)  # fmt: skip
    assert one.wait() == 0, one.text()
    two = start([*words, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2,
                 "--output_dir", "two"], tmp_path, processes=2)  # fmt: skip
    assert two.wait() == 0, two.text()
    a, b = (metrics(tmp_path / name / "checkpoint-2") for name in ("one", "two"))
    for first, second in zip(a, b, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/value_loss"):
            assert first[name] == pytest.approx(second[name], abs=1e-4), name


def test_a_model_of_its_own_can_be_the_critic(
    learn: Callable[..., Path], checkpoint: Path, tmp_path: Path
) -> None:
    done = learn("apart", rlhf={"value_model": str(checkpoint)}, tuner={"kind": "lora", "rank": 4})
    inner = load_file(done / CRITIC)
    before = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(inner[f"model.{name}"], before[name])  # all of it learns
    assert list((done).glob("*.safetensors")) == [done / "adapter_model.safetensors"]
    again = learn(
        "apart", rlhf={"value_model": str(checkpoint)}, tuner={"kind": "lora", "rank": 4},
        train={"max_steps": 6, "resume": True},
    )  # fmt: skip
    fresh = learn(
        "fresh", rlhf={"value_model": str(checkpoint)}, tuner={"kind": "lora", "rank": 4},
        train={"max_steps": 6},
    )  # fmt: skip
    assert difference(again, fresh, CRITIC) == 0


def test_a_critic_of_other_tokens_is_refused(
    checkpoint: Path, prompts: Path, tmp_path: Path
) -> None:
    tiny.save_checkpoint(tmp_path / "other", vocab_size=700)
    words = ["rlhf", "--rlhf_type", "ppo", "--model", checkpoint, "--dataset", prompts]
    words += ["--external_plugins", "plug.py", "--reward_funcs", "ppo_vowels"]
    code, text = fail([*words, "--value_model", "other"], tmp_path)
    assert code == 2 and "--value_model: its vocabulary has 700 tokens" in text, text


def test_flags_mean_what_they_meant() -> None:
    words = ["--rlhf_type", "ppo", "--model", "m", "--dataset", "d", "--reward_model", "r"]
    words += ["--kl_coef", "0.1", "--num_ppo_epochs", "3", "--cliprange", "0.1", "--lam", "0.9"]
    config, _ = read(RlhfConfig, "rlhf", words)
    assert isinstance(config, RlhfConfig) and isinstance(config.rlhf, PpoSection)
    assert (config.rlhf.beta, config.rlhf.num_iterations, config.rlhf.epsilon) == (0.1, 3, 0.1)
    assert (config.rlhf.lam, config.rollout.num_generations) == (0.9, 1)
