"""What the wire types of all protocols share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from swift.chat.message import Conversation, Media, Part, ToolCall
from swift.infer.engine import Guide, Sampling
from swift.serve.fetch import is_address, permitted
from swift.serve.refused import Refused, wrong

_NO_FILES = (
    "should be a data: URL (data:image/png;base64,...): this server fetches no address and reads "
    "no file for its clients"
)
_FRAMES = "data:video/jpeg;base64,"
MOST_FRAMES = 4096
MOST_STOPS = 16
MOST_TOOLS = 256


class Wire(BaseModel):
    """A part of a request; a field that is not known is refused by its name."""

    model_config = ConfigDict(
        extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False
    )


@dataclass(frozen=True)
class Defaults:
    """What a request that says nothing means, and how much it may say."""

    sampling: Sampling
    most_answers: int = 16
    most_media: int = 16
    most_logprobs: int = 20
    hosts: tuple[str, ...] = ()  # from which media are fetched


Probability = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Temperature = Annotated[float, Field(ge=0, le=100)]
Stop = str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None


class StructuredOutputs(Wire):
    """A guide in vLLM's form: one of these."""

    json_: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None

    def guide(self) -> Guide:
        """The guide."""
        kinds: dict[str, Any] = {
            "json": self.json_,
            "regex": self.regex,
            "choice": None if self.choice is None else tuple(self.choice),
            "grammar": self.grammar,
        }
        said = [(kind, value) for kind, value in kinds.items() if value is not None]
        if len(said) != 1:
            raise wrong("structured_outputs", "should have one of json, regex, choice, grammar")
        return Guide(*said[0])  # type: ignore[arg-type]


class Choosing(Wire):
    """How tokens are chosen, as far as OpenAI's protocols and vLLM's additions agree."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop = None
    stop_token_ids: Annotated[list[int], Field(max_length=MOST_STOPS)] | None = None
    structured_outputs: StructuredOutputs | None = None

    def chosen(self, defaults: Sampling, max_tokens: int | None, **more: Any) -> Sampling:
        """The sampling that is asked for."""
        said: dict[str, Any] = {
            name: value
            for name in (
                *("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
                *("frequency_penalty", "seed"),
            )
            if (value := getattr(self, name)) is not None
        }
        if self.top_k is not None:
            said["top_k"] = max(0, self.top_k)
        if self.logit_bias:
            said["logit_bias"] = _bias(self.logit_bias)
        if self.structured_outputs is not None:
            said["guide"] = self.structured_outputs.guide()
        if max_tokens is not None:
            said["max_tokens"] = max_tokens
        stop = stops(self.stop)
        return replace(defaults, **{**said, **more, **({"stop": stop} if stop else {})})


def replaced(defaults: Sampling, said: Mapping[str, Any]) -> Sampling:
    """The defaults with what was said; None is not."""
    return replace(defaults, **{name: value for name, value in said.items() if value is not None})


def stops(stop: Stop, param: str = "stop") -> tuple[str, ...]:
    """Stop texts.

    Raises:
        Refused: one is empty.
    """
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(texts):
        raise wrong(param, "an empty text would end every answer before it begins")
    return texts


def _bias(said: Mapping[str, float]) -> dict[int, float]:
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in said):
        raise wrong("logit_bias", "its keys should be token ids")
    return {int(key): value for key, value in said.items()}


def medium(kind: Any, source: str, param: str) -> Media:
    """A medium that came with a request: what it holds itself, or an address.

    No file of the server is read for a client; which addresses are, :func:`check_media` says.
    ``data:video/jpeg;base64,A,B,C`` is a video as its frames, as vLLM has it.

    Raises:
        Refused: it is neither.
    """
    if source[:5].lower() != "data:" and not is_address(source):
        raise wrong(param, _NO_FILES, "unsupported_media")
    if kind == "video" and source[: len(_FRAMES)].lower() == _FRAMES:
        if source.count(",") > MOST_FRAMES:
            raise wrong(param, f"has more than {MOST_FRAMES} frames")
        frames = source[len(_FRAMES) :].split(",")
        return Media(kind, tuple(f"data:image/jpeg;base64,{frame}" for frame in frames))
    return Media(kind, source)


def arguments_of(text: str, param: str) -> dict[str, Any]:
    """The arguments of a tool call that a client sends back.

    Raises:
        Refused: they are no JSON object.
    """
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise wrong(param, "should be the text of a JSON object") from None
    if not isinstance(value, dict):
        raise wrong(param, "should be the text of a JSON object")
    return value


def written(call: ToolCall) -> str:
    """The arguments of a call as the text of JSON."""
    return json.dumps(call.arguments, ensure_ascii=False)


def joined(parts: list[Part]) -> str | tuple[Part, ...]:
    """Parts as content: text, where they are text alone."""
    if all(isinstance(part, str) for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    return tuple(parts)


def names_of(tools: Any) -> tuple[str, ...]:
    """The names of tools in OpenAI's form.

    Raises:
        Refused: two have the same.
    """
    names = tuple(tool["function"]["name"] for tool in tools)
    if len(set(names)) < len(names):
        raise wrong("tools", "two have the same name")
    return names


def check_media(asked: Conversation, defaults: Defaults) -> None:
    """See that a conversation holds no more media than it may, and addresses of known hosts alone.

    Raises:
        Refused: it does.
    """
    media = asked.media
    if len(media) > defaults.most_media:
        raise Refused(
            400,
            f"{len(media)} images, videos and sounds in it; this server takes "
            f"{defaults.most_media}",
            code="too_many_media",
        )
    sources = [str(one.source) for one in media if is_address(str(one.source))]
    if all(permitted(source, defaults.hosts) for source in sources):
        return
    if not defaults.hosts:
        raise Refused(400, f"a medium {_NO_FILES}", code="unsupported_media")
    known = ", ".join(defaults.hosts)
    why = f"a medium is at an address that this server does not fetch from (it does from {known})"
    raise Refused(400, why, code="unsupported_media")
