"""Worker processes: a function applied to things one by one, results in their order, a few under way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, Generic, Self, TypeVar

from broadline.errors import BroadlineError

__all__ = ["Workers", "available_cores", "prepare"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    with _deaf_children():
        forkserver.ensure_running()
    return context


class Workers(Generic[Item, Result]):
    """Worker processes that apply a function to items. At most two items a worker are under way at a time.

    Use as a context manager, and iterate over it once.

    Parameters
    ----------
    context : multiprocessing context
        From `prepare`.
    items : iterable
    function : callable
        Item to result; at the top level of a module.
    n : int
        Processes.
    start : callable
        Called in each process before the first item, with `arguments`.
    arguments : tuple
    """

    def __init__(
        self,
        context: BaseContext,
        items: Iterable[Item],
        function: Callable[[Item], Result],
        n: int,
        start: Callable[..., None],
        arguments: tuple[Any, ...],
    ) -> None:
        self.function = function
        self.others = set(multiprocessing.active_children())
        self.pool = ProcessPoolExecutor(n, context, _begin, (start, arguments))
        self.waiting = iter(items)
        self.queue: deque[tuple[Item, Future[Result]]] = deque()
        self.at_once = 2 * n

    def _submit(self) -> None:
        for item in self.waiting:
            with _deaf_children():
                self.queue.append((item, self.pool.submit(self.function, item)))
            return

    def __enter__(self) -> Self:
        try:
            for _ in range(self.at_once):
                self._submit()
        except BaseException:
            self._abandon()
            raise
        return self

    def __iter__(self) -> Iterator[tuple[Item, Result]]:
        """Yield each item with its result, in the order of the items."""
        while self.queue:
            item, future = self.queue.popleft()
            try:
                result = future.result()
            except BrokenProcessPool as error:
                raise BroadlineError(
                    "a worker process was killed, perhaps for lack of memory; try fewer --workers"
                ) from error
            self._submit()
            yield item, result

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.pool.shutdown()
        else:
            self._abandon()

    def _abandon(self) -> None:
        """End the workers where they are, and wait until they have ended: what they share goes with this."""
        workers = set(multiprocessing.active_children()) - self.others
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        self.pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, lest it write beside a command that goes on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _deaf_children() -> Iterator[None]:
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
