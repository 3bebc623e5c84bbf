"""Truth: what somebody knows of spectra, read from catalogues of several layouts, and joined to spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, velocity
from broadline.errors import UsageError
from broadline.positions import PLACES, Positions, place_of, somewhere
from broadline.tables import load_tables
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
    Layout,
    in_control_sample,
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
    "names_of",
    "read_truth_table",
]

#: What a spectrum may be named by, best first: the name, and the columns that it is made of.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "PLATE-MJD-FIBERID": ("PLATE", "MJD", "FIBERID"),
    "OBSID": ("OBSID",),
    "TARGETID": ("TARGETID",),
    "OBJID": ("OBJID",),
}

# Redshifts beside the one that counts, with the names that they are reported under.
_OTHER_Z = {name: name for name in ("Z_VI", "Z_PIPE", "Z_PCA", "Z_QN", "TRUE_Z")} | {"FIT_Z": "Z_PIPE"}
_I_BAND = 3  # of PSFMAG, which has ugriz
_FAINTEST = 40.0  # of magnitudes that can be meant

_KNOWN = COLUMNS.union(*_NAMES.values(), *PLACES, _OTHER_Z, {"PSFMAG"})
_TEXT = frozenset({"OBJID", "CLASS", "TRUE_CLASS", "SPECTYPE", "DESIGNATION", "SOURCE_Z", "QUEUE"})
# What is taken if it is there and can be used.
_SPARE = frozenset({"PSFMAG"}).union(*PLACES, _OTHER_Z) - COLUMNS


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of some spectra; one row a spectrum, sorted by key.

    Attributes
    ----------
    source : Path
        The file it was read from.
    layout : str
        Name of its layout (`LAYOUTS`).
    by : {"PLATE-MJD-FIBERID", "OBSID", "TARGETID", "OBJID", "position"}
        What spectra are named by.
    key : ndarray of int64 or str, shape (n,)
        Their names: strictly increasing. Numbers without meaning if only their positions are known.
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
        counts as an object of its own, with a number that follows from its name, unless that is a text.
    ancillary : ndarray of bool, shape (n,)
        Targeted by an ancillary programme.
    control : ndarray of bool, shape (n,)
        Inspected because it was drawn at random (`truth_layouts.in_control_sample`).
    n_repeated : int
        Rows left out because another one for the same spectrum is as confident or more so.
    rated : bool
        False if the table has no confidences: then every label counts as firm.
    simulated : bool
        True if the file says that nothing in it was observed.
    places : Positions, optional
        Where the objects are, each with its most confident row.
    magnitude : ndarray of float32, shape (n,), optional
        In the i band (AB); NaN where not known.
    other_z : mapping of str to ndarray of float64, shape (n,)
        Further redshifts by name, such as Z_PCA; NaN where not known.
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
    control: NDArray[np.bool_]
    n_repeated: int = 0
    rated: bool = True
    simulated: bool = False
    places: Positions | None = None
    magnitude: NDArray[np.float32] | None = None
    other_z: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.key)

    @property
    def knows_bal(self) -> bool:
        """True if it has BAL tags or balnicities."""
        return bool((self.bal_flag >= 0).any() or np.isfinite(self.balnicity).any())

    @property
    def quasars_only(self) -> bool:
        """True if it knows nothing but quasars, so that nobody can be told wrong by it."""
        return bool((self.kind[self.kind != UNKNOWN] == QSO).all())


def match(truth: Truth, ids: Columns) -> NDArray[np.int64]:
    """Return the row of the truth for each spectrum; -1 where the truth does not know it.

    Parameters
    ----------
    truth : Truth
    ids : mapping of str to ndarray, each of shape (n,)
        `Spectra.ids`. Spectra are found by what the truth names them by (`Truth.by`). Those that have no such
        name are found by RA and DEC, within `positions.NEAR`, if both sides have positions; so are those
        whose OBJID, which is anybody's text, is not in the truth.
    """
    n = len(next(iter(ids.values())))
    rows = np.full(n, -1, dtype=np.int64)
    if not len(truth):
        return rows
    lost = np.ones(n, dtype=bool)
    if truth.by in _NAMES and ids.keys() >= set(_NAMES[truth.by]):
        key, named = names_of(truth.by, ids)
        row = np.minimum(np.searchsorted(truth.key, key), len(truth) - 1)
        found = named & (truth.key[row] == key)
        rows[found] = row[found]
        lost = ~(found if truth.by == "OBJID" else named)
    if truth.places is not None and ids.keys() >= {"RA", "DEC"} and lost.any():
        rows[lost] = truth.places.nearest(ids["RA"][lost], ids["DEC"][lost])
    return rows


def read_truth_table(path: Path, *, inspected: bool = False) -> Truth:
    """Return what a table knows of spectra; its columns tell which layout it has.

    Parameters
    ----------
    path : Path
        FITS (also gzipped), Parquet, ECSV or CSV.
    inspected : bool
        Of a simulated survey, what its inspector said, as a superset has it, and not what is true.

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
    layouts = [layout for layout in LAYOUTS if not (inspected and layout.name == "simulated")]
    for table in load_tables(path, "truth table", _choose, _TEXT, _SPARE):
        for layout in layouts:
            if layout.needs <= table.columns.keys():
                columns = layout.rows(table.columns)
                simulated = "TRUE_CLASS" in columns or "simulated" in table.meta
                return _sorted(path, layout, columns, layout.labels(path, columns), simulated)
    wanted = "; ".join(f"{layout.name}: {', '.join(sorted(layout.needs))}" for layout in layouts)
    raise UsageError(f"{path} is no truth table that broadline knows, by its columns ({wanted})")


