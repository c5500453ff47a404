"""The server process: from loaded parts to a listening socket, and to an end that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from swift.chat.load import for_others
from swift.chat.message import KINDS
from swift.chat.render import Renderer
from swift.config.serve import ListenSection, ServeSection
from swift.errors import ConfigError
from swift.infer.engine import Ability, Sampling, ServingEngine
from swift.infer.talk import Talker
from swift.observe.log import Log
from swift.serve.answer import Answerer
from swift.serve.app import make_app
from swift.serve.fetch import Fetcher, is_host
from swift.serve.http import Bodies
from swift.serve.keys import Caller, read_keys
from swift.serve.limits import Gate
from swift.serve.metrics import Metrics
from swift.serve.models import Models
from swift.serve.patience import patient
from swift.serve.record import Recorder, Redact
from swift.serve.service import Service
from swift.serve.wire import Defaults

MIB = 1 << 20
_BODIES = 16  # largest bodies that are held at once


@dataclass(frozen=True)
class Served:
    """What is served: loaded parts and their names."""

    talker: Talker
    name: str
    adapters: Mapping[str, str]  # name -> folder
    system: str | None
    turns: bool = False  # texts for vectors are read as a user's turn, as they were learned


def check(section: ServeSection) -> None:
    """See that what the section names is there, before anything is loaded.

    Raises:
        ConfigError: keys, certificate or redaction cannot be read, or a host is none.
    """
    read_keys(section.api_key, section.api_key_file, Caller("anyone"))
    redaction(section.redact)
    if wrong := [host for host in section.media_hosts if not is_host(host)]:
        raise ConfigError(
            f"--allowed_media_domains: {wrong[0]!r} is no host; write example.org, *.example.org, "
            "example.org:8443 or [2001:db8::1]"
        )
    for flag, file in (
        ("ssl_keyfile", section.ssl_keyfile),
        ("ssl_certfile", section.ssl_certfile),
    ):
        if file is not None and not Path(file).expanduser().is_file():
            raise ConfigError(f"--{flag}: {file} does not exist")


def make_service(served: Served, section: ServeSection, log: Log) -> tuple[Service, FastAPI]:
    """The service and its application.

    Raises:
        ConfigError: the engine cannot stream or hold the adapters; keys or records cannot be used.
    """
    engine = cast("ServingEngine", served.talker.engine)
    if Ability.STREAM not in engine.abilities:
        raise ConfigError("--infer_backend: this engine cannot stream, so it cannot serve")
    everyone = Caller(
        "anyone", section.requests_per_minute, section.tokens_per_minute, section.concurrency
    )
    keys = read_keys(section.api_key, section.api_key_file, everyone)
    models = Models(
        engine,
        served.name,
        owner=section.owner,
        takes=_takes(engine, served.talker.renderer),
        under_base=served.talker.adapter,
    )
    models.load_first(served.adapters)
    body = int(section.max_body_mb * MIB)
    renderer = for_others(served.talker.renderer, section.max_image_pixels, body)
    record = Path(section.record).expanduser() if section.record else None
    service = Service(
        Answerer(renderer, engine, served.system),
        models,
        Gate(section.max_running, section.max_queue, section.queue_timeout_s),
        Metrics(),
        Defaults(
            _defaults(served.talker.sampling),
            section.max_answers,
            section.max_media,
            section.max_logprobs,
            tuple(section.media_hosts),
        ),
        section.deadline_s,
        log,
        section.verbose,
        Recorder(record, int(section.record_max_mb * MIB), redaction(section.redact))
        if record
        else None,
        section.allow_adapter_loading,
        Fetcher(tuple(section.media_hosts), body, section.media_timeout_s),
        served.turns,
    )
    app = make_app(service, keys, Bodies(body, _BODIES * body, section.body_timeout_s))
    if not keys.needed and section.host not in ("127.0.0.1", "localhost", "::1"):
        log.warn(f"everybody who reaches {section.host} may ask; --api_key KEY changes that")
    return service, app


def _takes(engine: ServingEngine, renderer: Renderer) -> tuple[str, ...]:
    """The kinds of media that both the engine and the checkpoint take."""
    if Ability.MEDIA not in engine.abilities or renderer.spec.media is None:
        return ()
    return tuple(kind for kind in KINDS if kind in renderer.marks.kinds)


def _defaults(sampling: Sampling) -> Sampling:
    return replace(sampling, stop_ids=())


def redaction(name: str | None) -> Redact | None:
    """The function that ``module:name`` stands for.

    Raises:
        ConfigError: there is none.
    """
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--redact: {name}: {error}; write module:function") from None
    return cast("Redact", found)


def uvicorn_of(app: FastAPI, section: ListenSection) -> uvicorn.Server:
    """The HTTP server of an application."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=section.host,
            port=section.port,
            http=patient(section.header_timeout_s),
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=section.max_connections,
            timeout_graceful_shutdown=section.drain_s,
            ssl_keyfile=section.ssl_keyfile,
            ssl_certfile=section.ssl_certfile,
        )
    )


def serve(served: Served, section: ServeSection, log: Log) -> None:
    """Serve until told to end; requests under way are answered first.

    Raises:
        ConfigError: the port is taken, or see :func:`make_service`.
    """
    service, app = make_service(served, section, log)
    app.router.lifespan_context = _lifespan(service, section.log_interval_s, log)
    run_app(app, section, log, ", ".join((served.name, *served.adapters)), "/v1")
    cast("ServingEngine", served.talker.engine).close()
    log("ended; every request that was admitted has its answer")


def run_app(app: FastAPI, section: ListenSection, log: Log, what: str, path: str = "") -> None:
    """Listen and answer until told to end.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        listening = listen(section.host, section.port)
    except OSError as error:
        raise ConfigError(
            f"--host {section.host} --port {section.port}: {error.strerror or error}"
        ) from None
    scheme = "https" if section.ssl_certfile else "http"
    port = listening.getsockname()[1]
    log(f"serving {what} at {scheme}://{section.host}:{port}{path} (Ctrl-C ends)")
    gc.collect()
    gc.freeze()  # a collection among all that is loaded stops every answer for half a second
    with _unraised():
        uvicorn_of(app, section).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Not ``socket.create_server``: its sockets do not say that they are TCP's, so asyncio leaves
    Nagle's algorithm on, and every small answer waits some 40 ms for an acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
    except OSError:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _unraised() -> Any:
    """Signals end the server in order; uvicorn raises them again behind that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, _nothing) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _nothing(number: int, frame: Any) -> None:
    pass


def _lifespan(
    service: Service, interval_s: float, log: Log
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        telling = asyncio.create_task(_tell(service, interval_s, log)) if interval_s else None
        yield
        if telling:
            telling.cancel()

    return life


async def _tell(service: Service, interval_s: float, log: Log) -> None:
    """A line about the load now and then, while there is some."""
    before = 0.0
    while True:
        await asyncio.sleep(interval_s)
        tokens = service.tokens
        if service.gate.running or service.gate.waiting or tokens != before:
            rate = (tokens - before) / interval_s
            log(
                f"{service.gate.running} running, {service.gate.waiting} waiting, "
                f"{rate:.1f} tokens/s"
            )
        before = tokens
