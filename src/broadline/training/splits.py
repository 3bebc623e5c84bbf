"""Splits of a sample into what is learnt from and what is scored on; no object is in both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import UsageError

__all__ = ["Split", "by_plate", "check", "folds", "random_splits", "read_splits", "write_splits"]

_TRAINING, _VALIDATION = 1, 2  # in a file; 0 for spectra that are in neither

Objects = NDArray[np.int64]


class Split(NamedTuple):
    """Rows of a sample.

    Attributes
    ----------
    training, validation : ndarray of int64
        Increasing; disjoint, and so are their objects.
    """

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


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
        If an object is in both parts, a part is empty, or a row is not of the sample.
    """
    for name, rows in zip(Split._fields, split, strict=True):
        if not len(rows):
            raise UsageError(f"the {name} part of a split holds no spectrum: give more spectra")
        if rows.min() < 0 or rows.max() >= len(objects):
            raise UsageError(f"the {name} part of a split names rows that the sample does not have")
    both = np.intersect1d(objects[split.training], objects[split.validation])
    if len(both):
        raise UsageError(
            f"a split leaks: {len(both):,} objects, such as {both[0]}, are in both training and validation; "
            "make the splits anew"
        )


def write_splits(path: Path, splits: Sequence[Split], objects: Objects) -> None:
    """Write splits as Parquet: OBJECT, and for each split a column of 1 (training), 2 (validation) or 0.

    Raises
    ------
    UsageError
        If a split leaks or is empty (see `check`), or the file cannot be written.
    """
    columns: dict[str, NDArray[np.integer]] = {"OBJECT": objects}
    for i, split in enumerate(splits):
        check(split, objects)
        column = np.zeros(len(objects), dtype=np.int8)
        column[split.training], column[split.validation] = _TRAINING, _VALIDATION
        columns[f"SPLIT_{i}"] = column
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
        split = Split(np.flatnonzero(part == _TRAINING), np.flatnonzero(part == _VALIDATION))
        check(split, objects)
        splits.append(split)
    return splits
