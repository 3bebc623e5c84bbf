"""Spectra of several requests in one call of the network, and each request's results back to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

import pyarrow as pa

from broadline.frames import results
from broadline.model import Model
from broadline.representation import Represented, together

__all__ = ["BATCH", "Batcher"]

#: Spectra in one call of the network.
BATCH = 256

_PATIENCE = 0.005  # seconds that a call waits for requests that are being read


class _Piece(NamedTuple):
    """At most `BATCH` spectra of one request, and where their results go."""

    spectra: Represented
    done: asyncio.Future[pa.Table]


class Batcher:
    """Gathers what requests hand in while the network is at work, up to `BATCH` spectra, for its next call.

    The network works in a thread of its own. While it does, spectra gather by themselves; when it is idle, a
    call begins at once unless other requests are being read, which are waited for a few milliseconds. The
    result of a spectrum is the same whatever others share its call.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.n_being_read = 0
        self._waiting: deque[_Piece] = deque()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Call the network for what is handed in, as long as the context lasts."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._thread.shutdown()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the next call know that spectra are about to be handed in."""
        self.n_being_read += 1
        try:
            yield
        finally:
            self.n_being_read -= 1
            self._changed.set()

    def submit(self, spectra: Represented) -> asyncio.Future[pa.Table]:
        """Return the results of at most `BATCH` spectra, when they are there; who cancels needs none."""
        done: asyncio.Future[pa.Table] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Piece(spectra, done))
        self._changed.set()
        return done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            pieces = await self._gathered()
            try:
                tables = await loop.run_in_executor(self._thread, self._classified, pieces)
            except Exception as error:
                for piece in pieces:
                    if not piece.done.done():
                        piece.done.set_exception(error)
            else:
                for piece, table in zip(pieces, tables, strict=True):
                    if not piece.done.done():
                        piece.done.set_result(table)

    async def _gathered(self) -> list[_Piece]:
        """Return what shares the next call, at least one piece, oldest first."""
        pieces: list[_Piece] = []
        while not pieces:
            while not self._wanted():
                await self._change()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    while self.n_being_read and self._wanted() < BATCH:
                        await self._change()
            n = 0
            while self._wanted() and n + len(self._waiting[0].spectra.flags) <= BATCH:
                pieces.append(self._waiting.popleft())
                n += len(pieces[-1].spectra.flags)
        return pieces

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wanted(self) -> int:
        """Return how many spectra wait, without those at the front that nobody waits for any more."""
        while self._waiting and self._waiting[0].done.done():
            self._waiting.popleft()
        return sum(len(piece.spectra.flags) for piece in self._waiting)

    def _classified(self, pieces: list[_Piece]) -> list[pa.Table]:
        table = results(self.model, together([piece.spectra for piece in pieces]))
        tables, row = [], 0
        for piece in pieces:
            n = len(piece.spectra.flags)
            tables.append(table.slice(row, n))
            row += n
        return tables
