"""What a long run says while nobody watches: a log of structured lines, and how far it is."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nlargest
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broadline.attempts import Event
from broadline.files import write_aside
from broadline.pipeline import Summary, Unit

__all__ = ["LOG", "PROGRESS", "Journal"]

LOG, PROGRESS = "log.jsonl", "progress.json"

_EVERY = 1.5  # seconds between two versions of the progress file
_SLOWEST = 5


@dataclass(slots=True)
class Journal:
    """The log and the progress file of a run; a context manager.

    Attributes
    ----------
    folder : Path
    units : int
        Units of work in all, and their bytes.
    n_bytes : int
    units_done : int
        So far, those of earlier runs among them; and their bytes.
    bytes_done : int
    summary : Summary
        Of all units done so far.
    retried, quarantined : int
        Attempts that failed and were made again, and files set aside, in this run.
    slowest : list of (float, int, str)
        Seconds, number and first file of the units that took longest in this run, the slowest first.
    """

    folder: Path
    units: int
    n_bytes: int
    units_done: int = 0
    bytes_done: int = 0
    summary: Summary = field(default_factory=Summary)
    retried: int = 0
    quarantined: int = 0
    slowest: list[tuple[float, int, str]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _at_start: tuple[int, int] = (0, 0)
    _written: float = float("-inf")

    def __enter__(self) -> Self:
        self._at_start = self.bytes_done, self.summary.n_spectra
        with (self.folder / LOG).open("a+b") as log:
            log.seek(max(0, log.tell() - 1))
            if log.read() not in (b"", b"\n"):
                log.write(b"\n")  # a run was killed in the middle of a line
        self._log("begin", units=self.units, units_done=self.units_done, pid=os.getpid())
        self.beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = "finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        try:
            self._log("end", state=state, **({"reason": str(error)} if state == "failed" else {}))
            self._write_progress(state)
        except OSError:
            if kind is None:  # else what is raised already is worth more
                raise

    @property
    def seconds(self) -> float:
        """How long this run has been going on."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Spectra per second in this run."""
        return (self.summary.n_spectra - self._at_start[1]) / max(self.seconds, 1e-9)

    def note(self, event: Event[Unit]) -> None:
        """Log what happened to a unit."""
        details: dict[str, Any] = {"unit": event.number}
        if event.outcome is not None:
            details |= {"seconds": round(event.outcome.seconds, 3), "worker": event.outcome.worker}
        if event.reason:
            details["reason"] = event.reason
        if event.kind in ("started", "quarantined"):
            details |= {"file": str(event.unit.paths[0]), "files": len(event.unit.paths)}
        self.retried += event.kind == "retried"
        if event.kind == "quarantined":
            self.quarantined += len(event.unit.paths)
        if event.kind == "done" and event.outcome is not None:
            took = (event.outcome.seconds, event.number, str(event.unit.paths[0]))
            self.slowest = nlargest(_SLOWEST, [*self.slowest, took])
        self._log(event.kind, **details)

    def add(self, unit_bytes: int, counts: dict[str, Any]) -> None:
        """Count a unit that is done."""
        self.units_done += 1
        self.bytes_done += unit_bytes
        self.summary.add_counts(counts)

    def beat(self) -> None:
        """Write the progress file anew if it is old."""
        if time.monotonic() - self._written >= _EVERY:
            self._write_progress("running")

    def _log(self, event: str, **details: Any) -> None:
        line = {"time": _now(), "event": event, **details}
        with (self.folder / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _write_progress(self, state: str) -> None:
        done_now = self.bytes_done - self._at_start[0]
        left = self.n_bytes - self.bytes_done
        content = {
            "state": state,
            "updated": _now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "units": {"done": self.units_done, "total": self.units},
            "bytes": {"done": self.bytes_done, "total": self.n_bytes},
            "spectra": self.summary.n_spectra,
            "spectra_per_second": round(self.rate, 1),
            "seconds": round(self.seconds, 1),
            "seconds_left": round(self.seconds * left / done_now) if done_now else None,
            "unreadable": self.summary.n_unreadable,
            "retried": self.retried,
            "quarantined": self.quarantined,
        }
        write_aside(self.folder / PROGRESS, (json.dumps(content, indent=1) + "\n").encode())
        self._written = time.monotonic()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
