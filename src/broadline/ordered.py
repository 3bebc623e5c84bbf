"""A function applied to many things by worker processes, with the results in the order of the things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from broadline.errors import BroadlineError
from broadline.workers import LostError, Outcome, Pool

__all__ = ["Workers", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Yield numbered results in the order of their numbers, which count from 0; early ones wait in memory."""
    early: dict[int, Result] = {}
    following = 0
    for number, result in results:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


class Workers(Generic[Item, Result]):
    """Worker processes that apply a function to items; results in their order, two items a worker under way.

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
        self.pool = Pool[tuple[int, Item], Result](context, _Numbered, (function, start, arguments), n)
        self.waiting = enumerate(items)
        self.at_once = 2 * n

    def __enter__(self) -> Self:
        self.pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[tuple[Item, Result]]:
        """Yield each item with its result, in order; raise in the place of one that failed."""
        for outcome in in_order(self._outcomes()):
            if isinstance(outcome.error, LostError):
                raise BroadlineError(
                    "a worker process was killed, perhaps for lack of memory; try fewer --workers"
                ) from outcome.error
            if outcome.error is not None:
                raise outcome.error
            yield outcome.item[1], outcome.result  # type: ignore[misc]

    def _outcomes(self) -> Iterator[tuple[int, Outcome[tuple[int, Item], Result]]]:
        under_way: set[int] = set()
        upcoming = next(self.waiting, None)
        while upcoming is not None or under_way:
            while (
                upcoming is not None
                and self.pool.has_room()
                and upcoming[0] - min(under_way, default=upcoming[0]) < self.at_once
            ):
                self.pool.submit(upcoming)
                under_way.add(upcoming[0])
                upcoming = next(self.waiting, None)
            for outcome in self.pool.outcomes(None):
                under_way.remove(outcome.item[0])
                yield outcome.item[0], outcome


class _Numbered(Generic[Item, Result]):
    """The function of `Workers` as `Pool` applies it."""

    def __init__(
        self, function: Callable[[Item], Result], start: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        start(*arguments)
        self.function = function

    def __call__(self, item: tuple[int, Item]) -> Result:
        return self.function(item[1])
