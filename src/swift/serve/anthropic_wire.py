"""Anthropic's messages: wire types, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from swift.chat.message import Conversation, Message, Part, ToolCall
from swift.infer.engine import Guide
from swift.serve.ask import Ask, Forced
from swift.serve.refused import wrong
from swift.serve.wire import (
    MOST_STOPS,
    MOST_TOOLS,
    Defaults,
    Wire,
    check_media,
    joined,
    medium,
    names_of,
    replaced,
    stops,
)


class CacheControl(Wire):
    """A hint about caching; it changes no answer."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Wire):
    """A text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class Source(Wire):
    """An image: itself in base64, or where it lies (refused)."""

    type: Literal["base64", "url"]
    media_type: Annotated[str, Field(pattern=r"^image/[a-z0-9.+-]{1,16}$")] | None = None
    data: str | None = None
    url: str | None = None


class ImageBlock(Wire):
    """An image."""

    type: Literal["image"]
    source: Source
    cache_control: CacheControl | None = None


class ToolUseBlock(Wire):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Any = None


class ToolResultBlock(Wire):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[TextBlock | ImageBlock, Field(discriminator="type")]] | None = (
        None
    )
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Wire):
    """What the assistant thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


Block = Annotated[
    TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock,
    Field(discriminator="type"),
]


class Turn(Wire):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolOffered(Wire):
    """A tool on offer."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")]
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: CacheControl | None = None
    strict: bool | None = None


class ToolChoice(Wire):
    """Whether a tool must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Wire):
    """Whether the model thinks; how much it does is left to the model."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class Metadata(Wire):
    """Whom a request is for."""

    user_id: str | None = None


class OutputFormat(Wire):
    """What the text of an answer must be."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    """How the answer is written."""

    format: OutputFormat | None = None


class Prompt(Wire):
    """The body of ``POST /v1/messages/count_tokens``."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ToolOffered], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class Request(Prompt):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


def ask(wire: Prompt, defaults: Defaults) -> Ask:
    """What a body asks for.

    Raises:
        Refused: fields contradict each other or ask for too much.
    """
    tools, forced = _tools(wire)
    kwargs = {}
    if wire.thinking is not None and wire.thinking.type != "adaptive":
        kwargs = {"enable_thinking": wire.thinking.type == "enabled"}
    conversation = Conversation(tuple(_messages(wire)), tools, kwargs)
    check_media(conversation, defaults)
    said: dict[str, Any] = {}
    if isinstance(wire, Request):
        said = {
            name: getattr(wire, name) for name in ("max_tokens", "temperature", "top_p", "top_k")
        }
        said["stop"] = stops(wire.stop_sequences, "stop_sequences") or None
    if wire.output_config and wire.output_config.format:
        if forced:
            raise wrong("output_config", "a forced tool call leaves no text that could have a form")
        said["guide"] = Guide("json", wire.output_config.format.schema_)
    one_call = bool(wire.tool_choice and wire.tool_choice.disable_parallel_tool_use)
    sampling = replaced(defaults.sampling, said)
    return Ask(wire.model, conversation, sampling, forced=forced, one_call=one_call)


def _tools(wire: Prompt) -> tuple[tuple[dict[str, Any], ...], Forced | None]:
    tools = tuple(
        {
            "type": "function",
            "function": {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "parameters": tool.input_schema,
            },
        }
        for tool in wire.tools or ()
    )
    names, choice = names_of(tools), wire.tool_choice
    if choice is None or choice.type == "auto":
        return tools, None
    if choice.type == "none":
        return (), None
    if choice.type == "tool" and choice.name not in names:
        raise wrong("tool_choice", f"there is no tool {choice.name!r}")
    if not tools:
        raise wrong("tool_choice", "there are no tools to choose from")
    return tools, Forced((str(choice.name),) if choice.type == "tool" else names)


def _messages(wire: Prompt) -> Iterator[Message]:
    if wire.system:
        parts = wire.system if isinstance(wire.system, list) else []
        text = "\n".join(part.text for part in parts) if parts else wire.system
        yield Message("system", str(text))
    for i, turn in enumerate(wire.messages):
        where, last = f"messages[{i}]", i == len(wire.messages) - 1
        if turn.role == "assistant":
            yield _answered(turn, where, last)
        else:
            yield from _asked(turn, where)


def _answered(turn: Turn, where: str, last: bool) -> Message:
    """An answer; the last message is one that the model goes on with."""
    text, thinking, calls = "", None, []
    blocks = turn.content if isinstance(turn.content, list) else []
    for i, block in enumerate(blocks):
        match block:
            case TextBlock():
                text += block.text
            case ThinkingBlock():
                thinking = (thinking or "") + block.thinking
            case ToolUseBlock():
                calls.append(ToolCall(block.name, block.input, block.id))
            case _:
                raise wrong(f"{where}.content[{i}]", f"an assistant says no {block.type}")
    text = turn.content if isinstance(turn.content, str) else text
    if last and (calls or thinking or not text):
        raise wrong(
            where, "the last message is the assistant's: it should be the text to go on from"
        )
    return Message("assistant", text, thinking, tuple(calls), prefix=text if last else "")


def _asked(turn: Turn, where: str) -> Iterator[Message]:
    """What a user and tools say, in its order."""
    if isinstance(turn.content, str):
        yield Message("user", turn.content)
        return
    parts: list[Part] = []
    for i, block in enumerate(turn.content):
        at = f"{where}.content[{i}]"
        match block:
            case TextBlock():
                parts.append(block.text)
            case ImageBlock():
                parts.append(_image(block, at))
            case ToolResultBlock():
                if parts:
                    yield Message("user", joined(parts))
                    parts = []
                yield Message("tool", _result(block, at), tool_call_id=block.tool_use_id)
            case _:
                raise wrong(at, f"a user says no {block.type}")
    if parts:
        yield Message("user", joined(parts))


def _result(block: ToolResultBlock, at: str) -> str | tuple[Part, ...]:
    if not isinstance(block.content, list):
        return block.content or ""
    return joined(
        [
            one.text if isinstance(one, TextBlock) else _image(one, f"{at}.content[{i}]")
            for i, one in enumerate(block.content)
        ]
    )


def _image(block: ImageBlock, at: str) -> Part:
    source = block.source
    if source.type == "url" or source.media_type is None or source.data is None:
        return medium("image", source.url or "", f"{at}.source")
    return medium("image", f"data:{source.media_type};base64,{source.data}", f"{at}.source")
