"""Templates and tokenizers with a fault put in: the renderer refuses, or a property says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

import tiny
from chat.templates import renderer_of
from swift.chat.message import Conversation, Message, Rendered, ToolCall
from swift.chat.properties import Result, reference_of, verify
from swift.chat.render import Renderer, RendererSpec
from swift.chat.shapes import SHAPES

CONTENT = "message['content']"
ROLE = "message['role']"
HEADER = "{{ '<|im_start|>assistant\n' }}"


def write(*changes: tuple[str, str]) -> str:
    """ChatML with parts of its template replaced."""
    text = tiny.CHATML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def found(
    template: str, shape: str, change: Callable[[Any], Any] = lambda made: None
) -> list[Result]:
    """What becomes of every property under a template."""
    made = tiny.make_tokenizer()
    made.chat_template = template
    change(made)
    return verify(renderer_of(made), reference_of(made), SHAPES[shape].conversation)


def refused(results: list[Result]) -> set[str]:
    """Reasons, of a conversation that is refused as a whole."""
    assert {result.status for result in results} == {"refused"}
    return {result.why for result in results}


FAULTS = {
    "drops the stop token": (
        write(("'<|im_end|>' + '\n'", "'\n'")),
        "one round",
        "writes no stop token after the answer",
    ),
    "stops in the prompts alone": (
        write(("'<|im_end|>'", f"('<|im_end|>' if {ROLE} == 'user' else '')")),
        "one round",
        "writes no stop token after the answer",
    ),
    "a system prompt in training alone": (
        "{% if not add_generation_prompt %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}"
        + tiny.CHATML,
        "one round",
        "writes the turn differently from the prompt",
    ),
    "another header in training": (
        write((HEADER, "{{ '<|im_start|>model\n' }}")),
        "one round",
        "writes the turn differently from the prompt",
    ),
    "drops the thinking": (write(), "thinking", "does not write its thinking"),
    "drops the tool calls": (write(), "tool call", "does not write its tool calls"),
    "text behind the stop token": (
        write(("'<|im_end|>' + '\n'", "'<|im_end|>' + 'Next, please.\n'")),
        "one round",
        "writes text after the stop token",
    ),
    "the time": (
        "{{ strftime_now('%f') }}{{ range(100000) | random }}" + tiny.CHATML,
        "one round",
        "writes the turn differently from the prompt",
    ),
    "answers in small letters": (
        write((CONTENT, f"({CONTENT} | lower if {ROLE} == 'assistant' else {CONTENT})")),
        "one round",
        "does not write its content as it is",
    ),
    "cuts long answers": (
        write((CONTENT, f"{CONTENT}[:50]")),
        "long",
        "does not write its content as it is",
    ),
    "trims inside": (
        write((CONTENT, f"{CONTENT}.replace('\n\n', '\n')")),
        "white space",
        "does not write its content as it is",
    ),
    "no roles but user": (
        "{% if messages[0].role != 'user' %}{{ raise_exception('Only users!') }}{% endif %}"
        + tiny.CHATML,
        "system",
        "Only users!",
    ),
    "divides by nothing": ("{{ 1 // 0 }}", "one round", "cannot write it"),
    "no Jinja": ("{% for %}", "one round", "the chat template refuses it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_renderer_refuses(fault: str) -> None:
    template, shape, why = FAULTS[fault]
    assert [reason for reason in refused(found(template, shape)) if why not in reason] == []


def violated(results: list[Result]) -> dict[str, str]:
    return {result.name: result.why for result in results if result.status == "violated"}


LEFT_OUT = {
    "questions in small letters": (
        write((CONTENT, f"({CONTENT} if {ROLE} == 'assistant' else {CONTENT} | lower)")),
        *("one round", "user"),
    ),
    "no system turn": (
        write((CONTENT, f"({CONTENT} if {ROLE} != 'system' else '')")),
        *("system", "system"),
    ),
}


@pytest.mark.parametrize("fault", LEFT_OUT)
def test_what_is_left_out_is_seen_twice(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renderer refuses it; the property sees it also of one that does not."""
    template, shape, role = LEFT_OUT[fault]
    [why] = refused(found(template, shape))
    assert why.startswith(f"message 1 ({role}): the template leaves it out, so the model would not")
    monkeypatch.setattr("swift.chat.render.check_heard", lambda *_: None)
    assert violated(found(template, shape)) == {
        "all is written": f"message 1 ({role}): its text is not in the prompt"
    }


def test_something_random_in_every_answer_to_come() -> None:
    """The header of the answer differs from call to call."""
    noise = "{{ '<|im_start|>assistant\n' ~ (range(100000) | random) }}"
    for result in found(write((HEADER, noise)), "one round"):
        assert result.status == "refused"


def test_the_date_of_the_day_is_said() -> None:
    results = found("{{ strftime_now('%Y-%m-%d') }}" + tiny.CHATML, "one round")
    others = [result for result in results if result.status != "held"]
    assert others == [Result("same again", "refused", "the template writes the date of the day")]