# ---- keys


def names_of(by: str, columns: Columns) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the key of each row, and which rows have one, shape (n,).

    Parameters
    ----------
    by : str
        As `Truth.by`; its columns must be there.
    columns : mapping of str to ndarray, each of shape (n,)
    """
    if by == "position":
        place = place_of(columns)
        assert place is not None
        return np.arange(len(place[0])), somewhere(*place)
    if by == "OBJID":
        text = columns[by].astype(str)
        return text, text != ""
    if by != "PLATE-MJD-FIBERID":
        number = _finite(columns[by]).astype(np.int64)
        return number, number != -1
    plate, mjd, fiber = (_finite(columns[name]).astype(np.int64) for name in _NAMES[by])
    named = (plate > 0) & (plate < 10**6) & (mjd > 0) & (mjd < 10**5) & (fiber >= 0) & (fiber < 10**4)
    return np.where(named, (plate * 10**5 + mjd) * 10**4 + fiber, -1), named


def _named_by(path: Path, columns: Columns) -> str:
    for name, parts in _NAMES.items():
        if columns.keys() >= set(parts):
            return name
    if place_of(columns) is None:
        raise UsageError(f"{path} names no spectra: it needs {' or '.join(_NAMES)} as columns, or RA and DEC")
    return "position"


def _written(by: str, key: Any) -> str:
    """Return a key as people write it."""
    if by != "PLATE-MJD-FIBERID":
        return f"{by} {key}"
    rest, fiber = divmod(int(key), 10**4)
    plate, mjd = divmod(rest, 10**5)
    return f"{plate}-{mjd}-{fiber:04d}"


def _sorted(path: Path, layout: Layout, columns: Columns, labels: Labels, simulated: bool) -> Truth:
    """Return the truth sorted by key, one row a spectrum."""
    by = _named_by(path, columns)
    key, named = names_of(by, columns)
    kind = labels.kind.astype(np.int8)
    rated = np.full(len(kind), FIRM) if labels.confidence is None else labels.confidence
    confidence = np.where(kind == UNKNOWN, 0, np.clip(_finite(rated), 0, FIRM)).astype(np.int8)
    order = np.lexsort((np.arange(len(key)), -confidence, key))
    order = order[named[order]]
    if not len(order):
        why = f"{by} is empty in all rows" if len(key) else "it has no rows; leave it out"
        raise UsageError(f"{path} names no spectra: {why}")
    key, kind, confidence = key[order], kind[order], confidence[order]
    z = _redshift(labels.z)[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    _refuse_contradictions(path, by, key, kind, z, confidence, first)
    rows = order[first]
    thing = _finite(labels.object)[rows].astype(np.int64)
    if by == "TARGETID":
        thing = np.where(thing > 0, thing, key[first])
    # Numbers that follow from names are the same in every table of the same spectra, and so are splits.
    alone = np.arange(len(rows)) if by == "OBJID" else key[first]
    thing = np.where((thing > 0) | (by == "TARGETID"), thing, -2 - alone)
    place = place_of(columns)
    return Truth(
        path,
        layout.name,
        by,
        key[first],
        kind[first],
        z[first],
        confidence[first],
        _finite(labels.bal_flag)[rows].clip(-1, 1).astype(np.int8),
        labels.balnicity[rows].astype(np.float32),
        thing,
        np.asarray(labels.ancillary, dtype=bool)[rows],
        in_control_sample(columns)[rows],
        n_repeated=len(order) - len(first),
        rated=labels.confidence is not None,
        simulated=simulated,
        places=None if place is None else _places(place[0][rows], place[1][rows], thing, confidence[first]),
        magnitude=_magnitude(columns["PSFMAG"][rows]) if "PSFMAG" in columns else None,
        other_z={
            said: _redshift(columns[name][rows])
            for name, said in _OTHER_Z.items()
            if name in columns and name != layout.z
        },
    )


def _places(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    thing: NDArray[np.int64],
    confidence: NDArray[np.int8],
) -> Positions:
    """Return where the objects are; of several spectra of an object, the most confident stands there."""
    order = np.lexsort((-confidence, thing))
    best = order[np.append(True, thing[order][1:] != thing[order][:-1])]
    return Positions(ra[best], dec[best], best)


def _redshift(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return redshifts, of the best of several fits, with NaN for what cannot be one."""
    z = (values if values.ndim == 1 else values[:, 0]).astype(np.float64)
    return np.where(np.isfinite(z) & (z > -1), z, np.nan)


def _magnitude(values: NDArray[Any]) -> NDArray[np.float32] | None:
    if values.ndim != 2 or values.shape[1] <= _I_BAND:
        return None
    i = values[:, _I_BAND].astype(np.float32)
    return np.where((i > 0) & (i < _FAINTEST), i, np.float32(np.nan))


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


def _choose(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.upper() in _KNOWN]
