"""The server process: a port, the application, and patience with its clients."""

import asyncio
import errno
import os
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from experiments.exit_codes import UsageFault
from experiments.web.guard import Application

# Connections at a time; those beyond are told to come again.
_MOST_CONNECTIONS = 200
_SECONDS_IDLE = 5
_SECONDS_TO_ASK = 10.0


class Impatient(H11Protocol):
    """Ends a connection on which no whole request comes in time, whether none was begun or one never ends."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to look."""
        super().connection_made(transport)
        self._seen: object = None
        self.loop.call_later(_SECONDS_TO_ASK, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and self._seen is self.cycle:
            self.transport.close()
            return
        self._seen = self.cycle
        self.loop.call_later(_SECONDS_TO_ASK, self._look)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UsageFault: the port is taken, or may not be used, or no address of this machine is called so.

    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageFault(
            f"--host: expected a name or address of this machine, got '{host}' ({error}); use 127.0.0.1"
        ) from error
    try:
        if os.name != "nt":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise UsageFault(_unbound(host, port, error)) from error
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """What to open in a browser."""
    port = listening.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def server(application: Application) -> uvicorn.Server:
    """A server of the application, to be run with a socket of `listen`."""
    options: dict[str, Any] = {"http": Impatient, "ws": "none", "lifespan": "off", "log_config": None}
    return uvicorn.Server(
        uvicorn.Config(
            application,
            access_log=False,
            log_level="warning",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_SECONDS_IDLE,
            timeout_graceful_shutdown=3,
            server_header=False,
            **options,
        )
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(address.startswith("127.") or address == "::1" for address in found)


def _unbound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port: expected a free port, got {port}, which another server uses; choose another"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port: expected one that may be used, got {port}, which needs rights; choose one above 1023"
    return f"--host: expected an address of this machine, got '{host}' ({error.strerror}); use 127.0.0.1"
