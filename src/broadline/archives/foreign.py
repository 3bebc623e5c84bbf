"""Whatever specutils can read, when asked for by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from broadline.air import air_to_vacuum
from broadline.archives.base import Archive, read_files
from broadline.archives.singles import ascending
from broadline.archives.table import NEVER, in_reach, is_air, per_wavelength, stem, unit_of
from broadline.errors import ReadError
from broadline.spectra import Spectra, identity, mend

__all__ = ["ARCHIVES"]


def _read_specutils(path: Path) -> Iterator[Spectra]:
    try:
        import specutils
        from astropy.nddata import InverseVariance
    except ImportError as error:
        raise ReadError(path, "it needs the package specutils: pip install broadline[specutils]") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader: Any = specutils.Spectrum if hasattr(specutils, "Spectrum") else specutils.Spectrum1D
        spectrum = reader.read(path)
    if spectrum.uncertainty is None:
        raise ReadError(path, "specutils finds no uncertainty in it, without which it cannot be weighted")
    if spectrum.flux.ndim > 2:
        raise ReadError(path, f"flux of shape {spectrum.flux.shape}; one or two dimensions are expected")
    wavelength = spectrum.spectral_axis.to_value(u.AA, u.spectral())
    if is_air(spectrum.meta.get("header", spectrum.meta)):
        wavelength = air_to_vacuum(wavelength)
    with np.errstate(all="ignore"):
        ivar = spectrum.uncertainty.represent_as(InverseVariance).array
    masked = False if spectrum.mask is None else np.asarray(spectrum.mask)
    ivar = np.where(np.isfinite(ivar) & np.logical_not(masked), ivar, 0.0)
    axis = getattr(spectrum, "spectral_axis_index", None)
    axis = -1 if axis is None else axis
    flux, ivar = (np.atleast_2d(np.moveaxis(values, axis, -1)) for values in (spectrum.flux.value, ivar))
    yield _rows_on_one_grid(path, wavelength, flux, ivar, unit_of(spectrum.flux))


def _rows_on_one_grid(
    path: Path, wavelength: NDArray[np.float64], flux: NDArray[Any], ivar: NDArray[Any], unit: Any
) -> Spectra:
    """Return the spectra (n_spectra, n_pixels) that one file holds on one grid."""
    order = ascending(path, wavelength)
    factor = per_wavelength(path, unit, wavelength)
    flux, ivar = in_reach(flux * factor, ivar / factor**2)
    flux, ivar, flags = mend(flux[:, order].astype(np.float32), ivar[:, order].astype(np.float32))
    n_spectra = len(flux)
    objid = [stem(path)] if n_spectra == 1 else [f"{stem(path)}-{row}" for row in range(n_spectra)]
    ids = identity("specutils", [str(path)] * n_spectra, row=np.arange(n_spectra), OBJID=objid)
    return Spectra(wavelength[order], flux, ivar, ids, flags)


ARCHIVES = (
    Archive(
        name="specutils",
        title="any file that specutils can load (only when asked for)",
        file_name=NEVER,
        recognise=lambda head: False,
        read=lambda paths, batch: read_files("specutils", paths, _read_specutils),
    ),
)
