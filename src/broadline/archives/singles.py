"""Files of one spectrum each -> batches: on the SDSS lattice where they can be, else on their own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.archives.base import fault_of
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.patience import patiently
from broadline.spectra import LATTICE_STEP, Spectra, identity, lattice_wavelength, mend

__all__ = ["Single", "ascending", "gather", "lattice_index", "place", "stack", "window"]

# Batches start and end on multiples of this many lattice pixels, so that the resampling operator of one batch
# serves the next one too.
_WINDOW = 64
# Lattice indices of 1000 and 100,000 Angstrom: a batch that spans more would not fit in memory.
_LOWEST, _HIGHEST = 30_000, 50_000
_LATTICE = np.arange(_LOWEST, _HIGHEST) * LATTICE_STEP  # loglam of each


def lattice_index(loglam: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return the lattice index of each pixel, or None if they are no run of optical lattice points.

    Parameters
    ----------
    loglam : ndarray of float, shape (n_pixels,)
        log10 of the vacuum wavelength in Angstrom (float32 in the archives' files: good to 0.003 pixel).
    """
    if len(loglam) < 2 or not np.isfinite(loglam[0]):
        return None
    first = round(float(loglam[0]) / LATTICE_STEP)
    if first < _LOWEST or first + len(loglam) > _HIGHEST:
        return None
    off = loglam.astype(np.float64)
    off -= _LATTICE[first - _LOWEST :][: len(off)]
    # written so that a NaN anywhere makes it false
    consecutive = np.abs(off, out=off).max() < 0.05 * LATTICE_STEP
    return np.arange(first, first + len(loglam)) if consecutive else None


