"""``swift rlhf --rlhf_type gkd``: whole runs, who writes, how they are cut, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import tiny
from infer.stand_in import Reply, serve
from processes import fail, start
from swift.chat.load import load_tokenizer
from swift.config.distill import GkdSection
from swift.config.runs import RlhfConfig
from swift.data.stream import PLAIN
from swift.errors import SwiftError
from swift.models.attention import choose_layout
from swift.parallel.world import World
from swift.recipes import rlhf
from swift.rl.lessons import taught
from swift.rl.rollout import seed_of
from swift.train.distill import DistillObjective

Learn = Callable[..., Path]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same tokens, larger, with a vocabulary that is padded further."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    tiny.make_tokenizer().save_pretrained(folder)
    tiny.make_model(seed=5, hidden_size=64, vocab_size=416).save_pretrained(folder)
    return folder


@pytest.fixture
def learn(checkpoint: Path, teacher: Path, tmp_path: Path) -> Learn:
    """Run in this process; returns the last checkpoint."""
    rows = tiny.write_rows(tmp_path / "chats.jsonl", tiny.chats(32))

    def learn(name: str, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "model": {"path": str(checkpoint), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(rows)], "processes": 1},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": "constant",
            "train": {"batch_size": 8, "accumulation": 1, "max_steps": 2, "log_every": 1},
            "rlhf": {"kind": "gkd", "teacher_model": str(teacher), "lmbda": 0},
            "rollout": {"max_completion_length": 8},
            "report": "none",
            "output": str(tmp_path / name),
        }
        for section, values in changes.items():
            old = settings.get(section)
            settings[section] = {**old, **values} if isinstance(old, dict) else values
        result = rlhf.run(RlhfConfig.model_validate(settings), World())
        assert result is not None
        return Path(result.checkpoint)

    return learn


def metrics(checkpoint: Path) -> list[dict[str, Any]]:
    lines = (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def said(checkpoint: Path) -> list[dict[str, Any]]:
    lines = (checkpoint.parent / "completions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def difference(a: Path, b: Path) -> float:
    one, other = (load_file(folder / "model.safetensors") for folder in (a, b))
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("top", [None, 6])
def test_the_first_loss_is_that_of_the_models_themselves(
    learn: Learn, checkpoint: Path, teacher: Path, tmp_path: Path, top: int | None
) -> None:
    """One row at a time through transformers, the formula with probabilities."""
    done = learn(
        "run", train={"batch_size": 32, "max_steps": 1}, rlhf={"logits_topk": top, "beta": 0.3}
    )
    student, other = (LlamaForCausalLM.from_pretrained(f) for f in (checkpoint, teacher))
    words = load_tokenizer(checkpoint)
    total, count = 0.0, 0
    for row in tiny.chats(32):
        messages = row["messages"]
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        asked = words.apply_chat_template(
            messages[: last + 1], add_generation_prompt=True, return_dict=False
        )
        text = words.apply_chat_template(messages, return_dict=False)
        text = text[: len(text) - text[::-1].index(2)]  # up to the stop token
        with torch.no_grad():
            s, t = (m(torch.tensor([text])).logits[0, :, :400].double() for m in (student, other))
        s, t = s[len(asked) - 1 : -1], t[len(asked) - 1 : -1]
        if top is not None:
            t, ids = t.topk(top)
            s = s.gather(1, ids)
        s, t = s.softmax(-1), t.softmax(-1)
        m = 0.3 * t + 0.7 * s
        total += float((0.3 * t * (t / m).log() + 0.7 * s * (s / m).log()).sum())
        count += len(s)
    found = metrics(done)[0]
    assert found["train/learned_tokens"] == count
    assert found["train/loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_teacher_that_is_the_student_gives_no_loss(learn: Learn, checkpoint: Path) -> None:
    done = learn("same", rlhf={"teacher_model": str(checkpoint)}, train={"max_steps": 1})
    found = metrics(done)[0]
    assert abs(found["train/loss"]) < 1e-6 and found["train/grad_norm"] < 1e-5
    assert found["train/agreement"] == 1.0


@pytest.mark.parametrize("lmbda", [0, 1])
def test_a_step_means_the_same_however_it_is_cut(learn: Learn, lmbda: int) -> None:
    kind = {"lmbda": lmbda, "sft_alpha": 0.5}
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "cut": {"train": {"batch_size": 2, "accumulation": 4}},
        "padded": {"model": {"attention": "eager"}},
    }
    if not lmbda:  # a pack of answers that are yet to be written is another step
        ways["offloaded"] = {"rlhf": {**kind, "offload_teacher_model": True}}
    runs = {name: learn(name, **{"rlhf": kind, **way}) for name, way in ways.items()}
    first = metrics(runs.pop("whole"))
    for name, done in runs.items():
        for mine, other in zip(metrics(done), first, strict=True):
            for key in ("train/loss", "train/grad_norm", "train/agreement"):
                assert mine[key] == pytest.approx(other[key], rel=1e-4), (name, key)


def test_packs_are_samples(learn: Learn) -> None:
    """All rows in one step, as one pack or one by one."""
    one = learn("one", train={"batch_size": 32, "max_steps": 1})
    data = {"packing": True, "packing_length": 10_000}
    packed = learn("packed", data=data, train={"batch_size": 1, "max_steps": 1})
    a, b = metrics(one)[0], metrics(packed)[0]
    for key in ("train/loss", "train/grad_norm", "train/agreement", "train/learned_tokens"):
        assert a[key] == pytest.approx(b[key], rel=1e-5), key


@pytest.mark.slow
def test_two_processes_are_one(
    learn: Learn, checkpoint: Path, teacher: Path, tmp_path: Path
) -> None:
    words = ["rlhf", "--rlhf_type", "gkd", "--model", checkpoint, "--teacher_model", teacher]
    words += ["--dataset", "chats.jsonl", "--lmbda", 1, "--max_completion_length", 8]
    words += ["--tuner_type", "full", "--max_steps", 2, "--logging_steps", 1, "--report_to", "none"]
    words += ["--learning_rate", "1e-3", "--torch_dtype", "float32", "--log_completions", "true"]
    sizes = ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1]
    one = start([*words, *sizes, "--output_dir", "one"], tmp_path)
    assert one.wait() == 0, one.text()
    sizes = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2]
    two = start([*words, *sizes, "--output_dir", "two"], tmp_path, processes=2)
    assert two.wait() == 0, two.text()
    a, b = (metrics(tmp_path / name / "checkpoint-2") for name in ("one", "two"))
    for mine, other in zip(a, b, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/on_policy"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4), name
    parts = (tmp_path / "two/completions.jsonl", tmp_path / "two/completions-1.jsonl")
    both = [line for path in parts for line in path.read_text().splitlines()]
    assert sorted(both) == sorted((tmp_path / "one/completions.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_a_sharded_student_learns_the_same(
    learn: Learn, checkpoint: Path, teacher: Path, tmp_path: Path
) -> None:
    words = ["rlhf", "--rlhf_type", "gkd", "--model", checkpoint, "--teacher_model", teacher]
    words += ["--dataset", "chats.jsonl", "--lmbda", 0, "--sft_alpha", 0.3, "--tuner_type", "full"]
    words += ["--max_steps", 2, "--logging_steps", 1, "--report_to", "none", "--learning_rate"]
    words += ["1e-3", "--torch_dtype", "float32", "--gradient_accumulation_steps", 1]
    one = start([*words, "--per_device_train_batch_size", 8, "--output_dir", "one"], tmp_path)
    assert one.wait() == 0, one.text()
    words += ["--deepspeed", "zero3", "--teacher_deepspeed", "zero3", "--output_dir", "two"]
    two = start([*words, "--per_device_train_batch_size", 4], tmp_path, processes=2)
    assert two.wait() == 0, two.text()
    a, b = (metrics(tmp_path / name / "checkpoint-2") for name in ("one", "two"))
    for mine, other in zip(a, b, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/agreement"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4), name


def test_lmbda_chooses_who_writes_and_a_resumed_run_is_the_same(learn: Learn) -> None:
    kind = {"lmbda": 0.5, "seq_kd": True}
    train = {"max_steps": 6, "batch_size": 4, "save_every": 3}
    changes = {"rlhf": kind, "rollout": {"log_completions": True}}
    whole = learn("whole", train=train, **changes)
    lines = said(whole)
    by = {line["step"]: line["by"] for line in lines}
    expected = ["student" if seed_of(42, i) / (1 << 56) < 0.5 else "teacher" for i in range(6)]
    assert list(by.values()) == expected and set(expected) == {"student", "teacher"}
    assert [m["train/on_policy"] for m in metrics(whole)] == [
        float(x == "student") for x in expected
    ]
    part = whole.parent / "checkpoint-3"
    again = learn("again", train={**train, "resume": str(part)}, **changes)
    fresh = learn("fresh", train={**train, "save_every": 500}, **changes)
    assert difference(again, fresh) == 0


def test_what_a_teacher_writes_is_what_its_engine_writes(learn: Learn, teacher: Path) -> None:
    done = learn(
        "run", rlhf={"seq_kd": True}, train={"max_steps": 1, "batch_size": 2},
        rollout={"log_completions": True, "temperature": 0.001},
    )  # fmt: skip
    model, words = LlamaForCausalLM.from_pretrained(teacher), load_tokenizer(teacher)
    for line in said(done):
        row = tiny.chats(32)[int(line["place"].split(":")[1]) - 1]["messages"]
        last = max(i for i, message in enumerate(row) if message["role"] == "user")
        asked = words.apply_chat_template(
            row[: last + 1], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        out = model.generate(asked, do_sample=False, max_new_tokens=8)[0, asked.shape[1] :]
        assert line["completion"] == words.decode(out, skip_special_tokens=True)


@pytest.mark.parametrize(("lmbda", "beta"), [(0, 0.0), (0, 0.5), (1, 1.0)])
def test_a_student_comes_closer_to_its_teacher(
    learn: Learn, tmp_path: Path, lmbda: int, beta: float
) -> None:
    """On rows that it did not see."""
    held = tiny.write_rows(tmp_path / "held.jsonl", tiny.chats(60)[40:])
    done = learn(
        "run", rlhf={"lmbda": lmbda, "beta": beta}, data={"val": [str(held)]},
        train={"max_steps": 12, "evaluate": "steps", "eval_every": 1}, tuner="lora",
        optimizer={"learning_rate": 1e-2},
    )  # fmt: skip
    losses = [m["eval/loss"] for m in metrics(done) if "eval/loss" in m]
    agreed = [m["eval/agreement"] for m in metrics(done) if "eval/agreement" in m]
    assert losses[-1] < 0.8 * losses[0] and agreed[-1] >= agreed[0]


def test_a_teacher_behind_http_is_the_one_in_the_process(
    learn: Learn, teacher: Path, tmp_path: Path
) -> None:
    model = LlamaForCausalLM.from_pretrained(teacher)

    def answer(number: int, path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/models":
            return Reply(body={"data": [{"id": "big"}]})
        assert body["model"] == "big"
        with torch.no_grad():
            logits = model(torch.tensor([body["prompt"]])).logits[0, :, :400]
        logps = logits.log_softmax(-1)
        rows: list[Any] = [None]
        for place, token in enumerate(body["prompt"][1:]):
            ids = {*logps[place].topk(body["prompt_logprobs"]).indices.tolist(), token}
            rows.append({str(id): {"logprob": float(logps[place, id])} for id in ids})
        return Reply(body={"choices": [{"text": "", "prompt_logprobs": rows}]})

    held = tiny.write_rows(tmp_path / "held.jsonl", tiny.chats(60)[40:])
    changes: dict[str, Any] = {
        "data": {"val": [str(held)]}, "rollout": {"temperature": 0.8},
        "train": {"max_steps": 4, "evaluate": "steps", "eval_every": 2},
    }  # fmt: skip
    kind = {"lmbda": 0.5, "logits_topk": 5}
    near = learn("near", rlhf=kind, **changes)
    with serve(answer) as server:
        far = learn(
            "far",
            rlhf={**kind, "teacher_model": None, "teacher_model_server": server.url},
            **changes,
        )
    for mine, other in zip(metrics(far), metrics(near), strict=True):
        for key in mine.keys() & {"train/loss", "train/grad_norm", "eval/loss", "eval/agreement"}:
            assert mine[key] == pytest.approx(other[key], rel=1e-4), key


def test_a_teacher_that_asks_for_a_key(learn: Learn) -> None:
    with serve(lambda number, path, body: answer(number, path, body)) as server:

        def answer(number: int, path: str, body: dict[str, Any]) -> Reply:
            if server.asked[number][2].get("Authorization") != "Bearer secret":
                return Reply(status=401, body={"error": {"message": "no such key"}})
            if path == "/v1/models":
                return Reply(body={"data": [{"id": "big"}]})
            row = {"5": {"logprob": -0.5}, "6": {"logprob": -1.5}}
            rows = [None] + [row] * (len(body["prompt"]) - 1)
            return Reply(body={"choices": [{"text": "", "prompt_logprobs": rows}]})

        kind = {"teacher_model": None, "teacher_model_server": server.url, "logits_topk": 2}
        for wrong in ({}, {"teacher_model_server_key": "other"}):
            with pytest.raises(SwiftError, match="401 no such key"):
                learn("run", rlhf={**kind, **wrong})
        done = learn("told", rlhf={**kind, "teacher_model_server_key": "secret"})
    assert metrics(done)[0]["train/loss"] > 0
    texts = [p.read_text() for p in done.parent.rglob("*") if p.suffix in (".yaml", ".json")]
    assert texts and not any("secret" in text for text in texts)


def test_servers_that_tell_too_little_are_named(learn: Learn) -> None:
    replies: dict[str, Any] = {
        "one that knows prompt_logprobs": None,
        "tells of 1 tokens, not of 5": {"3": {"logprob": -0.1}},
        "tells of token 4004": {str(4000 + i): {"logprob": -1.0 * i} for i in range(6)},
    }
    for problem, row in replies.items():

        def answer(number: int, path: str, body: dict[str, Any], row: Any = row) -> Reply:
            if path == "/v1/models":
                return Reply(body={"data": [{"id": "big"}]})
            rows = None if row is None else [None] + [row] * (len(body["prompt"]) - 1)
            return Reply(body={"choices": [{"text": "", "prompt_logprobs": rows}]})

        with serve(answer) as server, pytest.raises(SwiftError, match=problem):
            kind = {"teacher_model": None, "teacher_model_server": server.url, "logits_topk": 5}
            learn("run", rlhf=kind)


def test_what_cannot_be_is_refused(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.save_checkpoint(other)
    words = tiny.make_tokenizer()
    words.add_tokens(["<extra>"])
    words.save_pretrained(other)
    base = ["rlhf", "--rlhf_type", "gkd", "--model", checkpoint, "--dataset", rows]
    server = ["--teacher_model_server", "http://127.0.0.1:9"]
    for more, problem in (
        ([], "--teacher_model: is needed"),
        (server, "--gkd_logits_topk: is needed"),
        ([*server, "--gkd_logits_topk", 5, "--seq_kd", "true"], "swift sample"),
        ([*server, "--gkd_logits_topk", 5, "--teacher_model", checkpoint], "leave out"),
        (["--teacher_model", checkpoint, "--teacher_model_server_key", "x"], "belongs to"),
        (["--teacher_model", checkpoint, "--deepspeed", "zero3"], "--lmbda 0"),
        (["--teacher_model", checkpoint, "--lmbda", 1.5], "--lmbda: 1.5 is above 1"),
        (["--teacher_model", other], "'<extra>' is no token of the model and 400 of the teacher"),
    ):
        code, text = fail([*base, *more, "--output_dir", "never"], tmp_path)
        assert code == 2 and problem in text, text


def test_sft_alpha_adds_fine_tuning_on_answers_of_others(learn: Learn) -> None:
    plain = metrics(learn("plain", train={"max_steps": 1}))[0]
    mixed = metrics(learn("mixed", rlhf={"sft_alpha": 0.5}, train={"max_steps": 1}))[0]
    assert mixed["train/divergence"] == pytest.approx(plain["train/loss"], rel=1e-6)
    both = mixed["train/divergence"] + 0.5 * mixed["train/cross_entropy"]
    assert mixed["train/loss"] == pytest.approx(both, rel=1e-6)
    own = metrics(learn("own", rlhf={"sft_alpha": 0.5, "lmbda": 1}, train={"max_steps": 1}))[0]
    assert "train/cross_entropy" not in own


def test_a_micro_batch_without_rows_costs_nothing(checkpoint: Path) -> None:
    """As a process has one at the end of an epoch whose rows do not go round."""
    section = GkdSection(teacher_model_server="http://x", logits_topk=5)
    model = tiny.make_model()
    choose_layout(model, "auto")
    objective = DistillObjective(section, 1.0, model, None)
    out = objective(taught(PLAIN([]), False, []))
    out["total"].backward()
    assert float(out["total"]) == 0.0
