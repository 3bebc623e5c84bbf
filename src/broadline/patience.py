"""Faults of storage that pass: what failed is tried again before it is given up."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

__all__ = ["is_passing", "patiently", "patiently_each"]

Read = TypeVar("Read")

# What network file systems say while a server restarts, a route is lost or a disk of an array is replaced.
# A file that does not exist or is cut short is not among them: waiting does not mend it.
_PASSING = {
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETRESET),
    *(errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.ESHUTDOWN),
    *(errno.ENOLCK, errno.ENOBUFS, errno.EMFILE, errno.ENFILE),
    getattr(errno, "EREMOTEIO", errno.EIO),  # Linux
}
# Seconds to wait before each further attempt.
_WAITS = (0.5, 2.0, 8.0)


def is_passing(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, is a fault of the storage that may pass."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__ or error.__context__
    return False


def patiently(path: Path, read: Callable[[Path], Read]) -> Read:
    """Return what `read` makes of a file, tried again a few times if the storage fails.

    Raises
    ------
    Exception
        What `read` raises: at once if it is no such fault, or else in the end.
    """
    waits = iter(_WAITS)
    while True:
        try:
            return read(path)
        except Exception as error:
            _wait(error, next(waits, None))


def patiently_each(path: Path, read: Callable[[Path], Iterator[Read]]) -> Iterator[Read]:
    """Yield what `read` yields of a file; where the storage fails it is read again and goes on from there.

    Raises
    ------
    Exception
        As `patiently`.
    """
    n_yielded = 0
    waits = iter(_WAITS)
    while True:
        try:
            for part in islice(read(path), n_yielded, None):
                yield part
                n_yielded += 1
            return
        except Exception as error:
            _wait(error, next(waits, None))


def _wait(error: Exception, seconds: float | None) -> None:
    """Wait, if the error that is being handled may pass and it was not the last attempt; else raise."""
    if not is_passing(error):
        raise error
    if seconds is not None:
        time.sleep(seconds)
    elif isinstance(error, OSError):
        raise OSError(
            error.errno, f"{error.strerror}, {len(_WAITS) + 1} times in {sum(_WAITS):g} s"
        ) from error
    else:
        raise error
