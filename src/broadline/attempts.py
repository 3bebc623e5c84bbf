"""Units of work done by an engine whatever happens: tried again, searched for culprits, done without them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, Self, TypeVar

from broadline.errors import BroadlineError
from broadline.workers import Engine, LostError, Outcome

__all__ = ["Attempts", "Event", "Task"]

# How often a unit fails before it is searched, and a piece before it is held to be at fault: a worker may die
# for reasons of its own.
_TRIES = 3
_PROBES = 2
# Units of which everything failed before anything succeeded: then it is not the files that are at fault.
_HOPELESS = 3


class Divisible(Protocol):
    """A unit of work that can be searched for what makes it fail."""

    def pieces(self) -> Sequence[Self]:
        """Return its parts, each the least that can be read alone."""
        ...

    def without(self, guilty: Sequence[tuple[Self, str]]) -> Self:
        """Return the unit with some of its pieces not to be read, each for a reason."""
        ...


U = TypeVar("U", bound=Divisible)


@dataclass(frozen=True, slots=True)
class Task(Generic[U]):
    """What an engine's function is given.

    Attributes
    ----------
    number : int
        Of the unit.
    unit : Divisible
        The unit, or a piece of it.
    probe : bool
        Find out whether it can be done, and leave nothing behind.
    tries : int
        How often it has failed.
    """

    number: int
    unit: U
    probe: bool = False
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Event(Generic[U]):
    """What happened to a unit.

    Attributes
    ----------
    kind : {"started", "done", "retried", "searched", "quarantined"}
        A unit that keeps failing is searched; a piece that keeps failing alone is quarantined.
    number : int
    unit : Divisible
        The unit, or the piece.
    reason : str
        Of a failure.
    outcome : Outcome, optional
        Behind the event.
    """

    kind: str
    number: int
    unit: U
    reason: str = ""
    outcome: Outcome[Task[U], Any] | None = None


@dataclass(slots=True)
class _Case(Generic[U]):
    """A unit that has begun and is not done."""

    unit: U
    to_probe: int = 0
    searched: bool = False
    guilty: list[tuple[U, str]] = field(default_factory=list)


class Attempts(Generic[U]):
    """Has units done by an engine, and deals with those that fail.

    A unit whose worker dies, stalls or raises is tried again; then its pieces are probed one by one, and
    those that fail alone too are quarantined: the unit is done without them. If none does, it is tried again,
    and then all of it is quarantined.

    Parameters
    ----------
    units : iterable of (int, Divisible)
        With their numbers, in their order.
    engine : Engine
        Of a function that takes a `Task`; what it returns for a probe is not looked at.
    on_event : callable
        Told each `Event`.
    on_wait : callable
        Called every second at least.
    window : int, optional
        Units that may have begun from the first that is not done on; without bound if not given.
    """

    def __init__(
        self,
        units: Iterable[tuple[int, U]],
        engine: Engine[Task[U], Any],
        on_event: Callable[[Event[U]], None] = lambda event: None,
        on_wait: Callable[[], None] = lambda: None,
        window: int | None = None,
    ) -> None:
        self.units = iter(units)
        self.engine = engine
        self.on_event = on_event
        self.on_wait = on_wait
        self.window = window
        self._upcoming = next(self.units, None)
        self._again: deque[Task[U]] = deque()
        self._cases: dict[int, _Case[U]] = {}
        self._something_worked = False
        self._n_hopeless = 0

    def __iter__(self) -> Iterator[tuple[int, tuple[U, Any]]]:
        """Yield the number of each unit that is done, with the unit as it was done and the result.

        Raises
        ------
        BroadlineError
            What a worker raised of these: the request cannot be carried out. Also if nothing works at all.
        """
        while self._upcoming or self._cases:
            while self.engine.has_room() and (task := self._next()):
                self.engine.submit(task)
            for outcome in self.engine.outcomes(1.0):
                task = outcome.item
                if outcome.error is not None:
                    self._failed(task, outcome, outcome.error)
                elif task.probe:
                    self._something_worked = True
                    self._probed(task.number)
                else:
                    self._something_worked |= not self._cases.pop(task.number).guilty
                    self.on_event(Event("done", task.number, task.unit, outcome=outcome))
                    yield task.number, (task.unit, outcome.result)
            self.on_wait()

    def _next(self) -> Task[U] | None:
        """Return what is to be done next: first what failed before."""
        if self._again:
            return self._again.popleft()
        if self._upcoming is None:
            return None
        number, unit = self._upcoming
        if self.window and self._cases and number - min(self._cases) >= self.window:
            return None
        self._upcoming = next(self.units, None)
        self._cases[number] = _Case(unit)
        self.on_event(Event("started", number, unit))
        return Task(number, unit)

    def _failed(self, task: Task[U], outcome: Outcome[Task[U], Any], error: Exception) -> None:
        if isinstance(error, BroadlineError):  # not for want of trying
            raise error
        if isinstance(error, ImportError):
            raise BroadlineError(f"worker {outcome.worker} lacks what it needs ({error})") from error
        reason = str(error) if isinstance(error, LostError) else f"{type(error).__name__}: {error}"
        case = self._cases[task.number]

        def tell(kind: str) -> None:
            self.on_event(Event(kind, task.number, task.unit, reason, outcome))

        if task.tries + 1 < (_PROBES if task.probe else _TRIES):
            self._again.append(replace(task, tries=task.tries + 1))
            tell("retried")
        elif task.probe:
            case.guilty.append((task.unit, reason))
            tell("quarantined")
            self._probed(task.number)
        elif not case.searched:
            pieces = task.unit.pieces()
            case.to_probe = len(pieces)
            self._again.extend(Task(task.number, piece, probe=True) for piece in pieces)
            tell("searched")
        elif len(case.guilty) < len(pieces := case.unit.pieces()):
            case.guilty = [(piece, reason) for piece in pieces]
            tell("quarantined")
            self._conclude(task.number)
        else:
            raise BroadlineError(f"unit {task.number} fails even with none of its files read: {reason}")

    def _probed(self, number: int) -> None:
        case = self._cases[number]
        case.to_probe -= 1
        if not case.to_probe:
            self._conclude(number)

    def _conclude(self, number: int) -> None:
        """Have a unit done without what is at fault in it."""
        case = self._cases[number]
        case.searched = True
        if len(case.guilty) == len(case.unit.pieces()) and not self._something_worked:
            self._n_hopeless += 1
            if self._n_hopeless >= _HOPELESS:
                raise BroadlineError(f"nothing can be done: every file so far failed, {case.guilty[-1][1]}")
        self._again.append(Task(number, case.unit.without(case.guilty)))
