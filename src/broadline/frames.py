"""Classify the spectra in a table's columns: a plain function from table to table, for engines to map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import ArrayLike

from broadline.archives.table import SYNONYMS, complete, roles_of
from broadline.errors import UsageError
from broadline.model import Model
from broadline.named_models import DEFAULT, find_model, load_model
from broadline.ragged import Columns, Grid, Ragged, batches, is_list, ragged
from broadline.representation import Represented, together
from broadline.spectra import IDENTITY, identity

__all__ = ["Layout", "classify_table", "joined", "lay_out", "represented", "result_columns", "results"]

Frame = TypeVar("Frame")  # pandas.DataFrame, one of its kinds, or pyarrow.Table

_MASKS = ("mask", "and_mask")


def classify_table(
    table: Frame,
    model: str | Path = DEFAULT,
    *,
    flux: str | None = None,
    ivar: str | None = None,
    error: str | None = None,
    wavelength: str | ArrayLike | None = None,
    mask: str | None = None,
    prefix: str = "",
    batch: int = 256,
    threads: int | None = 1,
) -> Frame:
    """Return a table with the columns of the catalogue in place of those of the spectra.

    A plain function of its arguments for ``map_partitions`` of dask and LSDB, which also serves a table at
    hand. Every row of the table gives one row, in its order and with its index; what cannot be classified is
    flagged. A table without rows gives the same columns and types, which is how engines ask for them.

    Parameters
    ----------
    table : pandas.DataFrame or pyarrow.Table
        Spectra as lists, a column each for wavelength, flux, and ivar or error, or nested in one column:
        ``struct<list>``, ``list<struct>``, or a column of nested-pandas. A column of pandas is best of an
        Arrow type; one of objects may hold arrays or lists.
    model : str or Path
        As `broadline.load_model` takes it. A process loads it once.
    flux, ivar, error : str, optional
        Names of columns, of nested ones as ``"spectrum.flux"``. Found by name if not given
        (`archives.table.SYNONYMS`, any case). `error` is the standard deviation; it serves if there is no
        `ivar`.
    wavelength : str or array_like of float, shape (n_pixels,), optional
        A name, or the grid that all spectra share. Vacuum Angstrom; the decimal logarithm if the column is
        called loglam.
    mask : str, optional
        Name of a column that is not 0 where a pixel is bad; of and_mask, only COMBINEREJ counts as in SDSS
        files. Found if it is called mask or and_mask; "" for none.
    prefix : str
        Put before the names of the columns that are added.
    batch : int
        Spectra at a time: bounds the memory.
    threads : int, optional
        Threads of the network; all cores if None. An engine runs a partition on each core.

    Returns
    -------
    pandas.DataFrame or pyarrow.Table
        The table without the columns of the spectra, nested ones whole; then SN_MEDIAN, the verdict, C_ and
        Z_ of the lines and FLAGS (docs/catalogue.md), of Arrow types in pandas too, null where there is no
        result.

    Raises
    ------
    UsageError
        If the columns are not found or hold something else, or added ones are there already.
    ModelError
        If the model cannot be loaded.
    """
    if hasattr(table, "map_partitions"):
        raise UsageError(
            f"{type(table).__name__} is a table in partitions: table.map_partitions(broadline.classify_table)"
        )
    path = find_model(model)
    stat = path.stat()
    loaded = _loaded(path, stat.st_mtime_ns, stat.st_size, threads)
    given = {"flux": flux, "ivar": ivar, "error": error, "mask": mask}
    grid = None
    if wavelength is None or isinstance(wavelength, str):
        given["wavelength"] = wavelength
    else:
        grid = Grid(np.asarray(wavelength, dtype=np.float64))
    layout = lay_out(table, given, grid)
    added = [f"{prefix}{name}" for name in result_columns(loaded).names]
    kept = layout.rest(table)
    if there := sorted(set(kept).intersection(added)):
        raise UsageError(
            f"the table has {', '.join(there)} already: give what is added a prefix, such as prefix='BL_'"
        )
    parts = [results(loaded, represented(loaded, part)) for part in layout.parts(table, batch)]
    result = pa.concat_tables([result_columns(loaded).empty_table(), *parts]).rename_columns(added)
    whole: Frame = joined(table, kept, result)
    return whole


@lru_cache(maxsize=2)
def _loaded(path: Path, mtime_ns: int, size: int, threads: int | None) -> Model:
    """Return a model; a file that has changed is loaded again."""
    return load_model(path, threads=threads)


# ---- results


@lru_cache(maxsize=2)
def result_columns(model: Model) -> pa.Schema:
    """Return the columns of the catalogue but for identity, which the table has in its own columns."""
    from broadline.catalogue import schema

    return pa.schema([field for field in schema(model.lines) if field.name not in IDENTITY])


def represented(model: Model, columns: Columns) -> Represented:
    """Return the spectra of some rows, one or more, as the model's network eats them, in their order."""
    found = [(rows, model.representation(spectra)) for rows, spectra in batches(columns)]
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    return together([part for _, part in found]).rows(order)


