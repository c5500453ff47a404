"""Who may ask: keys, compared in constant time, each with limits of its own."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swift.errors import ConfigError


class KeyEntry(BaseModel):
    """One key in a file of keys."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=8)
    name: str = Field(min_length=1)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    concurrency: int | None = Field(None, ge=1)
    admin: bool = False


@dataclass(frozen=True)
class Caller:
    """Somebody who may ask, and how much; None is no limit."""

    name: str
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    admin: bool = False


class Keys:
    """The keys of a server; without any, everybody may ask."""

    def __init__(self, callers: Mapping[str, Caller], anyone: Caller) -> None:
        self._known = [(_digest(key), caller) for key, caller in callers.items()]
        self._anyone = anyone

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._known)

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        """Who sends a request; None: nobody that is known.

        Every key is compared, and only digests of equal length are: the time says nothing.
        """
        if not self._known:
            return self._anyone
        given = _digest(_key_in(headers))
        found = None
        for digest, caller in self._known:
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _key_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The key of ``Authorization: Bearer KEY``, or of ``X-API-Key: KEY`` as Anthropic's have it."""
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name == b"authorization" and text[:7].lower() == "bearer ":
            return text[7:].strip()
        if name == b"x-api-key":
            return text
    return ""


def read_keys(given: Sequence[str], file: str | None, everyone: Caller) -> Keys:
    """The keys of the command line and of a file.

    Args:
        given: keys with the limits of everyone.
        file: YAML, ``keys: [{key, name, requests_per_minute, tokens_per_minute, concurrency,
            admin}]``.
        everyone: limits of a caller without limits of its own.

    Raises:
        ConfigError: the file cannot be read, or says what it cannot.
    """
    callers = {}
    for number, key in enumerate(given, 1):
        callers[key] = _limited(Caller(f"key-{number}"), everyone)
    for entry in _entries(file):
        if entry.key in callers:
            raise ConfigError(f"--api_key_file: {file}: the key of {entry.name} is there twice")
        caller = Caller(**entry.model_dump(exclude={"key"}))
        if caller.name in {one.name for one in callers.values()}:
            raise ConfigError(f"--api_key_file: {file}: two keys have the name {entry.name}")
        callers[entry.key] = _limited(caller, everyone)
    return Keys(callers, everyone)


def _limited(caller: Caller, everyone: Caller) -> Caller:
    return Caller(
        caller.name,
        caller.requests_per_minute or everyone.requests_per_minute,
        caller.tokens_per_minute or everyone.tokens_per_minute,
        caller.concurrency or everyone.concurrency,
        caller.admin,
    )


def _entries(file: str | None) -> list[KeyEntry]:
    if file is None:
        return []
    try:
        found: Any = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or "not YAML"
        raise ConfigError(f"--api_key_file: {file}: {why}") from None
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries or set(found) != {"keys"}:
        raise ConfigError(f"--api_key_file: {file}: should be `keys:` with a list of keys")
    read = []
    for number, entry in enumerate(entries, 1):
        try:
            read.append(KeyEntry.model_validate(entry))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]  # never print a key
            where = ".".join(map(str, first["loc"])) or "it"
            raise ConfigError(
                f"--api_key_file: {file}: key {number}: {where}: {first['msg']}"
            ) from None
    return read
