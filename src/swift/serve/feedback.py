"""Judgements of answers: ``POST /v1/feedback``."""

from __future__ import annotations

from typing import Any

from swift.chat.message import Message
from swift.serve.openai_messages import Assistant, messages_of
from swift.serve.record import Recorder
from swift.serve.refused import Refused, wrong
from swift.serve.wire import Wire


class Feedback(Wire):
    """A thumb (``good``), a ``correction`` (a text, or an assistant's message), or both."""

    id: str
    good: bool | None = None
    correction: str | Assistant | None = None


def judge(wire: Feedback, recorder: Recorder | None, caller: str) -> dict[str, Any]:
    """Keep a judgement.

    Raises:
        Refused: nothing is recorded here, or see :meth:`Recorder.judge`.
    """
    if recorder is None:
        raise Refused(404, "this server records nothing (--record FILE)", code="not_recording")
    if wire.good is None and wire.correction is None:
        raise wrong("good", "give good (true or false), a correction, or both")
    said = wire.correction
    correction = None
    if isinstance(said, str):
        correction = Message("assistant", said)
    elif said is not None:
        (correction,) = messages_of([said])
    if correction is not None and not (correction.content or correction.tool_calls):
        raise wrong("correction", "is empty")
    return {"id": wire.id, "written": recorder.judge(wire.id, caller, wire.good, correction)}
