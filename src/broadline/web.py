"""What local servers share: a secret in the link, limits, headers that forbid what a page does not need."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from broadline.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "HOST",
    "LOOPBACK",
    "BearerGuard",
    "Guard",
    "LinkGuard",
    "TooLargeError",
    "listen",
    "new_token",
    "refusal",
    "run",
]

#: Servers listen to this machine alone, if not told otherwise.
HOST = "127.0.0.1"
#: What a machine calls itself.
LOOPBACK = frozenset({HOST, "localhost", "[::1]"})

_DIGITS = 15  # of a length; Python refuses to read very long numbers
# Nothing is loaded from elsewhere, nothing written in the page itself is run, and no page may frame it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def new_token() -> str:
    """Return a secret of 256 bits that can stand in a link."""
    return secrets.token_urlsafe(32)


class TooLargeError(Exception):
    """A request has a larger body than is allowed."""


class Guard:
    """Lets through requests to the right host, with the token, of limited size.

    Others are answered 421, 403 or 401, and 413. The name of the host is checked against pages that have
    their own name point to this machine.

    Parameters
    ----------
    app : ASGI application
    token : str
    largest : int
        Bytes of a request's body.
    hosts : collection of str, optional
        Names that this server answers to, without the port; any if None.
    """

    def __init__(
        self, app: ASGIApp, token: str, largest: int, hosts: Collection[str] | None = LOOPBACK
    ) -> None:
        self.app = app
        self.token = token.encode()
        self.largest = largest
        self.hosts = hosts

    def let_in(self, scope: Scope, headers: Headers) -> Scope | JSONResponse:
        """Return what the application is to see of a request, or the answer to one without the token."""
        raise NotImplementedError

    def is_token(self, given: str) -> bool:
        """Tell whether a request gives the token."""
        return secrets.compare_digest(given.encode(errors="replace"), self.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets
        inside, sending = self._inside(scope), _with_headers(send)
        if isinstance(inside, JSONResponse):
            await inside(scope, receive, sending)
        else:
            await self.app(inside, self._limited(receive), sending)

    def _inside(self, scope: Scope) -> Scope | JSONResponse:
        headers = Headers(scope=scope)
        if self.hosts is not None and headers.get("host", "").rsplit(":", 1)[0] not in self.hosts:
            return refusal(421, f"this server answers to {' or '.join(sorted(self.hosts))} alone")
        inside = self.let_in(scope, headers)
        size = headers.get("content-length", "0")
        fits = size.isdecimal() and len(size) <= _DIGITS and int(size) <= self.largest
        if fits or isinstance(inside, JSONResponse):
            return inside
        return refusal(413, f"a request may have {self.largest:,} bytes at most")

    def _limited(self, receive: Receive) -> Receive:
        """Return `receive` that counts, for bodies that do not say how long they are."""
        so_far = 0

        async def limited() -> Message:
            nonlocal so_far
            message = await receive()
            so_far += len(message.get("body", b""))
            if so_far > self.largest:
                raise TooLargeError(f"a request may have {self.largest:,} bytes at most")
            return message

        return limited


class LinkGuard(Guard):
    """A guard of pages: the token is in the link, ``/TOKEN/...``, and the application sees what follows.

    A secret in the path, not a cookie: another page in the same browser can neither read nor send it.
    """

    def let_in(self, scope: Scope, headers: Headers) -> Scope | JSONResponse:
        """Return the request without the token, or 403."""
        given, slash, rest = scope["path"].removeprefix("/").partition("/")
        if not (self.is_token(given) and slash):
            return refusal(403, "the link lacks the right token; open the one that the command printed")
        return {**scope, "path": "/" + rest, "raw_path": ("/" + rest).encode()}


class BearerGuard(Guard):
    """A guard of programs' interfaces: the token is in a header, ``Authorization: Bearer TOKEN``."""

    #: What needs no token: whoever watches over servers asks for it.
    OPEN = "/health"

    def let_in(self, scope: Scope, headers: Headers) -> Scope | JSONResponse:
        """Return the request, or 401."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if scope["path"] == self.OPEN or (kind.lower() == "bearer" and self.is_token(given.strip())):
            return scope
        reason = "the request lacks the right token; send the header Authorization: Bearer TOKEN"
        return refusal(401, reason, {"WWW-Authenticate": "Bearer"})


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer to a request that is not granted: one sentence."""
    return JSONResponse({"error": reason}, status, headers=headers)


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent


def listen(port: int, host: str = HOST) -> socket.socket:
    """Return a socket that listens on this machine; any free port for 0.

    Parameters
    ----------
    port : int
    host : str
        Name or address of the interface; an empty one is a mistake, not all of them.

    Raises
    ------
    UsageError
        If the port is taken or not to be had, or the host is not this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host or " ", port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        where = f"port {port}" if host == HOST else f"{host}, port {port}"
        cure = "--port" if host == HOST else "--port or --host"
        raise UsageError(f"cannot listen on {where} ({reason}); choose another with {cure}") from error
    # asyncio sees to this only for sockets that name their protocol. Without it the second half of an answer
    # waits 40 ms for the receipt of the first.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def run(app: ASGIApp, listening: socket.socket, grace: int | None = None) -> None:
    """Serve until interrupted, which is how people end it, and no error: what is under way is answered first.

    Parameters
    ----------
    app : ASGI application
    listening : socket
    grace : int, optional
        Seconds after which requests under way are given up.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=200,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=grace,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
