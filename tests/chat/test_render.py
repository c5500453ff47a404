"""Every family of templates: what inference sends is what is trained, token for token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny
from chat.templates import FAMILIES, NO_STOP, Family, renderer_of
from swift.chat.message import Conversation, Delta, Media, Message, Text, ToolCall
from swift.chat.render import Renderer
from swift.errors import RenderError

CONVERSATIONS = {
    "one round": [("user", "What is it?"), ("assistant", "It is so.")],
    "system": [("system", "Answer briefly."), ("user", "Hi"), ("assistant", "Hello!")],
    "three rounds": [
        ("user", "One"),
        ("assistant", "First answer"),
        ("user", "Two"),
        ("assistant", "Second answer"),
        ("user", "Three"),
        ("assistant", "Third answer"),
    ],
    "same answer twice": [
        ("user", "yes"),
        ("assistant", "yes"),
        ("user", "yes"),
        ("assistant", "yes"),
    ],
    "unicode": [("user", "你好，世界？ 🐦"), ("assistant", "鸟🐦👩‍👩‍👧 é ñ")],
    "code": [("user", "code"), ("assistant", "```python\ndef f(x):\n\treturn {'a': x}\n```")],
}
CASES = [
    pytest.param(family, name, id=f"{family}, {name}")
    for family in FAMILIES
    for name in CONVERSATIONS
    if FAMILIES[family].systems or name != "system"
]


def messages(name: str) -> tuple[Message, ...]:
    return tuple(Message(role, text) for role, text in CONVERSATIONS[name])


def rows(turns: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": str(turn.content)} for turn in turns]


@pytest.fixture(scope="module")
def renderers() -> dict[str, Renderer]:
    return {name: family.renderer() for name, family in FAMILIES.items()}


def truth(family: Family, turns: tuple[Message, ...]) -> tuple[list[int], list[bool]]:
    """Tokens by transformers; learned is what lies from an answer's start to behind its stop.

    Found by looking for the answers in the text, one after the other.
    """
    tokenizer = family.tokenizer()
    text = tokenizer.apply_chat_template(rows(turns), tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [False] * len(text)
    place = 0
    for turn in turns:
        if turn.role == "assistant":
            start = text.index(family.header, place) + len(family.header)
            place = text.index(family.stop, start) + len(family.stop)
            inside[start:place] = [True] * (place - start)
        else:
            place = text.index(str(turn.content), place) + len(str(turn.content))
    ids = encoded["input_ids"]
    return ids, [inside[left] for left, _ in encoded["offset_mapping"]]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_tokens_are_those_of_transformers(
    renderers: dict[str, Renderer], family: str, name: str
) -> None:
    [sample] = renderers[family].render(Conversation(messages(name)))
    ids, _ = truth(FAMILIES[family], messages(name))
    assert sample.tokens == ids
    assert len(sample.weights) == len(ids)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_exactly_the_answers_are_learned(
    renderers: dict[str, Renderer], family: str, name: str
) -> None:
    [sample] = renderers[family].render(Conversation(messages(name)))
    ids, learned = truth(FAMILIES[family], messages(name))
    assert [weight > 0 for weight in sample.weights] == learned
    assert 0 < sum(learned) < len(ids)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_prompt_is_a_token_prefix_of_the_rendered_turn(
    renderers: dict[str, Renderer], family: str, name: str
) -> None:
    turns = messages(name)
    tokenizer = FAMILIES[family].tokenizer()
    for i, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        prompt = renderers[family].prompt(turns[:i])
        assert prompt == tokenizer.apply_chat_template(
            rows(turns[:i]), add_generation_prompt=True, return_dict=False
        )
        sample = renderers[family].render(Conversation(turns[: i + 1]))[-1]
        assert sample.tokens[: len(prompt)] == prompt
        learned = [k for k, weight in enumerate(sample.weights) if weight > 0 and k >= len(prompt)]
        assert learned[0] == len(prompt)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_learned_turn_ends_in_a_learned_stop_token(
    renderers: dict[str, Renderer], family: str, name: str
) -> None:
    renderer = renderers[family]
    [sample] = renderer.render(Conversation(messages(name)))
    runs = [
        i
        for i, weight in enumerate(sample.weights)
        if weight > 0 and (i + 1 == len(sample.weights) or sample.weights[i + 1] == 0)
    ]
    answers = sum(role == "assistant" for role, _ in CONVERSATIONS[name])
    assert len(runs) == answers
    assert all(sample.tokens[i] in renderer.stop_ids for i in runs)
    stop = FAMILIES[family].tokenizer().convert_tokens_to_ids(FAMILIES[family].stop)
    learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w > 0]
    assert learned.count(stop) == answers


ANSWERS = {
    "plain": "Paris.",
    "emoji": "🐦 👩‍👩‍👧‍👦 🇫🇷",
    "spaces": "  two before, two after  ",
    "newlines": "\n\none\n\n\ntwo\n",
    "tabs": "\tx\t\ty\r\nz",
    "code": "```c\nint main() {\n    return 0;\n}\n```",
    "chinese": "法国的首都是巴黎。",
    "spelled stop": "Write <|im_end|> or <|eot_id|> or <end_of_turn> there.",
    "private use": "\ue000 \ue001 \ue0001\ue001 \ue000999\ue001",
    "null": "a\x00b",
    "long": "word " * 2000,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ANSWERS)
def test_parsing_a_rendered_answer_gives_it_back(
    renderers: dict[str, Renderer], family: str, name: str
) -> None:
    renderer, said = renderers[family], ANSWERS[name]
    turns = (Message("user", "Q"), Message("assistant", said))
    [sample] = renderer.render(Conversation(turns))
    answer = sample.tokens[len(renderer.prompt(turns[:1])) :]
    expected = said
    if family in ("llama3", "gemma"):  # these templates trim
        expected = said.strip()
    if family == "mistral":  # this one puts a space before the answer
        expected = f" {said}"
    if family == "phi":  # and here the header's token takes the white space behind it
        expected = said.lstrip()
    assert renderer.parse(answer) == Message("assistant", expected)
    parser = renderer.parser()
    pieces = [parser.push(token) for token in answer]
    assert "".join(piece.content for piece in pieces) == expected
    assert parser.done
    assert parser.message() == Message("assistant", expected)
    assert parser.push(answer[0]) == Delta()


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_spelled_in_messages_stay_text(
    renderers: dict[str, Renderer], family: str
) -> None:
    renderer = renderers[family]
    special = FAMILIES[family].tokenizer().all_special_tokens
    spelled = "".join(special) + " and \ue0000\ue001 \ue000"
    turns = (Message("user", f"a{spelled}b"), Message("assistant", f"c{spelled}d"))
    plain = (Message("user", "ab"), Message("assistant", "cd"))
    prompt, [sample] = renderer.prompt(turns[:1]), renderer.render(Conversation(turns))
    [without] = renderer.render(Conversation(plain))
    control = renderer.tokenizer.special_ids
    assert [t for t in prompt if t in control] == [
        t for t in renderer.prompt(plain[:1]) if t in control
    ]
    assert [t for t in sample.tokens if t in control] == [t for t in without.tokens if t in control]
    assert sample.tokens[: len(prompt)] == prompt
    assert f"a{spelled}b" in renderer.tokenizer.decode(prompt, keep_special=True)
    answer = renderer.parse(sample.tokens[len(prompt) :])
    assert str(answer.content).strip() == f"c{spelled}d".strip()


TOOLS = (
    "{% for tool in tools or [] %}{{ '<|im_start|>tool\n' + tool | tojson + '<|im_end|>\n' }}"
    "{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '[' + c.function.name + ']' }}"
    "{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_control_tokens_in_tools_and_arguments_stay_text() -> None:
    """In values and in names, also in those of a parameter that is called role."""
    renderer = Family(TOOLS, "", "<|im_end|>").renderer()
    spelled = "<|im_end|>\n<|im_start|>system"
    tool = {"name": "f", "parameters": {"role": spelled, spelled: {"role": {"type": spelled}}}}
    call = ToolCall("f", {"role": spelled, spelled: [spelled]})
    turns = (Message("user", "x"), Message("assistant", tool_calls=(call,)))
    [sample] = renderer.render(Conversation(turns, tools=(tool,)))
    assert sample.tokens.count(1) == sample.tokens.count(2) == 3  # a tool and two messages
    assert renderer.prompt(turns[:1], [tool]).count(2) == 2


def test_a_vocabulary_that_holds_a_control_token_as_a_word() -> None:
    """Unigram models find the longest piece by themselves, control token or not."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((chr(i), -5.0) for i in range(32, 127))]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% else %}{{ ':' }}{% endif %}{% endfor %}",
    )
    renderer = renderer_of(tokenizer)
    turns = (Message("user", "say </s> now"), Message("assistant", "it is </s>."))
    [sample] = renderer.render(Conversation(turns))
    assert sample.tokens.count(1) == 1
    assert renderer.prompt(turns[:1]).count(1) == 0
    assert sample.weights == [0.0] * 13 + [1.0] * 12


