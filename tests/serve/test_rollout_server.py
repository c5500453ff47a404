"""The server of ``swift rollout``: versions, updates whole or not at all, keys, pauses."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from serving import client_of

import tiny
from contracts import engines as promises
from contracts.engines import Subject
from swift.config.serve import ListenSection
from swift.errors import ConfigError, EngineLost, OtherWeights, ServerError
from swift.infer.backends.client import Address
from swift.infer.backends.rollout import RolloutServers, address_of
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Ability, Completion, Request, Sampling
from swift.infer.parts import pack
from swift.observe.log import Log
from swift.serve import weights as incoming
from swift.serve.http import Bodies
from swift.serve.limits import Gate
from swift.serve.rollout import RolloutService, make_rollout_app
from swift.serve.server import listen, uvicorn_of
from swift.tune.tuned import Tuned
from swift.tune.weights import current_weights


def engine_of(seed: int = 0) -> TransformersEngine:
    return TransformersEngine(tiny.make_model(seed), tiny.make_tokenizer())


def service_of(engine: Any = None, most: int = 1 << 20) -> RolloutService:
    bodies = Bodies(most, 8 * most, 5)
    return RolloutService(engine or engine_of(), "tiny", Gate(4, 4, 5), bodies, Log(False))


@contextmanager
def served(service: RolloutService, **settings: Any) -> Iterator[str]:
    """A real server in a thread; its address."""
    section = ListenSection(port=0, **settings)
    listening = listen(section.host, 0)
    server = uvicorn_of(make_rollout_app(service, section), section)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def ask(service: RolloutService, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """One request, without a socket."""
    app = make_rollout_app(service, ListenSection())

    async def send() -> httpx.Response:
        async with client_of(app, **headers) as client:
            if isinstance(body, bytes):
                return await client.post(path, content=body)
            return await (client.get(path) if body is None else client.post(path, json=body))

    return asyncio.run(send())


REQUESTS = [
    Request(list(range(5, 5 + n)), Sampling(6, 1.0, seed=n, stop_ids=(2,), logprobs=0))
    for n in (3, 9, 4, 6, 5)
]
WEIGHTS = list(current_weights(Tuned(tiny.make_model(1)), torch.float32))
BODY = {"requests": [{"tokens": [5, 6, 7], "sampling": {"max_tokens": 3}}]}


def test_what_comes_over_http_is_what_the_engine_gives_to_the_bit() -> None:
    own = engine_of().generate(REQUESTS)
    with served(service_of()) as one, served(service_of()) as two:
        client = RolloutServers([Address(one), Address(two)])
        found = client.generate(REQUESTS)
        few = client.generate(REQUESTS[:1])  # nothing is left for the first of two servers
        heard: list[int] = []
        client.generate(REQUESTS[:1], heard.append)
        client.close()
    assert [c.tokens for c in found] == [c.tokens for c in own]
    assert heard == few[0].tokens
    alone = engine_of().generate(REQUESTS[:2]) + engine_of().generate(REQUESTS[2:])
    assert [(c.logprobs, c.drawn_logprobs, c.finish_reason) for c in found] == [
        (c.logprobs, c.drawn_logprobs, c.finish_reason) for c in alone
    ]
    assert client.context == 512 and Ability.MEDIA not in client.abilities


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    with served(service_of()) as url:
        client = RolloutServers([Address(url)])
        yield Subject(client, tiny.make_model().eval(), tiny.make_tokenizer())
        client.close()


KEPT = [
    promises.greedy_equals_a_loop_alone_and_together,
    promises.stop_ids_end_an_answer_and_belong_to_it, promises.stop_texts_end_an_answer,
    promises.a_seed_decides_whatever_else_is_in_the_batch,
    promises.penalties_follow_their_formulas, promises.a_full_context_is_named,
]  # fmt: skip


@pytest.mark.parametrize("promise", KEPT, ids=lambda promise: promise.__name__)
def test_servers_keep_the_promises_of_engines(
    promise: Callable[[Subject], None], subject: Subject
) -> None:
    promise(subject)


@pytest.mark.parametrize(
    "more", [{"bad_words": ((5,),)}, {"logit_bias": {5: 1.0}}, {"prompt_logprobs": True}]
)
def test_what_does_not_go_to_a_server_is_refused(more: dict[str, Any], subject: Subject) -> None:
    with pytest.raises(ConfigError, match="the rollout engine has no"):
        subject.answer([5, 6], max_tokens=2, **more)


@pytest.mark.parametrize("most", [1 << 17, 1 << 22])  # many parts, or one
def test_after_an_update_the_server_has_the_weights_that_were_sent(most: int) -> None:
    services = [service_of(most=most), service_of(most=most)]
    with served(services[0]) as one, served(services[1]) as two:
        client = RolloutServers([Address(one), Address(two)])
        client.update(iter(WEIGHTS), "run-1")
        found = client.generate(REQUESTS)
        client.close()
    assert client.version == "run-1"
    for service in services:
        assert service.version == "run-1" and service.incoming is None
        now = dict(service.engine._model.named_parameters())  # type: ignore[attr-defined]
        assert all(torch.equal(now[name], tensor) for name, tensor in WEIGHTS)
    expected = engine_of(1).generate(REQUESTS)
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    assert [c.tokens for c in found] != [c.tokens for c in engine_of().generate(REQUESTS)]


def test_an_update_that_is_not_whole_never_lives() -> None:
    service = service_of()
    before = ask(service, "/generate", BODY).json()
    said = {"id": "u", "version": "1"}
    parts = list(pack(WEIGHTS, 1 << 17))
    assert ask(service, "/weights/begin", said).json() == {"there": False}
    for number, part in enumerate(parts[:-1]):
        path = f"/weights/part?id=u&number={number}"
        assert ask(service, path, part).status_code == 200
    assert ask(service, "/generate", BODY).json() == before
    refused = ask(service, "/weights/commit", {**said, "parts": len(parts)})
    assert refused.status_code == 400 and "are here" in refused.text
    assert ask(service, "/generate", BODY).json() == before and service.version == "base"
    last = f"/weights/part?id=u&number={len(parts) - 1}"
    assert ask(service, last, parts[-1]).json() == {"parts": len(parts)}
    done = ask(service, "/weights/commit", {**said, "parts": len(parts)})
    assert done.json() == {"version": "1"}
    assert ask(service, "/weights/commit", {**said, "parts": len(parts)}).json() == done.json()
    after = ask(service, "/generate", BODY).json()
    assert after["version"] == "1" and after["answers"] != before["answers"]
    assert ask(service, "/weights/begin", {**said, "id": "v"}).json() == {"there": True}
    assert "swift_weight_updates_total 1.0" in ask(service, "/metrics").text


def test_weights_that_do_not_fit_leave_no_server_that_answers() -> None:
    service = service_of()
    wrong = [("model.norm.weight", torch.ones(48)), ("model.other", torch.ones(1))]
    with served(service) as url:
        client = RolloutServers([Address(url, tries=1)])
        with pytest.raises(ConfigError, match=r"the model has no model\.other"):
            client.update(iter(wrong), "1")
        assert service.version is None
        assert httpx.get(f"{url}/ready").status_code == 503
        with pytest.raises(OtherWeights, match="half new"):
            client.generate(REQUESTS)
        client.update(iter(WEIGHTS), "2")
        assert client.generate(REQUESTS) and httpx.get(f"{url}/ready").status_code == 200
        client.close()


def test_other_weights_than_those_wanted_are_refused() -> None:
    with served(service_of()) as url:
        client = RolloutServers([Address(url)])
        client.version = "run-7"
        with pytest.raises(OtherWeights, match="run-7 is wanted, the weights here are base"):
            client.generate(REQUESTS)
        client.close()


def test_one_update_at_a_time_unless_it_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of()
    assert ask(service, "/weights/begin", {"id": "a", "version": "1"}).status_code == 200
    busy = ask(service, "/weights/begin", {"id": "b", "version": "2"})
    assert busy.status_code == 503 and busy.headers["retry-after"] == "1"
    monkeypatch.setattr("swift.serve.rollout.IDLE_S", -1.0)
    assert incoming.IDLE_S > 0
    assert ask(service, "/weights/begin", {"id": "b", "version": "2"}).status_code == 200
    late = ask(service, "/weights/part?id=a&number=0", b"x")
    assert late.status_code == 412 and "no update a is under way" in late.text


class Slow:
    """Counts what happens at once."""

    abilities, context = engine_of().abilities, None

    def __init__(self) -> None:
        self.events: list[str] = []

    def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
        self.events.append("begin")
        time.sleep(0.2)
        self.events.append("end")
        return [Completion([5], "stop", [0.0]) for _ in requests]

    def update_weights(self, weights: Any) -> None:
        self.events.append(f"update {len(list(weights))}")


def test_an_answer_is_of_one_version_from_beginning_to_end() -> None:
    engine = Slow()
    service = service_of(engine)
    with served(service) as url:
        client = RolloutServers([Address(url)])
        other = RolloutServers([Address(url)])
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(other.generate(REQUESTS)))
        thread.start()
        while not engine.events:
            assert thread.is_alive()
            time.sleep(0.001)
        client.update(iter(WEIGHTS[:2]), "1")
        assert engine.events == ["begin", "end", "update 2"]
        thread.join()
        assert len(found[0]) == 5
        client.close(), other.close()


def test_a_pause_waits_for_answers_and_keeps_others_out() -> None:
    service = service_of()
    assert ask(service, "/pause", {}).json()["paused"] is True
    refused = ask(service, "/generate", BODY)
    assert refused.status_code == 503 and "POST /resume" in refused.text
    assert ask(service, "/ready").status_code == 503 and ask(service, "/health").status_code == 200
    with served(service) as url:
        client = RolloutServers([Address(url, pause_s=0.05)])
        threading.Timer(0.2, lambda: httpx.post(f"{url}/resume")).start()
        assert len(client.generate(REQUESTS)) == 5  # the client came again
        client.close()


class Broken(Slow):
    """Fails with every second request."""

    def generate(self, requests: list[Request], on_token: Any = None) -> list[Completion]:
        raise RuntimeError("no memory")


def test_an_engine_that_fails_is_no_server_that_is_lost() -> None:
    with served(service_of(Broken())) as url:
        client = RolloutServers([Address(url)])
        with pytest.raises(ServerError, match="the engine failed: no memory") as caught:
            client.generate(REQUESTS)
        assert not isinstance(caught.value, EngineLost)
        client.close()


def test_with_a_key_nobody_else_asks_or_sends() -> None:
    with served(service_of(), api_key=["secret-key"]) as url:
        for path in ("/generate", "/weights/begin", "/weights/part", "/weights/commit", "/pause"):
            assert httpx.post(url + path, json={}).status_code == 401
        assert httpx.get(f"{url}/version").status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200
        with pytest.raises(ConfigError, match="a key is needed"):
            RolloutServers([Address(url)])
        client = RolloutServers([address_of(url, "secret-key", 1, 5)])
        client.update(iter(WEIGHTS), "1")
        client.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/generate", {"requests": [{"tokens": [], "sampling": {"max_tokens": 1}}]}, 400, "tokens"),
        ("/generate", {**BODY, "temperature": 1}, 400, "there is no such field"),
        ("/generate", {"requests": [{"tokens": [-1], "sampling": {"max_tokens": 1}}]}, 400, "tok"),
        ("/generate", b"[" * 100_000, 400, "JSON"),
        ("/generate", b" " * (2 << 20), 413, "larger than"),
        ("/weights/part?id=a&number=0", b" " * (2 << 20), 413, "larger than"),
        ("/weights/part?id=a&number=x", b"", 400, "number"),
        ("/weights/part?id=a&number=-1", b"", 400, "number"),
        ("/weights/commit", {"id": "a", "version": "1", "parts": 0}, 412, "no update a"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_what_is_no_request_is_refused(path: str, body: Any, status: int, message: str) -> None:
    found = ask(service_of(), path, body)
    assert found.status_code == status and message in found.text, found.text
    assert json.loads(found.text)["error"]


def test_a_server_that_is_away_for_long_is_lost() -> None:
    began = time.monotonic()
    with pytest.raises(EngineLost, match=r"127\.0\.0\.1:9/version cannot be reached"):
        RolloutServers([address_of("http://127.0.0.1:9", None, 0.6, 5)])
    assert 0.5 < time.monotonic() - began < 5


def test_a_server_of_another_kind_is_said_to_be_one() -> None:
    app = FastAPI()
    app.get("/version")(lambda: {"version": "0.32.0"})
    section = ListenSection(port=0)
    listening = listen(section.host, 0)
    server = uvicorn_of(app, section)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(ConfigError, match=r"is no server of swift rollout: \{'version': '0\.32"):
        RolloutServers([Address(url)])
    server.should_exit = True
    thread.join(10)
