"""Keys, rates, places, deadlines: who is refused, with what, and that places come back."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
import serving
from serving import SayingEngine, client_of, serve, user

from swift.chat.render import Renderer
from swift.errors import ConfigError
from swift.infer.engine import Sampling
from swift.serve.answer import Answerer
from swift.serve.keys import Caller, Keys, read_keys
from swift.serve.limits import Bucket, Gate
from swift.serve.refused import Refused


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("GET", "/health/../metrics"),
    ("GET", "//metrics"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}], ids=str
)
def test_every_route_needs_a_key(
    renderer: Renderer, method: str, path: str, headers: dict[str, str]
) -> None:
    app = serve(
        SayingEngine(renderer, "x"), renderer, keys=Keys({"secret-key": Caller("a")}, Caller("-"))
    )

    async def ask() -> int:
        async with client_of(app, **headers) as client:
            return (await client.request(method, path)).status_code

    assert asyncio.run(ask()) == 401


def test_every_route_of_the_application_is_in_that_list(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    known = {path for _, path in ROUTES} | {"/health", "/ready"}
    paths = {path.replace("{name}", "tiny") for path in app.openapi()["paths"]}
    assert paths <= known


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
def test_a_key_lets_in_and_health_needs_none(renderer: Renderer, name: str) -> None:
    keys = Keys({"secret-key": Caller("a"), "other-key": Caller("b")}, Caller("-"))
    app = serve(SayingEngine(renderer, "x"), renderer, keys=keys)
    value = "Bearer other-key" if name == "Authorization" else "other-key"

    async def ask() -> list[int]:
        async with client_of(app) as client:
            return [
                (await client.get("/v1/models", headers={name: value})).status_code,
                (await client.get("/health")).status_code,
                (await client.get("/ready")).status_code,
            ]

    assert asyncio.run(ask()) == [200, 200, 200]


def test_keys_of_a_file_have_limits_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(
        "keys:\n- {key: sk-one-one, name: one, requests_per_minute: 3, admin: true}\n"
        "- {key: sk-two-two, name: two}\n"
    )
    keys = read_keys(["sk-three-3"], str(file), Caller("anyone", tokens_per_minute=50))
    found = [
        keys.caller([(b"authorization", b"Bearer " + key)])
        for key in (b"sk-one-one", b"sk-two-two", b"sk-three-3", b"sk-one-on")
    ]
    assert found == [
        Caller("one", 3, 50, None, True), Caller("two", None, 50), Caller("key-1", None, 50), None
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "keys: []", "keys: 3", "[", "keys: [{key: sk-12345678}]", "keys: [{key: a, name: b}]",
     "keys: [{key: sk-12345678, name: b, admn: 1}]",
     "keys: [{key: sk-12345678, name: b}, {key: sk-12345678, name: c}]",
     "keys: [{key: sk-12345678, name: b}, {key: sk-12345679, name: b}]"],
)  # fmt: skip
def test_a_wrong_file_of_keys_is_one_clear_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="--api_key_file") as error:
        read_keys([], str(file), Caller("anyone"))
    assert "sk-1234567" not in str(error.value)


def test_a_bucket_holds_a_minute_and_fills_evenly() -> None:
    now = 0.0
    bucket = Bucket(60, lambda: now)
    assert bucket.wait_s(60) == 0
    bucket.take(60)
    assert bucket.wait_s(1) == 1
    now = 0.5
    assert bucket.wait_s(1) == 0.5
    bucket.take(29.5)
    now = 30.0
    assert bucket.wait_s(1) == pytest.approx(0.5)
    now = 1000.0
    bucket.take(0)
    assert bucket.wait_s(60) == 0 and bucket.wait_s(1e9) == 0


@pytest.mark.parametrize(
    ("caller", "word"),
    [
        (Caller("a", requests_per_minute=2), "requests"),
        (Caller("a", tokens_per_minute=5), "tokens"),
    ],
)
def test_rates_of_a_key(renderer: Renderer, caller: Caller, word: str) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer, keys=Keys({}, caller))
    first = serving.chat(app)
    assert first.status_code == 200
    answers = [serving.chat(app) for _ in range(2)]
    refused = answers[-1]
    assert refused.status_code == 429
    assert word in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1


def test_rates_hold_for_routes_that_generate_nothing(renderer: Renderer) -> None:
    caller = Caller("a", requests_per_minute=2)
    app = serve(SayingEngine(renderer, "x"), renderer, keys=Keys({}, caller))
    codes = [serving.post(app, "/tokenize", {"prompt": "a"}).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]


def test_concurrency_of_a_key_does_not_bind_another(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "one two three", pace_s=0.01)
    keys = Keys({"key-of-a": Caller("a", concurrency=1), "key-of-b": Caller("b")}, Caller("-"))
    app = serve(engine, renderer, keys=keys)

    async def ask(key: str) -> int:
        async with client_of(app, Authorization=f"Bearer {key}") as client:
            body = {"model": "tiny", "messages": user("Hello")}
            return (await client.post("/v1/chat/completions", json=body)).status_code

    async def all() -> list[int]:
        return await asyncio.gather(ask("key-of-a"), ask("key-of-a"), ask("key-of-b"))

    assert sorted(asyncio.run(all())) == [200, 200, 429]


def test_places_and_queue_hold_their_bounds() -> None:
    """Any mix of arrivals, leavings and cancellations: bounds hold, and at the end all is free."""
    import random

    gate = Gate(4, 3, wait_s=0.02)
    rng = random.Random(1)
    found = {"in": 0, "refused": 0, "cancelled": 0}

    async def one() -> None:
        count = rng.randint(1, 3)
        try:
            async with gate.enter(Caller(str(rng.randint(0, 3))), count):
                assert 0 < gate.running <= 4 and gate.waiting <= 3
                await asyncio.sleep(rng.random() * 0.02)
                found["in"] += 1
        except Refused as refused:
            assert refused.status == 429 and refused.retry_after_s
            found["refused"] += 1

    async def many() -> None:
        tasks = []
        for _ in range(400):
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(rng.random() * 0.004)
            if rng.random() < 0.2:
                rng.choice(tasks[-4:]).cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        found["cancelled"] = sum(isinstance(e, asyncio.CancelledError) for e in done)
        assert all(e is None or isinstance(e, asyncio.CancelledError) for e in done)

    asyncio.run(many())
    assert gate.running == gate.waiting == 0
    assert min(found.values()) > 10, found


def test_those_who_wait_come_in_their_order() -> None:
    gate = Gate(1, 9, wait_s=5)
    order = []

    async def one(number: int) -> None:
        async with gate.enter(Caller("a")):
            order.append(number)
            await asyncio.sleep(0)

    async def many() -> None:
        await asyncio.gather(*(one(number) for number in range(8)))

    asyncio.run(many())
    assert order == list(range(8))


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_ends_the_generation(renderer: Renderer, stream: bool) -> None:
    engine = SayingEngine(renderer, "word " * 200, pace_s=0.01)
    gate = Gate(2, 2, 1)
    app = serve(engine, renderer, deadline_s=0.1, gate=gate)
    done = serving.chat(app, stream=stream)
    if stream:
        assert serving.events(done)[-2]["error"]["code"] == "deadline_exceeded"
    else:
        assert (done.status_code, done.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert engine.live == gate.running == 0
    assert engine.told < 30


def test_a_deadline_holds_for_what_takes_long_to_read(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, going_on = Gate(2, 2, 1), threading.Event()
    monkeypatch.setattr(Answerer, "plan", lambda *_: going_on.wait(10))
    app = serve(SayingEngine(renderer, "x"), renderer, deadline_s=0.1, gate=gate)

    async def ask() -> int:
        async with client_of(app) as client:
            body = {"model": "tiny", "messages": user("x" * 9000)}
            answer = await client.post("/v1/chat/completions", json=body)
        going_on.set()
        return answer.status_code

    assert asyncio.run(ask()) == 504 and gate.running == 0


def test_more_answers_than_places_are_refused(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer, gate=Gate(2, 2, 1))
    assert serving.chat(app, n=3).status_code == 400


def test_overload_is_refused_early_and_the_admitted_are_answered_in_time(
    renderer: Renderer,
) -> None:
    """Ten times what the server can do, for about two seconds."""
    places, queue, pace_s, tokens = 4, 4, 0.01, 5
    engine = SayingEngine(renderer, "a b c d", pace_s=pace_s, size=1)
    gate = Gate(places, queue, wait_s=2.0)
    app = serve(engine, renderer, gate=gate, sampling=Sampling(tokens))
    times: list[float] = []
    codes: dict[int, int] = {}
    capacity_s = places / (tokens * pace_s)  # answers a second

    async def one(client: object) -> None:
        begun = time.perf_counter()
        body = {"model": "tiny", "messages": user("Hello")}
        done = await client.post("/v1/chat/completions", json=body)  # type: ignore[attr-defined]
        codes[done.status_code] = codes.get(done.status_code, 0) + 1
        if done.status_code == 200:
            times.append(time.perf_counter() - begun)
        else:
            assert done.headers["retry-after"]

    async def flood() -> None:
        async with client_of(app) as client:
            tasks = []
            end = time.perf_counter() + 1.5
            while time.perf_counter() < end:
                tasks.append(asyncio.create_task(one(client)))
                await asyncio.sleep(1 / (10 * capacity_s))
            await asyncio.gather(*tasks)

    asyncio.run(flood())
    assert set(codes) == {200, 429} and codes[429] > 20 and codes[200] > 10, codes
    assert engine.most <= places
    assert gate.running == gate.waiting == 0 and engine.live == 0
    # a bound of order, not of speed: everybody admitted waits for at most two rounds before his own
    assert sorted(times)[int(len(times) * 0.99)] < 2.0
