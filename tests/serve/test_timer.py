"""One timer for many waits: each ends in time, and nobody else's end is taken for one."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

import pytest

from swift.serve.timer import Timer


def run(waits: Any) -> Any:
    async def main() -> Any:
        with closing(Timer()) as timer:
            return await waits(timer)

    return asyncio.run(main())


def test_a_wait_that_takes_too_long_ends() -> None:
    async def waits(timer: Timer) -> float:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await timer.wait(asyncio.sleep(10), begun + 0.05)
        assert timer.rang and asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        return time.monotonic() - begun

    assert 0.04 < run(waits) < 5


def test_each_wait_has_its_own_limit() -> None:
    async def waits(timer: Timer) -> list[int]:
        found = []
        for number in range(6):  # longer together than any one may take
            found.append(await timer.wait(asyncio.sleep(0.05, number), time.monotonic() + 0.2))
        await asyncio.sleep(0.3)  # nothing is waited for, so nothing ends
        assert not timer.rang
        with pytest.raises(TimeoutError):
            await timer.wait(asyncio.sleep(10), time.monotonic() + 0.05)
        return found

    assert run(waits) == list(range(6))


def test_what_fails_or_is_cancelled_by_others_stays_so() -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    async def waits(timer: Timer) -> None:
        with pytest.raises(TimeoutError, match="its own"):
            await timer.wait(fails(), time.monotonic() + 10)
        assert not timer.rang
        task = asyncio.create_task(timer.wait(asyncio.sleep(10), time.monotonic() + 10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(waits)


def test_a_closed_timer_is_gone() -> None:
    async def waits(timer: Timer) -> None:
        await timer.wait(asyncio.sleep(0), time.monotonic() + 0.05)
        timer.close()
        await asyncio.sleep(0.1)
        assert not timer.rang

    run(waits)
