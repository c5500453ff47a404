"""Rows -> tokens on disk: made once, the same whoever makes them, taken up where they broke off."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tiny
from chat.templates import FAMILIES
from swift.chat.message import Conversation, Message, Rendered
from swift.chat.render import Renderer, RendererSpec
from swift.data.encode import EncodeSettings, encode, encode_row
from swift.data.formats.form import formats
from swift.data.ledger import Ledger
from swift.data.sample import Samples, collect
from swift.data.source import Source, blocks
from swift.data.tokens import SCHEMA
from swift.errors import DataError, ResourceError

CHAT = EncodeSettings("chat")


@pytest.fixture(scope="module")
def spec() -> RendererSpec:
    return FAMILIES["chatml"].renderer().spec


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks; a few rows that cannot be used."""
    rows: list[Any] = tiny.chats(4500)
    for i in range(0, 4500, 500):
        rows[i] = {"messages": rows[i]["messages"][:1], "number": i}
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "chats.jsonl", rows)


def samples_of(
    file: Path, spec: RendererSpec, cache: Path, settings: EncodeSettings = CHAT, **options: Any
) -> Samples:
    found = encode(blocks(Source(file, file.name), 1), spec, settings, cache, **options)
    return collect(found, 512, "drop", Ledger(), strict=False)


def contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.iterdir()}


def times(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


@pytest.fixture(scope="module")
def made(
    file: Path, spec: RendererSpec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Samples]:
    cache = tmp_path_factory.mktemp("made")
    return cache, samples_of(file, spec, cache)


def test_what_is_read_back_is_what_was_rendered(
    file: Path, spec: RendererSpec, made: tuple[Path, Samples]
) -> None:
    renderer, samples = Renderer(spec), made[1]
    place = 0
    for line, text in enumerate(file.read_text().splitlines()[:600], 1):
        turns = [Message(m["role"], m["content"]) for m in json.loads(text)["messages"]]
        if turns[-1].role != "assistant":
            continue
        [expected] = renderer.render(Conversation(tuple(turns)))
        sample = samples[place]
        end = max(i for i, w in enumerate(expected.weights) if w > 0) + 1
        assert sample.tokens.tolist() == expected.tokens[:end]
        assert sample.weights.tolist() == expected.weights[:end]
        assert sample.place == f"chats.jsonl:{line}"
        assert samples.learned_S[place] == (np.array(expected.weights[1:]) > 0).sum()
        assert samples.lengths_S[place] == end
        place += 1


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_makes_the_same_files(
    file: Path, spec: RendererSpec, made: tuple[Path, Samples], tmp_path: Path, processes: int
) -> None:
    cache, samples = made
    other = samples_of(file, spec, tmp_path, processes=processes)
    assert len(contents(tmp_path)) == 3
    assert contents(tmp_path) == contents(cache)
    assert other.fingerprint == samples.fingerprint
    again = times(tmp_path)
    assert samples_of(file, spec, tmp_path, processes=processes).fingerprint == samples.fingerprint
    assert times(tmp_path) == again


def test_a_second_run_encodes_nothing(
    file: Path, spec: RendererSpec, made: tuple[Path, Samples]
) -> None:
    cache, samples = made
    before = times(cache)
    assert samples_of(file, spec, cache).fingerprint == samples.fingerprint
    assert times(cache) == before


def test_a_fresh_run_encodes_everything_to_the_same(
    file: Path, spec: RendererSpec, made: tuple[Path, Samples], tmp_path: Path
) -> None:
    samples_of(file, spec, tmp_path)
    before = times(tmp_path)
    samples_of(file, spec, tmp_path, fresh=True)
    assert all(times(tmp_path)[name] > before[name] for name in before)
    assert contents(tmp_path) == contents(made[0])


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_file_that_was_cut_is_made_again(
    left: int, file: Path, spec: RendererSpec, made: tuple[Path, Samples], tmp_path: Path
) -> None:
    samples_of(file, spec, tmp_path)
    cut = sorted(tmp_path.glob("*.arrow"))[1]
    cut.write_bytes(cut.read_bytes()[:left])
    before = times(tmp_path)
    samples_of(file, spec, tmp_path)
    assert contents(tmp_path) == contents(made[0])
    assert [name for name in before if times(tmp_path)[name] != before[name]] == [cut.name]


def test_a_changed_row_changes_its_block_alone(
    file: Path, spec: RendererSpec, made: tuple[Path, Samples], tmp_path: Path
) -> None:
    rows = file.read_text().splitlines(keepends=True)
    rows[2100] = rows[2100].replace("Answer", "Advice")  # as long as before
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(rows))
    cache = tmp_path / "cache"
    other = samples_of(changed, spec, cache)
    assert len(contents(cache).keys() - contents(made[0]).keys()) == 1
    assert other.fingerprint != made[1].fingerprint