def window(first: int, end: int) -> tuple[int, int]:
    """Return first pixel and number of pixels of a batch that holds the lattice from first to end."""
    start = first // _WINDOW * _WINDOW
    return start, -(-(end - start) // _WINDOW) * _WINDOW


class Single(NamedTuple):
    """What one file of one spectrum holds, if its pixels lie on the SDSS lattice."""

    path: Path
    first: int  # lattice index of the first pixel
    flux: NDArray[np.float32]  # (n_pixels,)
    ivar: NDArray[np.float32]  # (n_pixels,)
    flags: int
    ids: dict[str, Any]  # scalars for columns of IDENTITY


def stack(archive: str, items: Sequence[Single | ReadError]) -> Spectra:
    """Return single spectra as one batch on the lattice, padded with ivar 0; errors become flagged rows."""
    good = [item for item in items if isinstance(item, Single)]
    first, n_pixels = window(
        min((item.first for item in good), default=0),
        max((item.first + len(item.flux) for item in good), default=_WINDOW),
    )
    flux = np.zeros((len(items), n_pixels), dtype=np.float32)
    ivar = np.zeros_like(flux)
    flags = np.zeros(len(items), dtype=np.uint32)
    columns: dict[str, list[Any]] = {name: [] for name in (good[0].ids if good else ())}
    missing = {
        name: "" if name in ("OBJID", "PLANID") else np.nan if name in ("RA", "DEC") else -1
        for name in columns
    }
    for row, item in enumerate(items):
        if isinstance(item, Single):
            pixels = slice(item.first - first, item.first - first + len(item.flux))
            flux[row, pixels] = item.flux
            ivar[row, pixels] = item.ivar
            flags[row] = item.flags
        else:
            flags[row] = item.flag | Flag.NO_IDENTITY
        values = item.ids if isinstance(item, Single) else missing
        for name, column in columns.items():
            column.append(values[name])
    flux, ivar, mended = mend(flux, ivar)
    ids = identity(
        archive,
        [str(item.path) for item in items],
        row=np.array([0 if isinstance(item, Single) else -1 for item in items]),
        **columns,
    )
    notes = tuple(str(item) for item in items if isinstance(item, ReadError))
    return Spectra(lattice_wavelength(first, n_pixels), flux, ivar, ids, flags | mended, notes)


def ascending(path: Path, wavelength: NDArray[np.float64]) -> slice:
    """Return the slice that puts wavelengths into ascending order, or raise a ReadError if none does."""
    if len(wavelength) == 0:
        raise ReadError(path, "the spectrum has no pixels")
    order = slice(None, None, -1 if wavelength[0] > wavelength[-1] else 1)
    with np.errstate(invalid="ignore"):
        steps = np.diff(wavelength[order], prepend=0.0)  # the first is positive where the wavelengths are
    if not (steps > 0).all() or not np.isfinite(steps).all():
        reason = "its wavelengths are not finite, positive and strictly monotonic"
        raise ReadError(path, reason, Flag.BAD_WAVELENGTH)
    return order


def place(
    archive: str,
    path: Path,
    wavelength: NDArray[np.float64],
    flux: NDArray[Any],
    ivar: NDArray[Any],
    flags: int,
    ids: dict[str, Any],
) -> Single | Spectra:
    """Return one spectrum on the SDSS lattice if its pixels lie there, else on its own grid.

    Parameters
    ----------
    archive : str
    path : Path
    wavelength : ndarray of float64, shape (n_pixels,)
        Vacuum Angstrom; descending is turned round.
    flux, ivar : ndarray, shape (n_pixels,)
    flags : int
    ids : dict of str to scalar
        Values for columns of `IDENTITY`.

    Raises
    ------
    ReadError
        With ``Flag.BAD_WAVELENGTH`` if the wavelengths are not finite, positive and strictly monotonic.
    """
    order = ascending(path, wavelength)
    wavelength = wavelength[order]
    flux, ivar = flux[order].astype(np.float32), ivar[order].astype(np.float32)
    index = lattice_index(np.log10(wavelength))
    if index is not None:
        return Single(path, int(index[0]), flux, ivar, flags, ids)
    flux, ivar, mended = mend(flux[None], ivar[None])
    values: dict[str, Any] = {name: [value] for name, value in ids.items()}
    columns = identity(archive, [str(path)], **values)
    return Spectra(wavelength, flux, ivar, columns, mended | np.uint32(flags))


def gather(
    archive: str, paths: Sequence[Path], batch: int, read_one: Callable[[Path], Single | Spectra]
) -> Iterator[Spectra]:
    """Yield files of one spectrum each as batches, in their order; a file that fails becomes a flagged row.

    Neighbours share a batch if they lie on the lattice or have the same grid. The guard catches every
    Exception for the reason given in `read_files`.
    """
    held: list[Single | ReadError | Spectra] = []
    for path in paths:
        item: Single | ReadError | Spectra
        try:
            item = patiently(path, read_one)
        except Exception as error:
            item = fault_of(path, error)
        if held and (len(held) >= batch or not _alike(held[-1], item)):
            yield _together(archive, held)
            held = []
        held.append(item)
    if held:
        yield _together(archive, held)


def _alike(a: Single | ReadError | Spectra, b: Single | ReadError | Spectra) -> bool:
    if isinstance(a, Spectra) and isinstance(b, Spectra):
        return np.array_equal(a.wavelength, b.wavelength) and a.ids.keys() == b.ids.keys()
    return not isinstance(a, Spectra) and not isinstance(b, Spectra)


def _together(archive: str, items: Sequence[Single | ReadError | Spectra]) -> Spectra:
    own_grid = [item for item in items if isinstance(item, Spectra)]
    if not own_grid:
        return stack(archive, [item for item in items if not isinstance(item, Spectra)])
    return Spectra(
        own_grid[0].wavelength,
        np.concatenate([spectra.flux for spectra in own_grid]),
        np.concatenate([spectra.ivar for spectra in own_grid]),
        {name: np.concatenate([spectra.ids[name] for spectra in own_grid]) for name in own_grid[0].ids},
        np.concatenate([spectra.flags for spectra in own_grid]),
    )
