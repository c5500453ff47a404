"""``swift rollout``: answers as token ids for a run that learns elsewhere, by the weights it sends.

An answer says by which weights it was made, and is made by one version of them from beginning to
end: new weights are put in place between answers, whole or not at all.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from prometheus_client import Counter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from swift import __version__
from swift.config.serve import ListenSection
from swift.errors import ConfigError
from swift.infer.engine import Completion, Request, Sampling, ServingEngine
from swift.models.kernels import fast_linear
from swift.observe.log import Log
from swift.serve.app import add_errors, read
from swift.serve.http import Bodies, Guard, body_of, json_bytes
from swift.serve.keys import Caller, read_keys
from swift.serve.limits import Gate
from swift.serve.metrics import CONTENT_TYPE, Metrics
from swift.serve.refused import Refused, wrong
from swift.serve.server import MIB, run_app
from swift.serve.weights import IDLE_S, Incoming, Turns
from swift.serve.wire import Wire

_TOGETHER = 8  # largest bodies that are held at once
_MOST = 1 << 16  # requests of one batch
_DIGITS = 9  # of a number of parts that anybody means

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Version = Annotated[str, Field(min_length=1, max_length=128)]


class Drawing(Wire):
    """How the tokens of an answer are drawn."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop_ids: tuple[Token, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: Literal[0] | None = 0

    def sampling(self) -> Sampling:
        """As engines know it."""
        return Sampling(**self.model_dump())


class Asked(Wire):
    """A prompt as token ids."""

    tokens: Annotated[list[Token], Field(min_length=1)]
    sampling: Drawing


class Generate(Wire):
    """The body of ``POST /generate``: a batch."""

    requests: Annotated[list[Asked], Field(max_length=_MOST)]
    version: Version | None = None  # of the weights that are wanted; none: whatever there is


class Begin(Wire):
    """The body of ``POST /weights/begin``."""

    id: Version  # of this update, chosen by who sends it
    version: Version  # of the weights


class Commit(Begin):
    """The body of ``POST /weights/commit``."""

    parts: Annotated[int, Field(ge=0)]


@dataclass
class RolloutService:
    """An engine, and the weights that it has."""

    engine: ServingEngine
    model: str
    gate: Gate
    bodies: Bodies
    log: Log
    metrics: Metrics = field(default_factory=Metrics)
    version: str | None = "base"  # None: weights that are half new
    paused: bool = False
    turns: Turns = field(default_factory=Turns)
    incoming: Incoming | None = None

    def __post_init__(self) -> None:
        """Count what Metrics does not."""
        registry = self.metrics.registry
        self.updates = Counter("swift_weight_updates", "Updates of weights", registry=registry)

    def shown(self) -> dict[str, Any]:
        """What a client asks for first."""
        return {
            "swift": __version__,
            "model": self.model,
            "version": self.version,
            "paused": self.paused,
            "abilities": sorted(self.engine.abilities),
            "context": self.engine.context,
            "max_body_bytes": self.bodies.most,
        }

    async def generate(self, asked: Generate) -> dict[str, Any]:
        """Answers of one version of the weights.

        Raises:
            Refused: 412 where the weights are others than those that are wanted, 503 in a pause.
        """
        requests = [Request(one.tokens, one.sampling.sampling()) for one in asked.requests]
        async with self.turns.shared():
            if self.paused:
                raise Refused(503, "paused; POST /resume ends it", code="paused", retry_after_s=1)
            if self.version is None or asked.version not in (None, self.version):
                there = self.version or "half new: an update failed"
                why = f"version: {asked.version} is wanted, the weights here are {there}"
                raise Refused(412, why, param="version", code="other_weights")
            version, began_s = self.version, time.monotonic()
            answers, error = await asyncio.to_thread(self._answers, requests)
        self.metrics.whole_s.observe(time.monotonic() - began_s)
        self._count(requests, answers or [])
        said = None if answers is None else [_said(answer) for answer in answers]
        return {"version": version, "answers": said, "error": error}

    def _answers(self, requests: list[Request]) -> tuple[list[Completion] | None, str | None]:
        """Answers, or why there are none."""
        try:
            with fast_linear():
                return self.engine.generate(requests), None
        except Exception as error:
            self.log.warn("".join(traceback.format_exception(error)))
            return None, f"the engine failed: {error}"

    def _count(self, requests: list[Request], answers: list[Completion]) -> None:
        read = sum(len(request.tokens) for request in requests)
        self.metrics.prompt.labels(self.model).inc(read)
        self.metrics.answer.labels(self.model).inc(sum(len(one.tokens) for one in answers))
        for one in answers:
            self.metrics.ended.labels(self.model, one.finish_reason).inc()

    def begin(self, asked: Begin) -> dict[str, Any]:
        """Make room for an update; ``there`` says that nothing need be sent.

        Raises:
            Refused: 503 while another one comes in.
        """
        if asked.version == self.version:
            return {"there": True}
        other = self.incoming
        if other and other.id != asked.id and time.monotonic() - other.at_s < IDLE_S:
            why = f"the weights {other.version} are coming in"
            raise Refused(503, why, code="updating", retry_after_s=1)
        self.incoming = Incoming(asked.id, asked.version)
        return {"there": False}

    def under_way(self, id: str) -> Incoming:
        """The update of that id.

        Raises:
            Refused: 412: there is none, because another took its place or the server is a new one.
        """
        if self.incoming is None or self.incoming.id != id:
            raise Refused(412, f"id: no update {id[:80]} is under way", param="id")
        return self.incoming

    async def commit(self, asked: Commit) -> dict[str, Any]:
        """Put an update in place, once the answers under way have ended.

        Raises:
            Refused: it is not whole, or does not fit the model.
        """
        if self.incoming is None and asked.version == self.version:
            return {"version": self.version}  # it was put in place; the answer was lost
        update = self.under_way(asked.id)
        weights = await asyncio.to_thread(update.whole, asked.parts)
        async with self.turns.alone():
            self.version, self.incoming = None, None
            try:
                await asyncio.to_thread(self.engine.update_weights, weights.items())
            except ConfigError as error:
                raise Refused(400, str(error), code="invalid_weights") from None
            self.version = asked.version
        self.updates.inc()
        self.log(f"weights {self.version}: {len(weights)} tensors")
        return {"version": self.version}

    async def pause(self, paused: bool) -> dict[str, Any]:
        """Begin a pause, once the answers under way have ended, or end it."""
        self.paused = paused
        async with self.turns.alone():
            return self.shown()


