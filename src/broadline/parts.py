"""Folders that worker processes fill unit by unit: a command that was stopped goes on where it was.

What a unit of work has written is recorded in ``.parts/NUMBER.json``, last of all: what has a record is
finished. A manifest says whose folder it is, and takes the records in when all are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from broadline.errors import UsageError
from broadline.files import write_aside
from broadline.inputs import Inputs
from broadline.ordered import Workers
from broadline.pipeline import Unit
from broadline.workers import available_cores, prepare

__all__ = [
    "PARTS",
    "Job",
    "Numbered",
    "Record",
    "claim",
    "described",
    "fill",
    "recorded",
    "tidy",
    "write_json",
]

#: The folder of the records.
PARTS = ".parts"

Record = dict[str, Any]
Numbered = tuple[int, Unit]


class Job(Protocol):
    """What is done with a unit of work; it travels to the worker processes."""

    @property
    def folder(self) -> Path:
        """Where its files go."""
        ...

    def write(self, number: int, unit: Unit) -> Record:
        """Write the files of a unit; return what is to be known of them, as JSON types."""
        ...


def described(inputs: Inputs) -> dict[str, Any]:
    """Return what tells some inputs from others: their files by name and size, wherever they lie."""
    files = [(path.name, path.stat().st_size if path.exists() else 0, kind) for path, kind in inputs.files]
    return {"files": len(files), "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()}


def claim(
    folder: Path,
    manifest: str,
    what: str,
    fresh: Mapping[str, Any],
    read_manifest: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """Return the manifest of a folder, which becomes this request's if it was empty.

    Parameters
    ----------
    folder : Path
    manifest : str
        The manifest's file name.
    what : str
        What such a folder is called.
    fresh : mapping
        The manifest to begin with; its "request" is what decides the bytes, as JSON types.
    read_manifest : callable
        From the folder to its manifest.

    Raises
    ------
    UsageError
        If it is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / manifest).exists():
        state = read_manifest(folder)
        request = fresh["request"]
        if different := [name for name, value in request.items() if state["request"].get(name) != value]:
            raise UsageError(
                f"folder {folder} holds another {what} (not the same: {', '.join(different)}); "
                "give a new folder"
            )
        return state
    if any(not entry.name.endswith(".part") for entry in folder.iterdir()):
        raise UsageError(f"folder {folder} is not empty; give a new folder")
    state = dict(fresh)
    write_json(folder / manifest, state)
    return state


def recorded(folder: Path) -> dict[int, Record]:
    """Return the records there are, by number of the unit."""
    paths = sorted((folder / PARTS).glob("*.json"))
    return {int(path.stem): json.loads(path.read_text()) for path in paths}


def fill(
    units: Sequence[Numbered],
    known: Mapping[int, Record],
    job: Job,
    workers: int | None,
    modules: Sequence[str],
    on_record: Callable[[Record, float], None],
) -> list[Record]:
    """Write the files of all units that have no record; return the record of each unit.

    Parameters
    ----------
    units : sequence of (int, Unit)
    known : mapping of int to dict
        Records of the units that are done.
    job : Job
    workers : int, optional
        Processes; as many as there are cores, or units left, if not given.
    modules : sequence of str
        What they need.
    on_record : callable
        Told each new record, and which fraction of the bytes is done with it.
    """
    (job.folder / PARTS).mkdir(exist_ok=True)
    waiting = [item for item in units if item[0] not in known]
    total = sum(unit.n_bytes for _, unit in units) or 1
    left = sum(unit.n_bytes for _, unit in waiting)
    records = dict(known)
    with closing(_write_units(waiting, job, workers, modules)) as written:
        for (number, unit), record in written:
            records[number] = record
            left -= unit.n_bytes
            on_record(record, 1 - left / total)
    return [records[number] for number, _ in units]


def tidy(folder: Path) -> None:
    """Leave no record, and nothing half written: the manifest says it all now."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    for path in folder.glob(".*.part"):
        path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, aside first."""
    write_aside(path, (json.dumps(content, indent=1) + "\n").encode())


def _write_units(
    waiting: Sequence[Numbered], job: Job, workers: int | None, modules: Sequence[str]
) -> Generator[tuple[Numbered, Record], None, None]:
    n = min(workers or available_cores(), len(waiting))
    if n <= 1:
        yield from ((item, _write_unit(item, job)) for item in waiting)
        return
    with Workers(prepare(modules), waiting, _work, n, _start, (job,)) as results:
        yield from results


def _write_unit(item: Numbered, job: Job) -> Record:
    number, unit = item
    record = job.write(number, unit)
    write_json(job.folder / PARTS / f"{number:06d}.json", record)
    return record


# ---- in the workers

_job: Job | None = None


def _start(job: Job) -> None:
    global _job
    warnings.simplefilter("ignore")
    _job = job


def _work(item: Numbered) -> Record:
    assert _job is not None
    return _write_unit(item, _job)
