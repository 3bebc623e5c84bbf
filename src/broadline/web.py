"""What local servers share: a secret in the link, limits, headers that forbid what a page does not need."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from broadline.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HOST", "Guard", "TooLargeError", "listen", "new_token", "run"]

#: Servers listen to this machine alone.
HOST = "127.0.0.1"

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
    """Lets through requests below ``/TOKEN/`` for this machine and of limited size; 403, 421, 413 for others.

    A secret in the path, not a cookie: another page in the same browser can neither read nor send it. The
    name of the host is checked against pages that have their own name point to this machine.

    Parameters
    ----------
    app : ASGI application
        Sees paths without the token.
    token : str
    largest : int
        Bytes of a request's body.
    """

    def __init__(self, app: ASGIApp, token: str, largest: int) -> None:
        self.app = app
        self.token = token.encode()
        self.largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets
        headers = Headers(scope=scope)
        given, slash, rest = scope["path"].removeprefix("/").partition("/")
        name = headers.get("host", "").rsplit(":", 1)[0]
        size = headers.get("content-length", "0")
        refused: tuple[int, str] | None = None
        if name not in (HOST, "localhost"):
            refused = 421, "this server answers to 127.0.0.1 alone"
        elif not (secrets.compare_digest(given.encode(errors="replace"), self.token) and slash):
            refused = 403, "the link lacks the right token; open the one that the command printed"
        elif not size.isdigit() or len(size) > _DIGITS or int(size) > self.largest:
            refused = 413, f"a request may have {self.largest:,} bytes at most"
        if refused:
            response = JSONResponse({"error": refused[1]}, refused[0], headers=dict(_HEADERS))
            await response(scope, receive, send)
            return
        inner = {**scope, "path": "/" + rest, "raw_path": ("/" + rest).encode()}
        await self.app(inner, self._limited(receive), _with_headers(send))

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


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine; any free port for 0.

    Raises
    ------
    UsageError
        If the port is taken, or not to be had.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on port {port} ({reason}); choose another with --port") from error


def run(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until interrupted, which is how people end it, and no error."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, limit_concurrency=200, timeout_keep_alive=30
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
