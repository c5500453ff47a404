"""Media at addresses: fetched for clients from hosts that the operator names, and from no others.

A name may lead anywhere, and elsewhere the next time it is asked for. So it is resolved once, every
address that it has must be a public one, the connection goes to that very address, and a
redirection is a new address with all of this again (CWE-918).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx2 as httpx

from swift.chat.message import Conversation, Media, Message, Part
from swift.serve.refused import Refused

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port -> its addresses."""

_HOPS = 4  # addresses of one medium: the first and three redirections
_PORTS = {"http": 80, "https": 443}
_KIND = re.compile(r"^[\w.+-]{1,60}/[\w.+-]{1,60}")
_EMBEDDING = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]


_HOST = re.compile(
    r"(?P<name>(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?", re.I
)


def is_host(text: str) -> bool:
    """Whether a text names a host, as :func:`permitted` reads it."""
    return _HOST.fullmatch(text) is not None


def is_address(source: str) -> bool:
    """Whether a medium's source is one of the network."""
    return source[:8].lower().startswith(("http://", "https://"))


def permitted(url: str, hosts: Sequence[str]) -> bool:
    """Whether an address is at a host of ``example.org``, ``*.example.org`` or ``a.b:84``."""
    return _parsed(url, hosts) is not None


def _parsed(url: str, hosts: Sequence[str]) -> SplitResult | None:
    """The parts of an address that is permitted; else None."""
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in _PORTS or not host or parts.username or parts.password:
        return None
    own = (port or _PORTS[parts.scheme]) == _PORTS[parts.scheme]  # the scheme's own port
    return parts if any(_is_at(host, port, own, one) for one in hosts) else None


def _is_at(host: str, port: int | None, own: bool, permitted: str) -> bool:
    """Whether host and port are those that are permitted."""
    found = _HOST.fullmatch(permitted.lower())
    if found is None or not (port == int(found["port"]) if found["port"] else own):
        return False
    name = found["name"].strip("[]")
    return host == name or (name[:2] == "*." and host.endswith(name[1:]))


def is_public(address: str) -> bool:
    """Whether an address is everybody's: not private or local, nor one with such a one in it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour or ip.teredo or any(ip in net for net in _EMBEDDING):
            return False
    return ip.is_global and not ip.is_multicast


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


@dataclass(frozen=True)
class Fetcher:
    """Fetches media of a conversation.

    Attributes:
        hosts: from which; an address of digits that stands here may be a private one.
        most: bytes of all media of a conversation together.
        timeout_s: for all of them together.
        resolve: finds the addresses of a name.
    """

    hosts: tuple[str, ...]
    most: int
    timeout_s: float
    resolve: Resolve = _resolve

    async def __call__(self, asked: Conversation) -> Conversation:
        """The conversation with ``data:`` URLs in place of addresses.

        Raises:
            Refused: one is not permitted, cannot be had, or is too large.
        """
        if not any(is_address(str(one.source)) for one in asked.media):
            return asked
        try:
            async with asyncio.timeout(self.timeout_s):
                left, messages = self.most, []
                for message in asked.messages:
                    made, left = await self._message(message, left)
                    messages.append(made)
                return replace(asked, messages=tuple(messages))
        except TimeoutError:
            raise _failed(f"not read in {self.timeout_s:g} s") from None

    async def _message(self, message: Message, left: int) -> tuple[Message, int]:
        if isinstance(message.content, str):
            return message, left
        parts: list[Part] = []
        for part in message.content:
            if isinstance(part, Media) and is_address(str(part.source)):
                kind, content = await self._content(str(part.source), left)
                left -= len(content)
                source = await asyncio.to_thread(_data_url, kind, content)
                part = Media(part.kind, source)
            parts.append(part)
        return replace(message, content=tuple(parts)), left

    async def _content(self, url: str, most: int) -> tuple[str, bytes]:
        """Kind and content of what lies at an address."""
        for _ in range(_HOPS):
            async with self._answer(url) as answer:
                if answer.is_redirect:
                    url = _led(url, answer.headers.get("location", ""))
                    continue
                if answer.status_code != 200:
                    raise _failed(f"its server answers {answer.status_code}")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise _failed("its server compresses it")
                content = bytearray()
                async for chunk in answer.aiter_raw():
                    content += chunk
                    if len(content) > most:
                        raise _failed(f"more than {self.most} bytes, this server's limit for all")
                kind = _KIND.match(answer.headers.get("content-type", ""))
                return kind[0] if kind else "application/octet-stream", bytes(content)
        raise _failed("redirected too often")

    @asynccontextmanager
    async def _answer(self, url: str) -> AsyncIterator[httpx.Response]:
        """What a host answers, asked at an address that was looked at."""
        parts = _parsed(url, self.hosts)
        if parts is None:
            raise _failed("not at a host that this server fetches from")
        host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
        place = await self._place(host, port)
        shown = f"[{place}]" if ":" in place else place
        trust = await asyncio.to_thread(lambda: self._trust)  # reads some hundred certificates
        async with httpx.AsyncClient(
            trust_env=False, verify=trust, timeout=self.timeout_s
        ) as client:
            asked = client.build_request(
                "GET",
                parts._replace(netloc=f"{shown}:{port}", fragment="").geturl(),
                headers={"Host": parts.netloc, "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},  # whose certificate it must be
            )
            try:
                answer = await client.send(asked, stream=True)
                try:
                    yield answer
                finally:
                    await answer.aclose()
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _refused(error) from None

    async def _place(self, host: str, port: int) -> str:
        """The address to ask.

        Raises:
            Refused: there is none, or one that is not public.
        """
        try:
            return str(ipaddress.ip_address(host))  # the operator named it as it is
        except ValueError:
            pass
        try:
            found = await self.resolve(host, port)
        except (OSError, UnicodeError):
            raise _failed("its host is not known") from None
        if not found or not all(is_public(one) for one in found):
            raise _failed("its host is not a public one")
        return found[0]

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """The authorities of this machine, or of ``SSL_CERT_FILE``.

        Raises:
            Refused: they cannot be read.
        """
        try:
            return httpx.create_ssl_context()
        except OSError as error:  # ssl.SSLError is one
            why = f"this server's SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error.strerror}"
            raise Refused(500, why, code="unsupported_media") from None


def _led(url: str, location: str) -> str:
    """Where a redirection leads.

    Raises:
        Refused: out of HTTPS, so that others could change what comes.
    """
    led = urljoin(url, location)
    if url[:6].lower() == "https:" and led[:6].lower() != "https:":
        raise _failed("redirected from https to what is not")
    return led


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _refused(error: Exception) -> Refused:
    """Why nothing came: a certificate that does not hold is named, for it can be mended."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return _failed("its server cannot be reached, or broke off")
    return _failed(f"its server's certificate does not hold: {cause.verify_message}")


def _failed(why: str) -> Refused:
    return Refused(400, f"a medium was not fetched: {why}", code="unsupported_media")
