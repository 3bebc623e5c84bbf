"""A catalogue folder: what was asked, the plan of units, a part of the catalogue a unit, and a manifest.

```
FOLDER/request.json   what was asked for, and the provenance of all that follows
FOLDER/model.onnx     the model itself: every worker reads this one
FOLDER/plan.parquet   every file, its unit, and what was wrong with it from the start
FOLDER/parts/         part-00000000.parquet, ...: the catalogue, a part a unit
FOLDER/manifest.json  when all is done: each part, its checksum and its rows
FOLDER/log.jsonl      what happened (journal.py)
FOLDER/progress.json  how far it is (journal.py)
```

All but the log are written aside and renamed, so that what is there is whole; and the bytes of parts and
manifest depend on the request, the plan and the spectra alone, not on who did what when, or how often.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import ReadError, UsageError
from broadline.files import write_aside
from broadline.flags import Flag
from broadline.lines import Line
from broadline.pipeline import Summary, Unit
from broadline.writers import legible, parquet_metadata

__all__ = ["CatalogueFolder", "Record", "write_part"]

FORMAT = 1
_ROWS = 1 << 16  # files of the plan in memory at a time

_PLAN = pa.schema(
    {
        "file": pa.binary(),  # a name need not be Unicode
        "unit": pa.int32(),
        "archive": pa.string(),
        "bytes": pa.int64(),
        "fault": pa.string(),
        "fault_flag": pa.int32(),
        "fault_spectra": pa.int64(),
    }
)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a part.

    Attributes
    ----------
    unit : int
    rows : int
    sha256 : str
        Of the file.
    counts : dict
        Of its rows: `Summary.to_dict`.
    """

    unit: int
    rows: int
    sha256: str
    counts: dict[str, Any]


def part_path(folder: Path, unit: int) -> Path:
    """Return the file of a unit's part."""
    return folder / "parts" / f"part-{unit:08d}.parquet"


def write_part(
    folder: Path, unit: int, table: pa.Table, summary: Summary, meta: Mapping[str, str], lines: Sequence[Line]
) -> Record:
    """Write the part of a unit, of all columns of the catalogue; return its record, which is in it too."""
    counts = summary.to_dict()
    about = parquet_metadata(meta, lines) | {"broadline.unit": json.dumps({"unit": unit, "counts": counts})}
    fields = [table.schema.field(name) for name in table.schema.names]
    stream = pa.BufferOutputStream()
    pq.write_table(table.cast(pa.schema(fields, metadata=about)), stream, compression="zstd")
    content = memoryview(stream.getvalue())
    write_aside(part_path(folder, unit), content)
    return Record(unit, len(table), hashlib.sha256(content).hexdigest(), counts)