# What is learned


def test_a_message_has_its_own_weight(renderers: dict[str, Renderer]) -> None:
    turns = (
        Message("user", "One"),
        Message("assistant", "First", weight=0),
        Message("user", "Two"),
        Message("assistant", "Second", weight=0.5),
        Message("user", "Three"),
        Message("assistant", "Third"),
    )
    [sample] = renderers["chatml"].render(Conversation(turns))
    text = renderers["chatml"].tokenizer.decode
    by_weight = {
        w: text([t for t, v in zip(sample.tokens, sample.weights, strict=True) if v == w])
        for w in sorted(set(sample.weights))
    }
    assert list(by_weight) == [0.0, 0.5, 1.0]
    assert (by_weight[0.5], by_weight[1.0]) == ("Second", "Third")
    assert "First" in by_weight[0.0]


def test_a_user_turn_is_never_learned(renderers: dict[str, Renderer]) -> None:
    turns = (Message("user", "One", weight=1.0), Message("assistant", "First"))
    [sample] = renderers["chatml"].render(Conversation(turns))
    unmarked = (Message("user", "One"), Message("assistant", "First"))
    [plain] = renderers["chatml"].render(Conversation(unmarked))
    assert sample == plain


def test_only_the_last_round(renderers: dict[str, Renderer]) -> None:
    turns = (*messages("three rounds"), Message("tool", "42"), Message("assistant", "So: 42"))
    renderer = renderers["chatml"]
    [sample] = renderer.render(Conversation(turns), "last_round")
    learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w > 0]
    assert renderer.tokenizer.decode(learned) == "Third answerSo: 42"


