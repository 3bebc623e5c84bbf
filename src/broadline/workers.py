"""Worker processes: a function applied to things one by one, and what became of each.

Each worker has a pipe of its own and one thing to do at a time, and they share nothing: whenever one of them
dies, what it was at is known and nothing else is lost. Pools of the standard library and of others pass work
through a queue that all workers lock; one that is killed with the lock in hand takes the pool with it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, reduction
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from broadline.errors import BroadlineError

__all__ = [
    "Engine",
    "LostError",
    "Outcome",
    "Pool",
    "available_cores",
    "deaf_children",
    "keep_memory",
    "prepare",
    "worker_name",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Deaths of workers in a row, for each worker there should be, before any of them began with an item.
_STILLBORN = 3


# Options of glibc's mallopt: free memory that is not given back, what is asked for beyond the need, and the
# largest piece that is of the heap.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = (-1, 1 << 29), (-2, 1 << 26), (-3, 1 << 25)


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LostError(Exception):
    """A worker ended, or was ended, before it was done with an item; the text says how."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of an item.

    Attributes
    ----------
    item : object
    result : object
        None if there is an error.
    error : Exception, optional
        What the function raised; `LostError` if its process did not live to say.
    seconds : float
        How long it took.
    worker : str
        Where: host and process, as far as known.
    """

    item: Item
    result: Result | None
    error: Exception | None
    seconds: float
    worker: str


class Engine(Protocol[Item, Result]):
    """Whatever applies one function to many items somewhere else: processes here (`Pool`), or a cluster."""

    def has_room(self) -> bool:
        """Return whether another item may be submitted now; this is what bounds the items under way."""
        ...

    def submit(self, item: Item) -> None:
        """Have an item done."""
        ...

    def outcomes(self, timeout: float | None) -> list[Outcome[Item, Result]]:
        """Wait for news, `timeout` seconds at most, and return what has become of items meanwhile."""
        ...


def prepare(modules: Sequence[str]) -> BaseContext:
    """Return how workers are started: as copies of one process that imports all they need, where that is had.

    That process starts here and imports while this one goes on. A plain fork of this one would inherit its
    threads in an unknown state.

    Parameters
    ----------
    modules : sequence of str
        What the workers need.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    resource_tracker.ensure_running()  # first: where it starts, it unblocks interrupts
    with deaf_children():
        forkserver.ensure_running()
    return context


class Pool(Generic[Item, Result]):
    """Worker processes, an item at a time each; an `Engine`. Use as a context manager.

    A worker that dies is replaced. When the block is left, workers are killed, whatever they are at.

    Parameters
    ----------
    context : multiprocessing context
        From `prepare`.
    make : callable
        Called once in each process; returns the function that is applied to items. Of a module's top level.
    arguments : tuple
        What `make` is called with.
    n : int
        Processes.
    limit : float, optional
        Seconds after which a worker that is not done with an item is killed.
    """

    def __init__(
        self,
        context: BaseContext,
        make: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        n: int,
        limit: float | None = None,
    ) -> None:
        self._how = (context, make, bytes(reduction.ForkingPickler.dumps(arguments)))
        self._limit = limit
        self._lanes: list[_Lane[Item, Result]] = []
        self._n = n
        self._stillborn = 0

    def __enter__(self) -> Self:
        try:
            for _ in range(self._n):
                self._lanes.append(_Lane(*self._how))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        """End the workers where they are, and wait until they have ended."""
        for lane in self._lanes:
            lane.process.kill()
        for lane in self._lanes:
            lane.process.join(5)

    def has_room(self) -> bool:
        """Return whether a worker is idle."""
        return any(lane.idle for lane in self._lanes)

    def submit(self, item: Item) -> None:
        """Give an item to a worker that is idle."""
        next(lane for lane in self._lanes if lane.idle).give(item)

    def outcomes(self, timeout: float | None) -> list[Outcome[Item, Result]]:
        """Wait for news, `timeout` seconds at most, and return what has become of items meanwhile.

        Raises
        ------
        BroadlineError
            If workers die before they begin.
        Exception
            What `make` raised in a worker.
        """
        now = time.monotonic()
        busy = [lane for lane in self._lanes if lane.busy]
        if self._limit is not None and busy:
            first_end = min(lane.since for lane in busy) + self._limit - now
            timeout = max(0.0, first_end if timeout is None else min(timeout, first_end))
        ready = connection.wait([lane.pipe for lane in self._lanes], timeout)
        found: list[Outcome[Item, Result]] = []
        for i, lane in enumerate(self._lanes):
            if lane.pipe in ready:
                try:
                    answer = lane.pipe.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    reason = f"its worker process was killed ({lane.end()})"
                else:
                    found += lane.hear(*answer)
                    self._stillborn = 0
                    continue
            elif self._limit is not None and lane.busy and time.monotonic() - lane.since >= self._limit:
                lane.end()
                reason = f"it was not done after {self._limit:g} s"
            else:
                continue
            if lane.busy:
                found.append(lane.lost(reason))
            else:
                self._count_stillborn(reason)
            self._lanes[i] = _Lane(*self._how)
        return found

    def _count_stillborn(self, reason: str) -> None:
        self._stillborn += 1
        if self._stillborn > _STILLBORN * self._n:
            raise BroadlineError(
                f"worker processes end as soon as they start ({reason}), perhaps for lack of memory; "
                "try fewer --workers"
            )


