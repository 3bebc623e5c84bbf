"""Tables as JSON: a list of objects, one a spectrum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.serve.limits import Limits
from broadline.web import TooLargeError

__all__ = ["ARRAYS", "MEDIA_TYPE", "read", "write"]

MEDIA_TYPE = "application/json"

#: What a spectrum's arrays are called here; loglam takes the place of wavelength.
ARRAYS = ("flux", "ivar", "wavelength", "loglam")

_NAMES = 256  # of other fields, in all spectra of a request together
_NUMBERS = {int, float, type(None)}
_PLAIN = {str, int, float, bool, type(None)}


def read(body: bytes | bytearray, limits: Limits) -> pa.Table:
    """Return the table in a body, with columns flux, ivar, wavelength, and one for each further field.

    Raises
    ------
    UsageError
        If it is not JSON, or not a list of spectra.
    TooLargeError
        If there are more spectra, or names of fields, than are allowed.
    """
    spectra = _parsed(body)
    if not isinstance(spectra, list) or not all(isinstance(spectrum, dict) for spectrum in spectra):
        raise UsageError("the body is no list of spectra, [{...}, ...]")
    if len(spectra) > limits.n_spectra:
        raise TooLargeError(f"a request may have {limits.n_spectra:,} spectra at most")
    arrays = [_arrays(spectrum, number) for number, spectrum in enumerate(spectra)]
    names = dict.fromkeys(name for spectrum in spectra for name in spectrum if name not in ARRAYS)
    if len(names) > _NAMES:
        raise TooLargeError(f"the spectra of a request may have {_NAMES} different fields at most")
    kind = pa.list_(pa.float64())
    columns = [pa.array(column, kind) for column in zip(*arrays, strict=True)] or [pa.array([], kind)] * 3
    try:
        further = {name: _column([spectrum.get(name) for spectrum in spectra], name) for name in names}
        return pa.table(dict(zip(ARRAYS, columns, strict=False)) | further)
    except UnicodeEncodeError as error:
        raise UsageError("the spectra's names hold half a Unicode character (a lone surrogate)") from error


def write(table: pa.Table) -> bytes:
    """Return a table as JSON; numbers that JSON lacks, NaN and infinities, are null.

    Raises
    ------
    UsageError
        If a column holds what has no one form in JSON.
    """
    columns = [_values(table[name], name) for name in table.column_names]
    rows = [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
    return json.dumps(rows, allow_nan=False, separators=(",", ":")).encode()


def _parsed(body: bytes | bytearray) -> Any:
    def no_number(name: str) -> None:
        raise UsageError(f"{name} is no JSON: write null where a pixel has no value")

    try:
        return json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        reason = "too many lists in one another" if isinstance(error, RecursionError) else str(error)[:120]
        raise UsageError(f"the body is no JSON ({reason})") from error


def _arrays(spectrum: dict[str, Any], number: int) -> list[NDArray[np.float64] | None]:
    """Return flux, ivar and wavelength of a spectrum."""
    lacking = [name for name in ("flux", "ivar") if name not in spectrum]
    if "wavelength" not in spectrum and "loglam" not in spectrum:
        lacking.append("wavelength or loglam")
    if lacking:
        raise UsageError(f"spectrum {number} (counted from 0) lacks {lacking[0]}")
    flux, ivar, wavelength, loglam = (_pixels(spectrum.get(name), name, number) for name in ARRAYS)
    if wavelength is None and loglam is not None:
        with np.errstate(over="ignore"):
            wavelength = 10.0**loglam
    return [flux, ivar, wavelength]


def _pixels(values: Any, name: str, number: int) -> NDArray[np.float64] | None:
    """Return the numbers of a spectrum, NaN for null; None if there is null in place of all."""
    if values is None:
        return None
    if not isinstance(values, list) or not _NUMBERS.issuperset(map(type, values)):
        raise UsageError(f"{name} of spectrum {number} (counted from 0) is no list of numbers and nulls")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise UsageError(f"{name} of spectrum {number} (counted from 0) has a number beyond 1e308") from error


def _column(values: Sequence[Any], name: str) -> pa.Array:
    """Return the values of a field that is no array; as text if they are not of one type."""
    if not _PLAIN.issuperset(map(type, values)):
        raise UsageError(f"field {name!r} holds a list or an object: only {', '.join(ARRAYS)} may be lists")
    kinds = set(map(type, values)) - {type(None)}
    try:
        if kinds <= {int, float} or len(kinds) == 1:
            return pa.array(values)
    except (OverflowError, pa.ArrowInvalid):  # integers that no column holds
        pass
    return pa.array([value if isinstance(value, str | None) else json.dumps(value) for value in values])


def _values(column: pa.ChunkedArray, name: str) -> list[Any]:
    kind = column.type
    if pt.is_floating(kind):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_finite(column), column, None)
    elif not (
        pt.is_integer(kind)
        or pt.is_boolean(kind)
        or pt.is_string(kind)
        or pt.is_large_string(kind)
        or pt.is_null(kind)
    ):
        raise UsageError(f"column {name!r} of type {kind} has no form in JSON: ask for an Arrow stream")
    values: list[Any] = column.to_pylist()
    return values
