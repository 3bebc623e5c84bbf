"""The verdicts of experts, in one SQLite file a project: rows are appended, never changed."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from broadline.errors import UsageError
from broadline.inspect.rulings import Given, Ruling, Verdict
from broadline.inspect.subjects import Subjects

__all__ = ["ConflictError", "NotStoredError", "Store", "catalogue_of", "default_path"]

_FORMAT = "1"
_WAIT = 1.0  # seconds for another program to let go of the file

_SCHEMA = (
    "CREATE TABLE project (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """
CREATE TABLE verdict (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL,          -- of the catalogue, from 0
    name TEXT NOT NULL,            -- of the spectrum
    inspector TEXT NOT NULL,
    time TEXT NOT NULL,            -- UTC
    kind TEXT NOT NULL,            -- QSO, GALAXY, STAR, ?; empty: withdrawn
    z REAL,
    quality INTEGER NOT NULL,      -- 0 to 4
    bal INTEGER NOT NULL,
    comment TEXT NOT NULL,
    adjudicates INTEGER NOT NULL,  -- settles what inspectors disagree on
    undoes INTEGER,                -- version of the verdict taken back by this row
    request TEXT UNIQUE            -- of the page: the same request is stored once
)""",
    "CREATE INDEX verdict_of ON verdict (row, inspector)",
)


class NotStoredError(Exception):
    """A verdict could not be written; its text says why. What was stored before is safe."""


class ConflictError(Exception):
    """Somebody has ruled since the page was opened.

    Attributes
    ----------
    version : int
        Of what now stands.
    current : Verdict, optional
        That; None if the verdict was withdrawn.
    """

    def __init__(self, last: Verdict | None) -> None:
        super().__init__("another tab has ruled on this spectrum since")
        self.version = last.version if last else 0
        self.current = last if last and last.ruling.kind else None


def default_path(catalogue: Path) -> Path:
    """Return where the verdicts on a catalogue are kept: beside it."""
    return catalogue.with_name(f"{catalogue.name}.verdicts.sqlite")


def catalogue_of(path: Path) -> Path:
    """Return the catalogue that a file of verdicts is on, where it was when they were made.

    Raises
    ------
    UsageError
        If there is no such file, another program holds it, or it is no file of verdicts.
    """
    if not path.is_file():
        raise UsageError(f"there is no file of verdicts {path}; `broadline inspect` makes one")
    with _told(path), closing(sqlite3.connect(path, timeout=_WAIT)) as db:
        found = db.execute("SELECT value FROM project WHERE key = 'catalogue'").fetchone()
    if found is None:
        raise UsageError(f"{path} is a database, but none of verdicts")
    return path.resolve().parent / str(found[0])


class Store:
    """The file of verdicts, held by one program at a time; safe to use from several threads.

    What a method returned is on disk, whatever happens to the program afterwards.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    subjects : Subjects
        The catalogue that the verdicts are on: the file is bound to its content.

    Raises
    ------
    UsageError
        If another program holds the file, it is no file of verdicts, or it holds those on another catalogue.
    """

    def __init__(self, path: Path, subjects: Subjects) -> None:
        self.path = path
        self._subjects = subjects
        self._lock = threading.Lock()
        self._current: dict[int, dict[tuple[str, bool], Verdict]] = {}  # by row; inspector and role
        with _told(path):
            self._db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        try:
            with _told(path):
                # Held until the end, so that a second server is told so; the system lets go of it if this
                # one is killed.
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._bind()
                self._stand(self._rows(f"version IN ({_LAST})"))
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    # ---- what stands

    def current(self, row: int, inspector: str, adjudicates: bool = False) -> Verdict | None:
        """Return an inspector's last row on a spectrum, which may say that the verdict is withdrawn.

        Who adjudicates keeps the verdict that was given blind: they are told apart.
        """
        return self._current.get(row, {}).get((inspector, adjudicates))

    def standing(self) -> dict[int, list[Verdict]]:
        """Return the verdicts that stand by row, in the order of rows, and of inspectors in each."""
        with self._lock:
            rows = sorted(self._current)
        by_row = ((row, self.on(row)) for row in rows)
        return {row: verdicts for row, verdicts in by_row if verdicts}

    def on(self, row: int) -> list[Verdict]:
        """Return the verdicts that stand on a spectrum, by inspector, an adjudication after the blind one."""
        with self._lock:
            last = sorted(self._current.get(row, {}).items())
        return [verdict for _, verdict in last if verdict.ruling.kind]

    def history(self) -> list[Verdict]:
        """Return all rows of the file in the order in which they were written."""
        with self._lock, _told(self.path):
            return list(self._rows("1"))

    # ---- what is added

    def rule(
        self,
        row: int,
        inspector: str,
        ruling: Ruling,
        seen: int,
        *,
        adjudicates: bool = False,
        request: str | None = None,
    ) -> Verdict:
        """Append a verdict.

        Parameters
        ----------
        row : int
        inspector : str
        ruling : Ruling
        seen : int
            Version of the inspector's own verdict on this spectrum (or adjudication, if it is one) that was
            seen when this one was made; 0 for none.
        adjudicates : bool
        request : str, optional
            A name of the request: given again, what was stored the first time is returned.

        Raises
        ------
        ConflictError
            If another verdict of the inspector stands than was seen.
        UsageError
            If there is no such row, or it cannot be a ruling.
        NotStoredError
            If the file cannot be written, such as for a full disk.
        """
        if not 0 <= row < len(self._subjects):
            raise UsageError(f"the catalogue has rows 0 to {len(self._subjects) - 1}, not {row}")
        ruling = ruling.checked()
        with self._lock:
            if request is not None:
                for stored in self._rows("request = ?", (request,)):
                    return stored
            current = self.current(row, inspector, adjudicates)
            if (current.version if current else 0) != seen:
                raise ConflictError(current)
            return self._append([(row, inspector, ruling, adjudicates, None, request)])[0]

    def rule_all(self, verdicts: Iterable[Given]) -> int:
        """Append verdicts made elsewhere, all or none, except those that stand already; return their number.

        Raises
        ------
        UsageError, NotStoredError
            As `rule`.
        """
        with self._lock:
            new = [
                (row, inspector, ruling.checked(), adjudicates, None, None)
                for row, inspector, ruling, adjudicates in verdicts
                if (now := self.current(row, inspector, adjudicates)) is None
                or not now.ruling.reads_as(ruling)
            ]
            return len(self._append(new))

    def undo(self, inspector: str) -> Verdict | None:
        """Take back the last verdict of an inspector that is not taken back yet; return what then stands.

        Nothing is deleted: a row is appended that says what stood before. None if there is nothing to undo.

        Raises
        ------
        NotStoredError
            If the file cannot be written.
        """
        not_undone = (
            "inspector = ? AND undoes IS NULL AND version NOT IN (SELECT undoes FROM verdict WHERE undoes)"
        )
        with self._lock:
            last = next(self._rows(f"{not_undone} ORDER BY version DESC LIMIT 1", (inspector,)), None)
            if last is None:
                return None
            before = next(
                self._rows(
                    f"{not_undone} AND row = ? AND adjudicates = ? AND version < ? "
                    "ORDER BY version DESC LIMIT 1",
                    (inspector, last.row, last.adjudicates, last.version),
                ),
                None,
            )
            ruling = before.ruling if before else Ruling("")
            return self._append([(last.row, inspector, ruling, last.adjudicates, last.version, None)])[0]

    # ---- the file

    def _append(self, rows: Sequence[tuple[int, str, Ruling, bool, int | None, str | None]]) -> list[Verdict]:
        """Append rows in one transaction; the lock is held by the caller."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        added = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for row, inspector, ruling, adjudicates, undoes, request in rows:
                    name = str(self._subjects.names[row])
                    said = (row, name, inspector, time, *ruling, adjudicates, undoes, request)
                    version = self._db.execute(_INSERT, said).lastrowid
                    assert version is not None
                    added.append(Verdict(version, row, inspector, time, ruling, adjudicates, undoes))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise NotStoredError(
                f"the verdict was not stored in {self.path.name} ({error}); all earlier ones are safe"
            ) from error
        self._stand(added)
        return added

    def _stand(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self._current.setdefault(verdict.row, {})[verdict.inspector, verdict.adjudicates] = verdict

    def _rows(self, where: str, values: Sequence[Any] = ()) -> Iterator[Verdict]:
        columns = "version, row, inspector, time, kind, z, quality, bal, comment, adjudicates, undoes"
        for version, row, inspector, time, *ruling, adjudicates, undoes in self._db.execute(
            f"SELECT {columns} FROM verdict WHERE {where}", values
        ):
            kind, z, quality, bal, comment = ruling
            said = Ruling(kind, z, quality, bool(bal), comment)
            yield Verdict(version, row, inspector, time, said, bool(adjudicates), undoes)

    def _bind(self) -> None:
        """Make the tables, or see that they are those of this catalogue."""
        path = self._subjects.catalogue.path
        place = os.path.relpath(path.resolve(), self.path.resolve().parent)
        facts = {"format": _FORMAT, "sha256": self._subjects.sha256, "catalogue": place}
        names = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.executemany("INSERT INTO project VALUES (?, ?)", facts.items())
            self._db.execute("COMMIT")
        elif not {"project", "verdict"} <= names:
            raise UsageError(f"{self.path} is a database, but none of verdicts; name another with --verdicts")
        known = dict(self._db.execute("SELECT key, value FROM project"))
        if known.get("format") != _FORMAT:
            raise UsageError(f"{self.path} was written by another version of broadline; update broadline")
        if known["sha256"] != facts["sha256"]:
            raise UsageError(
                f"{self.path} holds verdicts on another catalogue ({known['catalogue']}, or an earlier "
                f"{path.name}); name another file with --verdicts, and move them with `broadline verdicts`"
            )


_LAST = "SELECT MAX(version) FROM verdict GROUP BY row, inspector, adjudicates"
_INSERT = (
    "INSERT INTO verdict (row, name, inspector, time, kind, z, quality, bal, comment, adjudicates, undoes, "
    "request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SQLite says on opening a file into a sentence for the user."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise UsageError(
                f"another program has {path} open, such as `broadline inspect`; use its page or end it"
            ) from error
        raise UsageError(
            f"cannot open the verdicts {path} ({error}); name another file with --verdicts"
        ) from error
