"""Training sets on disk: represented spectra with what is known of them, in memory-mapped shards.

A set is a folder. ``manifest.json`` names the representation, the counts and each shard with its checksums.
A shard ``NAME`` is ``values-NAME.npy``, float16 of shape (n, n_pixels) or (n, 2, n_pixels), and
``truth-NAME.parquet``, a row a spectrum (`COLUMNS`). Targets are not stored: networks of other boxes
and lines learn from the same set.

float16 halves the set: 500,000 spectra of 443 pixels are 0.44 GB, of two channels 0.89 GB. Of published
weights on 300 real spectra it moves no confidence by more than 0.0006 and no line by more than 6 km/s.
"""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline import __version__
from broadline.errors import UsageError
from broadline.flags import UNCLASSIFIED
from broadline.inputs import Inputs, expand, read_group
from broadline.lines import QUASARNET_LINES
from broadline.pipeline import MAX_NOTES, Unit, plan
from broadline.representation import Representation, Represented
from broadline.spectra import Spectra
from broadline.truth import CLASSES, QSO, Truth, match, read_truth_table
from broadline.workers import Workers, available_cores
from broadline.workers import prepare as start_preparing

if TYPE_CHECKING:
    from broadline.training.objective import Counts, Targets
    from broadline.training.presets import Preset
    from broadline.training.simulated import Examples

__all__ = ["COLUMNS", "PreparedSet", "Summary", "prepare"]

#: What a set knows of each spectrum: SPECTRUM (its OBJID), PLATE (-1 where there is none), FLAGS and SN (of
#: the representation), and of the truth CLASS, Z (NaN: unknown), CONFIDENCE (0-3), BAL_FLAG (-1: unknown),
#: BALNICITY (km/s, NaN: unknown), OBJECT (the same for all spectra of an object) and ANCILLARY.
COLUMNS = pa.schema(
    {
        "SPECTRUM": pa.string(),
        "PLATE": pa.int32(),
        "FLAGS": pa.uint32(),
        "SN": pa.float32(),
        "CLASS": pa.dictionary(pa.int8(), pa.string()),
        "Z": pa.float64(),
        "CONFIDENCE": pa.int8(),
        "BAL_FLAG": pa.int8(),
        "BALNICITY": pa.float32(),
        "OBJECT": pa.int64(),
        "ANCILLARY": pa.bool_(),
    }
)

_FORMAT = 1
_MANIFEST, _PARTS = "manifest.json", ".parts"
_BATCH = 256  # spectra read at a time: bounds the memory of a worker
_SHARD = 8192  # spectra; a unit of work begins a shard of its own
_CHUNK, _WINDOW = 256, 256  # rows read as one; such chunks shuffled as one: 58 MB for 443 pixels
_LARGEST = float(np.finfo(np.float16).max)
#: How firm a label of confidence 0 to 3 is: what is in doubt counts less than half, so that none is scored.
_FIRM = np.array([0.0, 0.2, 0.4, 1.0])


@dataclass(slots=True)
class Summary:
    """What became of the spectra.

    Attributes
    ----------
    n_read : int
    n_unusable : int
        Left out because no network could classify them (`flags.UNCLASSIFIED`).
    n_unmatched : int
        Left out because the truth does not know them.
    n_ancillary : int
        Left out as targets of ancillary programmes.
    n_doubtful : int
        In the set, without a firm identification (confidence below 3).
    n_bal : int
        In the set, tagged as broad absorption line quasars.
    n_repeated : int
        In the set, of the same name as another one.
    classes : dict of str to int
        Spectra in the set, by class.
    notes : list of str
        The reason for each file that could not be read, at most `pipeline.MAX_NOTES`.
    """

    n_read: int = 0
    n_unusable: int = 0
    n_unmatched: int = 0
    n_ancillary: int = 0
    n_doubtful: int = 0
    n_bal: int = 0
    n_repeated: int = 0
    classes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(self.classes.values())

    def add(self, fields: dict[str, Any]) -> None:
        """Count what a unit of work did."""
        for name, value in fields.items():
            if name == "classes":
                self.classes = {key: self.classes[key] + value[key] for key in self.classes}
            elif name == "notes":
                self.notes.extend(value[: MAX_NOTES - len(self.notes)])
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


