"""Servers that misbehave: tried again where that helps, named where it does not."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from infer.stand_in import Reply, StandIn, serve
from swift.errors import ConfigError, ServerError
from swift.infer.backends.client import Address, Client, ask_all
from swift.infer.backends.server import free_port


def address(server: StandIn, **more: Any) -> Address:
    return Address(server.url, **{"pause_s": 0.01, "timeout_s": 5.0, **more})


def ask(where: Address, *bodies: Any) -> list[Any]:
    return ask_all(where, bodies or [{"n": 0}], lambda client, body: client.ask("/x", body))


def listen(where: Address) -> list[Any]:
    async def run() -> list[Any]:
        async with Client(where) as client:
            return [event async for event in client.events("/x", {})]

    return asyncio.run(run())


def test_answers_come_in_the_order_of_the_questions_and_at_once() -> None:
    together = threading.Barrier(12)  # breaks unless all twelve are under way

    def answer(_: int, path: str, body: dict[str, Any]) -> Reply:
        together.wait(10)
        return Reply(body=body["n"])

    with serve(answer) as server:
        where = address(server, key="secret")
        assert ask(where, *({"n": n} for n in range(12))) == list(range(12))
        assert server.asked[0][2]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    def answer(number: int, *_: Any) -> Reply:
        return Reply(status, {"error": {"message": "busy"}}) if number < 3 else Reply(body="ok")

    with serve(answer) as server:
        assert ask(address(server)) == ["ok"]
        assert len(server.asked) == 4


def test_retry_after_is_waited_for() -> None:
    def answer(number: int, *_: Any) -> Reply:
        later = Reply(429, "slow down", headers={"Retry-After": "0.4"})
        return later if number == 0 else Reply(body="ok")

    with serve(answer) as server:
        begun = time.perf_counter()
        assert ask(address(server)) == ["ok"]
        assert time.perf_counter() - begun >= 0.4


def test_a_server_that_stays_broken_is_given_up() -> None:
    with serve(lambda *_: Reply(500, {"error": {"message": "out of cheese"}})) as server:
        with pytest.raises(ServerError, match=r"/x: 500 out of cheese \(3 tries\)"):
            ask(address(server, tries=3))
        assert len(server.asked) == 3


def test_a_refusal_is_not_tried_again() -> None:
    with serve(lambda *_: Reply(400, {"error": {"message": "no such field"}})) as server:
        with pytest.raises(ConfigError, match="400 no such field"):
            ask(address(server))
        assert len(server.asked) == 1


@pytest.mark.parametrize("events", [False, True])
def test_a_server_that_hangs_is_named(events: bool) -> None:
    with serve(lambda *_: Reply(body="late", hang_s=1.0)) as server:
        where = address(server, timeout_s=0.2)
        with pytest.raises(ServerError, match=r"no sign of life for 0\.2 seconds"):
            listen(where) if events else ask(where)


def test_what_is_no_json_is_named() -> None:
    with (
        serve(lambda *_: Reply(body=b"<html>welcome</html>")) as server,
        pytest.raises(ServerError, match="is no JSON: '<html>welcome"),
    ):
        ask(address(server))


def test_a_broken_connection_is_tried_again() -> None:
    def answer(number: int, *_: Any) -> Reply:
        return Reply(body="half", cut=True) if number == 0 else Reply(body="whole")

    with serve(answer) as server:
        assert ask(address(server)) == ["whole"]


def test_nobody_there() -> None:
    where = Address(f"http://127.0.0.1:{free_port()}", tries=2, pause_s=0.01)
    with pytest.raises(ServerError, match=r"cannot be reached: .* \(2 tries\)"):
        ask(where)


def test_events_up_to_done() -> None:
    with serve(lambda *_: Reply(events=[{"a": 1}, {"a": 2}, "[DONE]", {"a": 3}])) as server:
        assert listen(address(server)) == [{"a": 1}, {"a": 2}]
    with serve(lambda *_: Reply(events=[{"a": 1}])) as server:  # as transformers serve does
        assert listen(address(server)) == [{"a": 1}]


def test_a_refusal_within_a_stream_is_one() -> None:
    error = {"message": "temperature must be at most 2", "code": 400}
    with serve(lambda *_: Reply(events=[{"error": error}, "[DONE]"])) as server:
        with pytest.raises(ConfigError, match="at most 2"):
            listen(address(server))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(events=[{"a": 1}], cut=True), "the connection broke"),
        (Reply(events=[{"a": 1}, '{"a":']), "is no JSON"),
        (Reply(events=[{"error": {"message": "too long"}}, "[DONE]"]), "too long"),
    ],
)
def test_a_stream_that_breaks_is_named_and_not_begun_again(reply: Reply, why: str) -> None:
    with serve(lambda *_: reply) as server:
        with pytest.raises(ServerError, match=why):
            listen(address(server))
        assert len(server.asked) == 1
