"""How a model is served."""

from __future__ import annotations

from pydantic import Field

from swift.config.section import Section, Strings, Word


class ListenSection(Section):
    """Where a server listens, to whom, and how much at once."""

    host: Word = "127.0.0.1"
    """Address to listen at; 0.0.0.0: every network of this machine (then give keys)."""

    port: int = Field(8000, ge=0, le=65535)
    """Port to listen at; 0: a free one."""

    api_key: Strings = []
    """Keys of which a request needs one (on every route but /health and /ready)."""

    api_key_file: Word | None = None
    """A YAML file of keys, each with a name and limits of its own."""

    ssl_keyfile: Word | None = None
    """Private key for HTTPS."""

    ssl_certfile: Word | None = None
    """Certificate for HTTPS."""

    max_running: int = Field(64, ge=1)
    """Answers generated at once."""

    max_queue: int = Field(256, ge=0)
    """Requests that may wait for one of these places; more are refused with 429."""

    queue_timeout_s: float = Field(60.0, gt=0)
    """Longest time in that queue."""

    max_body_mb: float = Field(32.0, gt=0)
    """Largest request in MiB."""

    header_timeout_s: float = Field(20.0, gt=0)
    """Longest time for the head of a request to come."""

    body_timeout_s: float = Field(60.0, gt=0)
    """Longest time for the body of a request to come."""

    max_connections: int = Field(2048, ge=1)
    """Connections at once; more are refused with 503."""

    drain_s: int = Field(120, ge=1)
    """Seconds that requests under way may take when the server is told to end."""


class ServeSection(ListenSection):
    """How a model is served: where, to whom, how much at once, and what is recorded."""

    name: Word | None = None
    """Name of the model in requests. Default: the last part of its path."""

    owner: str = "swift"
    """Who owns the model, in the list of models."""

    system: str | None = None
    """System prompt of conversations that bring none. Default: the one learned with."""

    deadline_s: float = Field(600.0, gt=0)
    """Longest time for one request; its generation is ended then."""

    requests_per_minute: float | None = Field(None, gt=0)
    """Requests a minute of one key. Default: no limit."""

    tokens_per_minute: float | None = Field(None, gt=0)
    """Tokens of prompts and answers a minute of one key. Default: no limit."""

    concurrency: int | None = Field(None, ge=1)
    """Requests of one key at once. Default: no limit."""

    max_media: int = Field(16, ge=0)
    """Most images, videos and sounds in one request."""

    media_hosts: Strings = []
    """Hosts from which images, videos and sounds are fetched for clients, such as example.org,
    *.example.org or example.org:8443. Names that lead to private addresses are refused."""

    media_timeout_s: float = Field(10.0, gt=0)
    """Longest time for all media of a request to be fetched."""

    max_image_pixels: int = Field(64_000_000, ge=1)
    """Most pixels of an image; a larger one is refused before it is decoded."""

    max_answers: int = Field(16, ge=1)
    """Most answers to one prompt (n)."""

    max_logprobs: int = Field(20, ge=0)
    """Most log-probabilities of a token (top_logprobs)."""

    allow_adapter_loading: bool = False
    """Let every key load and unload adapters; without, only keys with admin: true do."""

    record: Word | None = None
    """File that answered conversations are written to, as rows to learn from; feedback goes to
    files beside it."""

    record_max_mb: float = Field(1024.0, gt=0)
    """Size in MiB at which that file is put aside and a new one begun."""

    redact: Word | None = None
    """A function module:name that changes a row before it is written; None from it drops the
    row."""

    verbose: bool = True
    """Log a line for every answer."""

    log_interval_s: float = Field(20.0, ge=0)
    """Seconds between lines about the load while there is some; 0: none."""
