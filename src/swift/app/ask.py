"""One question to several models at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from swift.app.client import Api
from swift.app.reply import Reply, grown
from swift.app.talk import Lane, Wish, body_of
from swift.errors import SwiftError


class Growing:
    """Lanes whose last questions are being answered, each in a task of its own.

    Attributes:
        lanes: as they are now.
        shown: set by who shows them, once it has shown their end.
    """

    def __init__(self, api: Api, lanes: Sequence[Lane], which: Sequence[int], wish: Wish) -> None:
        """Ask.

        Args:
            api: the server.
            lanes: conversations, each with a question at its end.
            which: places of those that are asked.
            wish: how answers should be.
        """
        self._api, self._wish = api, wish
        self._lanes = list(lanes)
        self._tasks = {at: asyncio.create_task(self._answer(at)) for at in which}
        self.shown = False

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes as they are now."""
        return tuple(self._lanes)

    @property
    def done(self) -> bool:
        """Whether nothing grows any more."""
        return all(task.done() for task in self._tasks.values())

    def stop(self) -> None:
        """End every answer; the server is told by a connection that closes."""
        for task in self._tasks.values():
            task.cancel()

    async def pause(self, most_s: float) -> None:
        """Wait until all is done, not longer than ``most_s``."""
        await asyncio.wait(self._tasks.values(), timeout=most_s)

    def ended(self) -> tuple[Lane, ...]:
        """The lanes at their end; what was not written to its end is marked as stopped."""
        for at, task in self._tasks.items():
            if not task.cancelled() and (error := task.exception()):
                raise error
            self._lanes[at] = stopped(self._lanes[at])
        return self.lanes

    async def _answer(self, at: int) -> None:
        """Let the answer to a lane's last question grow; an error becomes a part of it."""
        lane, begun_s = self._lanes[at], time.monotonic()
        reply = Reply(lane.model)
        try:
            body = await asyncio.to_thread(body_of, lane, self._wish)
            async with aclosing(self._api.events(body)) as events:
                async for event in events:
                    reply = grown(reply, event, time.monotonic() - begun_s)
                    self._lanes[at] = lane.answered(reply)
            reply = replace(reply, state="whole")
        except SwiftError as error:
            reply = replace(reply, state="failed", error=str(error))
        self._lanes[at] = lane.answered(reply)


def stopped(lane: Lane) -> Lane:
    """A lane whose last answer nobody goes on with."""
    reply = lane.turns[-1].reply
    return lane.answered(replace(reply, state="stopped")) if reply.state == "open" else lane
