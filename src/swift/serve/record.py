"""What was asked and answered, as rows to learn from.

Three files beside each other, each a ``--dataset`` as it is: ``requests.jsonl`` (every answered
conversation, for ``sft``), ``requests.dpo.jsonl`` (an answer against its correction) and
``requests.kto.jsonl`` (answers with a thumb up or down).
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.chat.message import Conversation, Media, Message
from swift.errors import ConfigError
from swift.serve.ask import Answer
from swift.serve.refused import Refused

if TYPE_CHECKING:
    from swift.serve.service import Exchange

Redact = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Changes a row before it is written; None: it is not written."""

_REMEMBERED = 100_000  # completions that feedback may name


@dataclass(frozen=True)
class _Kept:
    """Where the row of a completion lies."""

    file: Path
    offset: int
    size: int
    caller: str
    judged: frozenset[str] = frozenset()  # the kinds of its judgements: kto, dpo


class Recorder:
    """Writes rows; safe to use from several threads."""

    def __init__(self, file: Path, max_bytes: int, redact: Redact | None = None) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._redact = redact
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise ConfigError(f"--record: {file}: {error.strerror}") from None
        self._remember()

    def keep(self, exchange: Exchange) -> None:
        """Write the first answer of a conversation that was answered whole."""
        asked, answer = exchange.ask.asked, exchange.answers[0]
        if not isinstance(asked, Conversation) or not (answer.content or answer.calls):
            return
        row = {
            "id": exchange.id,
            "created": int(time.time()),
            "model": exchange.ask.model,
            "caller": exchange.caller.name,
            "finish_reason": answer.finish,
            **conversation_row(asked, message_of(answer, asked)),
        }
        if self._redact is not None:
            redacted = self._redact(row)
            if redacted is None:
                return
            row = redacted
        with self._lock:
            self._keep(exchange.id, exchange.caller.name, row)

    def judge(
        self, id: str, caller: str, good: bool | None, correction: Message | None
    ) -> list[str]:
        """Attach a judgement to a completion.

        Args:
            id: of the completion.
            caller: who judges; only who asked may.
            good: a thumb up or down.
            correction: what the answer should have been.

        Returns:
            Names of the files that a row was written to.

        Raises:
            Refused: nothing is known of the completion, or it was judged so before; a thumb and a
                correction may come one after the other.
        """
        with self._lock:
            kept = self._kept.get(id)
            if kept is None or kept.caller != caller:
                raise Refused(404, f"no recorded completion has the id {id[:80]!r}", param="id")
            kinds = {"kto"} if good is not None else set()
            kinds |= {"dpo"} if correction is not None else set()
            if kept.judged & kinds:
                raise Refused(409, f"{id} was judged before", param="id")
            row = self._row(kept)
            written = []
            if good is not None:
                written.append(self._append("kto", {**row, "label": good}))
            if correction is not None:
                written.append(self._append("dpo", _corrected(row, correction)))
            self._kept[id] = replace(kept, judged=kept.judged | kinds)
            return written

    def _keep(self, id: str, caller: str, row: Mapping[str, Any]) -> None:
        line = _line(row)
        if self._file.stat().st_size + len(line) > self._max_bytes and self._file.stat().st_size:
            self._rotate()
        with self._file.open("ab") as file:
            offset = file.tell()
            file.write(line)
        self._note(id, _Kept(self._file, offset, len(line), caller))

    def _note(self, id: str, kept: _Kept) -> None:
        self._kept[id] = kept
        if len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)

    def _rotate(self) -> None:
        """The full file gets a number; its rows are found under the new name."""
        number = 1
        while (full := self._file.with_suffix(f".{number}.jsonl")).exists():
            number += 1
        self._file.rename(full)
        for id, kept in self._kept.items():
            if kept.file == self._file:
                self._kept[id] = replace(kept, file=full)
        self._file.touch()

    def _row(self, kept: _Kept) -> dict[str, Any]:
        try:
            with kept.file.open("rb") as file:
                file.seek(kept.offset)
                row: dict[str, Any] = json.loads(file.read(kept.size))
                return row
        except (OSError, ValueError):
            raise Refused(404, "its record is no longer there", param="id") from None

    def _append(self, kind: str, row: Mapping[str, Any]) -> str:
        file = self._file.with_suffix(f".{kind}.jsonl")
        with file.open("ab") as lines:
            lines.write(_line(row))
        return file.name

    def _remember(self) -> None:
        """Find the completions of an earlier run of the server, so that they can be judged."""
        judged: dict[Any, frozenset[str]] = {}
        for kind in ("kto", "dpo"):
            beside = self._file.with_suffix(f".{kind}.jsonl")
            for _, _, row in _rows(beside):
                judged[row.get("id")] = judged.get(row.get("id"), frozenset()) | {kind}
        for offset, size, row in _rows(self._file):
            if isinstance(row.get("id"), str) and isinstance(row.get("caller"), str):
                before = judged.get(row["id"], frozenset())
                self._note(row["id"], _Kept(self._file, offset, size, row["caller"], before))


def _rows(file: Path) -> list[tuple[int, int, dict[str, Any]]]:
    """Rows of a file with the place of each; a line that a kill cut short is passed over."""
    found, offset = [], 0
    for line in file.read_bytes().splitlines(keepends=True) if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            found.append((offset, len(line), row))
        offset += len(line)
    return found


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _corrected(row: Mapping[str, Any], correction: Message) -> dict[str, Any]:
    *before, answer = row["messages"]
    if turn_of(correction) == answer:
        raise Refused(400, "correction: is the answer as it was", param="correction")
    return {
        **row,
        "messages": [*before, turn_of(correction)],
        "rejected_messages": [answer],
    }


def message_of(answer: Answer, asked: Conversation) -> Message:
    """An answer as a message; what was given of it is a part of it."""
    prefix = asked.messages[-1].prefix if asked.messages else ""
    return Message(
        "assistant", prefix + answer.content, answer.thinking or None, tuple(answer.calls)
    )


def conversation_row(asked: Conversation, answer: Message) -> dict[str, Any]:
    """A conversation and its answer as a row of the form ``messages``."""
    before = asked.messages[:-1] if asked.messages[-1].prefix else asked.messages
    row: dict[str, Any] = {"messages": [turn_of(message) for message in (*before, answer)]}
    if asked.tools:
        row["tools"] = [dict(tool) for tool in asked.tools]
    if asked.template_kwargs:
        row["chat_template_kwargs"] = dict(asked.template_kwargs)
    return row


def turn_of(message: Message) -> dict[str, Any]:
    """A message as a row holds it: media with what they are."""
    turn = message.for_template()
    if not isinstance(message.content, str):
        for part, medium in zip(turn["content"], message.content, strict=True):
            if isinstance(medium, Media):
                part[medium.kind] = medium.source
    return turn
