"""A whole data set answered into a JSONL file, batch by batch; what is answered already stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from swift.chat.message import Conversation, Media, Message
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import formats
from swift.data.formats.meaning import Meaning, Prompt, kind_of
from swift.data.source import Source, read
from swift.errors import DataError
from swift.infer.talk import Answers


@dataclass(frozen=True)
class Question:
    """A row without its answer."""

    number: int  # of the row, over all sources, counted from 0
    place: str
    asked: Conversation
    label: str | None  # the answer that the row had

    @property
    def before(self) -> tuple[Message, ...]:
        """The messages before the answer, which may have begun."""
        messages = self.asked.messages
        return messages[:-1] if messages[-1].prefix else messages


Rows = Iterator[Question | tuple[int, str, str]]
"""Questions, and rows that cannot be used as (number, place, why)."""


def questions(sources: Sequence[Source], seed: int, settings: EncodeSettings) -> Rows:
    """The rows of a data set as questions; a row that cannot be used as (number, place, why)."""
    known = sorted([*formats("chat"), *formats("prompt")], key=lambda form: form.name == "text")
    number = -1
    for block in read(sources, seed):
        for line, raw in zip(block.lines, block.rows, strict=True):
            number += 1
            place = block.source.place(line)
            try:
                meaning = read_row(raw, settings, known, block.source.path.parent)
                yield _question(number, place, meaning)
            except (DataError, RecursionError) as error:
                yield number, place, str(error)


def _question(number: int, place: str, meaning: Meaning) -> Question:
    if isinstance(meaning, Prompt):
        meaning = meaning.conversation
    if not isinstance(meaning, Conversation):
        raise DataError(f"a {kind_of(meaning)} is no question")
    messages, label = list(meaning.messages), None
    last = messages.pop() if messages and messages[-1].role == "assistant" else None
    if last:
        label = str(last.content) if last.content and last.content != last.prefix else None
    if not messages or messages[-1].role not in ("user", "tool"):
        raise DataError("there is no message of a user or a tool to answer")
    if last and last.prefix:
        messages.append(last)
    return Question(number, place, replace(meaning, messages=tuple(messages)), label)


def answer_all(
    talker: Answers,
    rows: Rows,
    result: Path,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> int:
    """Answer rows into ``result``; rows found there already are not answered again.

    Args:
        talker: answers.
        rows: what to answer.
        result: a JSONL file, one line a row, in the order of the rows.
        batch_size: rows answered at once.
        progress: told (rows answered in this call, rows passed over).

    Returns:
        The number of rows that could not be answered; each has a line with ``error``.
    """
    done = answered(result)
    result.parent.mkdir(parents=True, exist_ok=True)
    failed = count = 0
    with result.open("a", encoding="utf-8") as file:
        waiting = (row for row in rows if _number(row) not in done)
        while batch := list(islice(waiting, batch_size)):
            lines = _answer(talker, batch)
            failed += sum("error" in line for line in lines)
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            file.flush()
            count += len(lines)
            progress(count, len(done))
    return failed


def _number(row: Question | tuple[int, str, str]) -> int:
    return row.number if isinstance(row, Question) else row[0]


def _answer(talker: Answers, batch: list[Question | tuple[int, str, str]]) -> list[dict[str, Any]]:
    asked = [row for row in batch if isinstance(row, Question)]
    try:
        found = dict(
            zip(
                (row.number for row in asked),
                talker.answers([row.asked for row in asked]),
                strict=True,
            )
        )
        broken: dict[int, str] = {}
    except DataError:
        found, broken = _one_by_one(talker, asked)
    lines: list[dict[str, Any]] = []
    for row in batch:
        if not isinstance(row, Question):
            lines.append({"row": row[0], "place": row[1], "error": row[2]})
        elif row.number in broken:
            lines.append({"row": row.number, "place": row.place, "error": broken[row.number]})
        else:
            message, completion = found[row.number]
            lines.append(
                {
                    "row": row.number,
                    "response": message.content,
                    "labels": row.label,
                    "finish_reason": completion.finish_reason,
                    "messages": [written(turn) for turn in (*row.before, message)],
                }
            )
    return lines


def written(message: Message) -> dict[str, Any]:
    """A message as a row may hold it: media with the place where they lie."""
    turn = message.for_template()
    if not isinstance(message.content, str):
        for part, medium in zip(turn["content"], message.content, strict=True):
            if isinstance(medium, Media):
                part[medium.kind] = medium.source
    return turn


def _one_by_one(talker: Answers, asked: list[Question]) -> tuple[dict[int, Any], dict[int, str]]:
    """Find the row that spoils a batch; the others are answered."""
    found: dict[int, Any] = {}
    broken: dict[int, str] = {}
    for row in asked:
        try:
            found[row.number] = talker.answers([row.asked])[0]
        except DataError as error:
            broken[row.number] = str(error)
    return found, broken


def answered(result: Path) -> set[int]:
    """Rows that have a line; a line that a kill cut short is taken away."""
    if not result.is_file():
        return set()
    lines = result.read_bytes().splitlines(keepends=True)
    whole: list[bytes] = []
    numbers: set[int] = set()
    for line in lines:
        try:
            numbers.add(int(json.loads(line)["row"]))
        except (ValueError, KeyError, TypeError):
            if line is lines[-1]:
                continue
            raise DataError(
                f"--result_path: {result} exists and is not a result of swift infer"
            ) from None
        if line.endswith(b"\n"):
            whole.append(line)
        else:
            numbers.discard(int(json.loads(line)["row"]))
    if len(whole) != len(lines):
        part = result.with_name(f".{result.name}.part")
        part.write_bytes(b"".join(whole))
        part.replace(result)
    return numbers