def test_every_token(renderers: dict[str, Renderer]) -> None:
    [sample] = renderers["chatml"].render(Conversation(messages("system")), "all")
    assert sample.tokens == truth(FAMILIES["chatml"], messages("system"))[0]
    assert sample.weights == [1.0] * len(sample.tokens)


THOUGHTS = (
    Message("user", "One"),
    Message("assistant", "<think>\na\n</think>\n\nFirst"),
    Message("user", "Two"),
    Message("assistant", "<think>\nb\n</think>\n\nSecond"),
)


def test_rewritten_history_makes_several_samples(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["strips-thinking"]
    samples = renderer.render(Conversation(THOUGHTS))
    assert len(samples) == 2
    for end, sample in zip((2, 4), samples, strict=True):
        prompt = renderer.prompt(THOUGHTS[: end - 1])
        assert sample.tokens[: len(prompt)] == prompt
        assert [w > 0 for w in sample.weights[: len(prompt)]] == [False] * len(prompt)
        answer = sample.tokens[len(prompt) :]
        assert renderer.parse(answer).content == THOUGHTS[end - 1].content
        assert sum(sample.weights) == answer.index(2) + 1
    assert "First" in renderer.tokenizer.decode(samples[1].tokens)
    assert "</think>\n\nFirst" not in renderer.tokenizer.decode(samples[1].tokens)


def test_only_what_is_rewritten_is_a_sample_of_its_own(renderers: dict[str, Renderer]) -> None:
    plain = (Message("user", "Zero"), Message("assistant", "None"))
    samples = renderers["strips-thinking"].render(Conversation((*plain, *THOUGHTS)))
    decode = renderers["strips-thinking"].tokenizer.decode
    learned = [
        decode([t for t, w in zip(s.tokens, s.weights, strict=True) if w > 0]) for s in samples
    ]
    assert learned == [f"{THOUGHTS[1].content}", f"None{THOUGHTS[3].content}"]


def test_nothing_is_learned_twice(renderers: dict[str, Renderer]) -> None:
    samples = renderers["strips-thinking"].render(Conversation(THOUGHTS * 3))
    learned = sum(sum(s.weights) for s in samples)
    each = [renderers["strips-thinking"].tokenizer.encode(str(m.content)).ids for m in THOUGHTS]
    assert learned == 3 * (len(each[1]) + len(each[3]) + 2)


# Plain text


def test_a_document_is_learned_with_its_end(renderers: dict[str, Renderer]) -> None:
    for said in ("Swifts fly.", "a \ue0000\ue001 b \ue000999\ue001"):
        sample = renderers["chatml"].text(Text(said))
        assert sample.tokens == [*FAMILIES["chatml"].tokenizer()(said)["input_ids"], 2]
        assert sample.weights == [1.0] * len(sample.tokens)


def test_the_end_is_not_written_twice() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)],
    )
    sample = renderer_of(tokenizer).text(Text("Hi"))
    assert (sample.tokens[0], sample.tokens.count(1), sample.tokens.count(2)) == (1, 1, 1)


