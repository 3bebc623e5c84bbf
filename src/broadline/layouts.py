"""FITS tables written as a stream: the catalogue itself, and the layouts that other programs read.

A layout is a function from the rows to a `Sheet`: the header and, block by block, the cells. Facts on the
layouts of other programs: QuasarNET's ``qn_export`` (qnall, drq), picca's ``drq_catalogue`` and
``desi_quasar_catalogue`` (drq), desispec's ``desi_qso_qn_afterburner`` (desi-qn).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
from astropy.io import fits
from numpy.typing import NDArray

from broadline import __version__
from broadline.catalogue import ARCHIVE_IDS, columns, filled, flag_meanings
from broadline.lines import Line

__all__ = ["LAYOUTS", "Cell", "Layout", "Parts", "Sheet", "catalogue_sheet", "kept_columns", "write_fits"]

#: Provenance that has a header card of its own; anything else becomes HISTORY.
CARDS = {
    "version": ("BLVERS", "version of broadline"),
    "model": ("MODEL", "name of the model"),
    "model_sha256": ("MODELSHA", "SHA-256 of the model file"),
    "command": ("COMMAND", "command line"),
    "date": ("DATE", "when this file was made"),
}

_BLOCK = 2880
_DTYPES = {"L": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "A": "S"}
_CODES = {
    pa.bool_(): "L",
    pa.int16(): "I",
    pa.int32(): "J",
    pa.int64(): "K",
    pa.float32(): "E",
    pa.float64(): "D",
}


class Parts(Protocol):
    """All rows of a catalogue, a part at a time."""

    @property
    def n_rows(self) -> int:
        """How many rows there are."""

    @property
    def filled(self) -> AbstractSet[str]:
        """Columns with at least one value."""

    @property
    def widths(self) -> Mapping[str, int]:
        """The longest value of each text column, in bytes."""

    def tables(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in order, of all columns or of those named."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of a FITS table.

    Attributes
    ----------
    name : str
    code : str
        TFORM, such as ``"D"``, ``"6D"`` or ``"20A"``.
    unit, description : str
    null : int, optional
        The integer that means missing (TNULL).
    """

    name: str
    code: str
    unit: str = ""
    description: str = ""
    null: int | None = None

    @property
    def dtype(self) -> tuple[str, str] | tuple[str, str, tuple[int]]:
        """Field of the structured array that has this column's bytes."""
        count, letter = self.code[:-1], _DTYPES[self.code[-1]]
        if letter == "S":
            return self.name, f"S{count}"
        return (self.name, letter, (int(count),)) if count else (self.name, letter)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One FITS binary table, ready to be written.

    Attributes
    ----------
    name : str
        EXTNAME.
    cells : sequence of Cell
    n_rows : int
    cards : list of (keyword, value, comment)
    blocks : iterator of dict of str to array_like
        Consecutive rows; a scalar stands for every row of its block. The length is that of the first value.
    """

    name: str
    cells: Sequence[Cell]
    n_rows: int
    cards: list[tuple[str, Any, str]]
    blocks: Iterator[dict[str, Any]]


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


def write_fits(stream: IO[bytes], sheet: Sheet) -> None:
    """Write a FITS file with one binary table, a block of rows at a time.

    Parameters
    ----------
    stream : binary file, open for writing
        It need not be seekable.
    sheet : Sheet
    """
    described = [
        fits.Column(cell.name, cell.code, unit=cell.unit or None, null=cell.null) for cell in sheet.cells
    ]
    header = fits.BinTableHDU.from_columns(described, nrows=0, name=sheet.name).header
    header["NAXIS2"] = sheet.n_rows
    for i, cell in enumerate(sheet.cells, 1):
        if cell.description:
            last = next(k for k in (f"TNULL{i}", f"TUNIT{i}", f"TFORM{i}") if k in header)
            header.set(f"TCOMM{i}", cell.description, after=last)
    for keyword, value, comment in sheet.cards:
        if keyword == "HISTORY":
            header.add_history(_ascii(value))
        else:
            value = _ascii(value)
            # A comment that does not fit beside its text would be cut.
            fits_beside = not isinstance(value, str) or len(value) + len(comment) < 64
            header.append((keyword, value, comment if fits_beside else ""), end=True)
    for part in (fits.PrimaryHDU().header, header):
        stream.write(part.tostring().encode("ascii"))
    dtype = np.dtype([cell.dtype for cell in sheet.cells])
    written = 0
    for block in sheet.blocks:
        records = np.zeros(len(next(iter(block.values()))), dtype=dtype)
        for name, values in block.items():
            records[name] = values
        stream.write(records.tobytes())
        written += len(records)
    if written != sheet.n_rows:
        raise RuntimeError(f"{written} rows written under a header that announces {sheet.n_rows}")
    stream.write(bytes(-written * dtype.itemsize % _BLOCK))


def kept_columns(parts: Parts, lines: Sequence[Line]) -> list[str]:
    """Return the names of the columns that a file has: all but the ids that no row has a value for."""
    return [c.name for c in columns(lines) if c.name not in ARCHIVE_IDS or c.name in parts.filled]


def catalogue_sheet(parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> Sheet:
    """Return the catalogue as a FITS table."""
    kept = kept_columns(parts, lines)
    table = {c.name: c for c in columns(lines) if c.name in kept}
    cells = []
    for name, column in table.items():
        text = column.type == pa.string()
        code = f"{max(parts.widths.get(name, 0), 1)}A" if text else _CODES[column.type]
        # All 32 bits of FLAGS mean something, and it is never missing.
        null = -1 if pa.types.is_integer(column.type) and name != "FLAGS" else None
        cells.append(Cell(name, code, column.unit, column.description, null))
    cards = _provenance(meta)
    cards += [(f"FLAG{bit}", meaning, "") for bit, meaning in flag_meanings().items()]
    blocks = (
        {name: _bytes(part[name], column.type) for name, column in table.items()}
        for part in parts.tables(kept)
    )
    return Sheet("CATALOG", cells, parts.n_rows, cards, blocks)


def _bytes(column: pa.ChunkedArray, kind: pa.DataType) -> NDArray[Any]:
    """Return a column's values as FITS has them; a logical that is missing is the byte 0."""
    if kind == pa.bool_():
        known = filled(column.is_valid(), kind)
        return np.where(known, np.where(filled(column, kind), ord("T"), ord("F")), 0).astype(np.uint8)
    if kind == pa.string():
        return filled(column.cast(pa.binary()), pa.binary(), b"")
    return filled(column, kind)