def test_moved_and_renamed_rows_are_known(
    file: Path, spec: RendererSpec, made: tuple[Path, Samples], tmp_path: Path
) -> None:
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(b"\n\n" + file.read_bytes())
    before = times(made[0])
    samples = samples_of(moved, spec, made[0])
    assert times(made[0]) == before
    assert samples.place(0) == "moved.jsonl:4"  # the first row fails, two lines are blank


SETTINGS = [
    replace(CHAT, learn="last_round"),
    replace(CHAT, learn="all"),
    replace(CHAT, system="Be brief."),
    replace(CHAT, columns=(("number", "system"),)),
    replace(CHAT, names=(("{{NAME}}", ("Apus",)),)),
    replace(CHAT, kind="text"),
]


def test_every_setting_changes_the_key(spec: RendererSpec, tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "a.jsonl", tiny.chats(3))
    cache = tmp_path / "cache"
    for count, settings in enumerate([CHAT, *SETTINGS, CHAT], 1):
        samples_of(file, spec, cache, settings)
        assert len(contents(cache)) == min(count, len(SETTINGS) + 1)


def test_every_part_of_the_renderer_changes_the_key(spec: RendererSpec, tmp_path: Path) -> None:
    others = [
        replace(spec, templates=FAMILIES["default-system"].renderer().spec.templates),
        replace(spec, variables={**spec.variables, "bos_token": ""}),
        replace(spec, end_ids=(0, 2)),
        replace(spec, eos_id=0),
        replace(spec, tokenizer=FAMILIES["llama3"].renderer().spec.tokenizer),
    ]
    file = tiny.write_rows(tmp_path / "a.jsonl", tiny.chats(3))
    for count, other in enumerate([spec, *others], 1):
        samples_of(file, other, tmp_path / "cache")
        assert len(contents(tmp_path / "cache")) == count


PLUGIN = """
from swift.chat.message import Text
from swift.data.formats.form import Format
from swift.registry import register
FORMAT = Format("poem", '{"poem": ...}', lambda row: "poem" in row, lambda row: Text(BODY))
register("format", "poem", __name__ + ":FORMAT")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from swift import registry

    monkeypatch.setattr(registry, "_ENTRIES", {k: dict(v) for k, v in registry._ENTRIES.items()})

    def write(name: str, body: str) -> EncodeSettings:
        path = tmp_path / name
        path.write_text(PLUGIN.replace("BODY", body))
        registry.load_plugins([str(path)])
        return EncodeSettings("text", plugins=(str(path),))

    return write


def test_a_plug_in_reads_rows_in_every_process_and_is_part_of_the_key(
    spec: RendererSpec, tmp_path: Path, plugin: Any
) -> None:
    file = tiny.write_rows(tmp_path / "a.jsonl", [{"poem": "x"}] * 2100)
    settings = plugin("mine.py", "'A swift! ' + row['poem']")
    one = samples_of(file, spec, tmp_path / "a", settings)
    two = samples_of(file, spec, tmp_path / "b", settings, processes=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(one) == len(two) == 2100
    assert Renderer(spec).tokenizer.decode(one[0].tokens.tolist()) == "A swift! x"
    (tmp_path / "mine.py").write_text(PLUGIN.replace("BODY", "'B'"))
    samples_of(file, spec, tmp_path / "a", settings)
    assert len(contents(tmp_path / "a")) == 4


def test_a_process_that_dies_is_an_error_and_not_a_wait(
    spec: RendererSpec, tmp_path: Path, plugin: Any
) -> None:
    settings = plugin("deadly.py", "__import__('os')._exit(9)")
    file = tiny.write_rows(tmp_path / "a.jsonl", [{"poem": "x"}])
    with pytest.raises(ResourceError, match="a process that makes tokens was killed"):
        samples_of(file, spec, tmp_path / "cache", settings, processes=2)


ENCODE = """
import pickle, sys
from pathlib import Path
from swift.data.encode import EncodeSettings, encode
from swift.data.source import Source, blocks
if __name__ == "__main__":
    spec = pickle.loads(Path(sys.argv[1]).read_bytes())
    file = Path(sys.argv[2])
    source = blocks(Source(file, file.name), 1)
    for _ in encode(source, spec, EncodeSettings("chat"), Path(sys.argv[3]), processes=2):
        pass
