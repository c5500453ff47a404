"""Two turns are learned: call the tool with the right key, then say what it answered."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import tiny
from swift import registry
from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.message import Conversation, Message, ToolCall
from swift.chat.render import Renderer
from swift.config.rollout import RolloutSection
from swift.config.runs import RlhfConfig
from swift.infer.backends.transformers import TransformersEngine
from swift.models.load import load_model
from swift.parallel.world import World
from swift.recipes import grpo
from swift.rl.environment import Step, ToolEnvironment
from swift.rl.rollout import Question, Rollout

KEYS = "abcdef"
OPEN = '<tool_call>{"name": "look", "arguments": {"key": "'
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}"
    '{{ \'<tool_call>{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ (c.function.arguments | tojson) + '}</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SCHEMA = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks a number up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}


class Cupboard:
    """One tool, ``look``: what lies behind a letter, which only the row knows."""

    def __init__(self) -> None:
        self._tools: ToolEnvironment | None = None

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        table = columns["table"]
        self._tools = ToolEnvironment({"look": lambda key: str(table[key])}, (SCHEMA,))
        return self._tools.reset(asked, columns)

    def step(self, answer: Message) -> Step:
        assert self._tools is not None
        return self._tools.step(answer)


def cupboard(settings: Any) -> Cupboard:
    return Cupboard()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry.register("environment", "cupboard", f"{__name__}:cupboard")
    yield
    registry._ENTRIES["environment"].pop("cupboard")


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and what is between the letters and digits of a call as one token each."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([OPEN, '"}}</tool_call>', "assistant\n", "user\n", "tool\n"] * 4,
                                trainer)  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|pad|>", chat_template=TEMPLATE,
    )  # fmt: skip


def row(numbers: random.Random) -> dict[str, Any]:
    table = {key: numbers.randrange(10) for key in KEYS}
    key = numbers.choice(KEYS)
    return {"prompt": f"{key}?", "table": table, "key": key, "solution": str(table[key])}


def demonstration(numbers: random.Random) -> Conversation:
    """Half of them look behind a wrong letter, half of them say a wrong number."""
    asked = row(numbers)
    key = asked["key"] if numbers.random() < 0.5 else numbers.choice(KEYS)
    found = str(asked["table"][key])
    said = found if numbers.random() < 0.5 else str(numbers.randrange(10))
    call = ToolCall("look", {"key": key}, "0")
    return Conversation(
        (
            Message("user", asked["prompt"]),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", found, tool_call_id="0"),
            Message("assistant", said),
        ),
        (SCHEMA,),
    )


def warm_model(folder: Path, steps: int) -> None:
    """A model that does it right now and then."""
    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    renderer = load_renderer(folder)
    numbers = random.Random(0)
    shown = [renderer.render(demonstration(numbers), "default")[0] for _ in range(1500)]
    longest = max(len(one.tokens) for one in shown)
    ids = torch.zeros(len(shown), longest, dtype=torch.int64)
    learned = torch.zeros(len(shown), longest, dtype=torch.bool)
    for i, one in enumerate(shown):
        ids[i, : len(one.tokens)] = torch.tensor(one.tokens)
        learned[i, : len(one.tokens)] = torch.tensor(one.weights) > 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        part = torch.randint(len(ids), (64,))
        logits = model(input_ids=ids[part], attention_mask=(ids[part] != 0).long()).logits
        kept = learned[part, 1:]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][kept], ids[part, 1:][kept])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def solved(
    folder: Path, renderer: Renderer, rows: list[dict[str, Any]], temperature: float = 1.0
) -> float:
    """The share of drawn episodes that call the tool once and say what it answered."""
    model = load_model(folder, torch.float32, device=torch.device("cpu"))
    engine = TransformersEngine(model, load_tokenizer(folder))
    section = RolloutSection(max_completion_length=5, max_turns=2, temperature=temperature)
    roll = Rollout(engine, renderer, section, Cupboard)
    asked = [
        Question(Conversation((Message("user", r["prompt"]),)), {"table": r["table"]}, "row")
        for r in rows
    ]
    with torch.no_grad():
        episodes = roll(asked, range(len(rows)))
    right = [
        e.turns == 2 and e.finish == "stop" and (e.text or "").strip() == r["solution"]
        for e, r in zip(episodes, rows, strict=True)
    ]
    return sum(right) / len(right)


@pytest.mark.slow
def test_a_tool_is_called_with_the_right_key_and_its_answer_is_said(tmp_path: Path) -> None:
    warm_model(tmp_path / "model", 300)
    renderer = load_renderer(tmp_path / "model")
    numbers = random.Random(1)
    data = tiny.write_rows(tmp_path / "rows.jsonl", [row(numbers) for _ in range(400)])
    unseen = [row(numbers) for _ in range(200)]
    config = RlhfConfig.model_validate(
        {
            "model": {"path": str(tmp_path / "model"), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(data)], "processes": 1},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": "constant",
            "train": {"batch_size": 128, "accumulation": 1, "max_steps": 60, "epochs": 100,
                      "log_every": 10},
            "rlhf": {"kind": "grpo", "beta": 0.0},
            "rollout": {"num_generations": 8, "max_completion_length": 5, "max_turns": 2,
                        "environment": "cupboard"},
            "reward": {"funcs": ["number"]},
            "report": "none",
            "output": str(tmp_path / "run"),
        }
    )  # fmt: skip
    result = grpo.run(config, World())
    assert result is not None
    before = solved(tmp_path / "model", renderer, unseen)
    after = solved(Path(result.checkpoint), renderer, unseen)
    sure = solved(Path(result.checkpoint), renderer, unseen, temperature=0.01)
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["train/mismatch"] < 1e-4 for line in lines)
    assert before < 0.4 and after > 0.85 and sure > 0.97, (before, after, sure)
