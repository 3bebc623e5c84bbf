"""Learning from a training set on disk, which `prepare.prepare` wrote: windows of it are read at random."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.grid import Grid
from broadline.networks.architecture import QuasarNETConfig
from broadline.training.manifest import COLUMNS, MANIFEST, OBJECTS, one_sided, read_manifest, shard_paths
from broadline.truth import QSO

if TYPE_CHECKING:
    from broadline.training.objective import Counts, Targets
    from broadline.training.presets import Preset
    from broadline.training.simulated import Examples

__all__ = ["PreparedSet"]

# Rows of 443 pixels that are read as one, or fewer of longer ones; and such chunks that are shuffled as one:
# 58 MB, however many pixels there are.
_CHUNK, _WINDOW = 256, 256
_ROW = 443  # pixels
# Not needed for learning; sets made earlier lack the last three.
_UNREAD = ("SPECTRUM", "RA", "DEC", "CONTROL")
_AHEAD = 8  # batches: half a second of training on two cores, enough to read a window
#: How firm a label of confidence 0 to 3 is: what is in doubt counts less than half, so that none is scored.
_FIRM = np.array([0.0, 0.2, 0.4, 1.0])
#: The same where a redshift is not asked for: confidence 2 is a firm class.
_FIRM_CLASS = np.array([0.0, 0.2, 1.0, 1.0])


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
        `COLUMNS` but SPECTRUM, RA, DEC and CONTROL, of the whole set; CLASS as indices into `truth.CLASSES`,
        OBJECT a number that is the same for all spectra of an object.
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
        if "objects" in manifest:  # sets made before know the names of objects alone
            _verify(folder / OBJECTS, manifest["objects"])
            self.columns["OBJECT"] = np.load(folder / OBJECTS, allow_pickle=False)
        self.rows = np.arange(self._first[-1])
        self._share = slice(None)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def _shape(self) -> tuple[int, ...]:
        """The shape of the values of a spectrum."""
        pixels = self.preset.representation.grid.size
        return (2, pixels) if self.preset.representation.channels == "flux+error" else (pixels,)

    def _load_columns(self) -> dict[str, NDArray[Any]]:
        names = [name for name in COLUMNS.names if name not in _UNREAD]
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

    def share(self, rows: slice) -> Self:
        """Return this set with some rows of each batch of `epoch` alone: no others are read."""
        part = copy.copy(self)
        part._share = rows
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
        for window in self._windows(number):
            rows = np.sort(window, axis=None)
            values = self.values(rows)
            for ids in window:
                yield self._examples(ids, values[np.searchsorted(rows, ids)])
            del values  # or the next window would be read beside it

    def order(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each batch of `epoch`."""
        for window in self._windows(number):
            yield from window

    def _windows(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of some batches that are read as one, shape (n_batches, n).

        Runs of consecutive rows are drawn at random, and 256 such runs are shuffled as one. What is left of
        them, less than a batch, goes into the next window.
        """
        if problem := one_sided(self.columns["CLASS"][self.rows] == QSO):
            raise UsageError(f"the {len(self):,} spectra of {self.folder} to learn from hold {problem}")
        rng = np.random.Generator(np.random.SFC64([self.seed, number]))
        size = max(1, _CHUNK * _ROW // int(np.prod(self._shape)))
        chunks = np.array_split(self.rows, np.arange(size, len(self.rows), size))
        order, batch, left = rng.permutation(len(chunks)), self.preset.batch, self.rows[:0]
        for start in range(0, len(order), _WINDOW):
            rows = np.concatenate([left, *(chunks[i] for i in order[start : start + _WINDOW])])
            rows = rows[rng.permutation(len(rows))]
            whole = len(rows) // batch * batch
            yield rows[:whole].reshape(-1, batch)[:, self._share]
            left = rows[whole:]

    def ordered(self, first: int = 0, every: int = 1) -> Iterator[Examples]:
        """Yield all spectra in the order of their rows, for validation; the last batch may be small.

        Of these batches number `first` and each `every`-th after it are read and yielded.
        """
        batch = self.preset.batch
        for start in range(first * batch, len(self), every * batch):
            rows = self.rows[start : start + batch]
            yield self._examples(rows, self.values(rows))

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

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the values in some rows of the whole set, which rise. Files are mapped while being read."""
        values = np.empty((len(rows), *self._shape), dtype=np.float16)
        shard = np.searchsorted(self._first, rows, side="right") - 1
        cuts = np.flatnonzero(np.diff(shard)) + 1
        for which in np.split(np.arange(len(rows)), cuts) if len(rows) else []:
            i = shard[which[0]]
            path = shard_paths(self.folder, self.shards[i])[0]
            try:
                image = np.load(path, mmap_mode="r", allow_pickle=False)
                values[which[0] : which[-1] + 1] = image[rows[which] - self._first[i]]
            except (OSError, ValueError, IndexError) as error:
                raise UsageError(f"{path} cannot be read any more ({error}); start again") from error
        return values

    def _examples(self, rows: NDArray[np.int64], values: NDArray[np.float16]) -> Examples:
        import torch

        from broadline.training.simulated import Examples

        x = torch.from_numpy(values.astype(np.float32))  # torch would start threads for it
        return Examples(x, *self.taught(rows), rows)

    def taught(
        self, rows: NDArray[np.int64]
    ) -> tuple[Targets, NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
        """Return what `Examples` hold of some rows of the whole set, but their input and ids."""
        quasar, z, firm, bal = self._truth(rows)
        return self._targets(rows), np.where(quasar, z, np.nan), firm, bal

    def _truth(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Return which spectra are quasars, z, how firm the labels are, and BAL labels."""
        from broadline.training.objective import bal_labels

        columns = {name: self.columns[name][rows] for name in ("CLASS", "Z", "CONFIDENCE", "BAL_FLAG")}
        flag = columns["BAL_FLAG"]
        balnicity = np.where(flag < 0, np.nan, self.columns["BALNICITY"][rows])
        bal = bal_labels(flag == 1, balnicity)
        firm = _FIRM if isinstance(self.preset.network, QuasarNETConfig) else _FIRM_CLASS
        return columns["CLASS"] == QSO, columns["Z"], firm[columns["CONFIDENCE"]], bal

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
        made = ", ".join(
            f"{name} {_told(fields.get(name))} instead of {_told(wanted[name])}" for name in names
        )
        raise UsageError(
            f"{folder} was made for another representation than that of preset {preset.name}: {made}; "
            "prepare the spectra again for it"
        )


def _told(field: Any) -> str:
    """Return a field of a representation as people say it."""
    if not isinstance(field, dict):
        return repr(field)
    grid = Grid(**field)
    return f"({grid.size} {grid.kind} pixels, {grid.edges[0]:.0f}-{grid.edges[-1]:.0f} Angstrom)"