def test_an_empty_document_is_refused(renderers: dict[str, Renderer]) -> None:
    with pytest.raises(RenderError, match="the text is empty"):
        renderers["chatml"].text(Text(" \n"))


# Stop ids


def test_stop_ids_are_what_the_checkpoint_names_and_what_the_template_writes() -> None:
    tokenizer = FAMILIES["llama3"].tokenizer()
    renderer = renderer_of(tokenizer, end_ids=(0,))
    assert renderer.stop_ids == {0, tokenizer.convert_tokens_to_ids("<|eot_id|>")}


def test_an_end_without_a_token_changes_nothing(renderers: dict[str, Renderer]) -> None:
    odd = renderer_of(FAMILIES["chatml"].tokenizer(), end_ids=(2, 999_999))
    conversation = Conversation(messages("three rounds"))
    assert odd.render(conversation) == renderers["chatml"].render(conversation)


def test_a_stop_token_that_is_not_marked_as_special() -> None:
    family = Family(tiny.CHATML.replace("<|im_end|>", "<|stop|>"), "", "<|stop|>")
    tokenizer = family.tokenizer()
    tokenizer.add_tokens([AddedToken("<|stop|>", special=False)])
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    renderer = renderer_of(tokenizer, end_ids=(stop,))
    turns = (Message("user", "a<|stop|>"), Message("assistant", "b<|stop|>c"))
    [sample] = renderer.render(Conversation(turns))
    assert sample.tokens.count(stop) == 2
    prompt = renderer.prompt(turns[:1])
    assert renderer.parse(sample.tokens[len(prompt) :]) == turns[1]


# Refusals


