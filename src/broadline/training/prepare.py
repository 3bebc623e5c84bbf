"""Making a training set: represented spectra joined with the truth, written by worker processes.

The files are described in `manifest`; `parts` lets a command that is given again go on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
from broadline.parts import Numbered, Record, claim, described, fill, recorded, tidy, write_json
from broadline.pipeline import Unit, plan
from broadline.representation import Representation, Represented
from broadline.spectra import Spectra
from broadline.training.labels import ContradictionError, Known, Labels, numbered, read_known
from broadline.training.manifest import (
    COLUMNS,
    FORMAT,
    MANIFEST,
    OBJECTS,
    Summary,
    one_sided,
    read_manifest,
    shard_paths,
)
from broadline.truth import CLASSES, FIRM, QSO

__all__ = ["prepare"]

_BATCH = 256  # spectra read at a time: bounds the memory of a worker
_SHARD = 16 << 20  # bytes; a unit of work begins a shard of its own
_LARGEST = float(np.finfo(np.float16).max)


def prepare(
    names: Sequence[str | Path],
    truth: Path | Sequence[Path],
    folder: Path,
    representation: Representation,
    *,
    rest_is_other: bool = False,
    keep_ancillary: bool = False,
    archive: str | None = None,
    workers: int | None = None,
    on_unit: Callable[[Summary, float], None] | None = None,
) -> Summary:
    """Write a training set of all spectra behind some names that truth tables know.

    The bytes depend on spectra, truth, representation and options, not on the number of workers nor on how
    often the run was killed and started again.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders, globs, ``@LIST``.
    truth : Path or sequence of Path
        See `truth.read_truth_table`; what several say is joined (`labels.Known`).
    folder : Path
        New or empty, or one where the same was begun.
    representation : Representation
    rest_is_other : bool
        The truth lists quasars alone, and all spectra that it does not know are others: Podsztavek, Skoda &
        Tvrdik (2021), section 2. Targets of ancillary programmes are kept then, as nothing tells which of
        the others are.
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
        If a name or the truth is at fault, no spectrum can be used or found in each of its tables, there are
        only quasars or none, or the folder holds something else or cannot be written. In the last case what
        is done stays done; in the others the folder is left empty.
    """
    tables = [truth] if isinstance(truth, Path) else truth
    known = read_known(tables, rest_is_other)
    inputs = expand(names, archive)
    units = list(enumerate(plan(inputs)))
    job = _Job(known, representation, folder, keep_ancillary or rest_is_other)
    try:
        request = _request(inputs, tables, job)
        fresh = {"format": FORMAT, "request": request, "finished": False, "counts": {}, "shards": []}
        state = claim(folder, MANIFEST, "set", fresh, read_manifest)
        if not state["finished"]:
            try:
                records = _represent(units, job, workers, on_unit)
            except ContradictionError:
                _clear(folder)
                raise
            _finish(state, job, records)
        tidy(folder)
    except OSError as error:
        raise UsageError(
            f"cannot write the set into {folder} ({error}); once this is mended the same command goes on"
        ) from error
    return Summary(**state["counts"])


class _Job(NamedTuple):
    known: Known
    representation: Representation
    folder: Path
    keep_ancillary: bool

    def write(self, number: int, unit: Unit) -> Record:
        """Write the shards of a unit; return its counts and their entries in the manifest."""
        return _write_unit(number, unit, self)


def _request(inputs: Inputs, tables: Sequence[Path], job: _Job) -> dict[str, Any]:
    """Return what decides the bytes, as JSON types."""
    truth = []
    for path in tables:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        truth.append({"file": path.name, "sha256": digest})
    return {
        "version": __version__,
        "spectra": described(inputs),
        "truth": truth,
        "rest_is_other": job.known.rest_is_other,
        "representation": job.representation.to_dict(),
        "keep_ancillary": job.keep_ancillary,
    }


def _represent(
    units: Sequence[Numbered],
    job: _Job,
    workers: int | None,
    on_unit: Callable[[Summary, float], None] | None,
) -> list[Record]:
    """Write the shards of all units that are not done; return the record of each unit."""
    summary = Summary()
    known = recorded(job.folder)
    for record in known.values():
        summary.add(record["counts"])

    def count(record: Record, fraction: float) -> None:
        summary.add(record["counts"])
        if on_unit:
            on_unit(summary, fraction)

    return fill(units, known, job, workers, ["broadline.training.prepare", "broadline.archives"], count)


def _clear(folder: Path) -> None:
    """Leave nothing of a set that cannot be."""
    for pattern in ("values-*.npy", "truth-*.parquet", MANIFEST):
        for path in folder.glob(pattern):
            path.unlink()
    tidy(folder)


def _finish(state: dict[str, Any], job: _Job, records: Sequence[Record]) -> None:
    """Complete the manifest; clear the folder if there is nothing to learn from."""
    folder = job.folder
    summary = Summary()
    for record in records:
        summary.add(record["counts"])
    shards = [shard for record in records for shard in record["shards"]]
    if problem := _nothing_to_learn(summary, job):
        _clear(folder)
        raise UsageError(problem)
    columns = ["SPECTRUM", "OBJECT", "RA", "DEC"]
    table = pa.concat_tables([pq.read_table(shard_paths(folder, s)[1], columns=columns) for s in shards])
    summary.n_repeated = len(table) - pc.count_distinct(table["SPECTRUM"]).as_py()
    # Which spectra share an object is known when all places are.
    objects = numbered(*(np.asarray(table[name]) for name in columns[1:]))
    digest = _write_array(folder / OBJECTS, objects)
    state |= {"finished": True, "counts": summary.to_dict(), "shards": shards, "objects": digest}
    write_json(folder / MANIFEST, state)


def _nothing_to_learn(summary: Summary, job: _Job) -> str | None:
    """Return why these spectra teach nothing; None if they do."""
    usable, known = summary.n_read - summary.n_unusable, job.known
    if not usable:
        edges = job.representation.grid.edges
        hint = f", such as {summary.notes[0]}" if summary.notes else "; FLAGS of `broadline classify` say why"
        return (
            f"none of the {summary.n_read:,} spectra can be used on the pixels from {edges[0]:.0f} to "
            f"{edges[-1]:.0f} Angstrom{hint}"
        )
    for truth, n_listed in zip(known.truths, summary.n_listed, strict=True):
        if not n_listed:
            return (
                f"{truth.source} knows none of the {usable:,} spectra (its own {len(truth):,} it names by "
                f"{truth.by}); give the truth of these"
            )
    if not len(summary):
        return f"all {summary.n_ancillary:,} spectra that {known.source} knows are of ancillary programmes"
    problem = one_sided(np.arange(len(summary)) < summary.classes["QSO"])
    return f"the spectra that {known.source} knows hold {problem}" if problem else None


# ---- in the workers


def _write_unit(number: int, unit: Unit, job: _Job) -> Record:
    summary = Summary()
    shards: list[dict[str, Any]] = []
    values: list[NDArray[np.float16]] = []
    tables: list[pa.Table] = []

    def close() -> None:
        if tables:
            shards.append(_write_shard(job.folder, f"{number:06d}-{len(shards):03d}", values, tables))
            values.clear()
            tables.clear()

    for spectra in read_group(unit.archive, unit.paths, _BATCH, unit.faults):
        represented = job.representation(spectra)
        labels = job.known.label(spectra.ids, represented.flags)
        kept = _choose(represented.flags, labels, job, summary)
        summary.add({"notes": list(spectra.notes)})
        if len(kept):
            tables.append(_table(spectra, represented, labels, kept, summary))
            values.append(represented.values[kept].clip(-_LARGEST, _LARGEST).astype(np.float16))
        if sum(part.nbytes for part in values) >= _SHARD:
            close()
    close()
    return {"counts": summary.to_dict(), "shards": shards}


def _choose(flags: NDArray[np.uint32], labels: Labels, job: _Job, summary: Summary) -> NDArray[np.int64]:
    """Return the spectra of a batch to keep, and count the others, each for the first reason there is."""
    usable, known = (flags & UNCLASSIFIED) == 0, labels.known
    ancillary = known & labels.columns["ANCILLARY"] & (not job.keep_ancillary)
    summary.add(
        {
            "n_listed": (labels.listed & usable).sum(axis=1).tolist(),
            "n_read": len(flags),
            "n_unusable": int((~usable).sum()),
            "n_unmatched": int((usable & ~known).sum()),
            "n_ancillary": int((usable & ancillary).sum()),
        }
    )
    return np.flatnonzero(usable & known & ~ancillary)


def _table(
    spectra: Spectra, represented: Represented, labels: Labels, kept: NDArray[np.int64], summary: Summary
) -> pa.Table:
    """Return what is known of the spectra kept, and count them."""
    known = {name: column[kept] for name, column in labels.columns.items()}
    kind = known["CLASS"]
    counted = np.bincount(kind, minlength=len(CLASSES)).tolist()
    summary.add(
        {
            "classes": dict(zip(CLASSES, counted, strict=True)),
            "n_doubtful": int((known["CONFIDENCE"] < FIRM).sum()),
            "n_bal": int(((known["BAL_FLAG"] == 1) & (kind == QSO)).sum()),
        }
    )
    ids, n = spectra.ids, len(kept)
    columns = known | {
        "SPECTRUM": ids["OBJID"][kept],
        "PLATE": ids["PLATE"][kept] if "PLATE" in ids else np.full(n, -1, np.int32),
        "RA": ids["RA"][kept] if "RA" in ids else np.full(n, np.nan),
        "DEC": ids["DEC"][kept] if "DEC" in ids else np.full(n, np.nan),
        "FLAGS": represented.flags[kept],
        "SN": represented.sn_median[kept],
        "CLASS": pa.DictionaryArray.from_arrays(kind, list(CLASSES)),
    }
    return pa.table(columns, schema=COLUMNS)


def _write_shard(
    folder: Path, name: str, values: list[NDArray[np.float16]], tables: list[pa.Table]
) -> dict[str, Any]:
    """Write the two files of a shard; return its entry in the manifest."""
    merged = np.concatenate(values)
    shard: dict[str, Any] = {"name": name, "n": len(merged)}
    image, truth = shard_paths(folder, shard)
    table = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables).combine_chunks(), table, compression="zstd")
    return shard | {"sha256": [_write_array(image, merged), _write(truth, table)]}


def _write_array(path: Path, values: NDArray[Any]) -> str:
    """Write an array; return the checksum of the file."""
    stream = pa.BufferOutputStream()
    np.lib.format.write_array(stream, values, allow_pickle=False)
    return _write(path, stream)


def _write(path: Path, stream: pa.BufferOutputStream) -> str:
    content = memoryview(stream.getvalue())
    write_aside(path, content)
    return hashlib.sha256(content).hexdigest()
