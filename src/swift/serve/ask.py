"""What every protocol is turned into, and what an answer is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from swift.chat.message import Conversation, ToolCall
from swift.infer.engine import Sampling

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Forced:
    """Tools of which one must be called."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """One request, whatever protocol it came in.

    ``asked`` is a conversation, or prompts as text or ids that no template is put around.
    ``sampling.stop`` is looked for here, in what is said; engines never see it.
    """

    model: str
    asked: Conversation | tuple[str | list[int], ...]
    sampling: Sampling
    count: int = 1  # answers to each prompt
    forced: Forced | None = None
    one_call: bool = False  # end behind the first tool call
    stop_ids: tuple[int, ...] = ()  # beside those of the checkpoint


@dataclass(frozen=True)
class Chosen:
    """A token with what the model believed."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()  # (id, text, log-probability), best first


@dataclass(frozen=True)
class Step:
    """What comes of one answer at a time; the last one says why it ended."""

    index: int = 0  # of the answer
    content: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()  # each with an id
    chosen: tuple[Chosen, ...] = ()  # where log-probabilities were asked for
    size: int = 0  # tokens that it took
    thought: int = 0  # those of them that were thinking
    finish: Finish | None = None
    stop: str | None = None  # the stop text that ended it
    read: tuple[dict[int, float], ...] = ()  # of the prompt's tokens but the first, where asked for


@dataclass
class Answer:
    """One whole answer."""

    content: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    size: int = 0
    thought: int = 0
    finish: Finish = "stop"
    stop: str | None = None
    read: tuple[dict[int, float], ...] = ()

    def add(self, step: Step) -> None:
        """Take in what came."""
        self.content += step.content
        self.thinking += step.thinking
        self.calls += step.calls
        self.chosen += step.chosen
        self.size += step.size
        self.thought += step.thought
        self.finish = step.finish or self.finish
        self.stop = step.stop or self.stop
        self.read += step.read


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt: int
    answer: int
    thought: int = 0  # of the answer

    @property
    def total(self) -> int:
        """Of prompt and answers together."""
        return self.prompt + self.answer
