"""What a server takes on: how large a request may be, how long it may take, how many there are at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["BusyError", "Limits", "Room"]

_AT_ONCE = 100  # requests with bodies
_BODIES = 4  # of the largest size, that fit in at once


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request.

    Attributes
    ----------
    n_bytes : int
        Of its body. JSON, which takes several times its size to read, may have a quarter of it.
    n_spectra : int
    seconds : int
        From its first byte to its answer.
    """

    n_bytes: int = 64 * 2**20
    n_spectra: int = 4096
    seconds: int = 60

    @property
    def n_json_bytes(self) -> int:
        """Bytes of a body of JSON."""
        return self.n_bytes // 4

    @property
    def n_values(self) -> int:
        """Numbers in an Arrow column: as many as fit into the body with four bytes each."""
        return self.n_bytes // 4


class BusyError(Exception):
    """There is no room for a request now; there will be when others are done."""


class Room:
    """Where requests wait: bounded in their number and in the bytes of their bodies.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self.n_bytes = _BODIES * limits.n_bytes
        self.n_requests = _AT_ONCE

    @contextmanager
    def for_one(self, n_bytes: int) -> Iterator[None]:
        """Hold the place of one request with a body of this size.

        Raises
        ------
        BusyError
            If there is none.
        """
        if n_bytes > self.n_bytes or not self.n_requests:
            raise BusyError("the server is busy with other requests; send this one again in a while")
        self.n_bytes -= n_bytes
        self.n_requests -= 1
        try:
            yield
        finally:
            self.n_bytes += n_bytes
            self.n_requests += 1
