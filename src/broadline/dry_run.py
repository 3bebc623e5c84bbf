"""What a request would read, and how long it would take at a rate measured here; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path

import numpy as np

from broadline.attempts import Task
from broadline.inputs import expand
from broadline.pipeline import STALL, Classifier, ModelChoice, Unit, plan, threads_for, worker_context
from broadline.workers import Pool, available_cores

__all__ = ["Rehearsal", "Share", "rehearse"]

_SECONDS = 5.0  # that the measurement goes on for, but for the first unit of each archive
_SAMPLE = 16  # units of an archive to measure at most


@dataclass(slots=True)
class Share:
    """What there is of one archive.

    Attributes
    ----------
    files, units, n_bytes : int
    measured : int
        Bytes of the units that were classified,
    seconds : float
        and how long that took one worker.
    """

    files: int = 0
    units: int = 0
    n_bytes: int = 0
    measured: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a request would read, by archive, and with how many workers it was measured here."""

    shares: dict[str, Share]
    workers: int

    @property
    def seconds(self) -> float:
        """How long the request would take here; NaN if nothing could be measured."""
        known = [share for share in self.shares.values() if share.measured]
        if not known:
            return float("nan")
        return sum(s.n_bytes * s.seconds / s.measured for s in known) / self.workers

    def describe(self) -> str:
        """Return it as a small table and a sentence."""
        rows = [("archive", "files", "units", "MB")]
        rows += [
            (n, f"{s.files:,}", f"{s.units:,}", f"{s.n_bytes / 1e6:,.1f}") for n, s in self.shares.items()
        ]
        lines = [f"{name:<14}{files:>12}{units:>10}{size:>14}" for name, files, units, size in rows]
        total, measured = (
            f"{sum(n) / 1e6:,.1f} MB"
            for n in zip(*((s.n_bytes, s.measured) for s in self.shares.values()), strict=True)
        )
        lines.append(
            f"{total} would take about {_spoken(self.seconds)} here with {self.workers} workers, going by "
            f"{measured} of them; nothing was written"
        )
        return "\n".join(lines)


def rehearse(
    names: Sequence[str | Path],
    choice: ModelChoice,
    archive: str | None = None,
    workers: int | None = None,
    batch: int = 256,
) -> Rehearsal:
    """Return what a request would read, and how long that would take: a few units are classified to know.

    Parameters
    ----------
    names, choice, archive, workers, batch
        As `pipeline.classify`.

    Raises
    ------
    UsageError, ModelError
        As `pipeline.classify`.
    """
    choice.load(1)  # a model that is at fault is told of first
    units = plan(expand(names, archive))
    shares: dict[str, Share] = {}
    for unit in units:
        share = shares.setdefault(unit.archive, Share())
        share.files += len(unit.paths)
        share.units += 1
        share.n_bytes += unit.n_bytes
    workers = min(workers or available_cores(), len(units))
    arguments = (choice, threads_for(workers), batch)
    context = worker_context(choice)
    with Pool[Task[Unit], object](context, Classifier, arguments, workers, STALL) as pool:
        waiting = _sample(units)
        upcoming = next(waiting, None)
        under_way, end = 0, time.monotonic() + _SECONDS
        while upcoming or under_way:
            while upcoming and pool.has_room():
                pool.submit(Task(0, upcoming, probe=True))
                under_way += 1
                upcoming = next(waiting, None)
            for outcome in pool.outcomes(None):
                under_way -= 1
                share = shares[outcome.item.unit.archive]
                share.measured += outcome.item.unit.n_bytes
                share.seconds += outcome.seconds
            if time.monotonic() > end and all(share.measured for share in shares.values()):
                break
    return Rehearsal(shares, workers)


def _sample(units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield units from all over the request, each archive in turn."""
    by_archive = sorted((unit for unit in units if unit.n_bytes), key=lambda unit: unit.archive)
    chosen = []
    for _, group in groupby(by_archive, key=lambda unit: unit.archive):
        members = list(group)
        places = np.unique(np.linspace(0, len(members) - 1, _SAMPLE).astype(int))
        chosen.append([members[i] for i in places])
    for turn in zip_longest(*chosen):
        yield from (unit for unit in turn if unit is not None)


def _spoken(seconds: float) -> str:
    if np.isnan(seconds):
        return "an unknown time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
