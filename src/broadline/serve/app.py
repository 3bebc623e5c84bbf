"""The server: what it answers to, and the way of a request through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broadline import __version__
from broadline.errors import UsageError
from broadline.frames import represented, result_columns
from broadline.model import Model
from broadline.serve import json_rows, wire
from broadline.serve.batcher import BATCH, Batcher
from broadline.serve.limits import BusyError, Limits, Room
from broadline.serve.openapi import document
from broadline.web import LOOPBACK, BearerGuard, TooLargeError, refusal

__all__ = ["application"]

_READERS = 2  # threads that read and write tables while the network is at work
_AGAIN = {"Retry-After": "1"}

T = TypeVar("T")


def application(
    model: Model, token: str, limits: Limits | None = None, hosts: Collection[str] | None = LOOPBACK
) -> BearerGuard:
    """Return the server of a model.

    Parameters
    ----------
    model : Model
    token : str
        What requests must give as ``Authorization: Bearer TOKEN``.
    limits : Limits, optional
    hosts : collection of str, optional
        Names that it answers to; any if None.
    """
    limits = limits or Limits()
    service = _Service(model, limits)
    described = document(model, limits)
    card = {"broadline": __version__, "sha256": model.sha256, **model.recipe.describe()}

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def about(request: Request) -> Response:
        return JSONResponse(card | {"card": model.recipe.card})

    async def openapi(request: Request) -> Response:
        return JSONResponse(described)

    app = Starlette(
        routes=[
            Route("/classify", service.classify, methods=["POST"]),
            Route("/health", health),
            Route("/model", about),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={
            UsageError: _said(400),
            ClientDisconnect: _said(400),
            TooLargeError: _said(413),
            BusyError: _said(503, _AGAIN),
            HTTPException: _http,
            Exception: _failed,
        },
        lifespan=service.lifespan,
    )
    app.router.redirect_slashes = False
    return BearerGuard(app, token, limits.n_bytes, hosts)


class _Service:
    """What requests share: room, readers, the network."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.room = Room(limits)
        self.batcher = Batcher(model)
        self.readers = ThreadPoolExecutor(_READERS, "reader")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Have the network at work as long as the server is."""
        async with self.batcher.at_work():
            yield
        self.readers.shutdown()

    async def classify(self, request: Request) -> Response:
        """Answer with the results of the spectra in a request."""
        sent = wire.media_type(request.headers.get("content-type", ""))
        asked = wire.accepted(request.headers.get("accept", ""), sent)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "bodies are taken uncompressed alone: send no Content-Encoding")
        most = self.limits.n_json_bytes if sent == json_rows.MEDIA_TYPE else self.limits.n_bytes
        declared = int(request.headers.get("content-length", most))
        if declared > most:
            _too_large(most, sent)
        with self.room.for_one(declared):
            body = None
            try:
                async with asyncio.timeout(self.limits.seconds):
                    body = await _body(request, most, sent)
                    content = await self._answer(body, sent, asked)
            except TimeoutError as error:
                if body is None:
                    reason = f"the request did not arrive within {self.limits.seconds} s"
                    raise HTTPException(408, reason) from error
                reason = f"the request was not done within {self.limits.seconds} s; send it again, or less"
                raise HTTPException(503, reason, _AGAIN) from error
        return Response(content, media_type=asked)

    async def _answer(self, body: bytearray, sent: str, asked: str) -> bytes:
        """Return the answer to a body: while the network is at work on one part, the next is read."""
        with self.batcher.reading():
            received = await self._in_reader(wire.read, body, sent, self.model, self.limits)
        handed_in: list[asyncio.Future[pa.Table]] = []
        try:
            parts = received.layout.parts(received.table, BATCH)
            for _ in range(0, len(received.table), BATCH):
                with self.batcher.reading():
                    spectra = await self._in_reader(lambda: represented(self.model, next(parts)))
                    handed_in.append(self.batcher.submit(spectra))
                if len(handed_in) > 1:
                    await handed_in[-2]
            results = [result_columns(self.model).empty_table(), *[await one for one in handed_in]]
        finally:
            for one in handed_in:
                one.cancel()
        return await self._in_reader(wire.write, received, pa.concat_tables(results), asked)

    async def _in_reader(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.readers, function, *arguments)


async def _body(request: Request, most: int, kind: str) -> bytearray:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            _too_large(most, kind)
    return body


def _too_large(most: int, kind: str) -> NoReturn:
    raise TooLargeError(f"a body of {kind} may have {most:,} bytes at most")


Handler = Callable[[Request, Exception], Awaitable[Response]]


def _said(status: int, headers: dict[str, str] | None = None) -> Handler:
    async def handler(request: Request, error: Exception) -> Response:
        return refusal(status, str(error), headers)

    return handler


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return refusal(500, "the server failed; what happened stands in its log")
