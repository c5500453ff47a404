"""A request that is not answered, and why."""

from __future__ import annotations

from pydantic import ValidationError

from swift.errors import SwiftError

_MOST = 5  # problems of one request that are named


class Refused(SwiftError):
    """A request is not answered.

    Attributes:
        status: of HTTP.
        param: the field that is wrong.
        code: a word that programs can read.
        retry_after_s: when it may be tried again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


def wrong(param: str, why: str, code: str = "invalid_value") -> Refused:
    """A field that cannot be meant."""
    return Refused(400, f"{param}: {why}", param=param, code=code)


def refusal_of(error: ValidationError) -> Refused:
    """What pydantic found in a body, as one answer: fields are called as the sender wrote them."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {found[0]['msg']}", code="invalid_json")
    lines = [f"{place(one['loc'])}: {_said(one['type'], one['msg'])}" for one in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"and {len(found) - _MOST} more")
    unknown = found[0]["type"] == "extra_forbidden"
    return Refused(
        400,
        "; ".join(lines),
        param=place(found[0]["loc"]),
        code="unknown_parameter" if unknown else "invalid_value",
    )


def _said(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such field here"
    return message[:1].lower() + message[1:]


def place(loc: tuple[int | str, ...]) -> str:
    """The path of a field: ``messages[2].content``."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not any(mark in step for mark in "[(") and step not in _KINDS:
            path += f".{step}" if path else step
    return path or "body"


_KINDS = frozenset({"str", "Mapping", "none"})
"""Names of union members that pydantic puts into a place."""
