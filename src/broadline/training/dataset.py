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
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.pipeline import MAX_NOTES
from broadline.truth import CLASSES, QSO

if TYPE_CHECKING:
    from broadline.training.objective import Counts, Targets
    from broadline.training.presets import Preset
    from broadline.training.simulated import Examples

__all__ = [
    "COLUMNS",
    "FORMAT",
    "MANIFEST",
    "PreparedSet",
    "Summary",
    "one_sided",
    "read_manifest",
    "shard_paths",
]

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

#: Of the manifest.
FORMAT, MANIFEST = 1, "manifest.json"

_CHUNK, _WINDOW = 256, 256  # rows read as one; such chunks shuffled as one: 58 MB for 443 pixels
_AHEAD = 8  # batches: half a second of training on two cores, enough to read a window
#: How firm a label of confidence 0 to 3 is: what is in doubt counts less than half, so that none is scored.
_FIRM = np.array([0.0, 0.2, 0.4, 1.0])


# ---- the files of a set


@dataclass(slots=True)
class Summary:
    """What became of the spectra that a set was made of; the counts in its manifest.

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


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a set, also of one that is not finished.

    Raises
    ------
    UsageError
        If there is none, or it is damaged or of a format that is not known.
    """
    path = folder / MANIFEST
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        kinds = [type(state[key]) for key in ("request", "finished", "counts", "shards")]
        if kinds != [dict, bool, dict, list]:
            raise ValueError("it is not what `broadline prepare` writes")
        found = state["format"]
    except FileNotFoundError as error:
        raise UsageError(f"{folder} is no training set: it has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); prepare the set again in a new folder") from error
    if found != FORMAT:
        raise UsageError(f"{folder} has format {found}, which this version of broadline does not know")
    return state


def shard_paths(folder: Path, shard: dict[str, Any]) -> tuple[Path, Path]:
    """Return the files of a shard, given its entry in the manifest: values and truth."""
    return folder / f"values-{shard['name']}.npy", folder / f"truth-{shard['name']}.parquet"


def one_sided(quasar: NDArray[np.bool_]) -> str | None:
    """Return in words which class is missing; None if there are quasars and others."""
    if not quasar.any():
        return "no quasar, so nothing shows what one looks like: add spectra of class QSO"
    if quasar.all():
        return "quasars only, so nothing shows what is none: add spectra of stars and galaxies"
    return None


# ---- learning from a set


class PreparedSet:
    """A training set on disk as `fit.TrainingData`; the same seed and number give the same epoch.

    All checksums are compared once, on opening; values stay on disk and are read in windows.

    Parameters
    ----------
    folder : Path
        As `prepare.prepare` wrote it.
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
        manifest = read_manifest(folder)
        if not manifest["finished"]:
            raise UsageError(f"{folder} is not finished: give its `broadline prepare` command again")
        _refuse_other(folder, manifest["request"]["representation"], preset)
        self.shards = manifest["shards"]
        self.sha256 = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        for shard in self.shards:
            for path, digest in zip(shard_paths(folder, shard), shard["sha256"], strict=True):
                _verify(path, digest)
        self._first = np.cumsum([0, *(shard["n"] for shard in self.shards)])
        self.columns = self._load_columns()
        self.rows = np.arange(self._first[-1])

    def __len__(self) -> int:
        return len(self.rows)

    def _load_columns(self) -> dict[str, NDArray[Any]]:
        names = [name for name in COLUMNS.names if name != "SPECTRUM"]
        tables = [pq.read_table(shard_paths(self.folder, shard)[1], columns=names) for shard in self.shards]
        table = pa.concat_tables(tables).combine_chunks()
        columns = {name: table[name] for name in names}
        columns["CLASS"] = columns["CLASS"].combine_chunks().indices
        return {name: np.asarray(column) for name, column in columns.items()}

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what the spectra in some rows of the whole set are called."""
        tables = [pq.read_table(shard_paths(self.folder, s)[1], columns=["SPECTRUM"]) for s in self.shards]
        return [str(name) for name in pa.concat_tables(tables)["SPECTRUM"].take(rows).to_pylist()]

    def subset(self, rows: NDArray[np.int64], seed: int | None = None) -> Self:
        """Return the set with these rows of the whole set alone, such as a part of a split.

        Parameters
        ----------
        rows : ndarray of int64
        seed : int, optional
            Instead of this one's.

        Raises
        ------
        ValueError
            If the rows are not among those there are.
        """
        rows = np.unique(np.asarray(rows, dtype=np.int64))
        if len(rows) and (rows[0] < 0 or rows[-1] >= self._first[-1]):
            raise ValueError(f"rows must be from 0 to {self._first[-1] - 1}")
        part = copy.copy(self)
        part.rows, part.seed = rows, self.seed if seed is None else seed
        return part

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield whole batches in an order decided by seed and number; a rest of less is left out.

        They are read and put together ahead, in a thread.

        Raises
        ------
        UsageError
            If there are only quasars to learn from, or none.
        """
        from broadline.simulation.stream import Stream

        with Stream(self._batches(number), _AHEAD) as stream:
            yield from stream

    def _batches(self, number: int) -> Iterator[Examples]:
        batch = self.preset.batch
        rows, values = self.rows[:0], self._read(self.rows[:0])
        for new, mixed in self._windows(number):
            rows, values = np.append(rows, new), self._read(new, values)
            whole = len(rows) // batch * batch
            for i in range(0, whole, batch):
                take = mixed[i : i + batch]
                yield self._examples(rows[take], values[take])
            rows, values = rows[mixed[whole:]], values[mixed[whole:]]

    def order(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each batch of `epoch`."""
        rows = self.rows[:0]
        for new, mixed in self._windows(number):
            rows = np.append(rows, new)[mixed]
            whole = len(rows) // self.preset.batch * self.preset.batch
            yield from rows[:whole].reshape(-1, self.preset.batch)
            rows = rows[whole:]

    def _windows(self, number: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield rows to be read next, and in which order they and those left from before make batches.

        Runs of 256 rows are drawn at random, and 256 such runs are shuffled as one.
        """
        if problem := one_sided(self.columns["CLASS"][self.rows] == QSO):
            raise UsageError(f"the {len(self):,} spectra of {self.folder} to learn from hold {problem}")
        rng = np.random.Generator(np.random.SFC64([self.seed, number]))
        chunks = np.array_split(self.rows, np.arange(_CHUNK, len(self.rows), _CHUNK))
        order, left = rng.permutation(len(chunks)), 0
        for start in range(0, len(order), _WINDOW):
            new = np.concatenate([chunks[i] for i in order[start : start + _WINDOW]])
            mixed = rng.permutation(left + len(new))
            yield new, mixed
            left = len(mixed) % self.preset.batch

    def ordered(self) -> Iterator[Examples]:
        """Yield all spectra in the order of their rows, for validation; the last batch may be small."""
        for start in range(0, len(self), self.preset.batch):
            rows = self.rows[start : start + self.preset.batch]
            yield self._examples(rows, self._read(rows))

    def counts(self) -> Counts:
        """Return the sums over the sample that normalise equation 1 as printed."""
        from broadline.training.objective import Counts, count

        n_boxes, at_once = self.preset.finders.n_boxes, _CHUNK * _WINDOW
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
            path = shard_paths(self.folder, self.shards[i])[0]
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
        x = torch.from_numpy(values.astype(np.float32))  # torch would start threads for it
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
        from broadline.training.task import task_of

        quasar, z, firm, bal = self._truth(rows)
        return task_of(self.preset).targets(z, quasar, bal, firm)


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
