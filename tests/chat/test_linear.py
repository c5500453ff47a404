"""One rendering for all prompts of a conversation: only where it is shown to be the same."""

import random
from pathlib import Path

import pytest

import tiny
from swift.chat import linear
from swift.chat.jinja import Template
from swift.chat.linear import Loop, with_marks
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.chat.tokenizer import MARK
from swift.chat.writer import Apart, Writer
from swift.errors import RenderError

CHATML = (
    "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
FIRST = (  # a first system message stands before the loop, texts are trimmed, space is as it falls
    "{% if messages[0]['role'] == 'system' %}\n  [{{ messages[0]['content'] | trim }}]\n"
    "  {% set rest = messages[1:] %}\n{% else %}{% set rest = messages %}{% endif %}\n"
    "{% set ns = namespace(n=0) %}\n"
    "{%- for m in rest -%}\n  {% set ns.n = ns.n + 1 %}\n  {{ ns.n }} {{ m['content'] | trim }}\n"
    "  {%- if loop.first and tools %} {{ tools | tojson }}{% endif %}</s>\n  {% endfor %}\n"
    "{%- if add_generation_prompt and thinking %}<t>{% endif %}"
)
LINEAR = {
    "chatml": CHATML,
    "first": FIRST,
    "previous": CHATML.replace(
        "{{ '<s>'", "{% if loop.previtem is defined %}|{{ loop.previtem.role }}|{% endif %}{{ '<s>'"
    ),
    "text by name": CHATML.replace("{{ '<s>'", "{% set c = m.content %}{{ c }}{{ '<s>'"),
    "by its length": CHATML.replace("m.content +", "m.content + m.content | length | string +"),
    "twice": CHATML.replace("m.content +", "m.content + m.content +"),
}
AHEAD = {
    "last": CHATML.replace("'</s>\n'", "('' if loop.last else '</s>\n')"),
    "length": CHATML.replace("'</s>\n'", "loop.length | string"),
    "next": CHATML.replace("'</s>\n'", "(loop.nextitem.role if loop.nextitem else '')"),
    "messages": CHATML.replace("'</s>\n'", "messages | length | string"),
    "last message": CHATML.replace("'</s>\n'", "messages[-1].role"),
    "one ahead": CHATML.replace("'</s>\n'", "(messages[loop.index0 + 1].role or '')"),
    "header in the loop": CHATML.replace("'</s>\n'", "add_generation_prompt | string"),
    "behind the loop": CHATML + "{{ messages[0].content }}",
    "state behind": "{% set ns = namespace(t='') %}"
    + CHATML.replace("{{ '<s>'", "{% set ns.t = m.role %}{{ '<s>'")
    + "{{ ns.t }}",
    "filtered": CHATML.replace("in messages", "in messages if m.role != 'system'"),
    "else": CHATML.replace("{% endfor %}", "{% else %}none{% endfor %}"),
    "reversed": CHATML.replace("in messages", "in messages | reverse"),
    "backwards": CHATML.replace("in messages", "in messages[::-1]"),
    "renamed": "{% set messages = messages[2:] %}" + CHATML,
    "two names": "{% set r = messages %}{% if messages[0].role == 'system' %}{% set r = tools %}"
    "{% endif %}" + CHATML.replace("in messages", "in r"),
    "two loops": CHATML + CHATML,
    "in a block": "{% filter upper %}" + CHATML + "{% endfilter %}",
    "in a condition": "{% if true %}" + CHATML + "{% endif %}",
    "break": CHATML.replace("{{ '<s>'", "{% if loop.index > 2 %}{% break %}{% endif %}{{ '<s>'"),
    "a clock": "{{ strftime_now('%Y') }}" + CHATML,
    "no loop": "{{ messages[0].content }}",
    "generation": CHATML.replace("{{ '<s>'", "{% generation %}{% endgeneration %}{{ '<s>'"),
}


def _apart(template: Template, turns, tools=(), kwargs=None):
    return Apart(Writer(template, []), turns, tools, kwargs)


def _turns(*roles: str, chance: random.Random | None = None) -> list[dict[str, str]]:
    space = ["", " ", "\n"]
    return [
        {"role": role, "content": f"{chance.choice(space) if chance else ''}text {i}"}
        for i, role in enumerate(roles)
    ]


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("tools", [(), ({"name": "f"},)], ids=["plain", "tools"])
@pytest.mark.parametrize("kwargs", [None, {"thinking": True}], ids=["", "kwargs"])
def test_one_rendering_gives_every_prompt(name, tools, kwargs):
    template = Template({"default": LINEAR[name]})
    loop = Loop.of(template)
    assert loop is not None
    chance = random.Random(0)
    for _ in range(30):
        rounds = [role for _ in range(chance.randint(1, 4)) for role in ("user", "assistant")]
        turns = _turns(*chance.choice([["system"], []]), *rounds, chance=chance)
        found = loop.prefixes(turns, tools, kwargs)
        assert found is not None
        apart = _apart(template, turns, tools, kwargs)
        for i, turn in enumerate(turns):
            if turn["role"] == "assistant":
                assert found.prompt(i) == apart.prompt(i)
                assert found.whole(i + 1) == apart.whole(i + 1)


@pytest.mark.parametrize("name", AHEAD)
def test_what_looks_ahead_is_not_taken_for_a_loop(name):
    assert with_marks(AHEAD[name]) is None


def test_an_answer_right_behind_what_stands_before_the_loop():
    loop = Loop.of(Template({"default": FIRST}))
    assert loop is not None
    assert loop.prefixes(_turns("system", "assistant")) is None
    assert loop.prefixes(_turns("assistant", "user", "assistant")) is None


def test_tails_of_ever_new_kwargs_are_not_kept():
    loop = Loop.of(Template({"default": FIRST}))
    for number in range(linear._FRAMES + 5):
        found = loop.prefixes(_turns("user", "assistant"), (), {"n": number})
        assert found is not None and found.tail == ""
    assert len(loop._tails) == linear._FRAMES


def test_texts_are_not_rendered_again_where_they_are_only_written(monkeypatch):
    asked = []
    template = Template({"default": CHATML})
    loop = Loop.of(template)
    plain = Template.render
    monkeypatch.setattr(Template, "render", lambda *a, **k: asked.append(a) or plain(*a, **k))
    found = [loop.prefixes(_turns("user", "assistant", "user", "assistant")) for _ in range(9)]
    assert len(asked) == 2  # with the header of an answer, and without
    assert found[8].prompt(3) == _apart(template, _turns("user", "assistant", "user")).prompt(3)


def test_a_mark_in_a_message_is_text(tmp_path):
    tokenizer = load_renderer(tiny.save_checkpoint(tmp_path / "base")).tokenizer
    said = f"a{MARK}b\ue003c {MARK}"
    loop, quoted = Loop.of(Template({"default": FIRST})), tokenizer.quote(said)
    assert MARK not in quoted
    turns = [{"role": "user", "content": quoted}, {"role": "assistant", "content": quoted}]
    assert loop.prefixes(turns).whole(2) == _apart(Template({"default": FIRST}), turns).whole(2)
    ids = tokenizer.encode(quoted).ids
    assert tokenizer.decode(ids) == said


def test_a_loop_that_is_not_one_is_found_out_by_comparing(monkeypatch):
    wrong = CHATML.replace("m.content", "m.content[:3]")
    monkeypatch.setattr(linear, "writes_as_is", lambda tree, message: True)
    monkeypatch.setattr(
        linear, "with_marks", lambda source: with_marks(source.replace("m.content", "m.role"))
    )
    writer = Writer(Template({"default": wrong}), [])
    turns = _turns("user", "assistant")
    assert isinstance(writer.beginnings(turns, (), None), Apart)
    assert isinstance(writer.beginnings(turns, (), None), Apart)


def test_what_the_template_refuses_behind_the_learned_turns_does_not_matter():
    strict = CHATML.replace(
        "{{ '<s>'", "{% if m.role == 'tool' %}{{ raise_exception('no') }}{% endif %}{{ '<s>'"
    )
    writer = Writer(Template({"default": strict}), [])
    turns = _turns("user", "assistant", "tool")
    assert writer.beginnings(turns, (), None).prompt(1) == "<s>user\ntext 0</s>\n<s>assistant\n"
    with pytest.raises(RenderError, match="no"):
        writer.beginnings(turns, (), None).whole(3)


def test_built_in_templates_are_loops():
    folder = Path(linear.__file__).parent / "templates"
    for file in sorted(folder.glob("*.jinja")):
        assert with_marks(file.read_text(encoding="utf-8")), file.name


def test_conversations_come_out_the_same_either_way(monkeypatch, tmp_path):
    chance = random.Random(1)
    words = ["one", "two", "<|im_end|>", "three\n", "four", "", "five", ""]
    rows = []
    for _ in range(200):
        rounds = chance.randint(1, 3)
        roles = ["system"] * chance.randint(0, 1) + ["user", "assistant"] * rounds
        texts = [" ".join(chance.choices(words, k=chance.randint(1, 9))) + "." for _ in roles]
        rows.append(Conversation(tuple(map(Message, roles, texts))))
    spec = load_renderer(tiny.save_checkpoint(tmp_path / "base")).spec
    together = [Renderer(spec).render(row) for row in rows]
    monkeypatch.setattr(Loop, "of", classmethod(lambda cls, template: None))
    assert together == [Renderer(spec).render(row) for row in rows]
