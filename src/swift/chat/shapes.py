"""Conversations of every shape, to try a renderer on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from swift.chat.message import Conversation, Message, ToolCall
from swift.chat.render import Renderer
from swift.errors import RenderError

WEATHER: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"],
        },
    },
}
_THOUGHT = "Ten minus one is nine."
_CONTROL = (
    "<|im_start|><|im_end|><|eot_id|><end_of_turn></s><bos>[INST]<|end|> \ue000 \ue0000\ue001 "
    "\ue002\ue003"
)


@dataclass(frozen=True)
class Shape:
    """A conversation, and what its template must be able to write for it to make sense."""

    conversation: Conversation
    needs: tuple[Literal["thinking", "tool calls"], ...] = ()


def _chat(*turns: tuple[str, str] | Message, **more: Any) -> Conversation:
    messages = (turn if isinstance(turn, Message) else Message(*turn) for turn in turns)
    return Conversation(tuple(messages), **more)


def _answered(answer: str) -> Shape:
    return Shape(_chat(("user", "What is it?"), ("assistant", answer)))


def _begun(content: str, prefix: str) -> Message:
    return Message("assistant", content, prefix=prefix)


_CALL = Message("assistant", tool_calls=(ToolCall("get_weather", {"city": "Paris"}, "call00001"),))
_CALLED = (
    Message("user", "How is the weather in Paris?"),
    _CALL,
    Message("tool", "sunny and 21 degrees", tool_call_id="call00001", name="get_weather"),
)

_CALLS = (
    ToolCall("get_weather", {"city": "Zürich \"Nord\"\n{a: 'b'}"}, "call00002"),
    ToolCall("get_weather", {"city": "", "days": 3, "more": {"a": [1.5, True, None]}}, "call00003"),
)
_TAGS = "<think>, </think>, <tool_call> and </tool_call>"

SHAPES: Mapping[str, Shape] = {
    "one round": _answered("It is so."),
    "system": Shape(_chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"))),
    "empty system": Shape(_chat(("system", ""), ("user", "Hi"), ("assistant", "Hello!"))),
    "three rounds": Shape(
        _chat(
            *(("user", "One"), ("assistant", "First")),
            *(("user", "Two"), ("assistant", "Second")),
            *(("user", "Three"), ("assistant", "Third")),
        )
    ),
    "same answer twice": Shape(_chat(*(("user", "yes"), ("assistant", "yes")) * 2)),
    "unicode": Shape(_chat(("user", "你好，世界？ 🐦"), ("assistant", "鸟🐦👩‍👩‍👧 é ñ"))),
    "code": _answered("```python\ndef f(x):\n\treturn {'a': x}  # {{ x }}\n```"),
    "quoted control tokens": Shape(
        _chat(("user", f"a{_CONTROL}b"), ("assistant", f"It is {_CONTROL} there."))
    ),
    "tags in the text": Shape(
        _chat(("user", f"What are {_TAGS}?"), ("assistant", f"Marks such as {_TAGS}."))
    ),
    "white space": _answered("  \n one \n\n\n two\t \n\n"),
    "starts with a line end": _answered("\n\nSo it is."),
    "long": _answered("It is as long as this. " * 200),
    "one turn not learned": Shape(
        _chat(
            *(("user", "One"), Message("assistant", "First", weight=0.0)),
            *(("user", "Two"), ("assistant", "Second")),
        )
    ),
    "two assistants in a row": Shape(
        _chat(("user", "Hi"), ("assistant", "Hello!"), ("assistant", "And welcome."))
    ),
    "assistant first": Shape(
        _chat(("assistant", "Welcome!"), ("user", "Hi"), ("assistant", "Yes."))
    ),
    "two users in a row": Shape(_chat(("user", "Hi"), ("user", "You?"), ("assistant", "Hello!"))),
    "thinking": Shape(
        _chat(("user", "Ten less one?"), Message("assistant", "Nine.", thinking=_THOUGHT)),
        ("thinking",),
    ),
    "thinking, two rounds": Shape(
        _chat(
            *(("user", "Ten less one?"), Message("assistant", "Nine.", thinking=_THOUGHT)),
            *(("user", "Sure?"), Message("assistant", "Yes.", thinking="It was right.")),
        ),
        ("thinking",),
    ),
    "thinking switched off": Shape(
        _chat(
            *(("user", "Ten less one?"), ("assistant", "Nine.")),
            *(("user", "Sure?"), ("assistant", "Yes.")),
            template_kwargs={"enable_thinking": False},
        )
    ),
    "thinking in the text": _answered(f"<think>\n{_THOUGHT}\n</think>\n\nNine."),
    "prefix": Shape(_chat(("user", "What is it?"), _begun("It is so.", "It is"))),
    "prefix ends within a word": Shape(
        _chat(
            *(("system", "Be brief."), ("user", "One"), _begun("Swifts fly.", "Swi")),
            *(("user", "Two"), ("assistant", "Second")),
            *(("user", "Three"), _begun("The third of them.", "The thi")),
        )
    ),
    "prefix in the thinking": Shape(
        _chat(
            ("user", "Ten less one?"),
            _begun(f"<think>\n{_THOUGHT}\n</think>\n\nNine.", "<think>\nTen minus"),
        ),
        ("thinking",),
    ),
    "prefix behind thinking": Shape(
        _chat(
            ("user", "Ten less one?"),
            replace(_begun("Nine of them.", "Nine"), thinking=_THOUGHT),
        ),
        ("thinking",),
    ),
    "developer": Shape(_chat(("developer", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"))),
    "system in the middle": Shape(
        _chat(
            *(("user", "Hi"), ("assistant", "Hello!")),
            *(("system", "Be brief from now on."), ("user", "You?"), ("assistant", "Me.")),
        )
    ),
    "tool call": Shape(_chat(*_CALLED[:2], tools=(WEATHER,)), ("tool calls",)),
    "tool result": Shape(
        _chat(*_CALLED, ("assistant", "It is sunny."), tools=(WEATHER,)), ("tool calls",)
    ),
    "two tool calls with a word": Shape(
        _chat(_CALLED[0], replace(_CALL, content="I look.", tool_calls=_CALLS), tools=(WEATHER,)),
        ("tool calls",),
    ),
    "thinking and a tool call": Shape(
        _chat(_CALLED[0], replace(_CALL, thinking="I should look."), tools=(WEATHER,)),
        ("thinking", "tool calls"),
    ),
    "tools not used": Shape(_chat(("user", "Hi"), ("assistant", "Hello!"), tools=(WEATHER,))),
}


def missing(renderer: Renderer, shape: Shape) -> str | None:
    """Why a checkpoint cannot be asked for a shape: its template does not know what it needs."""
    if renderer.template is None:
        return None
    for need, marked in _MARKED.items():
        turns = [message.for_template() for message in (Message("user", "zq"), marked)]
        if need in shape.needs:
            try:
                text = renderer.template.render(turns, [WEATHER] if marked.tool_calls else [])
            except RenderError:
                return None  # the template says it better than we could
            if "zqneedqz" not in text:
                return f"the template does not write {need}"
    return None


_MARKED = {
    "thinking": Message("assistant", "zq", thinking="zqneedqz"),
    "tool calls": Message(
        "assistant", tool_calls=(ToolCall("zqneedqz", {"zq": "zq"}, "zqzqzqzqz"),)
    ),
}
