"""A medium on the network -> its bytes, within bounds of size and time."""

from __future__ import annotations

import http.client
import time
import urllib.error
from email.message import Message
from typing import IO
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from swift.errors import DataError

TIMEOUT_S = 30.0  # without a byte
DEADLINE_S = 600.0  # for all of it
_CHUNK = 1 << 16


class _Redirects(HTTPRedirectHandler):
    """Follows to http and https; the standard one would go to ftp as well."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise urllib.error.URLError(f"it leads to {newurl[:80]}, which is not http(s)")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(address: str, name: str, max_bytes: int) -> bytes:
    """What lies at an http or https address.

    Args:
        address: where; redirections to http and https are followed.
        name: the address as errors name it.
        max_bytes: refused beyond, without reading on.

    Raises:
        DataError: there is no answer, not all of it, an error of the server, or too much.
    """
    request = Request(address.replace(" ", "%20"), headers={"User-Agent": "swift-llm"})
    try:
        with _opener().open(request, timeout=TIMEOUT_S) as answer:
            return _read(answer, name, max_bytes)
    except urllib.error.HTTPError as error:
        raise DataError(f"{name}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DataError(f"{name}: cannot be downloaded: {reason}") from None


def _opener() -> OpenerDirector:
    """One that knows http and https alone; proxies come from the environment as usual."""
    opener = OpenerDirector()
    for handler in (
        *(ProxyHandler(), HTTPHandler(), HTTPSHandler()),
        *(HTTPDefaultErrorHandler(), HTTPErrorProcessor(), _Redirects()),
    ):
        opener.add_handler(handler)
    return opener


def _read(answer: http.client.HTTPResponse, name: str, max_bytes: int) -> bytes:
    end = time.monotonic() + DEADLINE_S
    content = bytearray()
    while chunk := answer.read(_CHUNK):
        content += chunk
        if len(content) > max_bytes:
            raise DataError(f"{name}: more than max_bytes={max_bytes}")
        if time.monotonic() > end:
            raise DataError(f"{name}: not read in {DEADLINE_S:g} s; download it beforehand")
    length = answer.headers.get("Content-Length", "")
    # a connection that breaks ends the reading without an error
    if length.isdigit() and len(content) < int(length):
        raise DataError(f"{name}: the server sent {len(content)} of {length} bytes; try again")
    return bytes(content)
