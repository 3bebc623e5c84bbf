"""The catalogue: one row for every spectrum, with its result or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broadline.flags import UNCLASSIFIED, Flag, describe
from broadline.lines import QUASARNET_LINES, Line
from broadline.spectra import IDENTITY, legible

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "ARCHIVE_IDS",
    "Column",
    "columns",
    "describe_columns",
    "filled",
    "flag_meanings",
    "line_names",
    "rows",
    "schema",
    "to_astropy",
]

#: Identity columns that only some archives have: files leave out those without a single value.
ARCHIVE_IDS: tuple[str, ...] = tuple(IDENTITY)[6:]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the catalogue.

    Attributes
    ----------
    name : str
    type : pyarrow.DataType
    unit : str
        As in the FITS standard; empty for a pure number.
    description : str
        One sentence, without its full stop.
    """

    name: str
    type: pa.DataType
    unit: str
    description: str


_IDENTITY = (
    Column("ARCHIVE", pa.string(), "", "Archive whose file format this is"),
    Column("SOURCE", pa.string(), "", "File that holds the spectrum"),
    Column("ROW", pa.int64(), "", "Row of the spectrum within that file, from 0"),
    Column("OBJID", pa.string(), "", "Name of the object, as its archive writes it"),
    Column("RA", pa.float64(), "deg", "Right ascension"),
    Column("DEC", pa.float64(), "deg", "Declination"),
    Column(
        "SN_MEDIAN",
        pa.float32(),
        "",
        "Median signal-to-noise ratio per pixel, over bins with data",
    ),
    Column("PLATE", pa.int32(), "", "SDSS plate"),
    Column("MJD", pa.int32(), "", "SDSS modified Julian date of the observation"),
    Column("FIBERID", pa.int32(), "", "SDSS fibre"),
    Column("THING_ID", pa.int64(), "", "SDSS identifier of the object"),
    Column("TARGETID", pa.int64(), "", "DESI identifier of the object"),
    Column("DESI_TARGET", pa.int64(), "", "DESI target selection bits"),
    Column("OBSID", pa.int64(), "", "LAMOST identifier of the spectrum"),
    Column("LMJD", pa.int32(), "", "LAMOST local modified Julian date"),
    Column("PLANID", pa.string(), "", "LAMOST plan"),
    Column("SPID", pa.int32(), "", "LAMOST spectrograph"),
)

_VERDICT = (
    Column("IS_QSO", pa.bool_(), "", "Quasar: enough emission lines found"),
    Column(
        "Z",
        pa.float64(),
        "",
        "Redshift from the most confident emission line and, of models with errors, all that agree with it",
    ),
    Column("Z_ERR", pa.float32(), "", "Uncertainty (1 sigma) of Z"),
    Column("BEST_LINE", pa.string(), "", "Most confident emission line, the one that Z comes from"),
    Column("N_LINES", pa.int16(), "", "Emission lines found"),
    Column("IS_BAL", pa.bool_(), "", "Quasar with a broad absorption trough"),
    Column("P_QSO", pa.float32(), "", "Probability that the object is a quasar; needs a calibrated model"),
    Column("P_Z", pa.float32(), "", "Probability of a quasar whose Z is right; needs a calibrated model"),
    Column("P_BAL", pa.float32(), "", "Probability of broad absorption; needs a calibrated model"),
    Column("NEEDS_VI", pa.bool_(), "", "Exactly one emission line found: inspect by eye"),
)

_FLAGS = Column("FLAGS", pa.int32(), "", "Bit mask: what is wrong with the spectrum; 0 if nothing")


def line_names(lines: Sequence[Line | str]) -> list[str]:
    """Return the names of `lines`, given as names or as entries of the line table."""
    return [line if isinstance(line, str) else line.name for line in lines]


def columns(lines: Sequence[Line | str] = QUASARNET_LINES) -> tuple[Column, ...]:
    """Return the columns of the catalogue of a model with these line finders, in order.

    Parameters
    ----------
    lines : sequence of Line or str
        The model's lines, or their names.
    """
    names = line_names(lines)
    confidence, redshift = "Confidence in {}, from 0 to 1", "Redshift from {}, whatever its confidence"
    return (
        *_IDENTITY,
        *_VERDICT,
        *(Column(f"C_{name}", pa.float32(), "", confidence.format(name)) for name in names),
        *(Column(f"Z_{name}", pa.float64(), "", redshift.format(name)) for name in names),
        _FLAGS,
    )


def schema(lines: Sequence[Line | str] = QUASARNET_LINES) -> pa.Schema:
    """Return the Arrow schema of the catalogue; each field carries its unit and description as metadata."""
    return pa.schema(
        [
            pa.field(c.name, c.type, metadata={"unit": c.unit, "description": c.description})
            for c in columns(lines)
        ]
    )


