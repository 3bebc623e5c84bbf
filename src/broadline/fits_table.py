"""FITS tables written as a stream, and the catalogue as one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
from astropy.io import fits
from numpy.typing import NDArray

from broadline.catalogue import ARCHIVE_IDS, columns, filled, flag_meanings
from broadline.lines import Line

__all__ = [
    "Cell",
    "Parts",
    "Sheet",
    "catalogue_sheet",
    "kept_columns",
    "logical",
    "provenance_cards",
    "stacked",
    "to_ascii",
    "values_of",
    "write_fits",
]

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
            header.add_history(to_ascii(value))
        else:
            value = to_ascii(value)
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
    cards = provenance_cards(meta)
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


def logical(values: Any) -> NDArray[np.uint8]:
    """Return booleans as the letters of a FITS logical column."""
    return np.where(values, np.uint8(ord("T")), np.uint8(ord("F")))


def values_of(part: pa.Table, name: str, missing: object = None) -> NDArray[Any]:
    """Return a column of a part as an array, with `missing` where it has no value."""
    return filled(part[name], part.schema.field(name).type, missing)


def stacked(part: pa.Table, names: Sequence[str]) -> NDArray[Any]:
    """Return columns of a part side by side, shape (n_rows, n_names)."""
    return np.stack([values_of(part, name) for name in names], axis=1)


def to_ascii(value: Any) -> Any:
    """Return `value` such that a FITS header can hold it."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[^ -~]", lambda match: match[0].encode("unicode_escape").decode(), value)


def provenance_cards(meta: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """Return the header cards that say how a file came about: keyword, value, comment."""
    cards: list[tuple[str, Any, str]] = []
    for name, (keyword, comment) in CARDS.items():
        if name in meta:
            # FITS times are UTC and carry no offset.
            value = meta[name].removesuffix("+00:00") if keyword == "DATE" else meta[name]
            cards.append((keyword, value, comment))
    cards += [("HISTORY", f"{name} = {value}", "") for name, value in meta.items() if name not in CARDS]
    return cards


# --- the layouts of other programs ---------------------------------------------------------------------
