"""The layouts that other programs read: QuasarNET's qnAll, picca's DRQ and DESI's QN_RR.

A layout is a function from the rows to a `Sheet`: the header and, block by block, the cells. Facts on the
layouts: QuasarNET's ``qn_export`` (qnall, drq), picca's ``drq_catalogue`` and ``desi_quasar_catalogue``
(drq), desispec's ``desi_qso_qn_afterburner`` (desi-qn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broadline import __version__
from broadline.fits_table import Cell, Parts, Sheet, logical, provenance_cards, stacked, values_of
from broadline.lines import Line

__all__ = ["LAYOUTS", "Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A table that another program reads.

    Attributes
    ----------
    sheet : callable
        From the rows, the model's lines and the provenance to what is written.
    lines : tuple of str
        Lines that the model must have.
    ids : tuple of str
        Identity columns of which at least one must have a value in some row.
    apart : bool
        Only one of them may have values.
    """

    sheet: Callable[[Parts, Sequence[Line], Mapping[str, str]], Sheet]
    lines: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    apart: bool = False


_EMISSION = ("LYA", "CIV", "CIII", "MGII", "HBETA", "HALPHA")
_BAL = ("BAL_CIV",)
#: How QuasarNET and desispec spell the lines.
_QN_NAMES = {
    "LYA": "LYA",
    "CIV": "CIV(1548)",
    "CIII": "CIII(1909)",
    "MGII": "MgII(2796)",
    "HBETA": "Hbeta",
    "HALPHA": "Halpha",
    "BAL_CIV": "CIV(1548)",
}