BORDER = (
    "{% for m in messages %}{{ m.role[0] + ':' + m.content }}"
    "{{ '<e>' if m.role == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)


def merging(decoder: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that makes one token of the end of a prompt and the start of its answer."""
    vocabulary = {"<e>": 0, **{chr(i): i for i in range(1, 256)}, ":A": 256, "A.": 257}
    backend = Backend(models.BPE(vocabulary, [(":", "A"), ("A", ".")]))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", chat_template=BORDER)


def test_a_tokenizer_that_merges_across_the_border() -> None:
    """The answer is tokenized as inference would: apart from its prompt."""
    made = merging(decoders.Fuse())
    renderer = renderer_of(made)
    conversation = Conversation((Message("user", "Q"), Message("assistant", "A.")))
    assert {r.status for r in verify(renderer, reference_of(made), conversation)} == {"held"}
    [sample] = renderer.render(conversation)
    assert made.convert_ids_to_tokens(sample.tokens)[-3:] == [":", "A.", "<e>"]
    assert 256 in made.apply_chat_template(
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A."}],
        return_dict=False,
    )


def test_a_tokenizer_that_merges_and_gives_another_text_apart() -> None:
    made = merging(decoders.WordPiece())
    conversation = Conversation((Message("user", "Q"), Message("assistant", "A.")))
    [why] = refused(verify(renderer_of(made), reference_of(made), conversation))
    assert "the tokenizer merges the end of the prompt with the start of the answer" in why


def test_a_tokenizer_in_small_letters_gives_other_answers() -> None:
    def lowers(made: PreTrainedTokenizerFast) -> None:
        made.backend_tokenizer.normalizer = normalizers.Lowercase()

    assert set(violated(found(tiny.CHATML, "one round", lowers))) == {"parses back"}


def test_a_stop_token_that_takes_what_follows() -> None:
    """White space that belongs to a control token is nobody's."""

    def greedy(made: PreTrainedTokenizerFast) -> None:
        made.add_special_tokens(
            {"additional_special_tokens": [AddedToken("<|im_end|>", lstrip=True, special=True)]}
        )

    results = found(tiny.CHATML, "white space", greedy)
    assert violated(results) == {}


class Broken(Renderer):
    """A renderer with a fault in what it gives."""

    def __init__(self, spec: RendererSpec, fault: str) -> None:
        super().__init__(spec)
        self.fault = fault
        self.calls = 0

    def render(self, conversation: Conversation, learn: str = "default") -> list[Rendered]:
        self.calls += 1
        return [self._changed(sample) for sample in super().render(conversation, learn)]

    def _changed(self, sample: Rendered) -> Rendered:
        tokens, weights = list(sample.tokens), list(sample.weights)
        first = next(i for i, weight in enumerate(weights) if weight > 0)
        last = max(i for i, weight in enumerate(weights) if weight > 0)
        if self.fault == "learns the header":
            weights[first - 1] = 1.0
        elif self.fault == "does not learn the stop":
            weights[last] = 0.0
        elif self.fault == "learns what follows":
            weights[last + 1 :] = [1.0] * len(weights[last + 1 :])
        elif self.fault == "another token in the prompt":
            tokens[1] += 1
        elif self.fault == "changes its mind" and self.calls > 2:
            tokens[first] += self.calls
        return Rendered(tokens, weights)

    def prompt(self, *words: Any) -> list[int]:
        ids = super().prompt(*words)
        return ids[:-1] if self.fault == "a shorter prompt" else ids

    def parse(self, tokens: Sequence[int], *words: Any) -> Message:
        message = super().parse(tokens, *words)
        if self.fault == "parses a call":
            return replace(message, tool_calls=(ToolCall("f", {}),))
        if self.fault == "parses thinking":
            return replace(message, thinking="Well.")
        return message


SEEN = {
    "learns the header": {"prompt not learned"},
    "does not learn the stop": {"stop is learned"},
    "learns what follows": {"stop is learned"},
    "another token in the prompt": {"same tokens", "prompt is prefix"},
    "a shorter prompt": {"same tokens"},
    "changes its mind": {"same again"},
    "parses a call": {"parses back"},
    "parses thinking": {"parses back"},
}


@pytest.mark.parametrize("fault", SEEN)
def test_a_fault_of_the_renderer_is_seen_by_its_property(fault: str) -> None:
    made = tiny.make_tokenizer()
    broken = Broken(renderer_of(made).spec, fault)
    results = verify(broken, reference_of(made), SHAPES["three rounds"].conversation)
    assert SEEN[fault] <= set(violated(results))


def test_control_tokens_that_are_not_quoted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.make_tokenizer()
    renderer = renderer_of(made)
    monkeypatch.setattr(renderer.tokenizer, "quote", lambda value: value)
    results = verify(renderer, reference_of(made), SHAPES["one round"].conversation)
    judged = next(result for result in results if result.name == "quotes stay text")
    assert judged.status == "violated" or "stop token" in judged.why
