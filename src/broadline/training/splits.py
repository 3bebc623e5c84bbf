"""Splits of a sample into what is learnt from and what is scored on; no object is in both, unless told so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import UsageError

__all__ = [
    "Leakage",
    "Sizes",
    "Split",
    "by_plate",
    "check",
    "folds",
    "leakage",
    "random_splits",
    "read_splits",
    "sized_split",
    "write_splits",
]

_PARTS = ("training", "validation", "test")  # 1, 2 and 3 in a file; 0 for spectra that are in none
_BY_SPECTRUM = "_BY_SPECTRUM"  # ends the column of such a split

Objects = NDArray[np.int64]
_NONE: Objects = np.empty(0, dtype=np.int64)


class Split(NamedTuple):
    """Rows of a sample.

    Attributes
    ----------
    training, validation, test : ndarray of int64
        Increasing; disjoint, and so are their objects. Validation decides when training ends and which
        epoch is kept; test, which may be empty, decides nothing.
    by_spectrum : bool
        Objects may be in several parts (`leakage`).
    """

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64] = _NONE
    by_spectrum: bool = False

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The parts that are not left out, by name."""
        return {name: getattr(self, name) for name in _PARTS if name != "test" or len(self.test)}

    @property
    def held_out(self) -> NDArray[np.int64]:
        """What a model is scored on: the test part, or without one the validation part."""
        return self.test if len(self.test) else self.validation

    def limited(self, n: int, seed: int = 0) -> Self:
        """Return the split with `n` of the training spectra alone, for learning curves.

        They are the first of one random order: those of the same seed and a larger number contain them.

        Raises
        ------
        UsageError
            If there are not as many.
        """
        if not 0 < n <= len(self.training):
            raise UsageError(f"the training part of a split holds {len(self.training):,} spectra, not {n:,}")
        order = np.random.default_rng(seed).permutation(len(self.training))
        return self._replace(training=self.training[np.sort(order[:n])])


class Sizes(NamedTuple):
    """How large the parts of a split are that is made by `sized_split`.

    Attributes
    ----------
    validation, test : float
        Spectra; below 1, their share of all. The rest is learnt from.
    by_spectrum : bool
        Let spectra of an object be in several parts, as Podsztavek, Skoda & Tvrdik (2021), section 2, did.
    """

    validation: float
    test: float = 0
    by_spectrum: bool = False


class Leakage(NamedTuple):
    """What is known of the held-out parts of a split from what is learnt.

    Attributes
    ----------
    objects : int
        In more than one part.
    validation, test : int
        Spectra of the part whose object is also in training.
    """

    objects: int
    validation: int
    test: int

    def __str__(self) -> str:
        return (
            f"{self.objects:,} objects are in more than one part; another visit is learnt from of "
            f"{self.validation:,} validation and {self.test:,} test spectra"
        )


