"""OpenAI's responses: wire types, and what they mean. Nothing is kept between requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from swift.chat.message import Conversation, Message, Part, ToolCall
from swift.infer.engine import Guide
from swift.serve.ask import Ask, Forced
from swift.serve.refused import wrong
from swift.serve.wire import (
    MOST_TOOLS,
    Defaults,
    Wire,
    arguments_of,
    check_media,
    joined,
    medium,
    names_of,
    replaced,
)


class InputText(Wire):
    """A text."""

    type: Literal["input_text"]
    text: str


class InputImage(Wire):
    """An image as a ``data:`` URL."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"] | None = None


class OutputText(Wire):
    """A text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class OutputRefusal(Wire):
    """What a model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


Content = Annotated[
    InputText | InputImage | OutputText | OutputRefusal, Field(discriminator="type")
]


class MessageItem(Wire):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]
    id: str | None = None
    status: str | None = None


class CallItem(Wire):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class ResultItem(Wire):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Annotated[InputText | InputImage, Field(discriminator="type")]]
    id: str | None = None
    status: str | None = None


class ReasoningText(Wire):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Wire):
    """Thinking that the model did."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    status: str | None = None


Item = CallItem | ResultItem | ReasoningItem | MessageItem


class FunctionTool(Wire):
    """A function on offer."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Wire):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(Wire):
    """What the text of an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None

    def guide(self) -> Guide | None:
        """The guide, where one is needed."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Guide("json", {"type": "object"})
        if self.schema_ is None:
            raise wrong("text.format.schema", "is needed")
        return Guide("json", self.schema_)


class TextOptions(Wire):
    """How the text of an answer is written."""

    format: TextFormat | None = None


class Reasoning(Wire):
    """How much the model thinks."""

    effort: Literal["none", "low", "medium", "high"] | None = None
    summary: None = None


class StreamOptions(Wire):
    """How a stream is written."""

    include_obfuscation: Literal[False] | None = None


class Request(Wire):
    """The body of ``POST /v1/responses``."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    include: Annotated[list[str], Field(max_length=0)] | None = None
    previous_response_id: None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


def ask(wire: Request, defaults: Defaults) -> Ask:
    """What a body asks for.

    Raises:
        Refused: fields contradict each other or ask for too much.
    """
    tools, forced = _tools(wire)
    guide = wire.text.format.guide() if wire.text and wire.text.format else None
    if guide and forced:
        raise wrong("text.format", "a forced tool call leaves no text that could have a form")
    conversation = Conversation(tuple(_messages(wire)), tools, _kwargs(wire))
    check_media(conversation, defaults)
    said = {
        "max_tokens": wire.max_output_tokens,
        "temperature": wire.temperature,
        "top_p": wire.top_p,
        "guide": guide,
    }
    one_call = wire.parallel_tool_calls is False
    sampling = replaced(defaults.sampling, said)
    return Ask(wire.model, conversation, sampling, forced=forced, one_call=one_call)


def _kwargs(wire: Request) -> dict[str, Any]:
    effort = wire.reasoning.effort if wire.reasoning else None
    if effort is None:
        return {}
    return {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}


def _tools(wire: Request) -> tuple[tuple[dict[str, Any], ...], Forced | None]:
    tools = tuple(
        {"type": "function", "function": tool.model_dump(
            exclude_none=True, exclude={"type", "strict"})}
        for tool in wire.tools or ()
    )  # fmt: skip
    names, choice = names_of(tools), wire.tool_choice
    if choice is None or choice == "auto":
        return tools, None
    if choice == "none":
        return (), None
    if not tools:
        raise wrong("tool_choice", "there are no tools to choose from")
    if isinstance(choice, NamedFunction):
        if choice.name not in names:
            raise wrong("tool_choice", f"there is no tool {choice.name!r}")
        return tools, Forced((choice.name,))
    return tools, Forced(names)


def _messages(wire: Request) -> Iterator[Message]:
    """Items as messages: thinking, text and calls that follow each other are one answer."""
    if wire.instructions:
        yield Message("system", wire.instructions)
    if isinstance(wire.input, str):
        yield Message("user", wire.input)
        return
    answer: Message | None = None
    for i, item in enumerate(wire.input):
        part = _message(item, f"input[{i}]")
        if answer is not None and part.role == "assistant":
            answer = _together(answer, part)
            continue
        if answer is not None:
            yield answer
        answer = part if part.role == "assistant" else None
        if answer is None:
            yield part
    if answer is not None:
        yield answer


def _together(first: Message, second: Message) -> Message:
    """Two parts of one answer."""
    return Message(
        "assistant",
        str(first.content) + str(second.content),
        (first.thinking or "") + (second.thinking or "") or None,
        first.tool_calls + second.tool_calls,
    )


def _message(item: Any, where: str) -> Message:
    match item:
        case MessageItem():
            return Message(item.role, _content(item.content, where))
        case CallItem():
            arguments = arguments_of(item.arguments, f"{where}.arguments")
            return Message("assistant", tool_calls=(ToolCall(item.name, arguments, item.call_id),))
        case ResultItem():
            return Message("tool", _content(item.output, where), tool_call_id=item.call_id)
        case _:
            thought = "".join(part.text for part in item.content or ())
            return Message("assistant", thinking=thought or None)


def _content(content: Any, where: str) -> str | tuple[Part, ...]:
    if isinstance(content, str):
        return content
    parts: list[Part] = []
    for i, part in enumerate(content):
        match part:
            case InputImage():
                parts.append(medium("image", part.image_url, f"{where}.content[{i}].image_url"))
            case OutputRefusal():
                parts.append(part.refusal)
            case _:
                parts.append(part.text)
    return joined(parts)
