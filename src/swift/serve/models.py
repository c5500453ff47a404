"""The names that a server answers to: the model itself, and adapters on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.errors import ConfigError, SwiftError
from swift.infer.engine import Ability, ServingEngine
from swift.serve.refused import Refused, wrong


@dataclass
class Models:
    """Names of what is served.

    Attributes:
        base: name of the model itself.
        adapters: name of an adapter -> its folder.
        owner: ``owned_by`` in the list.
        takes: what a message may hold beside text.
    """

    engine: ServingEngine
    base: str
    adapters: dict[str, str] = field(default_factory=dict)
    owner: str = "swift"
    takes: tuple[str, ...] = ()
    under_base: str | None = None  # an adapter that the engine puts under the model's own name
    _since: dict[str, int] = field(default_factory=dict)
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def adapter_of(self, name: str) -> str | None:
        """The adapter of the engine that a name means; None: the model itself.

        Raises:
            Refused: there is no such name.
        """
        if name == self.base:
            return self.under_base
        if name in self.adapters:
            return name
        known = ", ".join((self.base, *self.adapters))
        raise Refused(
            404,
            f"there is no model {name[:80]!r}; this server has {known}",
            param="model",
            code="model_not_found",
        )

    def listed(self) -> dict[str, Any]:
        """The list of models on the wire."""
        return {"object": "list", "data": [self.one(n) for n in (self.base, *self.adapters)]}

    def one(self, name: str) -> dict[str, Any]:
        """A model on the wire; :class:`Refused` where there is none."""
        self.adapter_of(name)
        since = self._since.setdefault(name, int(time.time()))
        return {
            "id": name,
            "object": "model",
            "created": since,
            "owned_by": self.owner,
            "parent": None if name == self.base else self.base,
            "max_model_len": self.engine.context,
            "input_modalities": ["text", *self.takes],
        }

    def load_first(self, adapters: Mapping[str, str]) -> None:
        """Load adapters before anybody asks.

        Raises:
            ConfigError: the engine cannot hold several, or one does not fit.
        """
        if adapters and Ability.ADAPTERS not in self.engine.abilities:
            raise ConfigError(
                "--adapters: this engine serves no adapters by name; give one without a name, "
                "which becomes part of the model"
            )
        for name, path in adapters.items():
            if name == self.base:
                raise ConfigError(f"--adapters: {name} is the name of the model itself")
            self.engine.load_adapter(name, path)
            self.adapters[name] = path

    async def load(self, name: str, path: str) -> None:
        """Load an adapter while requests are answered.

        Raises:
            Refused: the name is taken, or the adapter does not fit.
        """
        async with self._changing:
            if name == self.base or name in self.adapters:
                raise Refused(409, f"there is a model {name!r} already", param="lora_name")
            if Ability.ADAPTERS not in self.engine.abilities:
                raise Refused(400, "this engine loads no adapters", code="unsupported")
            try:
                await asyncio.to_thread(self.engine.load_adapter, name, path)
            except SwiftError as error:
                raise wrong("lora_path", str(error)) from None
            self.adapters[name] = path

    async def unload(self, name: str) -> None:
        """Forget an adapter; requests that use it are still answered.

        Raises:
            Refused: there is none of that name.
        """
        async with self._changing:
            if name not in self.adapters:
                raise Refused(404, f"there is no adapter {name[:80]!r}", param="lora_name")
            del self.adapters[name]
            await asyncio.to_thread(self.engine.unload_adapter, name)