def sized_split(objects: Objects, sizes: Sizes, seed: int = 0) -> Split:
    """Return a random split of parts of given sizes.

    Parameters
    ----------
    objects : ndarray of int64, shape (n_spectra,)
        The same number for all spectra of an object.
    sizes : Sizes
        Of parts by object the least: a part is larger where the last of its objects has several spectra.
    seed : int
        The test part depends on it and its own size alone, not on the others.

    Raises
    ------
    UsageError
        If a size is impossible, or nothing is left to learn from.
    """
    if not (sizes.validation > 0 and sizes.test >= 0):
        raise UsageError(
            f"a split has a validation part, and parts of a positive size; not {sizes.validation:g} and "
            f"{sizes.test:g}"
        )
    n = len(objects)
    n_test, n_validation = (round(x * n) if x < 1 else round(x) for x in (sizes.test, sizes.validation))
    names, group = np.unique(np.arange(n) if sizes.by_spectrum else objects, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.cumsum(np.append(0, np.bincount(group)[order]))  # spectra of the objects before each
    first = int(np.searchsorted(before, n_test))
    second = int(np.searchsorted(before, before[min(first, len(names))] + n_validation))
    if second >= len(names):
        raise UsageError(
            f"{n_validation:,} spectra for validation and {n_test:,} for a test leave none of {n:,} to learn "
            "from: give smaller numbers, or shares below 1"
        )
    part = np.zeros(len(names), dtype=np.int8)
    part[order[:first]], part[order[first:second]] = 2, 1
    training, validation, test = (np.flatnonzero(part[group] == i) for i in range(3))
    return Split(training, validation, test, sizes.by_spectrum)


def leakage(split: Split, objects: Objects) -> Leakage:
    """Return how much of a split is also in another part of it."""
    learnt = objects[split.training]
    parts = [np.unique(objects[rows]) for rows in (split.training, split.validation, split.test)]
    _, times = np.unique(np.concatenate(parts), return_counts=True)
    known = (np.isin(objects[rows], learnt).sum() for rows in (split.validation, split.test))
    return Leakage(int((times > 1).sum()), *map(int, known))


def random_splits(objects: Objects, n: int = 10, share: float = 0.2, seed: int = 0) -> list[Split]:
    """Return random splits of spectra as the paper makes them.

    Parameters
    ----------
    objects : ndarray of int64, shape (n_spectra,)
        The same number for all spectra of an object.
    n : int
        Splits.
    share : float
        Of spectra that are not learnt from.
    seed : int

    Notes
    -----
    Busca & Balland (2018), section 3: spectra are drawn at random, and those of objects that are also in the
    training sample are then left out of the validation sample, which thereby is less than `share`, and holds
    fewer of the objects that were observed often. `folds` loses none.
    """
    rng = np.random.default_rng(seed)
    n_held = round(share * len(objects))
    held = np.zeros((n, len(objects)), dtype=bool)
    for row in held:
        row[rng.permutation(len(objects))[:n_held]] = True
    return [_split(row, objects) for row in held]


def folds(objects: Objects, k: int = 5, seed: int = 0) -> list[Split]:
    """Return `k` splits that validate each spectrum once; all spectra of an object are in one fold."""
    return _grouped(objects, objects, k, seed)


def by_plate(plates: NDArray[np.int32], objects: Objects, k: int = 5, seed: int = 0) -> list[Split]:
    """Return `k` splits that validate on plates of which nothing was learnt.

    Of the validation plates, spectra of objects that are also on a training plate are left out.

    Parameters
    ----------
    plates : ndarray of int32, shape (n_spectra,)
    objects : ndarray of int64, shape (n_spectra,)
    k : int
    seed : int

    Raises
    ------
    UsageError
        If spectra have no plate, or there are fewer plates than splits.
    """
    if (plates < 0).any():
        raise UsageError(f"{(plates < 0).sum():,} spectra have no plate; split them by object")
    return _grouped(plates, objects, k, seed)


def _grouped(groups: NDArray[np.integer], objects: Objects, k: int, seed: int) -> list[Split]:
    """Return a split for each of `k` parts of nearly equal numbers of groups."""
    names, group = np.unique(groups, return_inverse=True)
    if not 2 <= k <= len(names):
        raise UsageError(f"{len(names)} objects or plates cannot be split into {k} parts of at least one")
    part = np.random.default_rng(seed).permutation(len(names)) % k
    return [_split(part[group] == i, objects) for i in range(k)]


def _split(held: NDArray[np.bool_], objects: Objects) -> Split:
    training = np.flatnonzero(~held)
    validation = np.flatnonzero(held)
    return Split(training, validation[~np.isin(objects[validation], objects[training])])


def check(split: Split, objects: Objects) -> None:
    """Raise if a split leaks.

    Raises
    ------
    UsageError
        If an object is in several parts of a split that is not by spectrum, a spectrum is in several parts of
        any, a part is empty, or a row is not of the sample.
    """
    for name, rows in split.parts.items():
        if not len(rows):
            raise UsageError(f"the {name} part of a split holds no spectrum: give more spectra")
        if rows.min() < 0 or rows.max() >= len(objects):
            raise UsageError(f"the {name} part of a split names rows that the sample does not have")
    of_what, names = ("spectra", np.arange(len(objects))) if split.by_spectrum else ("objects", objects)
    for one, other in combinations(split.parts, 2):
        both = np.intersect1d(names[split.parts[one]], names[split.parts[other]])
        if len(both):
            raise UsageError(
                f"a split leaks: {len(both):,} {of_what}, such as {both[0]}, are in both {one} and {other}; "
                "make the splits anew"
            )


def write_splits(path: Path, splits: Sequence[Split], objects: Objects) -> None:
    """Write splits as Parquet: OBJECT, and a column of 1 (training), 2 (validation), 3 (test) or 0 for each.

    The column of split number 0 is SPLIT_0, or SPLIT_0_BY_SPECTRUM.

    Raises
    ------
    UsageError
        If a split leaks or is empty (see `check`), or the file cannot be written.
    """
    columns: dict[str, NDArray[np.integer]] = {"OBJECT": objects}
    for i, split in enumerate(splits):
        check(split, objects)
        column = np.zeros(len(objects), dtype=np.int8)
        for code, name in enumerate(_PARTS, start=1):
            column[getattr(split, name)] = code
        columns[f"SPLIT_{i}{_BY_SPECTRUM * split.by_spectrum}"] = column
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pq.write_table(pa.table(columns), aside, compression="zstd")
        aside.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write the splits {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def read_splits(path: Path, objects: Objects) -> list[Split]:
    """Return the splits of a file.

    Parameters
    ----------
    path : Path
    objects : ndarray of int64, shape (n_spectra,)
        Those of the sample that is to be split.

    Raises
    ------
    UsageError
        If the file cannot be read, is of another sample, or a split leaks.
    """
    try:
        table = pq.read_table(path)
        made_for = np.asarray(table["OBJECT"])
    except (OSError, pa.ArrowException, KeyError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as a file of splits ({said})") from error
    if not np.array_equal(made_for, objects):
        raise UsageError(f"{path} splits another sample than this one: make the splits anew")
    splits = []
    for name in table.column_names[1:]:
        part = np.asarray(table[name])
        training, validation, test = (np.flatnonzero(part == code) for code in (1, 2, 3))
        split = Split(training, validation, test, name.endswith(_BY_SPECTRUM))
        check(split, objects)
        splits.append(split)
    return splits
