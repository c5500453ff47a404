"""How much is answered at once and how fast one caller may ask; the rest is refused early.

A request goes through :meth:`Gate.enter`: its caller's rates and concurrency, then a bounded queue
for one of the places. What is refused was never begun, and is told when to come again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from swift.serve.keys import Caller
from swift.serve.refused import Refused

_MINUTE_S = 60.0


class Bucket:
    """A token bucket: holds one minute's worth and fills evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._rate_s = per_minute / _MINUTE_S
        self._clock = clock
        self._level = per_minute
        self._at = clock()

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate_s)
        self._at = now

    def wait_s(self, amount: float) -> float:
        """Seconds until so much may be taken; an amount above the minute's counts as a minute's."""
        self._fill()
        return max(0.0, (min(amount, self._most) - self._level) / self._rate_s)

    def take(self, amount: float) -> None:
        """Take what was used; the level may fall below nothing, which is paid back first."""
        self._fill()
        self._level -= amount


@dataclass
class _Account:
    """What one caller uses."""

    caller: Caller
    requests: Bucket | None
    tokens: Bucket | None
    running: int = 0


@dataclass
class Gate:
    """Places for requests that are answered at once, and a bounded queue before them.

    Attributes:
        places: answers at once.
        queue: requests that may wait.
        wait_s: longest that one waits.
    """

    places: int
    queue: int
    wait_s: float
    running: int = 0
    _waiting: deque[tuple[asyncio.Future[None], int]] = field(default_factory=deque)
    _accounts: dict[str, _Account] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def admit(self, caller: Caller, count: int) -> None:
        """Take one request of a caller into account; ``count`` is 0 where it needs no place.

        Raises:
            Refused: 429 with the time after which to try again.
        """
        if count > self.places:
            raise Refused(
                400, f"n: {count} answers at once; this server has {self.places} places", param="n"
            )
        account = self._account(caller)
        if caller.concurrency is not None and account.running >= caller.concurrency:
            why = f"{caller.concurrency} of your requests are being answered, the most at once"
            raise Refused(429, why, code="concurrency_limit_exceeded", retry_after_s=1)
        for bucket, what, amount in (
            (account.requests, "requests", 1.0),
            (account.tokens, "tokens", 1.0),
        ):
            wait_s = bucket.wait_s(amount) if bucket else 0.0
            if wait_s > 0:
                why = f"your limit of {what} a minute is used up"
                raise Refused(429, why, code="rate_limit_exceeded", retry_after_s=wait_s)
        if self._busy(count) and len(self._waiting) >= self.queue:
            raise Refused(
                429,
                "the server is busy and its queue is full",
                code="overloaded",
                retry_after_s=2,
            )
        if account.requests:
            account.requests.take(1)

    def spend(self, caller: Caller, tokens: int) -> None:
        """Count tokens that a caller used."""
        bucket = self._account(caller).tokens
        if bucket:
            bucket.take(tokens)

    @asynccontextmanager
    async def enter(self, caller: Caller, count: int = 1) -> AsyncIterator[None]:
        """Places for a request while it is answered.

        Raises:
            Refused: see :meth:`admit`; or it waited too long.
        """
        self.admit(caller, count)
        account = self._account(caller)
        account.running += 1
        try:
            await self._place(count)
            try:
                yield
            finally:
                self.running -= count
                self._wake()
        finally:
            account.running -= 1

    def _account(self, caller: Caller) -> _Account:
        if caller.name not in self._accounts:
            requests, tokens = caller.requests_per_minute, caller.tokens_per_minute
            self._accounts[caller.name] = _Account(
                caller, Bucket(requests) if requests else None, Bucket(tokens) if tokens else None
            )
        return self._accounts[caller.name]

    def _busy(self, count: int) -> bool:
        return bool(self._waiting) or self.running + count > self.places

    async def _place(self, count: int) -> None:
        if not self._busy(count):
            self.running += count
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (turn, count)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self.wait_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif turn.done() and not turn.cancelled():  # its turn came in the same moment
                self.running -= count
            self._wake()
            if isinstance(error, TimeoutError):
                raise Refused(
                    429,
                    f"no place became free in {self.wait_s:g} s",
                    code="overloaded",
                    retry_after_s=math.ceil(self.wait_s),
                ) from None
            raise

    def _wake(self) -> None:
        """Give free places to those who wait, in their order."""
        while self._waiting and self.running + self._waiting[0][1] <= self.places:
            turn, count = self._waiting.popleft()
            if not turn.done():
                self.running += count
                turn.set_result(None)
