"""The names that scripts import from ``swift``. Thin: every one is a command's recipe.

import swift
run = swift.sft(model="Qwen/Qwen3-0.6B", dataset=["chats.jsonl"], lora_rank=8)
print(run.chat("Who are you?"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift import launch
from swift.chat.message import Conversation, Message
from swift.config.parse import from_values
from swift.config.runs import InferConfig, MergeConfig, PtConfig, SftConfig
from swift.infer.load import answers_of, settled
from swift.infer.talk import Answers
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.recipes import merge as merge_recipe
from swift.recipes import pt as pt_recipe
from swift.recipes import sft as sft_recipe
from swift.train.outcome import Outcome

__all__ = [
    "Chat",
    "InferConfig",
    "MergeConfig",
    "PtConfig",
    "Run",
    "SftConfig",
    "merge",
    "pt",
    "sft",
]


@dataclass
class Chat:
    """A conversation with a model.

    ``Chat(model="Qwen/Qwen3-0.6B")`` or ``Chat(adapters=["output/run/checkpoint-20"])``; further
    settings as on the command line of ``swift infer``. Calling it asks and keeps the history.
    """

    talker: Answers
    system: str | None = None
    history: list[Message] = field(default_factory=list)

    def __init__(self, system: str | None = None, **settings: Any) -> None:
        """Load the model."""
        quiet_libraries()
        config = from_values(InferConfig, "infer", settings)
        section, before = settled(config)
        log = Log(launch.is_main())
        self.talker = answers_of(config, section, device_of(launch.world()), log)
        self.system = system or config.data.system or before.get("data", "system")
        self.history = []

    def __call__(self, text: str) -> str:
        """The answer to a message; it and the message become part of the history."""
        self.history.append(Message("user", text))
        answer = self._answer([self.history])[0]
        self.history.append(answer)
        return str(answer.content)

    def ask(self, texts: Sequence[str]) -> list[str]:
        """Answers to single questions, each on its own, at once; no history."""
        answers = self._answer([[Message("user", text)] for text in texts])
        return [str(answer.content) for answer in answers]

    def _answer(self, conversations: Sequence[Sequence[Message]]) -> list[Message]:
        system = [Message("system", self.system)] if self.system else []
        asked = [Conversation((*system, *messages)) for messages in conversations]
        return [message for message, _ in self.talker.answers(asked)]


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    outcome: Outcome

    @property
    def checkpoint(self) -> str:
        """Folder of its last checkpoint."""
        return self.outcome.checkpoint

    def open(self, **settings: Any) -> Chat:
        """Talk to its last checkpoint; settings as for :class:`Chat`."""
        adapter = (Path(self.checkpoint) / "adapter_config.json").is_file()
        where = {"adapters": [self.checkpoint]} if adapter else {"model": self.checkpoint}
        return Chat(**where, **settings)

    def chat(self, text: str, **settings: Any) -> str:
        """The answer of its last checkpoint to one question."""
        return self.open(**settings)(text)


def sft(config: SftConfig | None = None, **settings: Any) -> Run:
    """Fine-tune on conversations: a finished configuration, or settings as on the command line.

    Raises:
        ConfigError: with every problem of the settings.
    """
    config = config or from_values(SftConfig, "sft", settings)
    return Run(sft_recipe.run(config, launch.world()) or Outcome())


def pt(config: PtConfig | None = None, **settings: Any) -> Run:
    """Go on with pre-training on plain text; as :func:`sft`."""
    config = config or from_values(PtConfig, "pt", settings)
    return Run(pt_recipe.run(config, launch.world()) or Outcome())


def merge(config: MergeConfig | None = None, **settings: Any) -> Path | None:
    """Make one model of base and adapter; returns its folder."""
    config = config or from_values(MergeConfig, "merge-lora", {"merge_lora": True, **settings})
    return merge_recipe.run(config, launch.world())