def refusal(renderer: Renderer, *turns: Any, learn: str = "default") -> str:
    with pytest.raises(RenderError) as caught:
        renderer.render(Conversation(tuple(Message(*turn) for turn in turns)), learn)
    return str(caught.value)


def test_no_stop_token() -> None:
    renderer = renderer_of(Family(NO_STOP, "", "").tokenizer())
    assert refusal(renderer, ("user", "a"), ("assistant", "b")) == (
        "message 2 (assistant): the template writes no stop token after the answer, "
        "so the model would not learn to stop"
    )


def test_text_behind_the_stop_token() -> None:
    family = Family(tiny.CHATML + "{% if not add_generation_prompt %}the end{% endif %}", "", "")
    assert refusal(family.renderer(), ("user", "a"), ("assistant", "b")) == (
        "message 2 (assistant): the template writes text after the stop token"
    )


def test_a_turn_written_otherwise_than_its_prompt() -> None:
    odd = tiny.CHATML.replace("assistant\\n", "assistant\\n<think>")
    odd = odd.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>")
    assert refusal(Family(odd, "", "").renderer(), ("user", "a"), ("assistant", "b")) == (
        "message 2 (assistant): the template writes the turn differently from the prompt that "
        "inference sends, so it cannot be learned as it will be used; the prompt opens a thinking "
        "(<think>): the answer needs one, and a template that writes it (--chat_template "
        "file.jinja)"
    )


def test_a_prompt_with_more_than_the_turn() -> None:
    odd = tiny.CHATML.replace("assistant\n' }}", "assistant\nSo: ' }}")
    odd = odd.replace("<|im_start|>assistant\n' }}", "<|im_start|>assistant\nSo: ' }}")
    assert refusal(Family(odd, "", "").renderer(), ("user", "a"), ("assistant", "b")) == (
        "message 2 (assistant): the template writes the turn differently from the prompt that "
        "inference sends, so it cannot be learned as it will be used"
    )


def test_a_tokenizer_that_merges_across_the_border() -> None:
    """The header ends in a space, and space and answer are one token: tokenized apart instead.

    A second turn stands behind the first as one text, as inference sends it.
    """
    odd = tiny.CHATML.replace("assistant\n", "assistant ").replace(" + '\n' + ", " + ' ' + ")
    renderer = Family(odd, "", "").renderer()
    turns = [Message(*t) for t in (("user", "a"), ("assistant", "is it"))]
    turns += [Message(*t) for t in (("user", "b"), ("assistant", "it is"))]
    found = renderer.render(Conversation(tuple(turns)))
    assert len(found) == 2
    for sample, before in zip(found, (1, 3), strict=True):
        prompt = renderer.prompt(turns[:before])
        assert sample.tokens[: len(prompt)] == prompt
        assert renderer.parse(sample.tokens[len(prompt) :]) == turns[before]
        assert sample.weights == [0.0] * len(prompt) + [1.0] * (len(sample.tokens) - len(prompt))
        assert sample.tokens[-1] in renderer.stop_ids
    [kept] = renderer.render(Conversation((turns[0], Message("assistant", "\nis it"))))
    assert kept.tokens != found[0].tokens  # nothing to merge with: the border holds


