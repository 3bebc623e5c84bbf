"""Making a training set: represented spectra joined with the truth, written by worker processes.

The files are described in `dataset`. What a unit of work wrote is recorded in a part of the manifest; a
command that is given again goes on with the units that have no record.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline import __version__
from broadline.errors import UsageError
from broadline.files import write_aside
from broadline.flags import UNCLASSIFIED
from broadline.inputs import Inputs, expand, read_group
from broadline.pipeline import Unit, plan
from broadline.representation import Representation, Represented
from broadline.spectra import Spectra
from broadline.training.dataset import (
    COLUMNS,
    FORMAT,
    MANIFEST,
    Summary,
    one_sided,
    read_manifest,
    shard_paths,
)
from broadline.truth import CLASSES, FIRM, QSO, Truth, match, read_truth_table
from broadline.workers import Workers, available_cores
from broadline.workers import prepare as start_preparing

__all__ = ["prepare"]

_PARTS = ".parts"
_BATCH = 256  # spectra read at a time: bounds the memory of a worker
_SHARD = 8192  # spectra; a unit of work begins a shard of its own
_LARGEST = float(np.finfo(np.float16).max)


def prepare(
    names: Sequence[str | Path],
    truth: Path,
    folder: Path,
    representation: Representation,
    *,
    keep_ancillary: bool = False,
    archive: str | None = None,
    workers: int | None = None,
    on_unit: Callable[[Summary, float], None] | None = None,
) -> Summary:
    """Write a training set of all spectra behind some names that a truth table knows.

    The bytes depend on spectra, truth, representation and options, not on the number of workers nor on how
    often the run was killed and started again.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders, globs, ``@LIST``.
    truth : Path
        See `truth.read_truth_table`.
    folder : Path
        New or empty, or one where the same was begun.
    representation : Representation
    keep_ancillary : bool
        Keep targets of ancillary programmes, which Busca & Balland (2018), section 2, leave out. Spectra
        without a firm identification are kept: presets decide what they teach.
    archive : str, optional
        Take every file for one of this archive.
    workers : int, optional
        Processes; as many as there are cores, or units of work, if not given.
    on_unit : callable, optional
        Told after each unit what was done so far, and which fraction of the bytes that is.

    Raises
    ------
    UsageError
        If a name or the truth is at fault, no spectrum can be used or found in the truth, there are only
        quasars or none, or the folder holds something else or cannot be written. In the last case what is
        done stays done; in the others the folder is left empty.
    """
    known = read_truth_table(truth)
    if problem := one_sided(known.kind == QSO):
        raise UsageError(f"{truth} knows {problem}")
    inputs = expand(names, archive)
    units = list(enumerate(plan(inputs)))
    request = _request(inputs, truth, representation, keep_ancillary)
    try:
        state = _claim(request, folder)
        if not state["finished"]:
            job = _Job(known, representation, folder, keep_ancillary)
            _finish(state, job, _represent(units, job, workers, on_unit))
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
        for path in folder.glob(".*.part"):
            path.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write the set into {folder} ({error}); once this is mended the same command goes on"
        ) from error
    return Summary(**state["counts"])


class _Job(NamedTuple):
    truth: Truth
    representation: Representation
    folder: Path
    keep_ancillary: bool


_Numbered = tuple[int, Unit]


def _request(inputs: Inputs, truth: Path, representation: Representation, keep: bool) -> dict[str, Any]:
    """Return what decides the bytes, as JSON types: files by name and size, wherever they lie."""
    files = [(path.name, path.stat().st_size if path.exists() else 0, kind) for path, kind in inputs.files]
    with truth.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "version": __version__,
        "spectra": {"files": len(files), "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()},
        "truth": {"file": truth.name, "sha256": digest},
        "representation": representation.to_dict(),
        "keep_ancillary": keep,
    }


def _claim(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the manifest of the set in a folder, which becomes this request's if it was empty."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    if path.exists():
        state = read_manifest(folder)
        if different := [name for name, value in request.items() if state["request"].get(name) != value]:
            raise UsageError(
                f"folder {folder} holds another set (not the same: {', '.join(different)}); give a new folder"
            )
        return state
    if any(not entry.name.endswith(".part") for entry in folder.iterdir()):
        raise UsageError(f"folder {folder} is not empty; give a new folder")
    state = {"format": FORMAT, "request": request, "finished": False, "counts": {}, "shards": []}
    _write_json(path, state)
    return state


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_aside(path, (json.dumps(content, indent=1) + "\n").encode())


def _part(folder: Path, number: int) -> Path:
    return folder / _PARTS / f"{number:06d}.json"


def _represent(
    units: Sequence[_Numbered],
    job: _Job,
    workers: int | None,
    on_unit: Callable[[Summary, float], None] | None,
) -> list[dict[str, Any]]:
    """Write the shards of all units that are not done; return the record of each unit."""
    parts = job.folder / _PARTS
    parts.mkdir(exist_ok=True)
    waiting = [item for item in units if not _part(job.folder, item[0]).exists()]
    total = sum(unit.n_bytes for _, unit in units) or 1
    left = sum(unit.n_bytes for _, unit in waiting)
    summary = Summary()
    records = {}
    for number, _ in units:
        if _part(job.folder, number).exists():
            records[number] = json.loads(_part(job.folder, number).read_text())
            summary.add(records[number]["counts"])
    with closing(_write_units(waiting, job, workers)) as written:
        for (number, unit), record in written:
            records[number] = record
            summary.add(record["counts"])
            left -= unit.n_bytes
            if on_unit:
                on_unit(summary, 1 - left / total)
    return [records[number] for number, _ in units]


def _write_units(
    waiting: Sequence[_Numbered], job: _Job, workers: int | None
) -> Generator[tuple[_Numbered, dict[str, Any]], None, None]:
    n = min(workers or available_cores(), len(waiting))
    if n <= 1:
        yield from ((item, _write_unit(item, job)) for item in waiting)
        return
    context = start_preparing(["broadline.training.prepare", "broadline.archives"])
    with Workers(context, waiting, _work, n, _start, (job,)) as results:
        yield from results


def _finish(state: dict[str, Any], job: _Job, records: Sequence[dict[str, Any]]) -> None:
    """Complete the manifest; clear the folder if there is nothing to learn from."""
    folder = job.folder
    summary = Summary()
    for record in records:
        summary.add(record["counts"])
    shards = [shard for record in records for shard in record["shards"]]
    if problem := _nothing_to_learn(summary, job.truth):
        for shard in shards:
            for path in shard_paths(folder, shard):
                path.unlink()
        shutil.rmtree(folder / _PARTS)
        (folder / MANIFEST).unlink()
        raise UsageError(problem)
    names = pa.chunked_array(
        [
            pq.read_table(shard_paths(folder, shard)[1], columns=["SPECTRUM"])["SPECTRUM"].chunk(0)
            for shard in shards
        ]
    )
    summary.n_repeated = len(names) - pc.count_distinct(names).as_py()
    state |= {"finished": True, "counts": summary.to_dict(), "shards": shards}
    _write_json(folder / MANIFEST, state)


def _nothing_to_learn(summary: Summary, truth: Truth) -> str | None:
    """Return why these spectra teach nothing; None if they do."""
    usable = summary.n_read - summary.n_unusable
    if not usable:
        hint = f", such as {summary.notes[0]}" if summary.notes else "; FLAGS of `broadline classify` say why"
        return f"none of the {summary.n_read:,} spectra can be used{hint}"
    if summary.n_unmatched == usable:
        return (
            f"{truth.source} knows none of the {usable:,} spectra (its own {len(truth):,} it names by "
            f"{truth.by}); give the truth of these"
        )
    if not len(summary):
        return f"all {summary.n_ancillary:,} spectra that {truth.source} knows are of ancillary programmes"
    n_quasars = summary.classes["QSO"]
    problem = one_sided(np.arange(len(summary)) < n_quasars)
    return f"the spectra that {truth.source} knows hold {problem}" if problem else None


# ---- in the workers

_job: _Job | None = None


def _start(job: _Job) -> None:
    global _job
    warnings.simplefilter("ignore")
    _job = job


def _work(item: _Numbered) -> dict[str, Any]:
    assert _job is not None
    return _write_unit(item, _job)


def _write_unit(item: _Numbered, job: _Job) -> dict[str, Any]:
    """Write the shards of a unit, then its record: what has a record is finished. Return the record."""
    number, unit = item
    summary = Summary()
    shards: list[dict[str, Any]] = []
    values: list[NDArray[np.float16]] = []
    tables: list[pa.Table] = []
    n = 0

    def close() -> None:
        nonlocal n
        if tables:
            shards.append(_write_shard(job.folder, f"{number:06d}-{len(shards):03d}", values, tables))
            values.clear()
            tables.clear()
            n = 0

    for spectra in read_group(unit.archive, unit.paths, _BATCH, unit.faults):
        represented = job.representation(spectra)
        truth_rows = match(job.truth, spectra.ids)
        kept = _choose(represented.flags, truth_rows, job, summary)
        summary.add({"notes": list(spectra.notes)})
        if len(kept):
            tables.append(_labels(spectra, represented, job.truth, kept, truth_rows[kept], summary))
            values.append(represented.values[kept].clip(-_LARGEST, _LARGEST).astype(np.float16))
            n += len(kept)
        if n >= _SHARD:
            close()
    close()
    record = {"counts": summary.to_dict(), "shards": shards}
    _write_json(_part(job.folder, number), record)
    return record


def _choose(
    flags: NDArray[np.uint32], truth_rows: NDArray[np.int64], job: _Job, summary: Summary
) -> NDArray[np.int64]:
    """Return the spectra of a batch to keep, and count the others, each for the first reason there is."""
    usable = (flags & UNCLASSIFIED) == 0
    known = truth_rows >= 0
    ancillary = known & job.truth.ancillary[truth_rows] & (not job.keep_ancillary)
    summary.add(
        {
            "n_read": len(flags),
            "n_unusable": int((~usable).sum()),
            "n_unmatched": int((usable & ~known).sum()),
            "n_ancillary": int((usable & ancillary).sum()),
        }
    )
    return np.flatnonzero(usable & known & ~ancillary)


def _labels(
    spectra: Spectra,
    represented: Represented,
    truth: Truth,
    kept: NDArray[np.int64],
    rows: NDArray[np.int64],
    summary: Summary,
) -> pa.Table:
    """Return the truth columns of the spectra kept, and count them."""
    kind, confidence = truth.kind[rows], truth.confidence[rows]
    counted = np.bincount(kind, minlength=len(CLASSES)).tolist()
    summary.add(
        {
            "classes": dict(zip(CLASSES, counted, strict=True)),
            "n_doubtful": int((confidence < FIRM).sum()),
            "n_bal": int(((truth.bal_flag[rows] == 1) & (kind == QSO)).sum()),
        }
    )
    columns = {
        "SPECTRUM": spectra.ids["OBJID"][kept],
        "PLATE": spectra.ids["PLATE"][kept] if "PLATE" in spectra.ids else np.full(len(kept), -1, np.int32),
        "FLAGS": represented.flags[kept],
        "SN": represented.sn_median[kept],
        "CLASS": pa.DictionaryArray.from_arrays(kind, list(CLASSES)),
        "Z": truth.z[rows],
        "CONFIDENCE": confidence,
        "BAL_FLAG": truth.bal_flag[rows],
        "BALNICITY": truth.balnicity[rows],
        "OBJECT": truth.object[rows],
        "ANCILLARY": truth.ancillary[rows],
    }
    return pa.table(columns, schema=COLUMNS)


def _write_shard(
    folder: Path, name: str, values: list[NDArray[np.float16]], tables: list[pa.Table]
) -> dict[str, Any]:
    """Write the two files of a shard; return its entry in the manifest."""
    image, table = pa.BufferOutputStream(), pa.BufferOutputStream()
    merged = np.concatenate(values)
    np.lib.format.write_array(image, merged, allow_pickle=False)
    pq.write_table(pa.concat_tables(tables).combine_chunks(), table, compression="zstd")
    shard: dict[str, Any] = {"name": name, "n": len(merged), "sha256": []}
    for path, stream in zip(shard_paths(folder, shard), (image, table), strict=True):
        content = memoryview(stream.getvalue())
        shard["sha256"].append(hashlib.sha256(content).hexdigest())
        write_aside(path, content)
    return shard
