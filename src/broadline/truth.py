"""Truth: what somebody knows of spectra, read from catalogues of several layouts, and joined to spectra."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, velocity
from broadline.errors import UsageError
from broadline.truth_layouts import (
    CLASSES,
    COLUMNS,
    FIRM,
    GALAXY,
    LAYOUTS,
    OTHER,
    QSO,
    STAR,
    UNKNOWN,
    Columns,
    Labels,
)

__all__ = [
    "CLASSES",
    "FIRM",
    "GALAXY",
    "LAYOUTS",
    "OTHER",
    "QSO",
    "STAR",
    "UNKNOWN",
    "Truth",
    "match",
    "read_truth_table",
]

#: What a spectrum may be named by, best first: the name, and the columns that it is made of.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "PLATE-MJD-FIBERID": ("PLATE", "MJD", "FIBERID"),
    "OBSID": ("OBSID",),
    "TARGETID": ("TARGETID",),
    "OBJID": ("OBJID",),
}

_KNOWN = COLUMNS.union(*_NAMES.values())
_TEXT = frozenset({"OBJID", "CLASS", "TRUE_CLASS"})


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of some spectra; one row a spectrum, sorted by key.

    Attributes
    ----------
    source : Path
        The file it was read from.
    layout : str
        Name of its layout (`LAYOUTS`).
    by : {"PLATE-MJD-FIBERID", "OBSID", "TARGETID", "OBJID"}
        What spectra are named by.
    key : ndarray of int64 or str, shape (n,)
        Their names: strictly increasing.
    kind : ndarray of int8, shape (n,)
        Index into `CLASSES`.
    z : ndarray of float64, shape (n,)
        NaN where it is not known.
    confidence : ndarray of int8, shape (n,)
        3 for a firm class and redshift, 2 for a firm class alone, 1 for a guess, 0 for no identification.
    bal_flag : ndarray of int8, shape (n,)
        1 tagged as a broad absorption line quasar, 0 not, -1 not known.
    balnicity : ndarray of float32, shape (n,)
        Balnicity index of CIV (km/s); NaN where not known.
    object : ndarray of int64, shape (n,)
        The same for all spectra of an object. Negative where the table does not tell: then each spectrum
        counts as an object of its own.
    ancillary : ndarray of bool, shape (n,)
        Targeted by an ancillary programme.
    n_repeated : int
        Rows left out because another one for the same spectrum is as confident or more so.
    """

    source: Path
    layout: str
    by: str
    key: NDArray[Any]
    kind: NDArray[np.int8]
    z: NDArray[np.float64]
    confidence: NDArray[np.int8]
    bal_flag: NDArray[np.int8]
    balnicity: NDArray[np.float32]
    object: NDArray[np.int64]
    ancillary: NDArray[np.bool_]
    n_repeated: int = 0

    def __len__(self) -> int:
        return len(self.key)


def match(truth: Truth, ids: Columns) -> NDArray[np.int64]:
    """Return the row of the truth for each spectrum; -1 where the truth does not know it.

    Parameters
    ----------
    truth : Truth
    ids : mapping of str to ndarray, each of shape (n,)
        `Spectra.ids`. Spectra that lack the columns of ``truth.by`` are not known.
    """
    n = len(next(iter(ids.values())))
    if not len(truth) or not all(name in ids for name in _NAMES[truth.by]):
        return np.full(n, -1, dtype=np.int64)
    key, named = _keys(truth.by, ids)
    row = np.minimum(np.searchsorted(truth.key, key), len(truth) - 1)
    return np.where(named & (truth.key[row] == key), row, -1).astype(np.int64)


def read_truth_table(path: Path) -> Truth:
    """Return what a table knows of spectra; its columns tell which layout it has.

    Parameters
    ----------
    path : Path
        FITS (also gzipped), Parquet, ECSV or CSV.

    Raises
    ------
    UsageError
        If the file cannot be read, has no known layout, names no spectrum, has a class that is not known, or
        contradicts itself: two firm rows for one spectrum of different class, or more than 6000 km/s apart.

    Notes
    -----
    Of several rows for one spectrum the most confident is kept, and of equals the first. Names of DESI
    targets do not tell visits apart: all visits get what was said of the best.
    """
    tables = _load(path)
    for columns in tables:
        for layout in LAYOUTS:
            if layout.needs <= columns.keys():
                return _sorted(path, layout.name, columns, layout.labels(path, columns))
    wanted = "; ".join(f"{layout.name}: {', '.join(sorted(layout.needs))}" for layout in LAYOUTS)
    raise UsageError(f"{path} is no truth table that broadline knows, by its columns ({wanted})")


# ---- keys


