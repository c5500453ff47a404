"""What happens on a page when somebody does something. Knows no component."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from swift.app.ask import Growing
from swift.app.client import Api
from swift.app.look import shown
from swift.app.reply import Reply
from swift.app.talk import Lane, Question, Wish, arranged, kind_of, row_of, tools_of
from swift.app.texts import Texts
from swift.errors import DataError, ServerError

Lanes = tuple[Lane, ...]
_PATIENCE_S = 5.0  # for what is being written to be shown as ended


@dataclass
class Acts:
    """The acts of all who have the page open; each is known by the name of a session."""

    api: Api
    texts: Texts
    records: bool
    takes: tuple[str, ...]
    running: dict[str, Growing] = field(default_factory=dict)

    def ask(
        self, session: str, lanes: Lanes, models: Sequence[str], question: Question, wish: Wish
    ) -> Growing:
        """Ask each model the next question.

        Raises:
            DataError: nothing can be asked.
        """
        self._check(question, wish)
        asked = [lane.asked(question) for lane in self.chosen(lanes, models)]
        return self._start(session, asked, range(len(asked)), wish)

    def again(self, session: str, lanes: Lanes, at: int, wish: Wish) -> Growing:
        """Ask one model its last question once more; raises as :meth:`ask`."""
        fresh = lanes[at].answered(Reply(lanes[at].model))
        return self._start(session, _put(lanes, at, fresh), [at], wish)

    def anew_from(
        self, session: str, lanes: Lanes, at: int, turn: int, text: str, wish: Wish
    ) -> Growing:
        """Ask a question in other words, of every model; what followed it is gone."""
        question = replace(lanes[at].turns[turn].question, text=text)
        self._check(question, wish)
        cut = [replace(lane, turns=lane.turns[:turn]).asked(question) for lane in lanes]
        return self._start(session, cut, range(len(cut)), wish)

    async def correct(self, lanes: Lanes, at: int, turn: int, text: str) -> tuple[Lanes, str]:
        """Put another text in the place of an answer, and tell the server; with a word on it."""
        reply = lanes[at].turns[turn].reply
        now = _put(lanes, at, lanes[at].answered(replace(reply, content=text), turn))
        if not (self.records and reply.id and reply.state == "whole"):
            return now, self.texts.changed
        try:
            await self.api.judge(reply.id, correction=text)
        except ServerError as error:
            return now, str(error)
        return now, self.texts.corrected

    async def judge(self, lanes: Lanes, at: int, turn: int, good: bool) -> tuple[Lanes, str]:
        """A thumb for an answer, sent to the server; with a word on it."""
        reply = lanes[at].turns[turn].reply
        try:
            await self.api.judge(reply.id, good=good)
        except ServerError as error:
            return lanes, str(error)
        judged = lanes[at].answered(replace(reply, good=good), turn)
        return _put(lanes, at, judged), self.texts.kept

    def chosen(self, lanes: Lanes, models: Sequence[str]) -> Lanes:
        """Lanes for other models; with none chosen they stay."""
        return arranged(lanes, models) if models else lanes

    def busy(self, session: str) -> bool:
        """Whether something is being written."""
        return session in self.running and not self.running[session].done

    def stop(self, session: str) -> None:
        """End what is being written."""
        if session in self.running:
            self.running[session].stop()

    def leave(self, session: str) -> None:
        """The page was closed."""
        self.stop(session)
        self.running.pop(session, None)

    async def anew(self, session: str, lanes: Lanes) -> Lanes:
        """Empty conversations with the same models, once what is being written has ended."""
        self.stop(session)
        left_s = _PATIENCE_S
        while session in self.running and not self.running[session].shown and left_s > 0:
            await asyncio.sleep(0.02)
            left_s -= 0.02
        return tuple(Lane(lane.model) for lane in lanes)

    def rows(self, lanes: Lanes, wish: Wish) -> str:
        """The conversations as lines that ``--dataset`` reads; empty: there is no answer yet."""
        found = [row for lane in lanes if (row := row_of(lane, wish)) is not None]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)

    def place(self, lanes: Lanes, at: int, index: int) -> tuple[int, str]:
        """The turn that a shown message is a part of, and which part."""
        place = shown(lanes[at], self.texts).places[index]
        return place.turn, place.part

    def _check(self, question: Question, wish: Wish) -> None:
        tools_of(wish.tools)
        for file in question.files:
            if kind_of(file) not in self.takes:
                raise DataError(f"{Path(file).name}: this model takes {', '.join(self.takes)}")
        if not (question.text.strip() or question.files):
            raise DataError(self.texts.ask)

    def _start(
        self, session: str, lanes: Sequence[Lane], which: Sequence[int], wish: Wish
    ) -> Growing:
        if self.busy(session):
            raise DataError(self.texts.busy)
        growing = self.running[session] = Growing(self.api, lanes, which, wish)
        return growing


def _put(lanes: Lanes, at: int, lane: Lane) -> Lanes:
    return (*lanes[:at], lane, *lanes[at + 1 :])