# ---- making a set


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
    if problem := _one_sided(known.kind == QSO):
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
    path = folder / _MANIFEST
    if path.exists():
        state = _read_manifest(folder)
        if different := [name for name, value in request.items() if state["request"].get(name) != value]:
            raise UsageError(
                f"folder {folder} holds another set (not the same: {', '.join(different)}); give a new folder"
            )
        return state
    if any(not entry.name.endswith(".part") for entry in folder.iterdir()):
        raise UsageError(f"folder {folder} is not empty; give a new folder")
    state = {"format": _FORMAT, "request": request, "finished": False, "counts": {}, "shards": []}
    _write_json(path, state)
    return state


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        kinds = [type(state[key]) for key in ("request", "finished", "counts", "shards")]
        if kinds != [dict, bool, dict, list]:
            raise ValueError("it is not what `broadline prepare` writes")
        found = state["format"]
    except FileNotFoundError as error:
        raise UsageError(f"{folder} is no training set: it has no {_MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); prepare the set again in a new folder") from error
    if found != _FORMAT:
        raise UsageError(f"{folder} has format {found}, which this version of broadline does not know")
    return state


def _write_aside(path: Path, content: bytes | memoryview) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_aside(path, (json.dumps(content, indent=1) + "\n").encode())


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
    context = start_preparing(["broadline.training.dataset", "broadline.archives"])
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
            for path in _paths(folder, shard):
                path.unlink()
        shutil.rmtree(folder / _PARTS)
        (folder / _MANIFEST).unlink()
        raise UsageError(problem)
    names = pa.chunked_array(
        [
            pq.read_table(_paths(folder, shard)[1], columns=["SPECTRUM"])["SPECTRUM"].chunk(0)
            for shard in shards
        ]
    )
    summary.n_repeated = len(names) - pc.count_distinct(names).as_py()
    state |= {"finished": True, "counts": summary.to_dict(), "shards": shards}
    _write_json(folder / _MANIFEST, state)


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
    problem = _one_sided(np.arange(len(summary)) < n_quasars)
    return f"the spectra that {truth.source} knows hold {problem}" if problem else None


def _one_sided(quasar: NDArray[np.bool_]) -> str | None:
    """Return in words which class is missing; None if there are quasars and others."""
    if not quasar.any():
        return "no quasar, so nothing shows what one looks like: add spectra of class QSO"
    if quasar.all():
        return "quasars only, so nothing shows what is none: add spectra of stars and galaxies"
    return None


# ---- in the workers

_job: _Job | None = None


def _start(job: _Job) -> None:
    global _job
    warnings.simplefilter("ignore")
    _job = job
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
            "n_doubtful": int((confidence < len(_FIRM) - 1).sum()),
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
    for path, stream in zip(_paths(folder, shard), (image, table), strict=True):
        content = memoryview(stream.getvalue())
        shard["sha256"].append(hashlib.sha256(content).hexdigest())
        _write_aside(path, content)
    return shard


def _paths(folder: Path, shard: dict[str, Any]) -> tuple[Path, Path]:
    return folder / f"values-{shard['name']}.npy", folder / f"truth-{shard['name']}.parquet"


# ---- learning from a set