def _qnall(parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> Sheet:
    """Return QuasarNET's ``qnAll``: every row, IN_TRAIN always 0."""
    wavelength = {line.name: line.wavelength for line in lines}
    cards = provenance_cards(meta)
    for prefix, names in (("LINE_", _EMISSION), ("LINE_BAL_", _BAL)):
        for i, name in enumerate(names):
            # Keywords of more than eight characters are written as HIERARCH; readers need not know.
            keyword = f"{prefix}{i}" if len(prefix) < 8 else f"HIERARCH {prefix}{i}"
            cards.append((keyword, wavelength[name], _QN_NAMES[name]))
    ids = ("THING_ID", "PLATE", "MJD", "FIBERID")
    cells = [
        *(Cell(name, code) for name, code in zip(ids, "KJJJ", strict=True)),
        *(Cell(name, code) for name, code in (("ZBEST", "D"), ("IS_QSO", "K"), ("IN_TRAIN", "K"))),
        *(Cell(f"{q}_LINES", f"{len(_EMISSION)}D") for q in "CZ"),
        *(Cell(f"{q}_LINES_BAL", f"{len(_BAL)}D") for q in "CZ"),
    ]

    def block(part: pa.Table) -> dict[str, Any]:
        values: dict[str, Any] = {name: values_of(part, name) for name in ids}
        values |= {"ZBEST": values_of(part, "Z"), "IS_QSO": values_of(part, "IS_QSO"), "IN_TRAIN": 0}
        for q in "CZ":
            values[f"{q}_LINES"] = stacked(part, [f"{q}_{name}" for name in _EMISSION])
            values[f"{q}_LINES_BAL"] = stacked(part, [f"{q}_{name}" for name in _BAL])
        return values

    return Sheet("QNALL", cells, parts.n_rows, cards, map(block, parts.tables()))


def _drq(parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> Sheet:
    """Return the quasar catalogue that picca reads, of SDSS (CATALOG) or DESI (ZCATALOG) quasars.

    One row an object, that of the highest SN_MEDIAN: picca would count repeats twice. Missing values would
    stop picca or slip through its cuts, so rows without identity or position are left out, and counted.
    """
    desi = "TARGETID" in parts.filled
    kept, counts = _primary(parts, desi)
    cards = provenance_cards(meta)
    cards += [
        ("NINPUT", parts.n_rows, "spectra classified"),
        ("NQSO", counts["quasar"], "of these called quasars; only quasars are here"),
        ("NDROP", counts["dropped"], "quasars not here: no identity or position"),
        ("NREPEAT", counts["repeated"], "quasars not here: object seen with higher S/N"),
    ]
    if not desi:
        cards.append(("NSTANDIN", counts["standin"], "THING_ID = PLATE*10^9 + MJD*10^4 + FIBERID"))
    names = ("TARGETID",) if desi else ("THING_ID", "PLATE", "MJD", "FIBERID")
    cells = [Cell(name, "J" if name in ("PLATE", "MJD", "FIBERID") else "K") for name in names]
    where = [Cell("RA", "D", "deg"), Cell("DEC", "D", "deg")]
    cells += [*where, Cell("Z", "D")] if desi else [Cell("Z", "D"), *where]
    if not desi:
        cells += [Cell("BI_CIV", "I"), Cell("BAL_FLAG_VI", "I")]

    def blocks() -> Iterator[dict[str, Any]]:
        start = 0
        for part in parts.tables():
            part, start = part.filter(pa.array(kept[start : start + len(part)])), start + len(part)
            values: dict[str, Any] = {names[0]: _object(part, desi)}
            values |= {name: values_of(part, name) for name in (*names[1:], "Z", "RA", "DEC")}
            if not desi:
                # Both hold a flag, as in QuasarNET's own file: BI_CIV is no velocity.
                values |= dict.fromkeys(("BI_CIV", "BAL_FLAG_VI"), values_of(part, "IS_BAL"))
            yield values

    return Sheet("ZCATALOG" if desi else "CATALOG", cells, int(kept.sum()), cards, blocks())


def _object(part: pa.Table, desi: bool) -> NDArray[np.int64]:
    """Return the number that picca knows an object by, -1 where there is none.

    picca drops quasars without a positive THING_ID. Those of spPlate files get the number of their spectrum,
    which no THING_ID reaches, so that they can be used; repeats of them go unnoticed.
    """
    if desi:
        return values_of(part, "TARGETID")
    plate, mjd, fibre = (values_of(part, name).astype(np.int64) for name in ("PLATE", "MJD", "FIBERID"))
    spectrum = plate * 10**9 + mjd * 10**4 + fibre
    thing = values_of(part, "THING_ID")
    # What SDSS-V has in place of a fibre is too long for a number of one spectrum alone.
    number = np.where(thing > 0, thing, np.where(fibre < 10**4, spectrum, -1))
    return np.where((plate < 0) | (mjd < 0) | (fibre < 0), -1, number)


def _primary(parts: Parts, desi: bool) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which rows are the best spectrum of a quasar that picca can use, and the counts of the rest."""
    needed = ["IS_QSO", "Z", "RA", "DEC", "SN_MEDIAN", "TARGETID", "THING_ID", "PLATE", "MJD", "FIBERID"]
    usable = np.zeros(parts.n_rows, dtype=bool)
    who, quality, named = [np.empty(0, np.int64)], [np.empty(0, np.float32)], [np.empty(0, np.bool_)]
    start = quasars = 0
    for part in parts.tables(needed):
        quasar = values_of(part, "IS_QSO")
        known = np.isfinite(stacked(part, ("Z", "RA", "DEC"))).all(axis=1)
        objects = _object(part, desi)
        good = quasar & known & (objects != -1)
        usable[start : start + len(part)] = good
        who.append(objects[good])
        quality.append(values_of(part, "SN_MEDIAN", -math.inf)[good])
        named.append(objects[good] == values_of(part, "THING_ID")[good])
        quasars += int(quasar.sum())
        start += len(part)
    objects, sn = np.concatenate(who), np.concatenate(quality)
    # Sorted by object, then falling S/N, then place: the first of each object stays.
    order = np.lexsort((-sn, objects))
    first = np.ones(len(order), dtype=bool)
    first[1:] = objects[order][1:] != objects[order][:-1]
    kept = np.zeros(parts.n_rows, dtype=bool)
    kept[np.flatnonzero(usable)[order[first]]] = True
    return kept, {
        "quasar": quasars,
        "dropped": quasars - len(objects),
        "repeated": int((~first).sum()),
        "standin": int((~np.concatenate(named)[order[first]]).sum()),
    }


def _desi_qn(parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> Sheet:
    """Return desispec's ``qso_qn`` table, every row, its redrock columns empty.

    IS_QSO_QN_NEW_RR tells pipelines to replace redrock's Z by Z_NEW. Redrock was not run again, so it is
    False: True would have them put NaN there. broadline's own verdict is in IS_QSO_QN, the last column.
    """
    spelling = {name: _QN_NAMES[name].split("(")[0] for name in _EMISSION}
    cells = [
        Cell("TARGETID", "K", null=-1),
        Cell("RA", "D", "deg"),
        Cell("DEC", "D", "deg"),
        Cell("DESI_TARGET", "K"),
        Cell("SPECTYPE_RR", "6A"),
        Cell("Z_RR", "D"),
        Cell("IS_QSO_QN_NEW_RR", "L"),
        Cell("Z_QN", "E"),
        *(Cell(f"{q}_{name}", "E") for q in "CZ" for name in spelling.values()),
        Cell("Z_NEW", "D"),
        Cell("ZERR_NEW", "E"),
        Cell("ZWARN_NEW", "K", null=-1),
        Cell("SPECTYPE_NEW", "6A"),
        Cell("SUBTYPE_NEW", "3A"),
        Cell("CHI2_NEW", "E"),
        Cell("DELTACHI2_NEW", "E"),
        Cell("COEFF_NEW", "10E"),
        Cell("C_CIV_BAL", "E"),
        Cell("Z_CIV_BAL", "E"),
        Cell("IS_QSO_QN", "L"),
    ]
    cards: list[tuple[str, Any, str]] = []
    versions = {"broadline": meta.get("version", __version__), "QN_MODEL_FILE": meta.get("model", "unknown")}
    for i, (name, version) in enumerate(versions.items()):
        cards += [(f"DEPNAM{i:02d}", name, ""), (f"DEPVER{i:02d}", version, "")]
    cards += provenance_cards(meta)
    nothing: dict[str, Any] = {"SPECTYPE_RR": b"", "IS_QSO_QN_NEW_RR": ord("F"), "ZWARN_NEW": -1}
    nothing |= dict.fromkeys(("SPECTYPE_NEW", "SUBTYPE_NEW"), b"")
    no_number = ("Z_RR", "Z_NEW", "ZERR_NEW", "CHI2_NEW", "DELTACHI2_NEW", "COEFF_NEW")
    nothing |= dict.fromkeys(no_number, math.nan)

    def block(part: pa.Table) -> dict[str, Any]:
        values = {name: values_of(part, name) for name in ("TARGETID", "RA", "DEC")}
        # A target of unknown selection was selected by nothing; -1 would be selected by everything.
        values |= {"DESI_TARGET": values_of(part, "DESI_TARGET", 0), "Z_QN": values_of(part, "Z")}
        for ours, theirs in spelling.items():
            values |= {f"{q}_{theirs}": values_of(part, f"{q}_{ours}") for q in "CZ"}
        values |= {f"{q}_CIV_BAL": values_of(part, f"{q}_BAL_CIV") for q in "CZ"}
        return values | nothing | {"IS_QSO_QN": logical(values_of(part, "IS_QSO"))}

    return Sheet("QN_RR", cells, parts.n_rows, cards, map(block, parts.tables()))


#: What ``--layout`` takes.
LAYOUTS = {
    "qnall": Layout(_qnall, lines=_EMISSION + _BAL, ids=("THING_ID", "PLATE")),
    "drq": Layout(_drq, ids=("PLATE", "TARGETID"), apart=True),
    "desi-qn": Layout(_desi_qn, lines=_EMISSION + _BAL, ids=("TARGETID",)),
}
