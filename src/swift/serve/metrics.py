"""Counts and times for Prometheus, and the lines of the log."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter(
            "swift_requests",
            "Requests by route and HTTP status",
            ["route", "status"],
            registry=here,
        )
        self.ended = Counter(
            "swift_answers",
            "Answers by how they ended: stop, length, tool_calls, gone, error",
            ["model", "end"],
            registry=here,
        )
        self.prompt = Counter("swift_prompt_tokens", "Tokens of prompts", ["model"], registry=here)
        self.answer = Counter("swift_answer_tokens", "Tokens of answers", ["model"], registry=here)
        self.running = Gauge("swift_running", "Answers that are being generated", registry=here)
        self.waiting = Gauge("swift_waiting", "Requests in the queue", registry=here)
        self.first_s = Histogram(
            "swift_first_token_seconds",
            "From the request to the first piece of its answer",
            buckets=_SECONDS,
            registry=here,
        )
        self.whole_s = Histogram(
            "swift_request_seconds",
            "From the request to the end of its answer",
            buckets=_SECONDS,
            registry=here,
        )

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