class PreparedSet:
    """A training set on disk as `fit.TrainingData`; the same seed and number give the same epoch.

    All checksums are compared once, on opening; values stay on disk and are read in windows.

    Parameters
    ----------
    folder : Path
        As `prepare` wrote it.
    preset : Preset
        Its representation must be the set's.
    seed : int

    Attributes
    ----------
    sha256 : str
        Of the manifest, and thereby of everything.
    columns : dict of str to ndarray
        `COLUMNS` but SPECTRUM, of the whole set; CLASS as indices into `truth.CLASSES`.
    rows : ndarray of int64
        The spectra of this subset, as rows of the whole set, increasing.

    Raises
    ------
    UsageError
        If the folder holds no finished set, a file of it is damaged, or it was made for another
        representation than the preset's.
    """

    def __init__(self, folder: Path, preset: Preset, seed: int = 0) -> None:
        self.folder, self.preset, self.seed = folder, preset, seed
        manifest = _read_manifest(folder)
        if not manifest["finished"]:
            raise UsageError(f"{folder} is not finished: give its `broadline prepare` command again")
        _refuse_other(folder, manifest["request"]["representation"], preset)
        self.shards = manifest["shards"]
        self.sha256 = hashlib.sha256((folder / _MANIFEST).read_bytes()).hexdigest()
        for shard in self.shards:
            for path, digest in zip(_paths(folder, shard), shard["sha256"], strict=True):
                _verify(path, digest)
        self._first = np.cumsum([0, *(shard["n"] for shard in self.shards)])
        self.columns = self._load_columns()
        self.rows = np.arange(self._first[-1])

    def __len__(self) -> int:
        return len(self.rows)

    def _load_columns(self) -> dict[str, NDArray[Any]]:
        names = [name for name in COLUMNS.names if name != "SPECTRUM"]
        tables = [pq.read_table(_paths(self.folder, shard)[1], columns=names) for shard in self.shards]
        table = pa.concat_tables(tables).combine_chunks()
        columns = {name: table[name] for name in names}
        columns["CLASS"] = columns["CLASS"].combine_chunks().indices
        return {name: np.asarray(column) for name, column in columns.items()}

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what the spectra in some rows of the whole set are called."""
        tables = [pq.read_table(_paths(self.folder, s)[1], columns=["SPECTRUM"]) for s in self.shards]
        return [str(name) for name in pa.concat_tables(tables)["SPECTRUM"].take(rows).to_pylist()]

    def subset(self, rows: NDArray[np.int64]) -> Self:
        """Return the set with these rows of the whole set alone, such as a part of a split.

        Raises
        ------
        ValueError
            If the rows are not among those there are.
        """
        rows = np.unique(np.asarray(rows, dtype=np.int64))
        if len(rows) and (rows[0] < 0 or rows[-1] >= self._first[-1]):
            raise ValueError(f"rows must be from 0 to {self._first[-1] - 1}")
        part = copy.copy(self)
        part.rows = rows
        return part

    def epoch(self, number: int) -> Iterator[Examples]:
        """Yield whole batches in an order decided by seed and number; a rest of less is left out.

        Runs of 256 rows are drawn at random, and 256 such runs are shuffled as one.

        Raises
        ------
        UsageError
            If there are only quasars to learn from, or none.
        """
        if problem := _one_sided(self.columns["CLASS"][self.rows] == QSO):
            raise UsageError(f"the {len(self):,} spectra of {self.folder} to learn from hold {problem}")
        rng = np.random.Generator(np.random.SFC64([self.seed, number]))
        batch = self.preset.batch
        chunks = np.array_split(self.rows, np.arange(_CHUNK, len(self.rows), _CHUNK))
        order = rng.permutation(len(chunks))
        rows, values = self.rows[:0], self._read(self.rows[:0])
        for start in range(0, len(order), _WINDOW):
            new = np.concatenate([chunks[i] for i in order[start : start + _WINDOW]])
            rows, values = np.append(rows, new), self._read(new, values)
            mixed = rng.permutation(len(rows))
            whole = len(rows) // batch * batch
            for i in range(0, whole, batch):
                take = mixed[i : i + batch]
                yield self._examples(rows[take], values[take])
            rows, values = rows[mixed[whole:]], values[mixed[whole:]]

    def ordered(self) -> Iterator[Examples]:
        """Yield all spectra in the order of their rows, for validation; the last batch may be small."""
        for start in range(0, len(self), self.preset.batch):
            rows = self.rows[start : start + self.preset.batch]
            yield self._examples(rows, self._read(rows))

    def counts(self) -> Counts:
        """Return the sums over the sample that normalise equation 1 as printed."""
        from broadline.training.objective import Counts, count

        n_boxes, at_once = self.preset.network.n_boxes, _CHUNK * _WINDOW
        parts = [
            count(self._targets(self.rows[start : start + at_once]), n_boxes)
            for start in range(0, max(len(self), 1), at_once)
        ]
        positives, negatives = parts[0].positives, parts[0].negatives
        for part in parts[1:]:
            positives, negatives = positives + part.positives, negatives + part.negatives
        return Counts(positives, negatives, len(self))

    def _read(
        self, rows: NDArray[np.int64], before: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Return the values in some rows, after what came before. Files are mapped only while being read."""
        pixels = self.preset.representation.grid.size
        shape = (2, pixels) if self.preset.representation.channels == "flux+error" else (pixels,)
        n_before = 0 if before is None else len(before)
        values = np.empty((n_before + len(rows), *shape), dtype=np.float16)
        if before is not None:
            values[:n_before] = before
        shard = np.searchsorted(self._first, rows, side="right") - 1
        cuts = np.flatnonzero(np.diff(shard)) + 1
        for which in np.split(np.arange(len(rows)), cuts) if len(rows) else []:
            i = shard[which[0]]
            path = _paths(self.folder, self.shards[i])[0]
            try:
                image = np.load(path, mmap_mode="r", allow_pickle=False)
                values[n_before + which[0] : n_before + which[-1] + 1] = image[rows[which] - self._first[i]]
            except (OSError, ValueError, IndexError) as error:
                raise UsageError(f"{path} cannot be read any more ({error}); start again") from error
        return values

    def _examples(self, rows: NDArray[np.int64], values: NDArray[np.float16]) -> Examples:
        import torch

        from broadline.training.simulated import Examples

        quasar, z, firm, bal = self._truth(rows)
        x = torch.from_numpy(values).float()
        return Examples(x, self._targets(rows), np.where(quasar, z, np.nan), firm, bal, rows)

    def _truth(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Return which spectra are quasars, z, how firm the labels are, and BAL labels."""
        from broadline.training.objective import bal_labels

        columns = {name: self.columns[name][rows] for name in ("CLASS", "Z", "CONFIDENCE", "BAL_FLAG")}
        flag = columns["BAL_FLAG"]
        balnicity = np.where(flag < 0, np.nan, self.columns["BALNICITY"][rows])
        bal = bal_labels(flag == 1, balnicity)
        return columns["CLASS"] == QSO, columns["Z"], _FIRM[columns["CONFIDENCE"]], bal

    def _targets(self, rows: NDArray[np.int64]) -> Targets:
        from broadline.training.objective import targets

        quasar, z, firm, bal = self._truth(rows)
        preset = self.preset
        grid, n_boxes = preset.representation.grid, preset.network.n_boxes
        return targets(z, quasar, bal, QUASARNET_LINES, grid, n_boxes, firm, preset.unsure)


def _verify(path: Path, digest: str) -> None:
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); prepare the set again") from error
    if found != digest:
        raise UsageError(f"{path} is damaged: its checksum differs; prepare the set again in a new folder")


def _refuse_other(folder: Path, fields: dict[str, Any], preset: Preset) -> None:
    wanted = json.loads(json.dumps(preset.representation.to_dict()))
    if fields != wanted:
        names = [name for name in wanted if fields.get(name) != wanted[name]]
        made = ", ".join(f"{name} {fields.get(name)!r} instead of {wanted[name]!r}" for name in names)
        raise UsageError(
            f"{folder} was made for another representation than that of preset {preset.name}: {made}; "
            "prepare the spectra again for it"
        )
