"""Messages and tools of OpenAI's chat protocol -> a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from swift.chat.message import Message, Part, ToolCall
from swift.serve.refused import wrong
from swift.serve.wire import Wire, arguments_of, joined, medium


class TextPart(Wire):
    """A text."""

    type: Literal["text"]
    text: str


class RefusalPart(Wire):
    """What a model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(Wire):
    """An image as a ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Wire):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Url(Wire):
    """A video or a sound as a ``data:`` URL."""

    url: str


class VideoPart(Wire):
    """A video (vLLM's addition)."""

    type: Literal["video_url"]
    video_url: Url


class AudioData(Wire):
    """A sound in base64."""

    data: str
    format: Annotated[str, Field(pattern=r"^[a-z0-9]{1,8}$")]


class AudioPart(Wire):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: AudioData


class AudioUrlPart(Wire):
    """A sound at an address (vLLM's addition)."""

    type: Literal["audio_url"]
    audio_url: Url


UserPart = Annotated[
    TextPart | ImagePart | VideoPart | AudioPart | AudioUrlPart, Field(discriminator="type")
]


class System(Wire):
    """What the operator of an application says."""

    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class User(Wire):
    """What a user says."""

    role: Literal["user"]
    content: str | list[UserPart]
    name: str | None = None


class CalledFunction(Wire):
    """A function with its arguments as the text of JSON."""

    name: str
    arguments: str


class Called(Wire):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # clients that joined a stream send it back


class Assistant(Wire):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]] | None = (
        None
    )
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Called] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class Tool(Wire):
    """What a tool answered."""

    role: Literal["tool"]
    content: str | list[TextPart]
    tool_call_id: str
    name: str | None = None


ChatMessage = Annotated[System | User | Assistant | Tool, Field(discriminator="role")]


class Function(Wire):
    """A function on offer."""

    name: Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OfferedTool(Wire):
    """A tool on offer."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """The mapping that templates read."""
        said = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": said}


def messages_of(messages: Sequence[Any]) -> tuple[Message, ...]:
    """Wire messages as messages."""
    return tuple(_message(one, f"messages[{i}]") for i, one in enumerate(messages))


def _message(one: System | User | Assistant | Tool, where: str) -> Message:
    content = one.content
    text: list[Part] = [content] if isinstance(content, str) else []
    parts = text or list(_parts(content or (), where))
    if isinstance(one, Assistant):
        calls = tuple(
            ToolCall(
                call.function.name,
                arguments_of(
                    call.function.arguments, f"{where}.tool_calls[{i}].function.arguments"
                ),
                call.id,
            )
            for i, call in enumerate(one.tool_calls or ())
        )
        if not calls and content is None:
            raise wrong(f"{where}.content", "is needed where there are no tool_calls")
        thinking = one.reasoning_content or one.reasoning
        return Message("assistant", joined(parts), thinking, calls, name=one.name)
    called = one.tool_call_id if isinstance(one, Tool) else None
    return Message(one.role, joined(parts), tool_call_id=called, name=one.name)


def _parts(parts: Sequence[Any], where: str) -> Iterator[Part]:
    for i, part in enumerate(parts):
        at = f"{where}.content[{i}]"
        match part:
            case TextPart():
                yield part.text
            case RefusalPart():
                yield part.refusal
            case ImagePart():
                yield medium("image", part.image_url.url, f"{at}.image_url.url")
            case VideoPart():
                yield medium("video", part.video_url.url, f"{at}.video_url.url")
            case AudioUrlPart():
                yield medium("audio", part.audio_url.url, f"{at}.audio_url.url")
            case AudioPart():
                sound = part.input_audio
                yield medium("audio", f"data:audio/{sound.format};base64,{sound.data}", at)