def _said(answer: Completion) -> dict[str, Any]:
    names = ("tokens", "finish_reason", "logprobs", "drawn_logprobs")
    return {name: getattr(answer, name) for name in names}


def make_rollout_app(service: RolloutService, section: ListenSection) -> FastAPI:
    """The application.

    Raises:
        ConfigError: the keys cannot be read.
    """
    keys = read_keys(section.api_key, section.api_key_file, Caller("anyone"))
    if not keys.needed and section.host not in ("127.0.0.1", "localhost", "::1"):
        service.log.warn(
            f"everybody who reaches {section.host} may replace the weights; --api_key KEY "
            "changes that"
        )
    app = FastAPI(title="swift rollout", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, keys=keys, bodies=service.bodies, requests=service.metrics.requests)
    add_errors(app, service.log)
    _add_answers(app, service)
    _add_weights(app, service)
    _add_looks(app, service)
    return app


def _add_answers(app: FastAPI, service: RolloutService) -> None:
    async def generate(request: HttpRequest) -> Response:
        asked = await read(request, Generate)
        async with service.gate.enter(request.state.caller):
            found = await service.generate(asked)
        return Response(json_bytes(found), media_type="application/json")

    async def pause() -> dict[str, Any]:
        return await service.pause(True)

    async def resume() -> dict[str, Any]:
        return await service.pause(False)

    app.post("/generate")(generate)
    app.post("/pause")(pause)
    app.post("/resume")(resume)


def _add_weights(app: FastAPI, service: RolloutService) -> None:
    async def begin(request: HttpRequest) -> dict[str, Any]:
        return service.begin(await read(request, Begin))

    async def part(request: HttpRequest) -> dict[str, Any]:
        content, said = await body_of(request), request.query_params
        number = said.get("number", "")
        if not number.isdecimal() or len(number) > _DIGITS:
            raise wrong("number", "should count the parts of this update from 0")
        update = service.under_way(said.get("id", ""))
        update.take(int(number), content)
        return {"parts": update.parts}

    async def commit(request: HttpRequest) -> dict[str, Any]:
        return await service.commit(await read(request, Commit))

    app.post("/weights/begin")(begin)
    app.post("/weights/part")(part)
    app.post("/weights/commit")(commit)


def _add_looks(app: FastAPI, service: RolloutService) -> None:
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def ready() -> dict[str, str]:
        if service.paused or service.version is None:
            raise Refused(503, "paused" if service.paused else "the weights are half new")
        return {"status": "ok"}

    async def version() -> dict[str, Any]:
        return service.shown()

    async def metrics() -> Response:
        service.metrics.running.set(service.gate.running)
        service.metrics.waiting.set(service.gate.waiting)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    app.get("/health")(health)
    app.get("/ready")(ready)
    app.get("/version")(version)
    app.get("/metrics")(metrics)


def serve_rollout(engine: ServingEngine, model: str, section: ListenSection, log: Log) -> None:
    """Serve until told to end; batches under way are answered first.

    Raises:
        ConfigError: the keys cannot be read, or the port is taken.
    """
    body = int(section.max_body_mb * MIB)
    bodies = Bodies(body, _TOGETHER * body, section.body_timeout_s)
    gate = Gate(section.max_running, section.max_queue, section.queue_timeout_s)
    service = RolloutService(engine, model, gate, bodies, log)
    run_app(make_rollout_app(service, section), section, log, f"rollouts of {model}")
    engine.close()
    log("ended; every batch that was admitted has its answers")
