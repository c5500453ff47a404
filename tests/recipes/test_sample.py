"""``swift sample``: drawn, judged, kept; resumed, divided, judged anew; and learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from infer.stand_in import Reply, serve
from processes import fail, run

PLUGIN = """
from swift import registry
def even(completions, **columns):
    return [float(len(text) % 2 == 0) for text in completions]
registry.register("reward", "even", f"{__name__}:even")
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    (tmp_path / "plug.py").write_text(PLUGIN)
    rows = [{"prompt": f"Add {i} and two.", "solution": str(i + 2)} for i in range(6)]
    return tiny.write_rows(tmp_path / "asked.jsonl", rows)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def counts(path: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(path.with_suffix(".counts.json").read_text())
    return found


def adds(wrong: int = 0) -> Any:
    """A server that answers sums; of the answers to a question the first ones are wrong."""
    told: dict[str, int] = {}

    def answer(number: int, path: str, body: dict[str, Any]) -> Reply:
        assert path == "/v1/chat/completions"
        question = body["messages"][-1]["content"]
        told[question] = told.get(question, 0) + 1
        value = int(question.split()[1]) + 2 + (told[question] <= wrong) * told[question]
        message = {"role": "assistant", "content": f"It is {value}."}
        return Reply(body={"choices": [{"message": message, "finish_reason": "stop"}]})

    return answer


def words(url: str, *more: object) -> list[object]:
    """As ms-swift writes it."""
    engine = json.dumps({"base_url": f"{url}/v1", "api_key": "secret"})
    return [
        "sample", "--sampler_type", "distill", "--sampler_engine", "client", "--model", "big",
        "--engine_kwargs", engine, "--dataset", "asked.jsonl", "--num_return_sequences", 4,
        "--orm_model", "number", "--output_dir", "out", "--output_file", "rows.jsonl", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_rows_of_a_live_model_are_learned_from(
    checkpoint: Path, asked: Path, tmp_path: Path
) -> None:
    base = ["sample", "--model", checkpoint, "--dataset", asked, "--num_return_sequences", 4]
    base += ["--max_new_tokens", 6, "--external_plugins", "plug.py", "--reward_funcs", "even"]
    base += ["--n_best_to_keep", 2, "--num_sampling_batch_size", 3, "--output_file", "rows.jsonl"]
    run([*base, "--output_dir", "one"], tmp_path)
    run([*base, "--output_dir", "two", "--num_sampling_batch_size", 1], tmp_path)
    rows = lines(tmp_path / "one/rows.jsonl")
    assert rows == lines(tmp_path / "two/rows.jsonl")  # seeds belong to queries
    drawn = lines(tmp_path / "one/rows.answers.jsonl")
    assert all(len({a["content"] for a in line["answers"]}) > 1 for line in drawn)
    for row in rows:
        assert len(row["messages"][-1]["content"]) % 2 == 0 and row["score"] == 1.0
        assert row["solution"] and len(row.get("rejected_response", "odd")) % 2 == 1
    pairs = [row for row in rows if "rejected_response" in row]
    assert pairs
    train = ["--model", checkpoint, "--dataset", "one/rows.jsonl", "--report_to", "none"]
    train += ["--max_steps", 1]
    sft = run(["sft", *train, "--output_dir", "sft"], tmp_path)
    assert f"{len(rows)} samples" in sft
    dpo = run(["rlhf", *train, "--rlhf_type", "dpo", "--output_dir", "dpo"], tmp_path)
    assert f"{len(pairs)} samples" in dpo


def test_the_best_of_a_teacher_and_what_became_of_all(asked: Path, tmp_path: Path) -> None:
    with serve(adds(wrong=2)) as server:
        run(words(server.url), tmp_path)
        assert len(server.asked) == 24
        assert {headers["Authorization"] for _, _, headers in server.asked} == {"Bearer secret"}
    rows = lines(tmp_path / "out/rows.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == [f"It is {i + 2}." for i in range(6)]
    assert all(row["rejected_response"].startswith("It is ") for row in rows)
    assert counts(tmp_path / "out/rows.jsonl") == {
        "rows": 6, "answers": 24, "right answers": 12, "said again": 6, "queries kept": 6,
        "rows written": 6, "with a worse answer": 6,
    }  # fmt: skip


def test_too_easy_and_too_hard(asked: Path, tmp_path: Path) -> None:
    with serve(adds(wrong=0)) as server:
        text = run(words(server.url, "--easy_query_threshold", 0.9), tmp_path)
    assert "6 too easy" in text and lines(tmp_path / "out/rows.jsonl") == []
    with serve(adds(wrong=4)) as server:
        text = run(words(server.url, "--override_exist_file", "true"), tmp_path)
    assert "6 none right" in text


def test_a_run_that_was_ended_goes_on_without_asking_again(asked: Path, tmp_path: Path) -> None:
    plain = adds(wrong=1)

    def dies(number: int, path: str, body: dict[str, Any]) -> Reply:
        return Reply(401, {"error": "no more"}) if number >= 10 else plain(number, path, body)

    with serve(dies) as server:
        code, text = fail(words(server.url, "--concurrency", 1), tmp_path)
        assert code == 2 and "no more" in text
    journal = tmp_path / "out/rows.answers.jsonl"
    assert len(lines(journal)) == 2
    with journal.open("a") as file:
        file.write('{"id": "cut sh')  # what a kill leaves
    with serve(plain) as server:
        code, text = fail(words(server.url), tmp_path)
        assert code == 2 and "--resume true goes on" in text
        run(words(server.url, "--resume", "true"), tmp_path)
        assert len(server.asked) == 16
        run(words(server.url, "--resume", "true", "--n_best_to_keep", 1), tmp_path)
        assert len(server.asked) == 16
    assert len(lines(tmp_path / "out/rows.jsonl")) == 6


def test_answers_are_judged_later_and_in_parts(asked: Path, tmp_path: Path) -> None:
    """ms-swift's two steps: draw first, judge what was written."""
    base = [word for word in words("", "--x")[:-1] if word not in ("--orm_model", "number")]
    with serve(adds(wrong=2)) as server:
        base[base.index("--engine_kwargs") + 1] = json.dumps({"base_url": f"{server.url}/v1"})
        base = base[: base.index("--output_file")]
        for part in range(2):
            more = ["--data_range", part, 2, "--output_file", f"part{part}.jsonl"]
            run([*base, *more], tmp_path)
    parts = [tmp_path / f"out/part{part}.jsonl" for part in range(2)]
    assert [counts(path)["rows"] for path in parts] == [3, 3]
    assert len(lines(parts[0])) == 9  # three different answers to each
    judged = ["sample", "--sampler_engine", "no", "--dataset", "asked.jsonl", "--orm_model"]
    judged += ["number", "--cache_files", *parts, "--output_file", "all.jsonl"]
    run([*judged, "--output_dir", "out"], tmp_path)
    rows = lines(tmp_path / "out/all.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == [f"It is {i + 2}." for i in range(6)]
    code, text = fail([*judged, "--cache_files", "asked.jsonl", "--output_dir", "x"], tmp_path)
    assert code == 2 and "no rows of swift sample" in text


def test_rows_that_cannot_be_asked_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "Add 1 and two."},
                      {"role": "assistant", "content": "3"}]},
        {"prompt": "Add 1 and two."}, {"prompt": 7}, {"other": "x"},
    ]  # fmt: skip
    tiny.write_rows(tmp_path / "asked.jsonl", rows)
    with serve(adds()) as server:
        run(words(server.url), tmp_path)
        assert len(server.asked) == 4
    found = counts(tmp_path / "out/rows.jsonl")
    assert found["unusable"] == 2 and found["asked before"] == 1 and found["rows"] == 4
    [row] = lines(tmp_path / "out/rows.jsonl")
    assert row["messages"][-1]["content"] == "It is 3."  # the row's own answer was the solution


