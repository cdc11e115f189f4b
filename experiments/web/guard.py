"""What every request passes before the application sees it: limits of size and time, hosts, headers."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# No script, style, font, picture or request but our own; nothing may frame the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
# What a form says besides its file.
_FORM_BYTES = 1 << 20
_TOO_LARGE = 413
# Of an upload that is too large so many times the limit are read, for its sender to see the answer.
_DRAINED = 8


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds to wait for a client: for its next bytes, for all it sends, for it to take what it is sent."""

    chunk: float = 10.0
    body: float = 120.0
    send: float = 30.0


class _Cut(Exception):
    """The request was answered, or given up, by the guard itself."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """An ASGI application around another.

    `hosts` are the names by which the server may be asked, None for any: on loopback a page of somebody else
    that points a name of its own at this machine is refused.
    """

    inner: Application
    max_bytes: int
    hosts: frozenset[str] | None = None
    patience: Patience = Patience()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        passing = _Passing(self, receive, send)
        refusal = self._refusal(scope)
        with suppress(_Cut):
            if refusal is not None:
                await passing.answer(*refusal)
            await self.inner(scope, passing.receive, passing.send)

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and _without_port(host) not in self.hosts:
            shown = host.encode("ascii", "backslashreplace").decode()[:100]
            return 421, "", f"host: expected {', '.join(sorted(self.hosts))}, got '{shown}'; use that address"
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "none") == "cross-site":
            return (
                403,
                "",
                "request: expected one of this page, got one of another site; open the page itself",
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes + _FORM_BYTES:
            return self.too_large
        return None

    @property
    def too_large(self) -> tuple[int, str, str]:
        """Status, field and text for an upload beyond the limit."""
        return (
            _TOO_LARGE,
            "photo",
            f"photo: expected at most {self.max_bytes / 1e6:g} MB, got more; save it smaller",
        )


class _Passing:
    """One request on its way through the guard: counted and timed."""

    def __init__(self, guard: Guard, receive: Receive, send: Send) -> None:
        self._guard, self._receive, self._send = guard, receive, send
        self._bytes, self._started, self._answered = 0, time.monotonic(), False
        self._complete = self._refused = False

    async def receive(self) -> Message:
        """The next part of the request; after its end, the news that the client is gone."""
        if self._complete:
            return await self._receive()
        patience = self._guard.patience
        left = patience.body - (time.monotonic() - self._started)
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(patience.chunk, left)))
        except TimeoutError:
            await self.answer(
                408, "photo", "request: expected it sooner, got too little in time; send it again"
            )
        self._bytes += len(message.get("body", b""))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        if self._bytes > self._guard.max_bytes + _FORM_BYTES and not self._refused:
            await self.answer(*self._guard.too_large)
        return message

    async def _drain(self) -> None:
        """Let a client that sends a little too much come to its end: it reads no answer before."""
        while not self._complete and self._bytes <= _DRAINED * self._guard.max_bytes:
            await self.receive()

    async def send(self, message: Message) -> None:
        """The next part of the answer, with the headers of all answers."""
        if self._answered:
            raise _Cut
        if message["type"] == "http.response.start":
            own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        try:
            await asyncio.wait_for(self._send(message), self._guard.patience.send)
        except TimeoutError:
            self._answered = True
            raise _Cut from None

    async def answer(self, status: int, field: str, text: str) -> None:
        """Answer in place of the application, and end the connection."""
        if self._refused:
            raise _Cut
        self._refused = True
        if status == _TOO_LARGE:
            await self._drain()
        body = json.dumps({"field": field, "message": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        self._answered = True
        raise _Cut


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