def rows(
    ids: Mapping[str, NDArray[Any]],
    flags: NDArray[np.uint32],
    sn_median: NDArray[np.float32],
    results: Mapping[str, NDArray[Any]],
    lines: Sequence[Line | str] = QUASARNET_LINES,
) -> pa.Table:
    """Return catalogue rows, missing values as nulls (never NaN, -1 or empty text).

    Parameters
    ----------
    ids : mapping of str to ndarray, each of shape (n,)
        Identity, as `Spectra.ids`. Missing are -1, NaN and "", and columns that are not there.
    flags : ndarray of uint32, shape (n,)
        Rows with a bit of `flags.UNCLASSIFIED` have no result, whatever `results` says.
    sn_median : ndarray of float32, shape (n,)
        NaN where there is nothing to measure.
    results : mapping of str to ndarray, each of shape (n,)
        Result columns by name; NaN is missing, and so is a column that is not there. BEST_LINE is either
        text or an index into `lines`, negative for none.
    lines : sequence of Line or str
        The model's lines, or their names.

    Raises
    ------
    ValueError
        For a column that the catalogue does not have, or not of length n.
    """
    n = len(flags)
    table = schema(lines)
    given: dict[str, NDArray[Any]] = {**ids, "SN_MEDIAN": sn_median, **results}
    unknown = [name for name in given if name == "FLAGS" or table.get_field_index(name) < 0]
    if unknown:
        raise ValueError(f"not columns to fill: {unknown}")
    short = [name for name, values in given.items() if np.shape(values) != (n,)]
    if short:
        raise ValueError(f"columns {short} do not have one value for each of {n} spectra")
    if "BEST_LINE" in given and np.asarray(given["BEST_LINE"]).dtype.kind in "iu":
        # One entry more than there are lines, so that -1 finds it.
        names = np.array([*line_names(lines), ""], dtype=object)
        given["BEST_LINE"] = names[np.maximum(given["BEST_LINE"], -1)]
    unclassified = (flags & np.uint32(UNCLASSIFIED)) != 0
    nothing = unclassified if unclassified.any() else None
    arrays = [
        _array(given[field.name], field.type, nothing if field.name in results else None, field.name in ids)
        if field.name in given
        else pa.nulls(n, field.type)
        for field in table
        if field.name != "FLAGS"
    ]
    return pa.Table.from_arrays([*arrays, pa.array(flags.astype(np.int32))], schema=table)


def _array(
    values: NDArray[Any], kind: pa.DataType, nothing: NDArray[np.bool_] | None, identity: bool
) -> pa.Array:
    """Return one column with its missing values as nulls."""
    if kind == pa.string():
        missing = np.asarray(values == "", dtype=bool)
    elif pa.types.is_floating(kind):
        values = np.asarray(values, dtype=kind.to_pandas_dtype())
        missing = np.isnan(values)
    else:
        values = np.asarray(values, dtype=kind.to_pandas_dtype())
        # Only -1 itself is missing: DESI has negative TARGETIDs. No count of results is ever -1.
        missing = values == -1 if identity else np.zeros(len(values), dtype=bool)
    if nothing is not None:
        missing = missing | nothing
    try:
        return pa.array(values, type=kind, mask=missing)
    except UnicodeEncodeError:  # a file name that is not Unicode: Python carries its bytes as lone surrogates
        return pa.array(legible(values), type=kind, mask=missing)


def filled(column: pa.ChunkedArray, kind: pa.DataType, missing: object = None) -> NDArray[Any]:
    """Return a column's values, those that are null replaced.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
    kind : pyarrow.DataType
        The column's type.
    missing : object, optional
        What stands for null: NaN, -1, False or "" if not given.
    """
    if missing is None:
        missing = (
            float("nan") if pa.types.is_floating(kind) else -1 if pa.types.is_integer(kind) else _BLANK[kind]
        )
    if column.null_count:
        column = column.fill_null(pa.scalar(missing, kind))
    return np.asarray(column.to_numpy())


_BLANK: dict[pa.DataType, object] = {pa.bool_(): False, pa.string(): ""}


def to_astropy(tables: Sequence[pa.Table], lines: Sequence[Line | str] = QUASARNET_LINES) -> Table:
    """Return catalogue rows as one astropy Table with masked columns, units and descriptions.

    As in the files, columns of `ARCHIVE_IDS` without a single value are left out.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        As `rows` returns them.
    lines : sequence of Line or str
        The model's lines, or their names.
    """
    from astropy.table import MaskedColumn, Table

    whole = pa.concat_tables([schema(lines).empty_table(), *tables])
    result = Table()
    for column in columns(lines):
        cells = whole[column.name]
        if column.name in ARCHIVE_IDS and cells.null_count == len(cells):
            continue
        values = filled(cells, column.type)
        result[column.name] = MaskedColumn(
            values.astype(str) if column.type == pa.string() else values,
            mask=cells.is_null().to_numpy(),
            unit=column.unit or None,
            description=column.description,
        )
    return result


def flag_meanings() -> dict[int, str]:
    """Return the meaning of each bit of FLAGS, by bit number."""
    return {flag.bit_length() - 1: describe(flag)[0] for flag in Flag}


def describe_columns(lines: Sequence[Line | str] = QUASARNET_LINES) -> str:
    """Return Markdown tables of the catalogue's columns and of the bits of FLAGS (docs/catalogue.md)."""
    text = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for c in columns(lines):
        kind = "text" if c.type == pa.string() else np.dtype(c.type.to_pandas_dtype()).name
        text.append(f"| `{c.name}` | {kind} | {c.unit} | {c.description} |")
    text += ["", "| bit | value | name | meaning |", "|---|---|---|---|"]
    for bit, meaning in flag_meanings().items():
        name, sentence = meaning.split(": ", 1)
        text.append(f"| {bit} | {1 << bit} | `{name}` | {sentence} |")
    return "\n".join(text) + "\n"
