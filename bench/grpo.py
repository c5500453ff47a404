"""Does it learn? Sums of reasoning-gym, a tiny Qwen3 from scratch, every preset.

    python bench/grpo.py [--kinds grpo dapo ...] [--seeds 0 1 2] [--steps 60]

A model of about 150,000 parameters is warm-started on sums until it is right now and then, then it
learns from rewards on other sums; before and after it answers 500 sums that neither had, greedily.
Steps are generations of 128 answers; PPO, of 128 prompts, learns four times from each. At the end
there is a table; the command fails where a preset lost on any seed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from swift.chat.load import load_renderer
from swift.chat.message import Message
from swift.config.runs import RlhfConfig
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model
from swift.parallel.world import World
from swift.recipes import grpo
from swift.rl.reasoning import rows

KINDS = ["grpo", "dapo", "dr_grpo", "gspo", "sapo", "cispo", "rloo", "reinforce_plus_plus", "ppo"]
TEMPLATE = (
    "{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}{{ m.content }}{{ '<e>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    marks = ["<p>", "<u>", "<a>", "<e>"]
    words = {word: i for i, word in enumerate([*marks, *"0123456789+-= ?"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.add_special_tokens(marks)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<p>", bos_token="<u>", eos_token="<e>",
        unk_token="?", chat_template=TEMPLATE,
    )  # fmt: skip


def sums(size: int, seed: int) -> list[dict]:
    """Three terms of one digit; every row is another."""
    found = {}
    settings = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    for row in rows("chain_sum", size, seed, **settings):
        text = json.loads(row["entry"])["metadata"]["expression"].replace(" ", "") + "="
        found[text] = {**row, "messages": [{"role": "user", "content": text}]}
    return list(found.values())


def warm_model(folder: Path, data: list[dict], seed: int, steps: int) -> None:
    """A model that is right now and then."""
    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(words), hidden_size=64, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=3, pad_token_id=0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = [f"<u>{r['messages'][0]['content']}<e><a>{r['solution']}<e>" for r in data]
    ids = words(texts, padding=True, return_tensors="pt")["input_ids"]
    answer = torch.cumsum((ids == 2).long(), 1).bool() & (ids != 0)
    answer &= ids != 2
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20)
        part = torch.randint(len(ids), (64,))
        logits = model(input_ids=ids[part], attention_mask=(ids[part] != 0).long()).logits
        kept = answer[part, 1:]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][kept], ids[part, 1:][kept])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def accuracy(folder: Path, data: list[dict]) -> float:
    """The share of sums that the greedy answer gets right."""
    renderer = load_renderer(folder)
    model = load_model(folder, torch.float32, device=torch.device("cpu"))
    engine = TransformersEngine(model, tokenizer())
    sampling = Sampling(6, stop_ids=tuple(renderer.stop_ids))
    asked = [
        Request(renderer.prompt([Message("user", row["messages"][0]["content"])]), sampling)
        for row in data
    ]
    found = engine.generate(asked)
    said = [str(renderer.parse(one.tokens).content).strip() for one in found]
    return sum(a == row["solution"] for a, row in zip(said, data, strict=True)) / len(data)


def config_of(folder: Path, kind: str, seed: int, steps: int, learning_rate: float) -> RlhfConfig:
    """A run on ``rows.jsonl`` of the folder, from its ``model``: 128 answers a step, 8 to a prompt or
    (ppo) one.
    """
    group = {} if kind == "ppo" else {"num_generations": 8}
    return RlhfConfig.model_validate(
        {
            "model": {"path": str(folder / "model"), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(folder / "rows.jsonl")], "processes": 1},
            "optimizer": {"kind": "adamw", "learning_rate": learning_rate},
            "schedule": "constant",
            "train": {"batch_size": 128, "accumulation": 1, "epochs": 100,
                      "max_steps": steps * (4 if kind == "ppo" else 1),
                      "seed": seed, "log_every": 1000},
            "rlhf": {"kind": kind},
            "rollout": {**group, "max_completion_length": 6, "environment": "reasoning_gym"},
            "reward": {"funcs": ["environment"]},
            "report": "none",
            "output": str(folder / kind),
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm", type=int, default=400)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    gains: dict[str, list[float]] = {kind: [] for kind in args.kinds}
    for seed in args.seeds:
        data = sums(6000, seed)
        unseen, warm, learn = data[:500], data[500:1500], data[1500:]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            warm_model(folder / "model", warm, seed, args.warm)
            before = accuracy(folder / "model", unseen)
            (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in learn))
            for kind in args.kinds:
                config = config_of(folder, kind, seed, args.steps, args.learning_rate)
                started = time.process_time()
                result = grpo.run(config, World())
                seconds = time.process_time() - started
                assert result is not None
                after = accuracy(Path(result.checkpoint), unseen)
                gains[kind].append(after - before)
                print(
                    f"RESULT seed {seed} {kind}: {before:.3f} -> {after:.3f}, {seconds:.1f} CPU-s",
                    flush=True,
                )
    for kind, found in gains.items():
        shown = " ".join(f"{gain:+.3f}" for gain in found)
        print(f"RESULT {kind}: {shown}, mean {sum(found) / len(found):+.3f}", flush=True)
    if losing := [kind for kind, found in gains.items() if min(found) < 0]:
        raise SystemExit(f"lost on a seed: {', '.join(losing)}")


if __name__ == "__main__":
    main()
