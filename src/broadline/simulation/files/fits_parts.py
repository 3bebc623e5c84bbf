"""What FITS files are made of: headers and tables as bytes, and files that appear when they are whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from broadline.errors import UsageError

__all__ = [
    "BLOCK",
    "ORIGIN",
    "Card",
    "Field",
    "GrowingTable",
    "header_of",
    "primary_header",
    "published",
    "records",
    "table_header",
    "write_table",
]

#: The value of ORIGIN in all primary headers: no observatory.
ORIGIN = ("ORIGIN", "broadline simulation", "nothing in this file was observed")
#: FITS files consist of blocks of so many bytes.
BLOCK = 2880

Card = tuple[Any, ...]


class Field(NamedTuple):
    """A column: TFORM, one value a row or one for all, TUNIT and TDIM."""

    code: str
    values: Any
    unit: str = ""
    dim: str = ""


@lru_cache(maxsize=64)
def _layout(name: str, columns: tuple[tuple[str, str, str, str], ...]) -> tuple[np.dtype[Any], bytes]:
    """Return the type of a row and the header of a table without rows."""
    described = [fits.Column(n, code, unit=unit or None, dim=dim or None) for n, code, unit, dim in columns]
    hdu = fits.BinTableHDU.from_columns(described, nrows=0, name=name or None)
    dtype: np.dtype[Any] = hdu.columns.dtype
    return dtype.newbyteorder(">"), header_of(hdu.header.cards)


def _layout_of(fields: Mapping[str, Field], name: str) -> tuple[np.dtype[Any], bytes]:
    return _layout(name, tuple((key, field.code, field.unit, field.dim) for key, field in fields.items()))


def records(fields: Mapping[str, Field]) -> NDArray[Any]:
    """Return the rows of a table as FITS has them; at least one column must have a value for each row."""
    dtype, _ = _layout_of(fields, "")
    rows = np.empty(next(len(field.values) for field in fields.values() if np.ndim(field.values)), dtype)
    for name, field in fields.items():
        rows[name] = field.values
    return rows


def table_header(fields: Mapping[str, Field], n_rows: int, name: str = "") -> bytes:
    """Return the header of a binary table, to the end of its last block."""
    _, header = _layout_of(fields, name)
    place = header.index(b"NAXIS2  = ") + 10
    return header[:place] + b"%20d" % n_rows + header[place + 20 :]


def write_table(file: BinaryIO, fields: Mapping[str, Field], name: str = "") -> None:
    """Write a binary table with the header and padding."""
    rows = records(fields)
    file.write(table_header(fields, len(rows), name))
    file.write(rows.tobytes())
    file.write(bytes(-rows.nbytes % BLOCK))


def header_of(cards: Iterable[Card]) -> bytes:
    """Return a header, to the end of its last block."""
    return str(fits.Header(cards).tostring()).encode("ascii")


def primary_header(cards: Sequence[Card]) -> bytes:
    """Return the header of a primary HDU without data."""
    first: list[Card] = [("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True), ORIGIN]
    return header_of([*first, *cards])


# ---- files


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{path}: cannot be written ({reason}); make room there, or choose another folder"
        ) from error


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name when the block ends, or not at all if it fails.

    Raises
    ------
    UsageError
        If the file or a folder on the way cannot be written.
    """
    aside = _aside(path)
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                yield file
            aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


class GrowingTable:
    """A file with one table that is written a chunk of rows at a time; what is not published is removed.

    Parameters
    ----------
    path : Path
        The file; its folder is made if it is not there.
    name : str
        EXTNAME of the table.

    Raises
    ------
    UsageError
        If the file cannot be written, from any method.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._n_rows = 0
        self._fields: dict[str, Field] | None = None
        self._start = primary_header([])

    def __enter__(self) -> GrowingTable:
        with _told(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _aside(self._path).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            _aside(self._path).unlink(missing_ok=True)

    def append(self, fields: dict[str, Field]) -> None:
        """Add rows."""
        rows = records(fields)
        with _told(self._path):
            if self._fields is None:
                self._file.write(self._start + table_header(fields, 0, self._name))
            self._file.write(rows.tobytes())
        self._fields = fields
        self._n_rows += len(rows)

    def finish(self) -> None:
        """Fill the last block, and put the number of rows into the header, which has not grown by it."""
        if self._fields is None:
            raise ValueError("there is no table of which a catalogue could be made")
        with _told(self._path):
            self._file.write(bytes(-self._file.tell() % BLOCK))
            self._file.seek(len(self._start))
            self._file.write(table_header(self._fields, self._n_rows, self._name))
            self._file.close()

    def publish(self) -> Path:
        """Give the file its name."""
        with _told(self._path):
            _aside(self._path).replace(self._path)
        return self._path