def test_thinking_is_kept_and_judged(asked: Path, tmp_path: Path) -> None:
    def thinks(number: int, path: str, body: dict[str, Any]) -> Reply:
        message = {"role": "assistant", "content": "<answer>1</answer>", "reasoning_content": "Hm."}
        return Reply(body={"choices": [{"message": message, "finish_reason": "stop"}]})

    with serve(thinks) as server:
        run([*words(server.url), "--orm_model", "format", "--dataset", "asked.jsonl#1"], tmp_path)
    [row] = lines(tmp_path / "out/rows.jsonl")
    assert row["messages"][-1]["reasoning_content"] == "Hm."


def test_what_cannot_be_is_refused(asked: Path, tmp_path: Path) -> None:
    for more, problem in (
        (["--dataset", asked], "--model: is needed"),
        (
            ["--dataset", asked, "--model", "x", "--sampler_type", "distill"],
            "a teacher is a server",
        ),
        (["--dataset", asked, "--sampler_engine", "no"], "--cache_files: is needed"),
        (["--dataset", asked, "--model", "x", "--resume", "true"], "--output_file: is needed"),
        (["--dataset", asked, "--model", "x", "--output_file", "a/b.jsonl"], "is a name such as"),
        (["--dataset", asked, "--model", "x", "--data_range", 3, 3], "--data_range: is a part"),
        (["--model", "x"], "--dataset: is needed"),
    ):
        code, text = fail(["sample", *more], tmp_path)
        assert code == 2 and problem in text, text