def results(model: Model, spectra: Represented) -> pa.Table:
    """Return the columns `result_columns` of some spectra."""
    nobody = identity("table", [""] * len(spectra.flags))  # the table itself says who they are
    return model.classify_represented(spectra, nobody).select(result_columns(model).names)


def joined(table: Any, kept: Sequence[str], result: pa.Table) -> Any:
    """Return the columns `kept` of a table and those of its results, as a table of the same kind."""
    if isinstance(table, pa.Table):
        rest = table.select(kept)
        schema = pa.schema([*rest.schema, *result.schema], metadata=table.schema.metadata)
        return pa.Table.from_arrays([*rest.columns, *result.columns], schema=schema)
    import pandas as pd

    frame = result.to_pandas(types_mapper=pd.ArrowDtype)
    frame.index = table.index
    return pd.concat([table[list(kept)], frame], axis=1)


# ---- where the spectra are


class _Place(NamedTuple):
    """A column of lists, or a field of a nested column."""

    column: str
    field: str | None

    @property
    def name(self) -> str:
        return self.field or self.column


class Layout(NamedTuple):
    """Where a table has its spectra."""

    roles: Mapping[str, _Place]
    grid: Grid | None

    def columns(self) -> set[str]:
        """Return the names of the columns that hold them."""
        return {place.column for place in self.roles.values()}

    def rest(self, table: Any) -> list[str]:
        """Return the names of the other columns, in their order."""
        columns = self.columns()
        return [name for name in _names(table) if name not in columns]

    def parts(self, table: Any, batch: int) -> Iterator[Columns]:
        """Yield the spectra of a table, `batch` rows at a time."""
        for start in range(0, len(table), batch):
            rows = slice(start, start + batch)
            yield self.read(table.slice(start, batch) if isinstance(table, pa.Table) else table.iloc[rows])

    def read(self, table: Any) -> Columns:
        """Return the spectra of all rows."""
        arrays = {name: _array(table[name]) for name in self.columns()}
        lists: dict[str, Ragged] = {}
        for role, (column, field) in self.roles.items():
            name = column if field is None else f"{column}.{field}"
            lists[role] = ragged(arrays[column], field, name)
        spread = "ivar" if "ivar" in lists else "error"
        return Columns(
            self.grid or lists["wavelength"],
            lists["flux"],
            lists[spread],
            lists.get("mask"),
            is_log="wavelength" in self.roles and self.roles["wavelength"].name.lower() == "loglam",
            is_error=spread == "error",
            is_sdss="mask" in self.roles and self.roles["mask"].name.lower() == "and_mask",
        )


def lay_out(table: Any, given: Mapping[str, str | None], grid: Grid | None = None) -> Layout:
    """Return where a table has its spectra, found by names as far as it is not given.

    Parameters
    ----------
    table : pandas.DataFrame or pyarrow.Table
    given : mapping of str to str or None
        Names of columns by role: flux, ivar, error, wavelength, mask ("" for none).
    grid : Grid, optional
        What takes the place of the wavelengths.

    Raises
    ------
    UsageError
        If there are no spectra, or more than one.
    """
    kinds = _kinds(table)
    named = {role: _place(name, kinds) for role, name in given.items() if name}
    inside = {column: {field: _Place(column, field) for field in _fields(kinds[column])} for column in kinds}
    inside = {column: fields for column, fields in inside.items() if fields}
    whole = {name: _Place(name, None) for name, kind in kinds.items() if is_list(kind) or pt.is_null(kind)}
    if "flux" in named:
        nested = named["flux"].field is not None
        homes = [inside.get(named["flux"].column, {}) if nested else whole]
    else:
        homes = [whole, *inside.values()]
    found = [_found(home, named, given.get("mask"), grid) for home in homes]
    found = [roles for roles in found if complete([*roles, *["wavelength"] * (grid is not None)])]
    if not found:
        raise UsageError(_lacking(kinds, whole, inside))
    if len(found) > 1 and found[0]["flux"].field is not None:
        columns = ", ".join(roles["flux"].column for roles in found)
        example = f"{found[0]['flux'].column}.{found[0]['flux'].field}"
        raise UsageError(f"columns {columns} all hold spectra: say which, as flux={example!r}")
    return Layout(found[0], grid)


def _found(
    home: Mapping[str, _Place], named: Mapping[str, _Place], mask: str | None, grid: Grid | None
) -> dict[str, _Place]:
    """Return who plays which role among some columns, or fields of one; what is named comes first."""
    roles = {role: home[name] for role, name in roles_of(list(home)).items()}
    masks = {name.lower(): place for name, place in home.items() if name.lower() in _MASKS}
    if masks and mask is None:
        roles["mask"] = masks[min(masks, key=_MASKS.index)]
    roles |= named
    if grid is not None:
        roles.pop("wavelength", None)
    if "ivar" in roles and not ("error" in named and "ivar" not in named):
        roles.pop("error", None)
    else:
        roles.pop("ivar", None)
    return roles


def _place(name: str, kinds: Mapping[str, pa.DataType]) -> _Place:
    """Return the column, or the field of a nested one, that a name stands for."""
    column, _, field = name.partition(".")
    if name in kinds:
        return _Place(name, None)
    if column in kinds and (field in _fields(kinds[column]) or pt.is_null(kinds[column])):
        return _Place(column, field)
    raise UsageError(f"there is no column {name}; there are {', '.join(kinds)}")


def _fields(kind: pa.DataType) -> list[str]:
    """Return the names of the lists in a nested column."""
    if pt.is_struct(kind):
        return [field.name for field in kind if is_list(field.type)]
    if is_list(kind) and pt.is_struct(kind.value_type):
        return [field.name for field in kind.value_type]
    return []


def _lacking(
    kinds: Mapping[str, pa.DataType], whole: Mapping[str, _Place], inside: Mapping[str, Mapping[str, _Place]]
) -> str:
    """Return what is wrong with a table without spectra."""
    names = {name for synonyms in SYNONYMS.values() for name in synonyms}
    text = [name for name, kind in kinds.items() if pt.is_string(kind) and name.lower() in names]
    if text:
        return (
            f"column {text[0]} holds text, not lists: dask makes text of objects; give it columns of Arrow "
            'lists, or set its option "dataframe.convert-string" to False'
        )
    lists = [*whole, *(f"{column}.{field}" for column, fields in inside.items() for field in fields)]
    wanted = "; ".join(f"{role}: {' | '.join(SYNONYMS[role])}" for role in SYNONYMS)
    return (
        f"no columns of spectra: name flux, ivar (or error) and wavelength, or call them so ({wanted}); "
        f"columns of lists are {', '.join(lists) or 'none'}"
    )


# ---- tables of either kind


def _names(table: Any) -> list[str]:
    return list(table.column_names if isinstance(table, pa.Table) else table.columns)


def _kinds(table: Any) -> dict[str, pa.DataType]:
    """Return the Arrow types of columns that may hold spectra, null for objects; of the others any."""
    if isinstance(table, pa.Table):
        return {field.name: field.type for field in table.schema}
    return {name: _kind(dtype) for name, dtype in table.dtypes.items()}


def _kind(dtype: Any) -> pa.DataType:
    if hasattr(dtype, "pyarrow_dtype"):  # Arrow's own and those of nested-pandas
        return dtype.pyarrow_dtype
    if dtype.name.startswith("str"):
        return pa.string()
    return pa.null() if dtype.kind == "O" else pa.bool_()


def _array(column: Any) -> pa.Array:
    """Return a column as one array."""
    if not isinstance(column, pa.ChunkedArray | pa.Array):
        column = _from_objects(column) if pt.is_null(_kind(column.dtype)) else pa.array(column)
    if not isinstance(column, pa.ChunkedArray):
        return column
    # One chunk is not combined, because that would copy it.
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _from_objects(column: Any) -> pa.Array:
    """Return cells that hold arrays, lists or dicts of them; those that hold anything else are null."""
    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        array = pa.nulls(0)
    if is_list(array.type) or pt.is_struct(array.type):
        return array
    return pa.array([_numbers(cell) for cell in column], pa.list_(pa.float64()))


def _numbers(cell: Any) -> Any:
    try:
        numbers = np.asarray(cell, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.ndim == 1 else None