"""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait(done: Any) -> bool:
    for _ in range(1500):
        if done():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux' /proc")
def test_an_encoding_that_was_killed_is_taken_up(spec: RendererSpec, tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "a.jsonl", tiny.chats(10_000))
    pickled = tmp_path / "spec"
    pickled.write_bytes(pickle.dumps(spec))
    cache, script = tmp_path / "cache", tmp_path / "script.py"
    script.write_text(ENCODE)
    process = subprocess.Popen([sys.executable, script, pickled, file, cache])
    assert wait(lambda: cache.is_dir() and any(cache.glob("*.arrow")))
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert wait(lambda: not any(map(alive, workers)))  # nobody goes on behind our back
    before = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.arrow")}
    assert 1 <= len(before) < 5
    samples = samples_of(file, spec, cache)
    after = times(cache)
    assert {name: after[name] for name in before} == before
    whole = tmp_path / "whole"
    assert samples_of(file, spec, whole).fingerprint == samples.fingerprint
    kept = {name: content for name, content in contents(cache).items() if name.endswith(".arrow")}
    assert kept == contents(whole)


def test_a_cache_that_cannot_be_written(spec: RendererSpec, file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="set SWIFT_CACHE to a folder of yours"):
        samples_of(file, spec, tmp_path / "file" / "cache")


def test_progress_counts_rows(spec: RendererSpec, file: Path, made: tuple[Path, Samples]) -> None:
    told: list[int] = []
    samples_of(file, spec, made[0], progress=told.append)
    assert told == [2048, 2048, 404]


def test_weights_that_change_within_a_row(spec: RendererSpec, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0.5},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "weight": 2},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "f", "weight": 0},
    ]
    file = tiny.write_rows(tmp_path / "a.jsonl", [{"messages": turns}])
    [sample] = samples_of(file, spec, tmp_path / "cache")
    [expected] = Renderer(spec).render(
        Conversation(
            tuple(Message(t["role"], t["content"], weight=t.get("weight")) for t in turns)  # type: ignore[arg-type]
        )
    )
    end = len(sample.tokens)
    assert sample.weights.tolist() == expected.weights[:end]
    assert set(expected.weights[:end]) == {0.0, 0.5, 2.0}
    assert set(expected.weights[end:]) == {0.0}  # what follows the last learned token is not kept
    assert sample.tokens.tolist() == expected.tokens[:end]


# One row


def row(value: Any, settings: EncodeSettings = CHAT) -> list[Rendered]:
    renderer = FAMILIES["chatml"].renderer()
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return encode_row(raw, renderer, settings, formats())


def text_of(value: Any, settings: EncodeSettings = CHAT) -> str:
    [sample] = row(value, settings)
    return FAMILIES["chatml"].renderer().tokenizer.decode(sample.tokens)


ASK = {"query": "Q", "response": "A"}


def test_a_system_prompt_for_rows_that_have_none() -> None:
    settings = replace(CHAT, system="Be brief.")
    assert text_of(ASK, settings) == text_of({**ASK, "system": "Be brief."})
    assert text_of({**ASK, "system": "X"}, settings) == text_of({**ASK, "system": "X"})


def test_columns_are_renamed() -> None:
    settings = replace(CHAT, columns=(("a", "response"), ("q", "query")))
    assert text_of({"q": "Q", "a": "A"}, settings) == text_of(ASK)
    assert text_of({"q": "Q", "a": "A", "query": "other"}, settings) == text_of(ASK)
    assert text_of(ASK, settings) == text_of(ASK)


def test_names_are_filled_in() -> None:
    settings = replace(
        CHAT, names=(("{{NAME}}", ("小鹰", 'The "Swift"\n')), ("{{AUTHOR}}", ("Apus",)))
    )
    said = {"query": "Who?", "response": "{{NAME}} by {{AUTHOR}}, {{NAME}}"}
    expected = {"query": "Who?", "response": 'The "Swift"\n by Apus, The "Swift"\n'}
    assert text_of(said, settings) == text_of(expected)
    said, expected = (
        {"query": "你是谁", "response": "{{NAME}}"},
        {"query": "你是谁", "response": "小鹰"},
    )
    assert text_of(said, settings) == text_of(expected)


def test_plain_text() -> None:
    pt = EncodeSettings("text")
    [sample] = row({"text": "Swifts fly."}, pt)
    assert sample.tokens[-1] == 2
    assert row({"messages": [{"role": "user", "content": "Swifts fly."}]}, pt) == [sample]
    with pytest.raises(DataError, match="this is a conversation; use swift sft"):
        row(ASK, pt)
    with pytest.raises(DataError, match="has no turns to learn; use swift pt"):
        row({"text": "Swifts fly."})


def test_files_are_plain_arrow_with_the_failures_beside(made: tuple[Path, Samples]) -> None:
    tables = [pa.ipc.open_file(path).read_all() for path in made[0].iterdir()]
    assert all(table.column_names == SCHEMA.names for table in tables)
    failures = [json.loads(table.schema.metadata[b"failures"]) for table in tables]
    assert sorted(map(len, failures)) == [0, 4, 5]
    assert {why for part in failures for _, why in part} == {
        "the last message is from 'system'; SFT needs an assistant answer there"
    }
