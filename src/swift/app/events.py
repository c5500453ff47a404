"""Between the components of a page and its acts: values in, values out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import gradio as gr

from swift.app.acts import Acts, Lanes
from swift.app.ask import Growing
from swift.app.look import inert, plain, shown, told
from swift.app.talk import NUMBERS, Question, Wish, wish_of
from swift.errors import DataError

MOST_LANES = 4
_PACE_S = 0.06  # between two looks at what has grown

Views = AsyncGenerator[list[Any], None]
"""Values for the box and for the lanes, again and again."""


class Events:
    """What components call; ``settings`` are the values of those of :func:`wish`."""

    def __init__(self, acts: Acts, hint: str, *, streams: bool) -> None:
        self.acts = acts
        self._hint, self._streams = hint, streams

    def view(self, lanes: Lanes) -> list[Any]:
        """Values for the lanes: the state, which are there, their names, messages and counts."""
        texts, several = self.acts.texts, len(lanes) > 1
        found = [shown(lane, texts, whole_only=not self._streams) for lane in lanes]
        names = [f"`{inert(lane.model)}`" for lane in lanes]
        last = [lane.turns[-1].reply if lane.turns else None for lane in lanes]
        none = [gr.skip()] * (MOST_LANES - len(lanes))
        return [
            lanes,
            *(gr.update(visible=number < len(lanes)) for number in range(MOST_LANES)),
            *(gr.update(value=name, visible=several) for name in names),
            *none,
            *(gr.update(value=one.messages, feedback_value=one.thumbs) for one in found),
            *none,
            *(told(reply, texts) if reply else "" for reply in last),
            *none,
        ]

    async def growing(self, start: Callable[[], Growing], lanes: Lanes, **box: Any) -> Views:
        """Views of lanes as they grow; the button stops meanwhile.

        Args:
            start: asks.
            lanes: as they are, for when it cannot be asked.
            box: what becomes of the box once it is asked.
        """
        try:
            growing = start()
        except DataError as error:
            gr.Info(inert(str(error)))
            yield [gr.skip(), *self.view(lanes)]
            return
        before = growing.lanes
        try:
            yield [gr.update(submit_btn=False, stop_btn=True, **box), *self.view(before)]
            while not growing.done:
                await growing.pause(_PACE_S)
                if growing.lanes != before:
                    before = growing.lanes
                    yield [gr.skip(), *self.view(before)]
            ended = growing.ended()
            hint = self._hint_for(ended)
            yield [gr.update(submit_btn=True, stop_btn=False, placeholder=hint), *self.view(ended)]
        finally:
            growing.shown = True

    def _hint_for(self, lanes: Lanes) -> str:
        """What stands in the empty box: which tools wait for an answer."""
        last = [lane.turns[-1].reply for lane in lanes if lane.turns]
        names = [call.name for reply in last for call in reply.calls]
        if not names:
            return self._hint
        return self.acts.texts.result.format(name=", ".join(dict.fromkeys(names)))

    async def send(
        self, request: gr.Request, value: Any, models: list[str], lanes: Lanes, *settings: Any
    ) -> Views:
        """The box was sent."""
        question = Question(value["text"], tuple(value["files"]))

        def start() -> Growing:
            return self.acts.ask(session_of(request), lanes, models, question, wish(settings))

        async for view in self.growing(start, lanes, value={"text": "", "files": []}):
            yield view

    def choose(self, models: list[str], lanes: Lanes, request: gr.Request) -> list[Any]:
        """Other models were chosen; while something is written, the next question asks them."""
        busy = self.acts.busy(session_of(request))
        return self.view(lanes if busy else self.acts.chosen(lanes, models))

    async def anew(self, lanes: Lanes, request: gr.Request) -> list[Any]:
        """A new chat."""
        fresh = await self.acts.anew(session_of(request), lanes)
        return [gr.update(placeholder=self._hint_for(fresh)), *self.view(fresh)]

    def stop(self, request: gr.Request) -> None:
        """Enough."""
        self.acts.stop(session_of(request))

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.acts.leave(session_of(request))

    def row(self, lanes: Lanes, *settings: Any) -> str:
        """The conversations as lines of JSON, for a script to copy or to save."""
        try:
            rows = self.acts.rows(lanes, wish(settings))
        except DataError as error:
            gr.Info(inert(str(error)))
            return ""
        if not rows:
            gr.Info(self.acts.texts.nothing)
        return rows


class LaneEvents:
    """What the chat box of one lane calls."""

    def __init__(self, events: Events, number: int) -> None:
        self._events, self._acts, self._number = events, events.acts, number

    async def again(self, request: gr.Request, lanes: Lanes, *settings: Any) -> Views:
        """The last answer is wanted once more."""

        def start() -> Growing:
            return self._acts.again(session_of(request), lanes, self._number, wish(settings))

        async for view in self._events.growing(start, lanes):
            yield view

    async def edit(
        self, data: gr.EditData, request: gr.Request, lanes: Lanes, *settings: Any
    ) -> Views:
        """A question was put in other words, or an answer corrected."""
        turn, part = self._acts.place(lanes, self._number, _index(data))
        text = plain(str(data.value))

        def start() -> Growing:
            session = session_of(request)
            return self._acts.anew_from(session, lanes, self._number, turn, text, wish(settings))

        if part == "question":
            async for view in self._events.growing(start, lanes):
                yield view
            return
        if part == "answer":
            lanes, word = await self._acts.correct(lanes, self._number, turn, text)
            gr.Info(inert(word))
        yield [gr.skip(), *self._events.view(lanes)]

    async def judge(self, data: gr.LikeData, lanes: Lanes) -> list[Any]:
        """A thumb."""
        if isinstance(data.liked, bool):
            turn, _ = self._acts.place(lanes, self._number, _index(data))
            lanes, word = await self._acts.judge(lanes, self._number, turn, data.liked)
            gr.Info(inert(word))
        return [gr.skip(), *self._events.view(lanes)]


def wish(settings: Sequence[str | None]) -> Wish:
    """The values of the settings' components as a wish.

    Raises:
        DataError: a number is none.
    """
    system, thinks, stop, tools, *numbers = [text or "" for text in settings]
    return wish_of(system, thinks, stop, tools, dict(zip(NUMBERS, numbers, strict=True)))


def session_of(request: gr.Request) -> str:
    """The name of an open page."""
    return str(request.session_hash)


def _index(data: Any) -> int:
    return int(data.index[0] if isinstance(data.index, list | tuple) else data.index)
