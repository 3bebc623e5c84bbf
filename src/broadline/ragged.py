"""Lists in columns -> batches: spectra whose pixels lie end to end in one array, grouped by their grids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from broadline.archives.base import masked_ivar
from broadline.archives.singles import ascending, lattice_index, window
from broadline.errors import ReadError, UsageError
from broadline.flags import Flag, mark
from broadline.spectra import Spectra, identity, lattice_wavelength, mend

__all__ = ["Columns", "Grid", "Ragged", "batches", "is_list", "ragged"]

_TABLE = Path()  # errors here become flags: nobody reads which file they name

Rows = NDArray[np.int64]
Flags = NDArray[np.uint32]
Image = NDArray[Any]


class Ragged(NamedTuple):
    """A column of lists.

    Attributes
    ----------
    start, length : ndarray of int64, shape (n_rows,)
        Where in `values` the list of a row lies; of no list the length is -1.
    values : ndarray, shape (n_values,)
    """

    start: Rows
    length: Rows
    values: NDArray[Any]

    def rows(self, rows: Rows, n_pixels: int) -> Image:
        """Return the lists of some rows that are `n_pixels` long: a view where they lie end to end."""
        start = self.start[rows]
        if len(rows) == 1 or (np.diff(start) == n_pixels).all():
            end = start[0] + len(rows) * n_pixels
            return np.reshape(self.values[start[0] : end], (len(rows), n_pixels))
        return np.asarray(self.values[start[:, None] + np.arange(n_pixels)])


class Grid(NamedTuple):
    """A wavelength grid that all spectra of a table share, as `Ragged` gives it for each.

    Attributes
    ----------
    values : ndarray, shape (n_pixels,)
    """

    values: NDArray[Any]


class Columns(NamedTuple):
    """The spectra of some rows of a table.

    Attributes
    ----------
    wavelength : Ragged or Grid
        In vacuum Angstrom, or its decimal logarithm if `is_log`.
    flux, spread : Ragged
        `spread` is the inverse variance, or the standard deviation if `is_error`.
    mask : Ragged or None
        Not 0 where a pixel is bad; if `is_sdss` the bits of SDSS's and_mask.
    is_log, is_error, is_sdss : bool
    """

    wavelength: Ragged | Grid
    flux: Ragged
    spread: Ragged
    mask: Ragged | None
    is_log: bool
    is_error: bool
    is_sdss: bool


def is_list(kind: pa.DataType) -> bool:
    """Tell whether values of an Arrow type are lists."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def ragged(column: pa.Array, field: str | None, name: str) -> Ragged:
    """Return a column of lists, or a field of nested ones: ``list<struct>`` or ``struct<list>``.

    Parameters
    ----------
    column : pyarrow.Array
    field : str or None
    name : str
        What to call it in an error.

    Raises
    ------
    UsageError
        If there are no lists of numbers.
    """
    if pt.is_struct(column.type):
        column, field = pc.struct_field(column, field), None
    if pt.is_null(column.type):
        nothing = np.full(len(column), -1)
        return Ragged(nothing, nothing, np.empty(0))
    if not is_list(column.type):
        raise UsageError(f"column {name} holds {column.type}, not lists of numbers; name another one")
    if pt.is_fixed_size_list(column.type):
        column = column.cast(pa.large_list(column.type.value_type))
    offsets = column.offsets.to_numpy().astype(np.int64)
    length = np.where(column.is_null().to_numpy(zero_copy_only=False), -1, np.diff(offsets))
    values = column.values if field is None else column.values.field(field)
    if pt.is_boolean(values.type):
        values = values.fill_null(True)  # of masks: what is not known is not good
    elif not pt.is_primitive(values.type) and not pt.is_null(values.type):
        raise UsageError(f"column {name} holds lists of {values.type}, not of numbers; name another one")
    numbers = values.to_numpy(zero_copy_only=False)
    return Ragged(offsets[:-1], length, numbers if numbers.dtype != object else numbers.astype(np.float64))


