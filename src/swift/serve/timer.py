"""A limit for each of many waits with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


class Timer:
    """Ends waits that take too long, one at a time; close it when there are no more.

    ``asyncio.timeout`` would set a timer and take it back for every token.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._task: asyncio.Task[object] | None = None  # what waits now
        self._handle: asyncio.TimerHandle | None = None
        self.rang = False  # it ended a wait

    async def wait(self, work: Awaitable[Result], until: float) -> Result:
        """The result of some work.

        Args:
            work: is cancelled where it takes too long.
            until: a time of the event loop, never before an earlier one.

        Raises:
            TimeoutError: it took too long.
        """
        task = asyncio.current_task()
        assert task is not None
        self._until, self._task, before = until, task, task.cancelling()
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_at(until, self._ring)
        try:
            return await work
        except asyncio.CancelledError:
            if self.rang and task.uncancel() <= before:
                raise TimeoutError from None
            raise
        finally:
            self._task = None

    def close(self) -> None:
        """Forget the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        if self._task is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            self._handle = loop.call_at(self._until, self._ring)
        else:
            self.rang = True
            self._task.cancel()
