"""Catalogues to be evaluated: broadline's own, and tables of others that say what is a quasar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import Rule
from broadline.errors import UsageError
from broadline.evaluation.shares import Floats, Ints, Mask
from broadline.fits_table import CARDS
from broadline.flags import UNCLASSIFIED
from broadline.lines import LINES
from broadline.tables import RawTable, load_tables

__all__ = ["Catalogue", "read_catalogue"]

# Who is a quasar and at which redshift: broadline and others, QuasarNET in DR16Q (Lyke et al. 2020) and of
# DESI, QuasarNET's own qnAll files.
_VERDICTS = (("IS_QSO", "Z"), ("IS_QSO_QN", "Z_QN"), ("IS_QSO", "ZBEST"))
_NAMES = (("PLATE", "MJD", "FIBERID"), ("OBSID",), ("TARGETID",), ("OBJID",), ("RA", "DEC"))
_IDS = tuple(name for names in _NAMES for name in names)
_NUMBERS = {"P_QSO": "p_qso", "P_Z": "p_z", "P_BAL": "p_bal", "Z_ERR": "z_err", "SN_MEDIAN": "sn"}
# All lines in one column, as in qnAll files, in QuasarNET's order.
_EMISSION, _ABSORPTION = "C_LINES", "C_LINES_BAL"

_WANTED = {*_IDS, *_NUMBERS, "SOURCE", "ROW", "FLAGS", _EMISSION, _ABSORPTION}.union(*_VERDICTS)
_TEXT = frozenset({"OBJID", "SOURCE"})
_SPARE = frozenset({*_NUMBERS, "RA", "DEC", "ROW", _EMISSION, _ABSORPTION})
_RULE = re.compile(r"c_th=(?P<c_th>[\d.e-]+) l_min=(?P<l_min>\d+) c_th_bal=(?P<c_th_bal>[\d.e-]+)")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Catalogue:
    """What a catalogue says of its spectra, row by row.

    Attributes
    ----------
    path : Path
    ids : mapping of str to ndarray, each of shape (n,)
        What spectra are named by, and where they are: as `Spectra.ids`, those columns that are there.
    called : ndarray of bool, shape (n,)
    z : ndarray of float64, shape (n,)
        NaN where there is none.
    unclassified : ndarray of bool, shape (n,)
        There is no result: not called, and nothing else is known.
    c : ndarray of float32, shape (n, n_lines), optional
        Confidences in the emission lines, NaN where there is no result.
    c_bal : ndarray of float32, shape (n,), optional
        Confidence in broad absorption.
    lines : tuple of str
        Names of the lines of `c`.
    bal_line : str, optional
        Name of the line of `c_bal`.
    numbers : mapping of str to ndarray of float64, shape (n,)
        p_qso, p_z, p_bal, z_err and sn, those that have a value in some row.
    source : ndarray of str, row : ndarray of int64, shape (n,)
        File of each spectrum and row there; "" and -1 if the catalogue does not tell.
    meta : mapping of str to str
        Its provenance, by broadline's names: version, model, model_sha256, rule and others.
    rule : Rule, optional
        By which quasars were called, if it says so.
    """

    path: Path
    ids: Mapping[str, NDArray[Any]]
    called: Mask
    z: Floats
    unclassified: Mask
    c: NDArray[np.float32] | None
    c_bal: NDArray[np.float32] | None
    lines: tuple[str, ...]
    bal_line: str | None
    numbers: Mapping[str, Floats]
    source: NDArray[np.str_]
    row: Ints
    meta: Mapping[str, str]
    rule: Rule | None

    def __len__(self) -> int:
        return len(self.z)


def read_catalogue(path: Path) -> Catalogue:
    """Return what a catalogue says of its spectra; only the columns that are needed are held.

    Parameters
    ----------
    path : Path
        FITS (also gzipped), Parquet, ECSV or CSV: a catalogue or layout of broadline's, or any table with
        IS_QSO and Z, or IS_QSO_QN and Z_QN.

    Raises
    ------
    UsageError
        If it cannot be read, is no catalogue, has no rows, or nothing that spectra could be named by.
    """
    for table in load_tables(path, "catalogue", _choose, _TEXT, _SPARE):
        for called, z in _VERDICTS:
            if table.columns.keys() >= {called, z}:
                if not len(table.columns[z]):
                    raise UsageError(f"{path} is a catalogue without rows; classify spectra first")
                return _catalogue(path, table, called, z)
    wanted = " or ".join(" and ".join(pair) for pair in _VERDICTS[:2])
    raise UsageError(
        f"{path} is no catalogue: it has no columns {wanted}; give what `broadline classify` wrote"
    )


def _choose(names: Sequence[str]) -> list[str]:
    """Return the columns to read; C_NAME is a confidence only beside Z_NAME."""
    upper = {name.upper() for name in names}
    return [
        name
        for name in names
        if name.upper() in _WANTED or (name.upper().startswith("C_") and "Z_" + name.upper()[2:] in upper)
    ]


def _catalogue(path: Path, table: RawTable, called: str, z: str) -> Catalogue:
    columns = table.columns
    n = len(columns[z])
    verdict = _float(columns[called])
    nothing = np.isnan(verdict) | (verdict < 0)
    if "FLAGS" in columns:
        nothing |= (columns["FLAGS"].astype(np.int64) & int(UNCLASSIFIED)) != 0
    redshift = _float(columns[z])
    redshift[nothing | ~np.isfinite(redshift) | (redshift <= -1)] = np.nan
    c, c_bal, lines, bal_line = _confidences(columns, nothing)
    meta = _provenance(table.meta)
    ids = {name: columns[name] for name in _IDS if name in columns}
    if not any(ids.keys() >= {*names} for names in _NAMES):
        wanted = "; ".join(", ".join(names) for names in _NAMES)
        raise UsageError(f"{path} names no spectra: add columns of one of these kinds ({wanted})")
    return Catalogue(
        path=path,
        ids=ids,
        called=~nothing & (verdict > 0),
        z=redshift,
        unclassified=nothing,
        c=c,
        c_bal=c_bal,
        lines=lines,
        bal_line=bal_line,
        numbers={
            ours: values
            for name, ours in _NUMBERS.items()
            if name in columns and np.isfinite(values := _float(columns[name])).any()
        },
        source=columns.get("SOURCE", np.full(n, "")),
        row=columns["ROW"].astype(np.int64) if "ROW" in columns else np.full(n, -1),
        meta=meta,
        rule=_rule(meta.get("rule", "")),
    )


def _float(values: NDArray[Any]) -> Floats:
    return values.astype(np.float64)


def _confidences(
    columns: Mapping[str, NDArray[Any]], nothing: Mask
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, tuple[str, ...], str | None]:
    """Return the confidences in emission lines and in broad absorption, and the names of their lines."""
    if _EMISSION in columns:
        emission = [name for name, line in LINES.items() if not line.bal]
        values = [*columns[_EMISSION].T]
        absorption = "BAL_CIV" if _ABSORPTION in columns else None
        bal = columns[_ABSORPTION].reshape(len(nothing), -1)[:, 0] if absorption else None
        if len(values) != len(emission):
            emission = [f"LINE_{i}" for i in range(len(values))]
    else:
        names = [name[2:] for name in columns if name.startswith("C_")]
        absorption = next((name for name in names if _is_bal(name)), None)
        emission = [name for name in names if not _is_bal(name)]
        values = [columns[f"C_{name}"] for name in emission]
        bal = columns[f"C_{absorption}"] if absorption else None
    c = np.stack(values, axis=1).astype(np.float32) if values else None
    c_bal = None if bal is None else bal.astype(np.float32)
    for filled in (c, c_bal):
        if filled is not None:
            filled[nothing] = np.nan
    return c, c_bal, tuple(emission), absorption


def _is_bal(line: str) -> bool:
    return LINES[line].bal if line in LINES else "BAL" in line


def _provenance(meta: Mapping[str, str]) -> dict[str, str]:
    """Return provenance by broadline's names, from FITS cards, Parquet's keys or those of ECSV."""
    cards = {card: name for name, (card, _) in CARDS.items()}
    return {cards.get(key, key.removeprefix("broadline.")): value for key, value in meta.items()}


def _rule(text: str) -> Rule | None:
    found = _RULE.fullmatch(text.strip())
    if not found:
        return None
    return Rule(float(found["c_th"]), int(found["l_min"]), float(found["c_th_bal"]))
