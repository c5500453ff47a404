"""Every message that is given reaches the model, also those of roles that templates do not know."""

from __future__ import annotations

import pytest

import tiny
from chat.templates import FAMILIES, Family
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.errors import RenderError

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello!")
FIRST_ONLY = (
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + "
    "'<|im_end|>\n' }}{% endif %}{% for m in messages %}{% if m.role in ('user', 'assistant') %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSES = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('Unexpected role') }}{% endif %}{% endfor %}" + tiny.CHATML
)
KNOWS = tiny.CHATML.replace(
    "{% for", "{% set known = ['system', 'developer', 'user', 'assistant'] %}{% for", 1
)
JSON = tiny.CHATML.replace("message['content']", "message['content'] | tojson")


def texts(renderer: Renderer, *messages: Message) -> set[str]:
    """What is sent and what is learned from."""
    asked = renderer.prompt(messages[:-1])
    [sample] = renderer.render(Conversation(messages))
    assert sample.tokens[: len(asked)] == asked
    return {renderer.tokenizer.decode(asked, keep_special=True)}


@pytest.mark.parametrize("template", [tiny.CHATML, FIRST_ONLY, REFUSES])
def test_developer_is_the_system_of_a_template_that_does_not_know_it(template: str) -> None:
    renderer = Family(template, "", "").renderer()
    found, expected = (
        texts(renderer, Message(role, "Be brief."), USER, ANSWER)
        for role in ("developer", "system")
    )
    assert found == expected


def test_developer_stays_where_a_template_knows_it() -> None:
    renderer = Family(KNOWS, "", "").renderer()
    [found] = texts(renderer, Message("developer", "Be brief."), USER, ANSWER)
    assert found.startswith("<|im_start|>developer\nBe brief.")


LATE = {
    "system": (Message("system", "Be brief."), "write it into the first system message"),
    "developer": (Message("developer", "Be brief."), "write it into the first system message"),
    "tool": (Message("tool", "21 degrees"), "write it into another message"),
}


@pytest.mark.parametrize("role", LATE)
def test_what_a_template_leaves_out_is_refused_when_asking_and_when_learning(role: str) -> None:
    renderer = Family(FIRST_ONLY, "", "").renderer()
    late, advice = LATE[role]
    messages = (USER, ANSWER, late, USER, ANSWER)
    for refused in (
        lambda: renderer.prompt(messages[:-1]),
        lambda: renderer.render(Conversation(messages)),
    ):
        with pytest.raises(RenderError) as error:
            refused()
        assert str(error.value).startswith(
            f"message 3 ({role}): the template leaves it out, so the model would not see it; "
            + advice
        )


def test_of_two_that_say_the_same_none_may_be_missing() -> None:
    renderer = Family(FIRST_ONLY, "", "").renderer()
    messages = [Message("system", "Be brief."), USER, Message("system", "Be brief.")]
    assert renderer.prompt(messages[:2])
    with pytest.raises(RenderError, match="message 3"):
        renderer.prompt([*messages, Message("user", "Now?")])


@pytest.mark.parametrize(
    "said", ['{"a": "x<y"}', "line\nline\t2", "é 你好 🐦", "  around  ", "", "\\n"]
)
@pytest.mark.parametrize("template", [tiny.CHATML, JSON, FAMILIES["llama3"].template])
def test_texts_are_found_in_the_form_in_which_they_are_written(template: str, said: str) -> None:
    tokens = FAMILIES["llama3"].tokens if template not in (tiny.CHATML, JSON) else ()
    renderer = Family(template, "", "", tokens).renderer()
    assert renderer.prompt([USER, ANSWER, Message("tool", said)])


def test_quoted_control_tokens_are_found() -> None:
    renderer = Family(tiny.CHATML, "", "").renderer()
    assert renderer.prompt([Message("user", "What is <|im_end|> \ue000 for?")])