def batches(columns: Columns) -> Iterator[tuple[Rows, Spectra]]:
    """Yield the spectra of some rows in batches that share a grid, each with the rows that they stand in.

    Spectra on the SDSS lattice share one batch, whatever their ranges. Rows without a spectrum come last, as
    spectra without data, with the reason in their flags.
    """
    flags = np.zeros(len(columns.flux.length), dtype=np.uint32)
    left = np.ones(len(flags), dtype=bool)
    on_lattice: list[_Piece] = []
    for rows, raw in _by_grid(columns.wavelength, _complete(columns, flags)):
        try:
            wavelength, inner, order = _ascending(10.0**raw if columns.is_log else raw)
        except ReadError as error:
            mark(flags, rows, error.flag)
            continue
        left[rows] = False
        index = lattice_index(np.log10(wavelength))
        piece = _Piece(rows, len(raw), inner, order, -1 if index is None else int(index[0]))
        if index is None:
            yield rows, _measured(columns, wavelength, rows, *piece.images(columns))
        else:
            on_lattice.append(piece)
    if on_lattice:
        yield _together(columns, on_lattice)
    if left.any():
        rows = np.flatnonzero(left)
        zero = np.zeros((len(rows), 2), dtype=np.float32)
        yield rows, Spectra(np.array([1.0, 2.0]), zero, zero, _unnamed(len(rows)), flags[rows])


class _Piece(NamedTuple):
    """Rows on one grid: what to take of their lists, and where on the lattice it begins."""

    rows: Rows
    n_pixels: int
    inner: slice
    order: slice
    first: int

    def images(self, columns: Columns) -> tuple[Image, ...]:
        """Return flux, spread and, if there is one, mask; each (n_rows, n_pixels), ascending."""
        lists = [columns.flux, columns.spread, *([columns.mask] if columns.mask is not None else [])]
        return tuple(each.rows(self.rows, self.n_pixels)[:, self.inner][:, self.order] for each in lists)


def _unnamed(n: int) -> dict[str, NDArray[Any]]:
    return identity("table", [""] * n)  # the table itself says who they are


def _complete(columns: Columns, flags: Flags) -> Rows:
    """Return the rows with a spectrum; flag those whose lists differ in length."""
    n_pixels = columns.flux.length
    others = [columns.spread.length]
    if isinstance(columns.wavelength, Ragged):
        others.append(columns.wavelength.length)
    else:
        others.append(np.full(len(n_pixels), len(columns.wavelength.values)))
    if columns.mask is not None:
        others.append(columns.mask.length)
    present = (np.array([n_pixels, *others]) > 0).all(axis=0)
    agree = (np.array(others) == n_pixels).all(axis=0) & (n_pixels > 1)
    mark(flags, present & ~agree, Flag.UNREADABLE)
    return np.flatnonzero(present & agree)


def _by_grid(wavelength: Ragged | Grid, rows: Rows) -> Iterator[tuple[Rows, NDArray[Any]]]:
    """Yield rows of the same wavelengths, and these as the table has them."""
    if not len(rows):
        return
    if isinstance(wavelength, Grid):
        yield rows, wavelength.values
        return
    # Compared as bits: NaN, which some tables pad with, is equal to itself then.
    bits = wavelength._replace(values=wavelength.values.view(f"u{wavelength.values.dtype.itemsize}"))
    n_pixels, start = wavelength.length[rows], wavelength.start[rows]
    key = np.stack([n_pixels, bits.values[start].astype(np.int64)])
    _, first, group = np.unique(key, axis=1, return_index=True, return_inverse=True)
    for number, n in enumerate(n_pixels[first].tolist()):
        left = rows[group.ravel() == number]
        while len(left):
            grids = bits.rows(left, n)
            same = (grids == grids[0]).all(axis=1)
            yield left[same], wavelength.rows(left[:1], n)[0]
            left = left[~same]


def _ascending(raw: NDArray[Any]) -> tuple[NDArray[np.float64], slice, slice]:
    """Return ascending wavelengths, and the two slices one after the other that choose their pixels.

    Pixels at either end without a positive wavelength are padding, as that of the Multimodal Universe.
    """
    wavelength = raw.astype(np.float64)
    with np.errstate(invalid="ignore"):
        real = np.isfinite(wavelength) & (wavelength > 0)
    if np.count_nonzero(real) < 2:
        raise ReadError(_TABLE, "it has no wavelengths", Flag.BAD_WAVELENGTH)
    inner = slice(int(real.argmax()), len(real) - int(real[::-1].argmax()))
    order = ascending(_TABLE, wavelength[inner])
    return wavelength[inner][order], inner, order


def _together(columns: Columns, pieces: list[_Piece]) -> tuple[Rows, Spectra]:
    """Return spectra on the lattice as one batch, padded where their ranges differ."""
    rows = np.concatenate([piece.rows for piece in pieces])
    images = [piece.images(columns) for piece in pieces]
    first, n_pixels = pieces[0].first, images[0][0].shape[1]
    if len(pieces) == 1:
        whole = images[0]
    else:
        ends = [piece.first + flux.shape[1] for piece, (flux, *_) in zip(pieces, images, strict=True)]
        first, n_pixels = window(min(piece.first for piece in pieces), max(ends))
        # Neither an inverse variance nor a standard deviation of 0 counts.
        whole = tuple(np.zeros((len(rows), n_pixels), dtype=image.dtype) for image in images[0])
        row = 0
        for piece, parts, end in zip(pieces, images, ends, strict=True):
            for image, part in zip(whole, parts, strict=True):
                image[row : row + len(part), piece.first - first : end - first] = part
            row += len(piece.rows)
    return rows, _measured(columns, lattice_wavelength(first, n_pixels), rows, *whole)


def _measured(
    columns: Columns,
    wavelength: NDArray[np.float64],
    rows: Rows,
    flux: Image,
    ivar: Image,
    mask: Image | None = None,
) -> Spectra:
    """Return rows as spectra; `ivar` is the table's, or its standard deviation."""
    if columns.is_error:
        # An error of 0, or a missing one, marks a pixel without a measurement.
        ivar = np.divide(1.0, np.square(ivar, dtype=np.float64), out=np.zeros(ivar.shape), where=ivar > 0)
    if mask is not None:
        ivar = masked_ivar(ivar, mask.astype(np.int32)) if columns.is_sdss else np.where(mask, 0, ivar)
    unit = _units(flux, ivar)
    if (unit != 1).any():
        flux, ivar = flux / unit, ivar * unit**2
    with np.errstate(over="ignore"):
        flux, ivar = (np.ascontiguousarray(values, dtype=np.float32) for values in (flux, ivar))
    flux, ivar, flags = mend(flux, ivar)
    return Spectra(wavelength, flux, ivar, _unnamed(len(rows)), flags)


def _units(flux: Image, ivar: Image) -> NDArray[np.float64]:
    """Return the unit of each row's flux that suits float32, as `archives.table.reach`, shape (n_rows, 1).

    Each row has its own, so that what is found in it depends on no other row. It is told from a few pixels,
    for a median of all would cost more than reading, or from all where those few have no data.
    """
    unit = _unit_of_rows(flux[:, ::64], ivar[:, ::64])
    if (bare := np.isnan(unit)).any():
        unit[bare] = np.nan_to_num(_unit_of_rows(flux[bare], ivar[bare]), nan=1.0)
    return unit[:, None]


def _unit_of_rows(flux: Image, ivar: Image) -> NDArray[np.float64]:
    """Return a power of ten for each row, or NaN where it has no data, shape (n_rows,)."""
    good = np.isfinite(flux) & (ivar > 0) & (flux != 0)
    n_good = good.sum(axis=1)
    sizes = np.sort(np.where(good, np.abs(flux), np.inf).astype(np.float64), axis=1)
    size = sizes[np.arange(len(sizes)), np.maximum(n_good - 1, 0) // 2]  # the median, or just below
    power = np.where((size > 1e-6) & (size < 1e6), 0.0, np.floor(np.log10(size)))
    return np.where(n_good > 0, 10.0**power, np.nan)
