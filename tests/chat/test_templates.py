"""Templates that come along, for models that have none; and what else a template reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from chat.templates import Family
from swift.chat.load import load_renderer, renderer_for, template_of
from swift.chat.message import Conversation, Message
from swift.config.model import ModelSection
from swift.errors import ConfigError

NAMES = ("alpaca", "chatml", "plain", "vicuna", "zephyr")
TURNS = (
    Message("system", "Be brief."),
    Message("user", "Who?"),
    Message("assistant", "Apus."),
    Message("user", "Where?"),
    Message("assistant", "Here."),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_that_comes_along(name: str, checkpoint: Path) -> None:
    renderer = load_renderer(checkpoint, chat_template=name)
    samples = renderer.render(Conversation(TURNS))
    for answer in (2, 4):
        prompt = renderer.prompt(TURNS[:answer])
        [found] = [s for s in samples if s.tokens[: len(prompt)] == prompt and any(s.weights)][-1:]
        said = found.tokens[len(prompt) :]
        assert str(renderer.parse(said).content).strip() == TURNS[answer].content
        first_stop = next(i for i, token in enumerate(said) if token in renderer.stop_ids)
        assert all(weight > 0 for weight in found.weights[len(prompt) :][: first_stop + 1])
    text = [renderer.tokenizer.decode(sample.tokens) for sample in samples]
    assert all(turn.content in text[-1] for turn in TURNS)


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("{{ messages }}")
    assert template_of("plain") == "{{ messages }}"
    assert template_of("chatml") != template_of(None) is None


def test_a_template_that_is_nowhere() -> None:
    with pytest.raises(ConfigError) as error:
        template_of("qwen2_5")
    assert str(error.value) == (
        "--chat_template: qwen2_5: No such file or directory; without it the checkpoint's own "
        "template is used, and alpaca, chatml, plain, vicuna, zephyr come along"
    )


SWITCH = tiny.CHATML.replace(
    "{% if add_generation_prompt %}",
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% elif add_generation_prompt %}",
)


@pytest.mark.parametrize(
    ("settings", "quiet"),
    [
        ({}, False),
        ({"thinking": True}, False),
        ({"thinking": False}, True),
        ({"template_kwargs": {"enable_thinking": False}}, True),
    ],
)
def test_thinking_is_switched(settings: dict[str, object], quiet: bool, tmp_path: Path) -> None:
    Family(SWITCH, "", "").tokenizer().save_pretrained(tmp_path)
    renderer = renderer_for(tmp_path, ModelSection(path="x", **settings))
    prompt = renderer.tokenizer.decode(renderer.prompt(TURNS[1:2]))
    assert prompt.endswith("</think>\n\n") == quiet
    own = renderer.prompt(TURNS[1:2], kwargs={"enable_thinking": not quiet})
    assert renderer.tokenizer.decode(own).endswith("</think>\n\n") != (not quiet)