def _logical(values: Any) -> NDArray[np.uint8]:
    return np.where(values, np.uint8(ord("T")), np.uint8(ord("F")))


def _values(part: pa.Table, name: str, missing: object = None) -> NDArray[Any]:
    return filled(part[name], part.schema.field(name).type, missing)


def _stack(part: pa.Table, names: Sequence[str]) -> NDArray[Any]:
    return np.stack([_values(part, name) for name in names], axis=1)


def _ascii(value: Any) -> Any:
    """Return `value` such that a FITS header can hold it."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[^ -~]", lambda match: match[0].encode("unicode_escape").decode(), value)


def _provenance(meta: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    cards: list[tuple[str, Any, str]] = []
    for name, (keyword, comment) in CARDS.items():
        if name in meta:
            # FITS times are UTC and carry no offset.
            value = meta[name].removesuffix("+00:00") if keyword == "DATE" else meta[name]
            cards.append((keyword, value, comment))
    cards += [("HISTORY", f"{name} = {value}", "") for name, value in meta.items() if name not in CARDS]
    return cards


# --- the layouts of other programs ---------------------------------------------------------------------

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
    cards = _provenance(meta)
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
        values: dict[str, Any] = {name: _values(part, name) for name in ids}
        values |= {"ZBEST": _values(part, "Z"), "IS_QSO": _values(part, "IS_QSO"), "IN_TRAIN": 0}
        for q in "CZ":
            values[f"{q}_LINES"] = _stack(part, [f"{q}_{name}" for name in _EMISSION])
            values[f"{q}_LINES_BAL"] = _stack(part, [f"{q}_{name}" for name in _BAL])
        return values

    return Sheet("QNALL", cells, parts.n_rows, cards, map(block, parts.tables()))


def _drq(parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> Sheet:
    """Return the quasar catalogue that picca reads, of SDSS (CATALOG) or DESI (ZCATALOG) quasars.

    One row an object, that of the highest SN_MEDIAN: picca would count repeats twice. Missing values would
    stop picca or slip through its cuts, so rows without identity or position are left out, and counted.
    """
    desi = "TARGETID" in parts.filled
    kept, counts = _primary(parts, desi)
    cards = _provenance(meta)
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
            values |= {name: _values(part, name) for name in (*names[1:], "Z", "RA", "DEC")}
            if not desi:
                # Both hold a flag, as in QuasarNET's own file: BI_CIV is no velocity.
                values |= dict.fromkeys(("BI_CIV", "BAL_FLAG_VI"), _values(part, "IS_BAL"))
            yield values

    return Sheet("ZCATALOG" if desi else "CATALOG", cells, int(kept.sum()), cards, blocks())


def _object(part: pa.Table, desi: bool) -> NDArray[np.int64]:
    """Return the number that picca knows an object by, -1 where there is none.

    picca drops quasars without a positive THING_ID. Those of spPlate files get the number of their spectrum,
    which no THING_ID reaches, so that they can be used; repeats of them go unnoticed.
    """
    if desi:
        return _values(part, "TARGETID")
    plate, mjd, fibre = (_values(part, name).astype(np.int64) for name in ("PLATE", "MJD", "FIBERID"))
    spectrum = plate * 10**9 + mjd * 10**4 + fibre
    thing = _values(part, "THING_ID")
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
        quasar = _values(part, "IS_QSO")
        known = np.isfinite(_stack(part, ("Z", "RA", "DEC"))).all(axis=1)
        objects = _object(part, desi)
        good = quasar & known & (objects != -1)
        usable[start : start + len(part)] = good
        who.append(objects[good])
        quality.append(_values(part, "SN_MEDIAN", -math.inf)[good])
        named.append(objects[good] == _values(part, "THING_ID")[good])
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
    cards += _provenance(meta)
    nothing: dict[str, Any] = {"SPECTYPE_RR": b"", "IS_QSO_QN_NEW_RR": ord("F"), "ZWARN_NEW": -1}
    nothing |= dict.fromkeys(("SPECTYPE_NEW", "SUBTYPE_NEW"), b"")
    no_number = ("Z_RR", "Z_NEW", "ZERR_NEW", "CHI2_NEW", "DELTACHI2_NEW", "COEFF_NEW")
    nothing |= dict.fromkeys(no_number, math.nan)

    def block(part: pa.Table) -> dict[str, Any]:
        values = {name: _values(part, name) for name in ("TARGETID", "RA", "DEC")}
        # A target of unknown selection was selected by nothing; -1 would be selected by everything.
        values |= {"DESI_TARGET": _values(part, "DESI_TARGET", 0), "Z_QN": _values(part, "Z")}
        for ours, theirs in spelling.items():
            values |= {f"{q}_{theirs}": _values(part, f"{q}_{ours}") for q in "CZ"}
        values |= {f"{q}_CIV_BAL": _values(part, f"{q}_BAL_CIV") for q in "CZ"}
        return values | nothing | {"IS_QSO_QN": _logical(_values(part, "IS_QSO"))}

    return Sheet("QN_RR", cells, parts.n_rows, cards, map(block, parts.tables()))


#: What ``--layout`` takes.
LAYOUTS = {
    "qnall": Layout(_qnall, lines=_EMISSION + _BAL, ids=("THING_ID", "PLATE")),
    "drq": Layout(_drq, ids=("PLATE", "TARGETID"), apart=True),
    "desi-qn": Layout(_desi_qn, lines=_EMISSION + _BAL, ids=("TARGETID",)),
}
