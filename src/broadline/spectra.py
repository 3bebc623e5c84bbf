"""Spectra: a batch of observed spectra on one wavelength grid, with who they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.errors import ReadError
from broadline.flags import Flag, mark

__all__ = ["IDENTITY", "LATTICE_STEP", "Spectra", "lattice_wavelength", "legible", "mend"]

#: SDSS, BOSS, eBOSS and LAMOST pixels lie at log10(wavelength / Angstrom) = k * LATTICE_STEP, k an integer.
LATTICE_STEP = 1e-4

#: Identity columns and their types. The first six are always there; the others as the archive has them.
#: Missing numbers are -1 for integers and NaN for RA and DEC.
IDENTITY: dict[str, type] = {
    "ARCHIVE": str,
    "SOURCE": str,
    "ROW": np.int64,
    "OBJID": str,
    "RA": np.float64,
    "DEC": np.float64,
    "PLATE": np.int32,
    "MJD": np.int32,
    "FIBERID": np.int32,
    "THING_ID": np.int64,
    "TARGETID": np.int64,
    "DESI_TARGET": np.int64,
    "OBSID": np.int64,
    "LMJD": np.int32,
    "PLANID": str,
    "SPID": np.int32,
}


def lattice_wavelength(first: int, n_pixels: int) -> NDArray[np.float64]:
    """Return the vacuum wavelengths (Angstrom) of `n_pixels` lattice pixels from lattice index `first`."""
    return np.asarray(10.0 ** (LATTICE_STEP * np.arange(first, first + n_pixels)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Spectra:
    """A batch of spectra that share one wavelength grid.

    Attributes
    ----------
    wavelength : ndarray of float64, shape (n_pixels,)
        Pixel centres, vacuum Angstrom, strictly increasing.
    flux : ndarray of float32, shape (n_spectra, n_pixels)
        Flux density per unit wavelength, in any unit (networks see it renormalised).
    ivar : ndarray of float32, shape (n_spectra, n_pixels)
        Inverse variance of `flux`; 0 where a pixel is masked or missing.
    ids : dict of str to ndarray, each of shape (n_spectra,)
        Identity: columns of `IDENTITY`, at least ARCHIVE, SOURCE, ROW, OBJID, RA and DEC.
    flags : ndarray of uint32, shape (n_spectra,)
        What the reader found (`broadline.flags.Flag`).
    notes : tuple of str
        The reason, in words, for each file behind these rows that could not be read.
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    ids: dict[str, NDArray[Any]]
    flags: NDArray[np.uint32]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.flags), len(self.wavelength))
        if self.flux.shape != shape or self.ivar.shape != shape:
            raise ValueError(f"flux {self.flux.shape} and ivar {self.ivar.shape} must both be {shape}")
        bad = [name for name, column in self.ids.items() if len(column) != shape[0]]
        if bad:
            raise ValueError(f"identity columns {bad} do not have one value for each of {shape[0]} spectra")
        if not (np.diff(self.wavelength) > 0).all():
            raise ValueError("wavelength must be strictly increasing")

    def __len__(self) -> int:
        return len(self.flags)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Spectra:
        """Return the spectra selected by a slice, an index array or a boolean mask."""
        ids = {name: column[rows] for name, column in self.ids.items()}
        return Spectra(self.wavelength, self.flux[rows], self.ivar[rows], ids, self.flags[rows], self.notes)

    @classmethod
    def unreadable(cls, archive: str, error: ReadError) -> Spectra:
        """Return the rows that stand in the catalogue for what `error` made unreadable.

        They have two pixels without data, so that they pass through everything that follows.
        """
        n = max(error.n_spectra, 1)
        ids = identity(
            archive, [str(error.path)] * n, row=np.arange(n) if error.n_spectra > 1 else np.full(n, -1)
        )
        zero = np.zeros((n, 2), dtype=np.float32)
        flags = np.full(n, error.flag | Flag.NO_IDENTITY, dtype=np.uint32)
        return cls(np.array([1.0, 2.0]), zero, zero, ids, flags, (str(error),))


def identity(
    archive: str, source: Sequence[str], row: NDArray[Any] | None = None, **columns: Any
) -> dict[str, NDArray[Any]]:
    """Return identity columns of the types in `IDENTITY`, with what is not given marked missing.

    Parameters
    ----------
    archive : str
        Name of the archive.
    source : sequence of str, length n
        File of each spectrum.
    row : ndarray of int, shape (n,), optional
        Row within that file; 0 if not given.
    **columns : array_like, each of length n
        Further columns of `IDENTITY`. OBJID, RA and DEC are filled with "" and NaN if not given.
    """
    n = len(source)
    values: dict[str, Any] = {
        "ARCHIVE": [archive] * n,
        "SOURCE": source,
        "ROW": np.zeros(n) if row is None else row,
        "OBJID": [""] * n,
        "RA": np.full(n, np.nan),
        "DEC": np.full(n, np.nan),
    }
    values.update(columns)
    unknown = set(values) - set(IDENTITY)
    if unknown:
        raise ValueError(f"not identity columns: {sorted(unknown)}")
    return {
        name: np.array(value, dtype=object if IDENTITY[name] is str else IDENTITY[name])
        for name, value in values.items()
    }


def legible(text: NDArray[Any]) -> NDArray[Any]:
    """Return text fit for files: bytes of names that are not Unicode, lone surrogates to Python, escaped."""
    try:
        "".join(text).encode()
    except UnicodeEncodeError:
        escaped = [str(value).encode("utf-8", "backslashreplace").decode() for value in text]
        return np.array(escaped, dtype=object)
    return text


def mend(
    flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]:
    """Mask what cannot be a measurement: non-finite flux or ivar, and negative ivar.

    Parameters
    ----------
    flux, ivar : ndarray of float32, shape (n_spectra, n_pixels)

    Returns
    -------
    flux, ivar : ndarray of float32
        The arguments themselves where nothing is wrong, else copies with flux 0 and ivar 0 in bad pixels.
    flags : ndarray of uint32, shape (n_spectra,)
        ``Flag.NON_FINITE`` and ``Flag.NEGATIVE_IVAR`` where that was so.
    """
    flags = np.zeros(len(flux), dtype=np.uint32)
    # A sum is finite only if every term is; where only the sum overflows, a second look costs a little time.
    with np.errstate(over="ignore", invalid="ignore"):
        clean = np.isfinite(flux.sum()) and np.isfinite(ivar.sum()) and not (ivar.size and ivar.min() < 0)
    if clean:
        return flux, ivar, flags
    broken = ~(np.isfinite(flux) & np.isfinite(ivar))
    negative = ~broken & (ivar < 0)
    # Many pipelines write NaN flux in pixels they masked: that loses nothing and is no fault worth a flag.
    mark(flags, np.any(broken & (np.nan_to_num(ivar, nan=1.0) != 0), axis=1), Flag.NON_FINITE)
    mark(flags, np.any(negative, axis=1), Flag.NEGATIVE_IVAR)
    bad = broken | negative
    return np.where(bad, np.float32(0), flux), np.where(bad, np.float32(0), ivar), flags
