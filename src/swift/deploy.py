"""Engines for scripts: load a model, ask it.

from swift.deploy import VllmEngine
engine = VllmEngine.from_pretrained(model="Qwen/Qwen3-0.6B", max_model_len=4096)
print(engine.generate("The capital of France is", max_tokens=8).text)
print(engine.infer([{"role": "user", "content": "Who are you?"}]).text)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, overload

from swift import launch
from swift.chat.message import Conversation, Message
from swift.config.engine import VllmSection
from swift.config.parse import from_values
from swift.config.runs import InferConfig
from swift.data.formats.turns import turns
from swift.errors import ConfigError
from swift.infer.engine import Completion, Request, Sampling
from swift.infer.load import load_talker, settle
from swift.infer.talk import Talker
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of

__all__ = ["Generated", "TransformersEngine", "VllmEngine"]


@dataclass(frozen=True)
class Generated:
    """An answer."""

    text: str
    completion: Completion  # its tokens, logprobs and why it ended
    message: Message | None = None  # of :meth:`infer`: with thinking and tool calls


class _Door:
    """A model that is asked from Python; ``with`` or :meth:`close` ends what it started."""

    _backend: ClassVar[str]

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.engine: Any = talker.engine  # token ids in, token ids out

    @classmethod
    def from_pretrained(cls, model: str | None = None, **settings: Any) -> Self:
        """Load a model.

        Args:
            model: a hub name, a folder, a .gguf file or package:<name>; default: that of the
                adapters.
            settings: as on the command line of ``swift infer`` (``adapters=[...]``,
                ``torch_dtype="bfloat16"``, ``max_model_len=4096``); vLLM's also without the
                ``vllm_`` before them.

        Raises:
            ConfigError: with every problem of the settings.
        """
        quiet_libraries()
        values = {cls._flag(name): value for name, value in settings.items()}
        if model is not None:
            values["model"] = model
        config = from_values(InferConfig, "infer", {**values, "infer_backend": cls._backend})
        section, _ = settle(config.model)
        log = Log(launch.is_main())
        device = device_of(launch.world())
        return cls(load_talker(section, config.infer, device, log, config))

    @classmethod
    def _flag(cls, name: str) -> str:
        return name

    @overload
    def generate(self, prompt: str | Sequence[int], **sampling: Any) -> Generated: ...

    @overload
    def generate(self, prompt: Sequence[str], **sampling: Any) -> list[Generated]: ...

    def generate(self, prompt: Any, **sampling: Any) -> Generated | list[Generated]:
        """Go on from a text or token ids, or from several texts at once; no chat template.

        Args:
            prompt: what comes before.
            sampling: the fields of :class:`swift.infer.engine.Sampling`, such as ``max_tokens``.
        """
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return self._generate([prompt], sampling)[0]
        return self._generate(list(prompt), sampling)

    def _generate(self, prompts: Sequence[Any], sampling: Mapping[str, Any]) -> list[Generated]:
        renderer, chosen = self.talker.renderer, self._sampling(sampling)
        chosen = replace(chosen, stop_ids=tuple(sorted({*chosen.stop_ids, *renderer.stop_ids})))
        encode = renderer.tokenizer.encode
        ids = [encode(p, specials=True).ids if isinstance(p, str) else list(p) for p in prompts]
        requests = [Request(list(one), chosen, adapter=self.talker.adapter) for one in ids]
        decode = renderer.tokenizer.decode
        return [Generated(decode(c.tokens), c) for c in self.engine.generate(requests)]

    @overload
    def infer(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> Generated: ...

    @overload
    def infer(
        self, messages: Sequence[Sequence[Mapping[str, Any]]], **sampling: Any
    ) -> list[Generated]: ...

    def infer(self, messages: Any, **sampling: Any) -> Generated | list[Generated]:
        """Answer messages, or several conversations at once, by the model's chat template.

        Args:
            messages: as in the OpenAI API: ``[{"role": "user", "content": "..."}]``.
            sampling: the fields of :class:`swift.infer.engine.Sampling`, such as ``max_tokens``.
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        given = messages if several else [messages]
        asked = [Conversation(tuple(turns(list(one), "messages"))) for one in given]
        talker = replace(self.talker, sampling=self._sampling(sampling))
        found = [Generated(str(m.content), c, m) for m, c in talker.answers(asked)]
        return found if several else found[0]

    def _sampling(self, changes: Mapping[str, Any]) -> Sampling:
        known = Sampling.__dataclass_fields__
        if wrong := [name for name in changes if name not in known]:
            raise ConfigError(f"{wrong[0]}: sampling has {', '.join(known)}")
        return replace(self.talker.sampling, **changes)

    def close(self) -> None:
        """End what runs."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TransformersEngine(_Door):
    """A model in this process."""

    _backend = "transformers"


class VllmEngine(_Door):
    """A model in vLLM: here where it is installed, else on a server that is started for it in
    ``engine_python``'s environment. A script that starts one here has an ``if __name__ ==
    "__main__":``, since vLLM's processes read it again.
    """

    _backend = "vllm"

    @classmethod
    def _flag(cls, name: str) -> str:
        return f"vllm_{name}" if name in VllmSection.model_fields else name