def _read_record(path: Path) -> Record | None:
    """Return the record in a part; None if it cannot be read, whatever has befallen it."""
    try:
        content = path.read_bytes()
        metadata = pq.read_metadata(pa.BufferReader(content))
        about = json.loads(metadata.metadata[b"broadline.unit"])
        return Record(about["unit"], metadata.num_rows, hashlib.sha256(content).hexdigest(), about["counts"])
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class CatalogueFolder:
    """A catalogue folder, which may not be there yet.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @property
    def model(self) -> Path:
        """The model's file."""
        return self.path / "model.onnx"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other commands off the folder; the claim of a process that is killed ends with it.

        Raises
        ------
        UsageError
            If another command is at work in the folder, or it is none or holds other things.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; give a new folder")
        if self.path.exists() and not (self.path / "request.json").exists():
            begun = {
                "parts",
                "model.onnx",
                "plan.parquet",
            }  # by a command that was killed before it had a request
            if other := [e.name for e in self.path.iterdir() if e.name not in begun and e.name[0] != "."]:
                raise UsageError(
                    f"folder {self.path} holds other things ({other[0]}, ...); give a new folder or a file"
                )
        new = not self.path.exists()
        (self.path / "parts").mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise UsageError(
                    f"another command is at work in {self.path}; wait for it, or give another folder"
                ) from error
            try:
                yield
            finally:
                if new and not (self.path / "request.json").exists():  # it came to nothing
                    shutil.rmtree(self.path, ignore_errors=True)

    # ---- what was asked

    def claimed_for(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the folder says it holds if that is this request; None if it is new.

        Raises
        ------
        UsageError
            If it holds something else.
        """
        path = self.path / "request.json"
        if not path.exists():
            return None
        held = self._read(path)
        if held["request"]["directory"] is not None:  # files that are named from there
            request = {**request, "directory": str(Path.cwd())}
        if different := [name for name, value in request.items() if held["request"].get(name) != value]:
            raise UsageError(
                f"folder {self.path} holds another catalogue (not the same: {', '.join(different)}); "
                "give the same command, or a new folder"
            )
        return held

    def begin(
        self,
        request: Mapping[str, Any],
        provenance: Mapping[str, str],
        lines: Sequence[Line],
        model: bytes,
        units: Iterable[Unit],
    ) -> dict[str, Any]:
        """Write model, plan and request, in this order; return what `claimed_for` will return from now on."""
        write_aside(self.model, model)
        _write_plan(self.path / "plan.parquet", units)
        held = {
            "format": FORMAT,
            "request": dict(request),
            "provenance": legible(provenance),
            "lines": [asdict(line) for line in lines],
        }
        write_aside(self.path / "request.json", (json.dumps(held, indent=1) + "\n").encode())
        return held

    def about(self) -> tuple[dict[str, str], list[Line]]:
        """Return the provenance of the catalogue, and the model's lines."""
        path = self.path / "request.json"
        if not path.exists():
            raise UsageError(
                f"{self.path} is no catalogue folder: `broadline classify ... -o FOLDER` makes one"
            )
        held = self._read(path)
        return held["provenance"], [Line(**line) for line in held["lines"]]

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            held: dict[str, Any] = json.loads(path.read_text())
            if held["format"] != FORMAT:
                raise UsageError(f"{path} is of another version of broadline; use that one, or a new folder")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} cannot be read ({error}); give a new folder") from error
        return held

    # ---- the plan

    def units(self) -> Iterator[tuple[int, Unit]]:
        """Yield the units and their numbers, in order, a few in memory at a time."""
        with pq.ParquetFile(self.path / "plan.parquet") as file:
            rows = (row for batch in file.iter_batches(_ROWS) for row in batch.to_pylist())
            for number, files in groupby(rows, key=itemgetter("unit")):
                yield number, _unit(list(files))

    def unit_bytes(self) -> NDArray[np.int64]:
        """Return the bytes of each unit, shape (n_units,)."""
        total: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        with pq.ParquetFile(self.path / "plan.parquet") as file:
            for batch in file.iter_batches(_ROWS, columns=["unit", "bytes"]):
                unit, n_bytes = (np.asarray(column) for column in batch.columns)
                total = np.concatenate([total, np.zeros(max(0, unit[-1] + 1 - len(total)), dtype=np.int64)])
                np.add.at(total, unit, n_bytes)
        return total

    # ---- the parts

    def records(self) -> dict[int, Record]:
        """Return the records of the parts that are there, by unit."""
        found: dict[int, Record] = {}
        for path in (self.path / "parts").glob("part-*.parquet"):
            if (record := _read_record(path)) and path == part_path(self.path, record.unit):
                found[record.unit] = record
        return found

    def finish(self, records: Mapping[int, Record]) -> Summary:
        """Write the manifest of all parts, and remove what kills left half-written; return the summary."""
        for folder in (self.path, self.path / "parts"):
            for path in folder.glob(".*.part"):
                path.unlink(missing_ok=True)
        summary = Summary()
        units = []
        for number in sorted(records):
            record = records[number]
            summary.add_counts(record.counts)
            file = str(part_path(self.path, number).relative_to(self.path))
            units.append({"unit": number, "file": file, "sha256": record.sha256, "rows": record.rows})
        # The names of the parts are to be on the disk before the manifest that says they are there.
        parts = os.open(self.path / "parts", os.O_RDONLY)
        os.fsync(parts)
        os.close(parts)
        head = json.dumps({"format": FORMAT, "counts": summary.to_dict()})
        body = ",\n".join(json.dumps(unit) for unit in units)  # a unit a line
        write_aside(self.path / "manifest.json", f'{head[:-1]}, "units": [\n{body}\n]}}\n'.encode())
        return summary

    def finished(self) -> Summary | None:
        """Return the summary of a catalogue that is finished; None of one that is not."""
        path = self.path / "manifest.json"
        return Summary(**self._read(path)["counts"]) if path.exists() else None

    def tables(self) -> Iterator[pa.Table]:
        """Yield the parts of a finished catalogue, in order, each checked.

        Raises
        ------
        UsageError
            If it is not finished, or a part is not as it was written.
        """
        path = self.path / "manifest.json"
        if not path.exists():
            raise UsageError(
                f"the catalogue in {self.path} is not finished; give its `classify` command again"
            )
        for unit in self._read(path)["units"]:
            part = self.path / unit["file"]
            try:
                content = part.read_bytes()
            except OSError as error:
                raise UsageError(f"{part}: {error.strerror}; {_redo(part, path)}") from error
            if hashlib.sha256(content).hexdigest() != unit["sha256"]:
                raise UsageError(f"{part} is not as it was written; {_redo(part, path)}")
            yield pq.read_table(pa.BufferReader(content))


def _redo(part: Path, manifest: Path) -> str:
    return f"remove it and {manifest.name}, and give the `classify` command again"


def _write_plan(path: Path, units: Iterable[Unit]) -> None:
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as stream, pq.ParquetWriter(stream, _PLAN, compression="zstd") as writer:
        rows: list[tuple[Any, ...]] = []
        for number, unit in enumerate(units):
            for file, size in zip(unit.paths, unit.sizes, strict=True):
                fault = unit.faults.get(file)
                about = (fault.reason, int(fault.flag), fault.n_spectra) if fault else (None, None, None)
                rows.append((os.fsencode(file), number, unit.archive, size, *about))
            if len(rows) >= _ROWS:
                writer.write_table(_plan_table(rows))
                rows = []
        writer.write_table(_plan_table(rows))
        writer.close()
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def _plan_table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(_PLAN)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _PLAN, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_PLAN)


def _unit(files: Sequence[Mapping[str, Any]]) -> Unit:
    paths = tuple(Path(os.fsdecode(file["file"])) for file in files)
    faults = {
        path: ReadError(path, file["fault"], Flag(file["fault_flag"]), file["fault_spectra"])
        for path, file in zip(paths, files, strict=True)
        if file["fault"] is not None
    }
    return Unit(files[0]["archive"], paths, tuple(file["bytes"] for file in files), faults)