class _Lane(Generic[Item, Result]):
    """One worker and the pipe to it."""

    def __init__(
        self,
        context: BaseContext,
        make: Callable[..., Callable[[Item], Result]],
        arguments: bytes,
    ) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)  # type: ignore[attr-defined]
        with deaf_children():
            self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        # More than a pipe holds waits until the worker has imported what it needs: others start meanwhile.
        threading.Thread(target=self._tell, args=(arguments,), daemon=True).start()
        self.began = False
        self.item: Item | None = None
        self.since = 0.0

    def _tell(self, arguments: bytes) -> None:
        with suppress(OSError):  # it has died: `Pool.outcomes` will see that
            self.pipe.send_bytes(arguments)

    @property
    def busy(self) -> bool:
        return self.item is not None

    @property
    def idle(self) -> bool:
        return self.began and self.item is None

    @property
    def name(self) -> str:
        return worker_name(self.process.pid)

    def give(self, item: Item) -> None:
        self.item, self.since = item, time.monotonic()
        with suppress(OSError):  # it has died: `outcomes` will see that
            self.pipe.send(item)

    def hear(
        self, result: Result | None, error: Exception | None, seconds: float
    ) -> list[Outcome[Item, Result]]:
        """Return what the worker says of its item; nothing if it says that it is ready."""
        if not self.began:
            if error is not None:
                raise error
            self.began = True
            return []
        assert self.item is not None
        item, self.item = self.item, None
        return [Outcome(item, result, error, seconds, self.name)]

    def lost(self, reason: str) -> Outcome[Item, Result]:
        assert self.item is not None
        return Outcome(self.item, None, LostError(reason), time.monotonic() - self.since, self.name)

    def end(self) -> str:
        """End the process if it has not ended, and return how it did."""
        self.process.join(0.5)  # a pipe closes a moment before its process is over
        self.process.kill()
        self.process.join(5)
        self.pipe.close()
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def worker_name(pid: int | None = None) -> str:
    """Return a name of this process, or of another on this machine."""
    return f"{socket.gethostname()}:{pid or os.getpid()}"


# ---- in the workers


def keep_memory() -> None:
    """Let this process keep what it frees, where the allocator is glibc's: the next batch needs as much.

    Memory that is given back and fetched again costs a fault a page. Dask has its workers give back all.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD):
            mallopt(*option)


def _serve(pipe: connection.Connection, make: Callable[..., Callable[[Any], Any]]) -> None:
    """Be a worker: hear what `make` is given, say that all is ready, answer items until the pipe ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    try:
        function = make(*pipe.recv())
    except Exception as error:
        pipe.send((None, _portable(error), 0.0))
        return
    pipe.send((None, None, 0.0))
    with suppress(EOFError):
        while True:
            item = pipe.recv()
            begin = time.perf_counter()
            answer: tuple[Any, Exception | None]
            try:
                answer = (function(item), None)
            except Exception as error:
                answer = (None, _portable(error))
            pipe.send((*answer, time.perf_counter() - begin))


def _portable(error: Exception) -> Exception:
    """Return an exception that survives the way to another process, with its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, lest it write beside a command that goes on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Let processes started inside never hear of an interrupt from the keyboard: this one ends them.

    An interrupt meanwhile is raised at the end, as a process half started could not be ended.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    interrupts: list[object] = []
    handler = signal.signal(signal.SIGINT, lambda *call: interrupts.append(call))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt
