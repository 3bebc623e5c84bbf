"""What other classifiers say of given spectra, read from their files: a pipeline's best fits, or calls."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.archives.base import fault_of
from broadline.errors import BroadlineError, UsageError
from broadline.evaluation.shares import Floats, Ints, Mask
from broadline.flags import UNCLASSIFIED
from broadline.tables import raw_tables
from broadline.truth import GALAXY, OTHER, QSO, STAR, UNKNOWN, names_of

__all__ = ["N_FITS", "Calls", "Fits", "read_answers"]

#: Best fits that the decision trees look at (Paris et al. 2018, page 4).
N_FITS = 5

Columns = Mapping[str, Any]

_NAMES = {"QSO": QSO, "STAR": STAR, "GALAXY": GALAXY}
#: What spectra may be named by, best first, and the columns that it is made of.
_IDS: Mapping[str, tuple[str, ...]] = {
    "PLATE-MJD-FIBERID": ("PLATE", "MJD", "FIBERID"),
    "OBSID": ("OBSID",),
    "TARGETID": ("TARGETID",),
}
_PLATE = r"(?P<plate>\d+)-(?P<mjd>\d+)"
#: In a folder, the files of the first of these kinds that are there are read.
_KINDS = tuple(
    re.compile(rf"{name}\.fits?(\.gz)?")
    for name in (f"spZall-{_PLATE}", f"spZbest-{_PLATE}", "redrock-.+", "zbest-.+")
)
#: Where fits stand: class, redshift, warning. The first are the simulator's lists of five.
_FITS = (("FIT_CLASS", "FIT_Z", "FIT_ZWARNING"), ("CLASS", "Z", "ZWARNING"), ("SPECTYPE", "Z", "ZWARN"))
#: Where calls stand: quasar or not, redshift.
_CALLS = (("IS_QSO_QN", "Z_QN"), ("IS_QSO", "Z"))
#: Columns that a catalogue of broadline has and no other: only there FLAGS means what it means to us.
_OURS = ("NEEDS_VI", "FLAGS")
_MORE = ("P_QSO", "P_Z", "P_BAL", "Z_ERR")
_WANTED = frozenset(name for group in (*_IDS.values(), *_FITS, *_CALLS, _OURS, _MORE) for name in group)


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """A pipeline's best fits of the spectra asked for.

    Attributes
    ----------
    kind : ndarray of int8, shape (n, n_fits)
        Best fit first, as numbered in `broadline.truth.CLASSES`; OTHER for a class that is none of the three,
        UNKNOWN where there are no fits. `n_fits` is `N_FITS`, or 1 if the files hold the best fit alone.
    z : ndarray of float64, shape (n, n_fits)
        NaN where there is none.
    zwarning : ndarray of int64, shape (n,)
        Of the best fit; 0 for a confident one.
    known : ndarray of bool, shape (n,)
        Rows that have fits.
    """

    kind: NDArray[np.int8]
    z: Floats
    zwarning: Ints
    known: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """What another catalogue says of the spectra asked for.

    Attributes
    ----------
    quasar : ndarray of bool, shape (n,)
    z : ndarray of float64, shape (n,)
        NaN where there is none.
    known : ndarray of bool, shape (n,)
        Rows of which the catalogue says anything.
    more : dict of str to ndarray
        Confidences ``c``, shape (n, n_lines), and ``c_bal``, probabilities and errors by the names of
        `Sample`, as far as the catalogue has them; NaN where unknown.
    """

    quasar: Mask
    z: Floats
    known: Mask
    more: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def read_answers(path: Path, ids: Mapping[str, NDArray[Any]]) -> Fits | Calls:
    """Return what a classifier says of some spectra, in their order.

    Parameters
    ----------
    path : Path
        A file or folder. A folder is searched for spZall files, or else spZbest, or else redrock files. A
        file (FITS, Parquet, ECSV or CSV) is told by its columns: FIT_CLASS, FIT_Z and FIT_ZWARNING (the truth
        of a simulated survey); CLASS, Z and ZWARNING (spZall, spZbest and tables made of these); SPECTYPE, Z
        and ZWARN (redrock); IS_QSO_QN and Z_QN (the DR16Q superset: what QuasarNET said); IS_QSO and Z
        (a catalogue of broadline, or any other).
    ids : mapping of str to ndarray, each of shape (n,)
        PLATE, MJD and FIBERID, or OBSID, or TARGETID, as `Spectra.ids`.

    Raises
    ------
    UsageError
        If nothing like that is there, or it knows none of the spectra.
    ReadError
        If a file cannot be read.

    Notes
    -----
    Of several rows for one spectrum the first counts, files taken in the order of their names; rows of fits
    are the five best only if every spectrum of the file has five or more, and else repetitions of the best.
    """
    paths = _files(path, ids) if path.is_dir() else [path]
    named = [by for by in _IDS if _named(by, ids)]
    parts = [_part(file, named) for file in paths]
    if len({part.by for part in parts}) > 1:
        raise UsageError(f"{path} names its spectra now this way, now that: give one kind of file at a time")
    row = _match(parts, ids)
    if not (row >= 0).any():
        raise UsageError(f"{path} knows none of the {len(row)} spectra: is it of the same survey?")
    if all(isinstance(part.answers, Fits) for part in parts):
        return _placed_fits([part.answers for part in parts if isinstance(part.answers, Fits)], row)
    answers = parts[0].answers
    assert isinstance(answers, Calls)
    return _placed_calls(answers, row)


class _Part(NamedTuple):
    """The answers of one file, a row a spectrum, and what their spectra are named by."""

    by: str
    key: Ints
    answers: Fits | Calls


# ---- folders


def _files(folder: Path, ids: Mapping[str, NDArray[Any]]) -> list[Path]:
    """Return the files of fits below a folder; plates that nobody asked for are left out."""
    found = sorted(Path(root, name) for root, _, names in os.walk(folder) for name in names)
    for kind in _KINDS:
        if paths := [path for path in found if kind.fullmatch(path.name)]:
            break
    else:
        raise UsageError(f"folder {folder} holds no spZall, spZbest or redrock files; name a file or another")
    if "plate" not in kind.groupindex or not _named("PLATE-MJD-FIBERID", ids):
        return paths
    plates = set(zip(ids["PLATE"].tolist(), ids["MJD"].tolist(), strict=True))
    matches = [(path, kind.fullmatch(path.name)) for path in paths]
    wanted = [path for path, match in matches if match and (int(match["plate"]), int(match["mjd"])) in plates]
    if not wanted:
        raise UsageError(f"folder {folder} has none of the plates of the {len(ids['PLATE'])} spectra")
    return wanted


# ---- files


def _part(path: Path, named: Sequence[str]) -> _Part:
    """Return what one file says, by the best names that it shares with the spectra asked for."""
    try:
        for columns, _ in raw_tables(path, _choose):
            for call in _CALLS:
                if columns.keys() >= set(call) and (by := _names(path, columns, named)):
                    return _calls(by, columns, call)
            for layout in _FITS:
                if columns.keys() >= set(layout) and (by := _names(path, columns, named)):
                    return _five_fits(by, columns, layout)
    except BroadlineError:
        raise
    except Exception as error:  # as in archives.base.read_files: damaged bytes can raise anything
        raise fault_of(path, error) from error
    wanted = "; ".join(", ".join(group) for group in (*_FITS, *_CALLS))
    raise UsageError(f"{path} holds neither fits nor a catalogue, by its columns (wanted: {wanted})")


def _choose(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.upper() in _WANTED or name.upper().startswith("C_")]


def _names(path: Path, columns: Columns, named: Sequence[str]) -> str:
    for by in named:
        if _named(by, columns):
            return by
    there = " or ".join(", ".join(group) for group in _IDS.values())
    raise UsageError(f"{path} and the spectra have no names in common; both need {there}")


def _named(by: str, columns: Columns) -> bool:
    return columns.keys() >= set(_IDS[by]) and bool(names_of(by, columns)[1].any())


def _calls(by: str, columns: Columns, call: tuple[str, str]) -> _Part:
    """Return calls; rows without a verdict are not known."""
    said = _integers(columns[call[0]])
    known = said >= 0
    if columns.keys() >= set(_OURS):
        known = known & ((_integers(columns["FLAGS"]) & int(UNCLASSIFIED)) == 0)
    more = _confidences(columns) if call[0] == "IS_QSO" else {}
    quasar = known & (said > 0)
    return _Part(by, names_of(by, columns)[0], Calls(quasar, _redshifts(columns[call[1]]), known, more))


def _confidences(columns: Columns) -> dict[str, NDArray[Any]]:
    """Return confidences, probabilities and errors, as far as they are there."""
    more = {name.lower(): _floats(columns[name]) for name in _MORE if name in columns}
    lines = [name for name, values in columns.items() if name[:2] == "C_" and values.dtype.kind == "f"]
    emission = [name for name in lines if not name.startswith("C_BAL")]
    absorption = [name for name in lines if name.startswith("C_BAL")]
    if emission:
        more["c"] = np.stack([_floats(columns[name]) for name in emission], axis=1)
    if absorption:
        more["c_bal"] = np.fmax.reduce([_floats(columns[name]) for name in absorption])
    return more


def _five_fits(by: str, columns: Columns, layout: tuple[str, str, str]) -> _Part:
    """Return the fits of each spectrum, whether they stand side by side or below each other."""
    kind, z, warning = (columns[name] for name in layout)
    key = names_of(by, columns)[0]
    known = np.ones(len(key), dtype=bool)
    if np.ndim(kind) == 2:
        fits_ = Fits(_codes(kind)[:, :N_FITS], _redshifts(z)[:, :N_FITS], _integers(warning)[:, 0], known)
        return _Part(by, key, fits_)
    order = np.argsort(key, kind="stable")
    order = order[key[order] != -1]
    first = np.unique(key[order], return_index=True)[1]
    n_fits = N_FITS if np.diff(np.append(first, len(order))).min() >= N_FITS else 1
    rows = order[first[:, None] + np.arange(n_fits)]
    best = rows[:, 0]
    return _Part(
        by,
        key[best],
        Fits(_codes(kind[rows]), _redshifts(z[rows]), _integers(warning[best]), known[best]),
    )


# ---- to the spectra asked for


def _match(parts: Sequence[_Part], ids: Mapping[str, NDArray[Any]]) -> Ints:
    """Return the row of each spectrum in all parts one after another; -1 where there is none."""
    by = parts[0].by
    wanted, key = names_of(by, ids)[0], np.concatenate([part.key for part in parts])
    order = np.argsort(key, kind="stable")
    found = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
    row = order[found]
    return np.where((key[row] == wanted) & (wanted != -1), row, -1)


def _placed_fits(parts: Sequence[Fits], row: Ints) -> Fits:
    n_fits = min(part.kind.shape[1] for part in parts)
    kind = np.concatenate([part.kind[:, :n_fits] for part in parts])[row]
    z = np.concatenate([part.z[:, :n_fits] for part in parts])[row]
    warning = np.concatenate([part.zwarning for part in parts])[row]
    known: Mask = row >= 0
    there = known[:, None]
    return Fits(np.where(there, kind, np.int8(UNKNOWN)), np.where(there, z, np.nan), warning * known, known)


def _placed_calls(calls: Calls, row: Ints) -> Calls:
    known = (row >= 0) & calls.known[row]
    more = {}
    for name, values in calls.more.items():
        more[name] = values[row]
        more[name][~known] = np.nan
    return Calls(known & calls.quasar[row], np.where(known, calls.z[row], np.nan), known, more)


# ---- columns


def _codes(names: Any) -> NDArray[np.int8]:
    """Return the classes as `broadline.truth` numbers them."""
    if names.dtype.kind not in "SU":
        raise ValueError(f"a column of {names.dtype} stands where classes should")
    text = np.strings.upper(np.strings.strip(np.asarray(names))).astype(np.str_)
    return np.select([text == name for name in _NAMES], list(_NAMES.values()), OTHER).astype(np.int8)


def _integers(column: Any) -> Ints:
    """Return whole numbers or logicals, -1 where they are missing."""
    return np.asarray(np.nan_to_num(_numbers(column), nan=-1)).astype(np.int64, copy=False)


def _floats(column: Any) -> NDArray[np.floating[Any]]:
    """Return numbers, NaN where they are missing; thresholds mean the same in the precision they came in."""
    values = _numbers(column)
    single = values.dtype.kind == "f" and values.dtype.itemsize == 4
    return values.astype(np.float32 if single else np.float64, copy=False)


def _numbers(column: Any) -> NDArray[Any]:
    if column.dtype.kind not in "biuf":
        raise ValueError(f"a column of {column.dtype} stands where numbers should")
    return np.asarray(column)


def _redshifts(column: Any) -> Floats:
    """Return redshifts, NaN for what is none (the DR16Q superset writes -1)."""
    z = _floats(column).astype(np.float64, copy=False)
    return np.where(np.isfinite(z) & (z > -1), z, np.nan)