def _keys(by: str, columns: Columns) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the key of each row, and which rows have one."""
    if by == "OBJID":
        text = columns[by].astype(str)
        return text, text != ""
    if by != "PLATE-MJD-FIBERID":
        number = columns[by].astype(np.int64)
        return number, number != -1
    plate, mjd, fiber = (columns[name].astype(np.int64) for name in _NAMES[by])
    named = (plate > 0) & (plate < 10**6) & (mjd > 0) & (mjd < 10**5) & (fiber >= 0) & (fiber < 10**4)
    return np.where(named, (plate * 10**5 + mjd) * 10**4 + fiber, -1), named


def _written(by: str, key: Any) -> str:
    """Return a key as people write it."""
    if by != "PLATE-MJD-FIBERID":
        return f"{by} {key}"
    rest, fiber = divmod(int(key), 10**4)
    plate, mjd = divmod(rest, 10**5)
    return f"{plate}-{mjd}-{fiber:04d}"


def _sorted(path: Path, layout: str, columns: Columns, labels: Labels) -> Truth:
    """Return the truth sorted by key, one row a spectrum."""
    by = next((name for name, parts in _NAMES.items() if columns.keys() >= set(parts)), None)
    if by is None:
        raise UsageError(f"{path} names no spectra: it needs {' or '.join(_NAMES)} as columns")
    key, named = _keys(by, columns)
    kind = labels.kind.astype(np.int8)
    confidence = np.where(kind == UNKNOWN, 0, np.clip(_finite(labels.confidence), 0, FIRM)).astype(np.int8)
    order = np.lexsort((np.arange(len(key)), -confidence, key))
    order = order[named[order]]
    if not len(order):
        raise UsageError(f"{path} names no spectra: {by} is empty in all rows")
    key, kind, confidence = key[order], kind[order], confidence[order]
    z = labels.z.astype(np.float64)[order]
    z = np.where(np.isfinite(z) & (z > -1), z, np.nan)
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    _refuse_contradictions(path, by, key, kind, z, confidence, first)
    rows = order[first]
    thing = _finite(labels.object)[rows].astype(np.int64)
    if by == "TARGETID":
        thing = np.where(thing > 0, thing, key[first])
    return Truth(
        path,
        layout,
        by,
        key[first],
        kind[first],
        z[first],
        confidence[first],
        _finite(labels.bal_flag)[rows].clip(-1, 1).astype(np.int8),
        labels.balnicity[rows].astype(np.float32),
        np.where(thing > 0, thing, -1 - np.arange(len(rows))),
        np.asarray(labels.ancillary, dtype=bool)[rows],
        n_repeated=len(order) - len(first),
    )


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` with -1 for NaN."""
    return np.nan_to_num(values, nan=-1) if values.dtype.kind == "f" else values


def _refuse_contradictions(
    path: Path,
    by: str,
    key: NDArray[Any],
    kind: NDArray[np.int8],
    z: NDArray[np.float64],
    confidence: NDArray[np.int8],
    first: NDArray[np.int64],
) -> None:
    best = np.repeat(first, np.diff(np.append(first, len(key))))
    apart = np.abs(velocity(z, z[best])) > CONFLICT_KMS
    contradicts = (confidence == FIRM) & ((kind != kind[best]) | apart)
    if contradicts.any():
        row = int(np.flatnonzero(contradicts)[0])
        said = [f"{CLASSES[kind[i]]} at z {z[i]:g}" for i in (best[row], row)]
        raise UsageError(
            f"{path} contradicts itself in {contradicts.sum()} rows: {_written(by, key[row])} is firmly "
            f"{said[0]} and {said[1]}; leave one row of each spectrum"
        )


# ---- files


def _load(path: Path) -> list[dict[str, NDArray[Any]]]:
    """Return the known columns of each table of a file, by upper-case name."""
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
        if start[:9] == b"SIMPLE  =" or start[:2] == b"\x1f\x8b":
            return _load_fits(path)
        if start[:4] == b"PAR1":
            file = pq.ParquetFile(path)
            return [_from_arrow(file.read([name for name in file.schema_arrow.names if _known(name)]))]
        if start[:7] == b"# %ECSV":
            return [_from_astropy(Table.read(path, format="ascii.ecsv"))]
        return [_from_arrow(_read_csv(path))]
    except OSError as error:
        raise UsageError(f"cannot read the truth table {path}: {error.strerror or error}") from error
    except (pa.ArrowException, ValueError, TypeError, KeyError, EOFError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as a truth table ({said}); fetch it again") from error


def _known(name: str) -> bool:
    return name.upper() in _KNOWN


def _read_csv(path: Path) -> pa.Table:
    with pa_csv.open_csv(path) as reader:
        wanted = [name for name in reader.schema.names if _known(name)]
    text = {name: pa.string() for name in wanted if name.upper() in _TEXT}
    options = pa_csv.ConvertOptions(include_columns=wanted, column_types=text)
    return pa_csv.read_csv(path, convert_options=options)


def _load_fits(path: Path) -> list[dict[str, NDArray[Any]]]:
    """Return the columns of each binary table; others are never copied, as superset catalogues are large."""
    tables = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(path, memmap=True) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU):
                    names = [name for name in hdu.columns.names if _known(name)]
                    tables.append({name.upper(): _native(name, hdu.data[name]) for name in names})
    return tables


def _from_astropy(table: Table) -> dict[str, NDArray[Any]]:
    names = [name for name in table.colnames if _known(name)]
    return {name.upper(): _native(name, table[name]) for name in names}


def _from_arrow(table: pa.Table) -> dict[str, NDArray[Any]]:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        filled = column.cast(pa.string()).fill_null("") if name.upper() in _TEXT else column
        columns[name.upper()] = _native(name, filled.to_numpy(zero_copy_only=False))
    return columns


def _native(name: str, column: Any) -> NDArray[Any]:
    """Return a column as text, or as numbers in native byte order with NaN where a value is missing."""
    values = np.ma.MaskedArray(column)
    if name.upper() in _TEXT:
        text = np.where(np.ma.getmaskarray(values), "", np.asarray(values.data).astype(str))
        return np.asarray(np.strings.strip(text))
    if values.dtype.kind not in "iufb":
        raise ValueError(f"column {name} does not hold numbers")
    if np.ma.is_masked(values):
        return np.where(values.mask, np.nan, values.data)
    return np.asarray(values.data).astype(values.dtype.newbyteorder("="))
