"""A page from its first byte to its end: the server beneath it, and the address above."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from swift.app.acts import Acts
from swift.app.client import Api, Model
from swift.app.headers import MIDDLEWARE
from swift.app.page import STYLE, Look, Page, theme
from swift.app.texts import LANGUAGES
from swift.config.app import AppConfig
from swift.config.runs import DeployConfig
from swift.errors import ConfigError, ServerError
from swift.infer.backends.server import Server
from swift.observe.log import Log

_PORTS = 100  # that are tried behind one that is taken
_OURS = range(10_000, 32_768)
_PART = 0.7  # of a request's size that files may have: base64 makes them a third larger


def serve(config: AppConfig, log: Log) -> None:
    """Show the page until Ctrl-C or SIGTERM; a server that was started for it ends with it.

    Raises:
        ConfigError, ServerError: the server cannot be started or reached, or no port is free.
    """
    with (
        _ending(),
        tempfile.TemporaryDirectory(prefix="swift-app-") as place,
        _beneath(config, Path(place), log) as (api, server),
    ):
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = place  # what is uploaded ends with the page
        models = asyncio.run(api.models())
        with _shown(config, api, ordered(models, config), log):
            while server is None or server.alive:
                time.sleep(1)
            raise ServerError(f"the server has ended; {server.log} ends with\n{server.tail()}")


@contextmanager
def _shown(config: AppConfig, api: Api, models: list[Model], log: Log) -> Iterator[None]:
    """The page."""
    section = config.app
    acts = Acts(api, LANGUAGES[section.lang], asyncio.run(api.records()), takes(config, models))
    page = Page(acts, look_of(config, models)).blocks
    if section.server_name not in ("127.0.0.1", "localhost", "::1"):
        log.warn(f"everybody who reaches {section.server_name} may ask the model")
    if section.share:
        log.warn(
            "--share: everybody who has the link may ask the model, and what is said passes "
            "gradio.live"
        )
    size = int(config.serve.max_body_mb * _PART * (1 << 20))
    port = port_of(section.server_name, section.server_port)
    try:
        _, address, public = page.launch(
            server_name=section.server_name, server_port=port, share=section.share,
            inbrowser=section.inbrowser, prevent_thread_lock=True, quiet=True,
            app_kwargs={"middleware": MIDDLEWARE, "docs_url": None, "redoc_url": None},
            max_file_size=size, ssr_mode=False, footer_links=[], theme=theme(), css_paths=STYLE,
            run_history=False,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"--server_name {section.server_name}: {error}") from None
    log(f"the page is at {address} (Ctrl-C ends)")
    if public:
        log(f"and for everybody at {public}")
    try:
        yield
    finally:
        page.close(verbose=False)


@contextmanager
def _ending() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _beneath(config: AppConfig, place: Path, log: Log) -> Iterator[tuple[Api, Server | None]]:
    """The server that runs, or one that is started for the page; and its process."""
    keys = config.serve.api_key
    if config.app.base_url is not None:
        url = config.app.base_url.rstrip("/").removesuffix("/v1")
        yield Api(f"{url}/v1", keys[0] if keys else None), None
        return
    key, port = secrets.token_urlsafe(32), config.serve.port or port_of("127.0.0.1", 0)
    file = place / "deploy.yaml"  # in a folder that only this user reads: keys are in it
    file.write_text(yaml.safe_dump(child_config(config, key, port)), encoding="utf-8")
    words = [sys.executable, "-m", "swift", "deploy", str(file)]
    output = Path("output") / "app" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    log(f"starting swift deploy; its log: {output}")
    server = Server(words, f"http://127.0.0.1:{port}", output, health="/ready")
    try:
        server.wait(config.app.start_timeout_s, log)
        file.unlink()
        yield Api(f"{server.url}/v1", key), server
    finally:
        server.close()


def child_config(config: AppConfig, key: str, port: int) -> dict[str, Any]:
    """What ``swift deploy`` is given: all of the configuration but the page, and a key."""
    shared = [name for name in DeployConfig.model_fields if name not in ("command", "dry_run")]
    values = config.model_dump(mode="json", include=set(shared), exclude_none=True)
    values["serve"] |= {"port": port, "api_key": [key, *config.serve.api_key]}
    return {"command": "deploy", **values}


def ordered(models: list[Model], config: AppConfig) -> list[Model]:
    """The models of a server, the one that is meant first.

    Raises:
        ConfigError: there are none, or not that one.
    """
    named = config.model.path
    if not models:
        raise ConfigError(f"--base_url: {config.app.base_url} has no models")
    if config.app.base_url is None or named is None:
        return models
    names = {named, named.rstrip("/").rpartition("/")[2]}
    first = [model for model in models if model.name in names]
    if not first:
        known = ", ".join(model.name for model in models)
        raise ConfigError(f"--model: {config.app.base_url} has no {named}; it has {known}")
    return [first[0], *(model for model in models if model is not first[0])]


def takes(config: AppConfig, models: list[Model]) -> tuple[str, ...]:
    """The kinds of media that are offered: as the user says, else as the server does."""
    said = config.app.is_multimodal
    if said is None:
        return models[0].takes or ()
    return (models[0].takes or ("image", "video", "audio")) if said else ()


def look_of(config: AppConfig, models: list[Model]) -> Look:
    """What the page begins with. Over a server that runs, only what was said: the rest is its."""
    started, infer = config.app.base_url is None, config.infer
    numbers = infer.model_dump(exclude_unset=not started)
    return Look(
        title=config.app.title or models[0].name,
        lang=config.app.lang,
        models=[model.name for model in models],
        system=config.serve.system or "",
        stop=infer.stop,
        numbers=numbers,
        streams=infer.stream,
    )


def port_of(host: str, port: int) -> int:
    """A port that is free: this one, else one of those behind it; 0 is any.

    Raises:
        ConfigError: none is.
    """
    # not of those that systems give to connections: it must still be free in some seconds
    tries = range(port, min(port + _PORTS, 65536)) if port else random.sample(_OURS, _PORTS)
    family, why = socket.AF_INET6 if ":" in host else socket.AF_INET, ""
    for tried in tries:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, tried))
                return tried
            except OSError as error:
                why = error.strerror or str(error)
    raise ConfigError(f"--server_name {host} --server_port {port}: {why}")
