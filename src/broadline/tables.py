"""Tables as their files have them: some columns of FITS, Parquet, ECSV and CSV, as arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.simulation.files.fits_parts import ORIGIN

__all__ = ["RawTable", "load_tables", "raw_tables"]

# Numbers that name things: those that are missing are -1, as NaN would cost the last digits of the others.
_NUMBERS = frozenset({"PLATE", "MJD", "FIBERID", "OBSID", "TARGETID", "THING_ID", "ROW"})


class RawTable(NamedTuple):
    """A table of a file.

    Attributes
    ----------
    columns : dict of str to ndarray
        Those that were asked for, by upper-case name: text, or numbers in native byte order with NaN where a
        value is missing (-1 in columns of names). True and false may come as 1 and 0.
    meta : dict of str to str
        What the file says of itself: cards of FITS headers, metadata of Parquet and ECSV. "simulated" is
        among them if broadline's simulator wrote the file.
    """

    columns: dict[str, NDArray[Any]]
    meta: dict[str, str]


Choice = Callable[[Sequence[str]], Iterable[str]]


def load_tables(
    path: Path,
    what: str,
    choose: Choice,
    text: AbstractSet[str],
    spare: AbstractSet[str] = frozenset(),
) -> list[RawTable]:
    """Return some columns of each table of a file; others are never held in memory.

    Parameters
    ----------
    path : Path
        FITS (also gzipped), Parquet, ECSV or CSV.
    what : str
        What the file is to be, for the words of errors.
    choose : callable
        From the names of all columns of a table to those wanted.
    text : set of str
        Upper-case names of columns that are text, even if they look like numbers.
    spare : set of str
        Upper-case names of columns that are left out if they hold no numbers.

    Raises
    ------
    UsageError
        If it cannot be read, or a column that is no text holds no numbers.
    """
    try:
        tables = raw_tables(path, choose, text)
        return [RawTable(_numbers(table.columns, text, spare), table.meta) for table in tables]
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except (pa.ArrowException, ValueError, TypeError, KeyError, EOFError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as a {what} ({said}); fetch it again") from error


def raw_tables(path: Path, choose: Choice, text: AbstractSet[str] = frozenset()) -> list[RawTable]:
    """Return some columns of each table of a file, as `load_tables`, but text too where numbers should be.

    What is wrong with the file raises whatever its reader raises.
    """
    with path.open("rb") as stream:
        start = stream.read(16)
    if start[:9] == b"SIMPLE  =" or start[:2] == b"\x1f\x8b":
        return _load_fits(path, choose, text)
    if start[:4] == b"PAR1":
        return [_load_parquet(path, choose, text)]
    if start[:7] == b"# %ECSV":
        return [_load_ecsv(path, choose, text)]
    return [RawTable(_from_arrow(_read_csv(path, choose, text), text), {})]


def _numbers(
    columns: Mapping[str, NDArray[Any]], text: AbstractSet[str], spare: AbstractSet[str]
) -> dict[str, NDArray[Any]]:
    """Return the columns that can be used."""
    strange = {
        name for name, column in columns.items() if name not in text and column.dtype.kind not in "iufb"
    }
    if wrong := sorted(strange - spare):
        raise ValueError(f"column {wrong[0]} does not hold numbers")
    return {name: column for name, column in columns.items() if name not in strange}


def _read_csv(path: Path, choose: Choice, text: AbstractSet[str], skip: int = 0) -> pa.Table:
    read = pa_csv.ReadOptions(skip_rows=skip)
    with pa_csv.open_csv(path, read_options=read) as reader:
        wanted = list(choose(reader.schema.names))
    if not wanted:  # which would stand for all
        return pa.table({})
    types = {name: pa.string() for name in wanted if name.upper() in text}
    options = pa_csv.ConvertOptions(include_columns=wanted, column_types=types)
    return pa_csv.read_csv(path, read_options=read, convert_options=options)


def _load_parquet(path: Path, choose: Choice, text: AbstractSet[str]) -> RawTable:
    with pq.ParquetFile(path) as file:
        table = file.read(list(choose(file.schema_arrow.names)))
        meta = file.schema_arrow.metadata or {}
    said = {key.decode(): value.decode(errors="replace") for key, value in meta.items()}
    return RawTable(_from_arrow(table, text), said)


def _load_ecsv(path: Path, choose: Choice, text: AbstractSet[str]) -> RawTable:
    """Return an ECSV table; one parted by commas without nested columns is plain CSV below its header."""
    with path.open(encoding="utf-8") as stream:
        lines = list(takewhile(lambda line: line.startswith("#"), stream))
    header = get_header_from_yaml(line[2:].rstrip("\n") for line in lines)
    meta = {str(key): str(value) for key, value in dict(header.get("meta", {})).items()}
    if header.get("delimiter") == "," and not any("subtype" in column for column in header["datatype"]):
        return RawTable(_from_arrow(_read_csv(path, choose, text, len(lines)), text), meta)
    table = Table.read(path, format="ascii.ecsv")
    columns = {name.upper(): _native(name, table[name], text) for name in choose(table.colnames)}
    return RawTable(columns, meta)


def _load_fits(path: Path, choose: Choice, text: AbstractSet[str]) -> list[RawTable]:
    tables = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(path, memmap=True, character_as_bytes=True) as hdus:
            first = _cards(hdus[0].header)
            if first.get("ORIGIN") == ORIGIN[1]:
                first["simulated"] = str(ORIGIN[2])
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU):
                    names = choose(hdu.columns.names)
                    columns = {name.upper(): _native(name, hdu.data[name], text) for name in names}
                    tables.append(RawTable(columns, first | _cards(hdu.header)))
    return tables


def _cards(header: fits.Header) -> dict[str, str]:
    """Return the cards of a header; "NAME = VALUE" in HISTORY is one too."""
    cards = {key: str(value) for key, value in header.items() if key and key != "HISTORY"}
    said = (line.split(" = ", 1) for line in header.get("HISTORY", ()))
    return cards | {pair[0]: pair[1] for pair in said if len(pair) == 2}


def _from_arrow(table: pa.Table, text: AbstractSet[str]) -> dict[str, NDArray[Any]]:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        shape: tuple[int, ...] = (len(column),)
        if pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
            column = pc.list_flatten(column)
            shape = (shape[0], len(column) // max(shape[0], 1))
            if len(column) != shape[0] * shape[1]:
                raise ValueError(f"the lists of column {name} are not all of one length")
        columns[name.upper()] = _arrow_column(name, column, text).reshape(shape)
    return columns


def _arrow_column(name: str, column: pa.ChunkedArray, text: AbstractSet[str]) -> NDArray[Any]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if name.upper() in text or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))
        words = column.combine_chunks().dictionary_encode()  # there are few, mostly, and Python makes each
        unlike = np.array(words.dictionary.to_pylist() or [""], dtype=np.str_)
        return np.asarray(unlike[words.indices.to_numpy()])
    if name.upper() in _NUMBERS and (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        column = column.cast(pa.int64()).fill_null(-1)
    elif pa.types.is_null(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    return _native(name, column.to_numpy(), text)


def _native(name: str, column: Any, text: AbstractSet[str]) -> NDArray[Any]:
    """Return a column as text, or as numbers in native byte order with NaN where a value is missing."""
    values = np.ma.MaskedArray(column)
    if name.upper() in text:
        words = np.where(np.ma.getmaskarray(values), "", np.asarray(values.data).astype(str))
        return np.asarray(np.strings.strip(words))
    if values.dtype.kind not in "iufb":
        return np.asarray(values.data)
    if np.ma.is_masked(values):
        missing = -1 if name.upper() in _NUMBERS else np.nan
        return np.where(values.mask, missing, values.data)
    return np.asarray(values.data).astype(values.dtype.newbyteorder("="))
