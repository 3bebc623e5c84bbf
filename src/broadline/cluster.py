"""Dask as an engine: a scheduler that is there already or one started here; workers come and go."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from uuid import uuid4

from broadline.errors import BroadlineError, UsageError
from broadline.workers import LostError, Outcome, available_cores, deaf_children, keep_memory, worker_name

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskEngine"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items under way: two for each thread of the workers there are, one at work and one waiting; and some though
# there is no worker yet, as clusters that grow by need look at that. For a cluster on this machine one is
# enough: what waits on a worker that dies is held to have failed too.
_A_THREAD, _AT_LEAST = 2, 4
_ANSWER = 30  # seconds to wait for a scheduler


class DaskEngine(Generic[Item, Result]):
    """A Dask cluster as an `Engine`. Use as a context manager.

    Dask itself gives an item to another worker when one dies or leaves; what it gives up is lost.

    Parameters
    ----------
    cluster : str
        ``tcp://HOST:PORT`` of a scheduler, or ``local`` or ``local:N`` for one started here with N workers.
    make : callable
        Called once in each worker process; returns the function that is applied to items.
    arguments : tuple
        What `make` is called with; small, as they travel with each item.
    limit : float, optional
        Seconds after which a worker that is not done with an item ends itself.

    Raises
    ------
    UsageError
        If Dask is not installed, `cluster` is none of these, or no scheduler answers.
    """

    def __init__(
        self,
        cluster: str,
        make: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        limit: float | None = None,
    ) -> None:
        self._cluster = cluster
        self._how = (uuid4().hex, make, arguments, limit)
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._under_way: dict[Future, tuple[Item, float]] = {}
        self._threads = 0
        self._counted = float("-inf")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._client = self._stack.enter_context(_connected(self._cluster))
        if not self._count():
            warnings.warn("the cluster has no workers yet; the work waits for them", stacklevel=2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def has_room(self) -> bool:
        """Return whether fewer items are under way than keep all workers busy, as many as there are now."""
        if time.monotonic() - self._counted > 1:
            self._count()
        room = self._threads if "://" not in self._cluster else max(_A_THREAD * self._threads, _AT_LEAST)
        return len(self._under_way) < room

    def _count(self) -> int:
        """Return how many threads the workers have now."""
        try:
            self._threads = sum(self._client.nthreads().values())
        except Exception as error:  # of many kinds, as the connection was in whatever state
            raise self._lost() from error
        self._counted = time.monotonic()
        return self._threads

    def submit(self, item: Item) -> None:
        """Have an item done by some worker."""
        future = self._client.submit(_perform, *self._how, item, pure=False)
        self._under_way[future] = (item, time.monotonic())
        future.add_done_callback(self._done.put)

    def outcomes(self, timeout: float | None) -> list[Outcome[Item, Result]]:
        """Wait for news, `timeout` seconds at most, and return what has become of items meanwhile.

        Raises
        ------
        BroadlineError
            If the scheduler is lost.
        """
        futures: list[Future] = []
        with suppress(queue.Empty):
            futures.append(self._done.get(timeout=timeout))
            while True:
                futures.append(self._done.get_nowait())
        if not futures and self._client.status != "running":
            raise self._lost()
        return [self._outcome(future) for future in futures]

    def _outcome(self, future: Future) -> Outcome[Item, Result]:
        from distributed.scheduler import KilledWorker

        item, since = self._under_way.pop(future)
        if future.status == "finished":
            try:
                worker, seconds, result = future.result()
            except Exception as error:  # it cannot be fetched any more
                raise self._lost() from error
            return Outcome(item, result, None, seconds, worker)
        if future.status != "error":
            raise self._lost()
        raised = future.exception()
        if isinstance(raised, KilledWorker):
            raised = LostError("its worker was killed, or did not end in time, wherever it was tried")
        return Outcome(item, None, raised, time.monotonic() - since, "")

    def _lost(self) -> BroadlineError:
        return BroadlineError(f"the scheduler {self._cluster} was lost; give the command again to go on")


@contextmanager
def _connected(cluster: str) -> Iterator[Client]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError("--cluster needs Dask: pip install 'broadline[cluster]'") from error
    for handler in logging.getLogger("distributed").handlers:
        handler.setLevel(logging.CRITICAL)  # what it has to say, `DaskEngine` says better
    if local := re.fullmatch(r"local(?::([1-9]\d*))?", cluster):
        n = int(local[1] or available_cores())
        settings = {
            "distributed.scheduler.allowed-failures": 0,  # `Attempts` tries again, and keeps count
            "distributed.deploy.lost-worker-timeout": "1 hour",  # a worker that died may be slow to come back
            "distributed.worker.profile.enabled": False,  # a hundred looks a second at every worker
        }
        options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
        with dask.config.set(settings):
            with deaf_children():
                here = LocalCluster(n_workers=n, host="127.0.0.1", **options)
            with here, Client(here, set_as_default=False) as client:
                yield client
    elif "://" in cluster:
        try:
            client = Client(cluster, timeout=_ANSWER, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"no Dask scheduler answers at {cluster}: {error}") from error
        with client:
            yield client
    else:
        raise UsageError(f"--cluster {cluster}: give tcp://HOST:PORT of a Dask scheduler, or local[:N]")


# ---- in the workers

_KEPT = 2  # functions of different runs in memory: each holds a model
_made: dict[str, Callable[[Any], Any]] = {}
_lock = threading.Lock()


def _perform(
    run: str,
    make: Callable[..., Callable[[Item], Result]],
    arguments: tuple[Any, ...],
    limit: float | None,
    item: Item,
) -> tuple[str, float, Result]:
    """Return who did an item, in how many seconds, and the result."""
    with _lock:
        if run not in _made:
            if len(_made) >= _KEPT:
                del _made[next(iter(_made))]
            keep_memory()
            _made[run] = make(*arguments)
        function = _made[run]
    watch = threading.Timer(limit, os._exit, (1,)) if limit is not None else None
    if watch:
        watch.daemon = True
        watch.start()
    try:
        begin = time.perf_counter()
        result = function(item)
        return worker_name(), time.perf_counter() - begin, result
    finally:
        if watch:
            watch.cancel()