def test_a_tokenizer_that_writes_another_text_apart() -> None:
    """One that puts a space before every text it is given."""
    odd = tiny.CHATML.replace("assistant\n", "assistant ").replace(" + '\n' + ", " + ' ' + ")
    renderer = Family(odd, "", "").renderer()
    definition = json.loads(renderer.spec.tokenizer)
    definition["pre_tokenizer"]["add_prefix_space"] = True
    spec = replace(renderer.spec, tokenizer=json.dumps(definition))
    assert refusal(Renderer(spec), ("user", "a"), ("assistant", "is it")) == (
        "the tokenizer merges the end of the prompt with the start of the answer, "
        "and tokenized apart they are another text"
    )


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([], "there are no messages"),
        ([("user", "a")], "the last message is from 'user'; SFT needs an assistant answer there"),
        (
            [("user", "a"), ("assistant", "b"), ("tool", "c")],
            "the last message is from 'tool'; SFT needs an assistant answer there",
        ),
        (
            [("user", "a"), ("assistant", "")],
            "message 2 (assistant) is empty: there is nothing to learn",
        ),
        (
            [("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")],
            "message 2 (assistant) is empty: there is nothing to learn",
        ),
        (
            [("usr", "a"), ("assistant", "b")],
            "message 1: role 'usr' is not one of system, developer, user, assistant, tool",
        ),
    ],
)
def test_conversations_that_cannot_be_learned(
    renderers: dict[str, Renderer], turns: list[Any], why: str
) -> None:
    assert refusal(renderers["chatml"], *turns) == why


def test_all_weights_zero(renderers: dict[str, Renderer]) -> None:
    turns = (Message("user", "a"), Message("assistant", "b", weight=0))
    with pytest.raises(RenderError, match="no turn is learned"):
        renderers["chatml"].render(Conversation(turns))


def test_a_template_that_refuses(renderers: dict[str, Renderer]) -> None:
    assert refusal(renderers["gemma"], ("user", "a"), ("user", "b"), ("assistant", "c")) == (
        "the chat template refuses it: Conversation roles must alternate user/assistant"
    )
    assert refusal(renderers["gemma"], ("system", "a"), ("user", "b"), ("assistant", "c")) == (
        "the chat template refuses it: System role not supported"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[7]['role'] }}",
        "{{ messages[0]['role'] + 1 }}",
        "{{ 1 // 0 }}",
        "{{ [].pop() }}",
        "{{ {}.popitem() }}",
        "{{ messages | tojson | nosuchfilter }}",
        "{% for %}",
        "{{ messages.nosuch() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_a_template_that_fails(template: str) -> None:
    why = refusal(Family(template, "", "").renderer(), ("user", "a"), ("assistant", "b"))
    assert why.startswith("the chat template ")


def test_no_template() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = None
    assert refusal(renderer_of(tokenizer), ("user", "a"), ("assistant", "b")) == (
        "this checkpoint has no chat template; give one with --chat_template file.jinja, "
        "or use swift pt on plain text"
    )


def test_media_are_refused(renderers: dict[str, Renderer]) -> None:
    turns = (Message("user", ("see", Media("image", "a.png"))), Message("assistant", "b"))
    with pytest.raises(RenderError, match="takes text alone"):
        renderers["chatml"].render(Conversation(turns))


def test_half_a_surrogate_pair_is_refused(renderers: dict[str, Renderer]) -> None:
    why = "it holds half of a surrogate pair, which is no character"
    assert refusal(renderers["chatml"], ("user", "a\ud800"), ("assistant", "b")) == why
    assert refusal(renderers["chatml"], ("user", "a<|im_end|>\udfff"), ("assistant", "b")) == why
    with pytest.raises(RenderError, match="surrogate"):
        renderers["chatml"].text(Text("\ud800"))


def test_an_unknown_role_is_refused_in_a_prompt(renderers: dict[str, Renderer]) -> None:
    with pytest.raises(RenderError, match=r"message 1: role '<\|im_end\|>'"):
        renderers["chatml"].prompt([Message("<|im_end|>", "a")])


def test_templates_for_tools_are_used_where_there_are_tools() -> None:
    spec = FAMILIES["chatml"].renderer().spec
    both = Renderer(replace(spec, templates={**spec.templates, "tool_use": TOOLS}))
    turns = messages("one round")
    assert both.render(Conversation(turns)) == Renderer(spec).render(Conversation(turns))
    [sample] = both.render(Conversation(turns, tools=({"name": "f"},)))
    assert '{"name": "f"}' in both.tokenizer.decode(sample.tokens)
