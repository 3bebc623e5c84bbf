"""Template files of stars and galaxies: which there are, where a user gets them, and how they are read.

A templates folder holds one folder for each set of `SETS`. None is needed: a missing set is named once in a
warning, and physics and published tables stand in for it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from broadline.spectra import LATTICE_STEP, lattice_wavelength

__all__ = ["SETS", "TemplateSet", "found", "read_table", "resample", "usable"]

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TemplateSet:
    """A set of template files.

    Attributes
    ----------
    pattern : str
        Files of the set, relative to the templates folder.
    holds, origin, instead : str
        What it is; where a user gets it; what is used where it is missing.
    """

    pattern: str
    holds: str
    origin: str
    instead: str


#: The sets of star and galaxy templates, by name. All are in vacuum but "bc03", which `galaxy` converts.
SETS: dict[str, TemplateSet] = {
    "redrock-stars": TemplateSet(
        "redrock/rrtemplate-STAR-[ABFGKM]-*.fits*",
        "coefficients of 11,000 model stars of types B to M on five components a type, 3000-11000 A",
        "https://github.com/desihub/redrock-templates",
        "parametric stars",
    ),
    "redrock-wd": TemplateSet(
        "redrock/rrtemplate-STAR-WD-*.fits*",
        "coefficients of 20,000 model white dwarfs (DA and DB)",
        "https://github.com/desihub/redrock-templates",
        "parametric white dwarfs",
    ),
    "redrock-cv": TemplateSet(
        "redrock/rrtemplate-STAR-CV-*.fits*",
        "three components of cataclysmic variables",
        "https://github.com/desihub/redrock-templates",
        "parametric cataclysmic variables",
    ),
    "sdss-stars": TemplateSet(
        "sdss_eigenspectra/spEigenStar-*.fits*",
        "stars of the SDSS and BOSS pipelines, O to L, with carbon stars and rare white dwarfs",
        "the templates folder of the SDSS pipeline idlspec2d, https://svn.sdss.org",
        "parametric stars",
    ),
    "kurucz": TemplateSet(
        "sdss_eigenspectra/kurucz_stds_v5.fit*",
        "Kurucz models of F standards, 5000-7000 K, [Fe/H] -2 to 0",
        "the templates folder of the SDSS pipeline idlspec2d, https://svn.sdss.org",
        "parametric F stars and F subdwarfs",
    ),
    "mastar": TemplateSet(
        "star/mastarhc_v2_noism/*.fits*",
        "hierarchically clustered MaNGA stars without interstellar lines",
        "https://www.sdss.org/dr17/mastar/",
        "parametric stars",
    ),
    "sdss-galaxies": TemplateSet(
        "sdss_eigenspectra/spEigenGal-55740.fits*",
        "four components of galaxies of the BOSS pipeline, 1800-10500 A",
        "the templates folder of the SDSS pipeline idlspec2d, https://svn.sdss.org",
        "parametric galaxies",
    ),
    "yip-galaxies": TemplateSet(
        "yip/gal_eigenspec_Yip2004.fits*",
        "ten components of 170,000 SDSS galaxies, 3450-8350 A (Yip et al. 2004, AJ 128, 585)",
        "the authors' page at the University of Washington; copies in several fitting codes",
        "parametric galaxies",
    ),
    "bc03": TemplateSet(
        "yip/*_ssp_*_z*.spec*",
        "simple stellar populations, 5 Myr to 11 Gyr (Bruzual & Charlot 2003, MNRAS 344, 1000); in air",
        "https://www.bruzual.org/bc03/",
        "populations summed from parametric stars",
    ),
}


def found(folder: Path, name: str) -> list[Path]:
    """Return the files of a template set, sorted; none, with a warning that names the set, if it is missing.

    Raises
    ------
    FileNotFoundError
        If the templates folder itself does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such templates folder; give one that holds sets of template files"
        )
    wanted = SETS[name]
    files = sorted(folder.glob(wanted.pattern))
    if not files:
        warnings.warn(
            f"template set {name!r} ({wanted.pattern}) is missing in {folder}: {wanted.instead} are used "
            f"instead; it can be had from {wanted.origin}",
            stacklevel=2,
        )
    return files


def read_table(path: Path) -> tuple[_Array, _Array, Any] | None:
    """Return wavelengths (as the file has them), spectra of shape (n, n_pixels) and header of a FITS image.

    None, with a warning, if the file cannot be read.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            header = hdus[0].header
            data = np.atleast_2d(np.array(hdus[0].data, dtype=np.float64))
    except (OSError, TypeError, ValueError) as error:
        warnings.warn(f"template file {path} cannot be read and is left out: {error}", stacklevel=2)
        return None
    pixel = np.arange(data.shape[1])
    if "COEFF0" in header:
        wavelength = 10.0 ** (header["COEFF0"] + header["COEFF1"] * pixel)
    else:
        step = header["CD1_1"] if "CD1_1" in header else header["CDELT1"]
        position = header["CRVAL1"] + step * pixel
        wavelength = 10.0**position if header["CRVAL1"] < 10 else position
    return wavelength, data, header


def resample(wavelength: _Array, flux: _Array, first: int, n_pixels: int) -> NDArray[np.float32]:
    """Return spectra of any sampling as means over lattice pixels.

    The mean is that of the straight lines between samples, exactly, so that fine tables are averaged and
    coarse ones interpolated.

    Parameters
    ----------
    wavelength : ndarray of float64, shape (n_samples,)
        Vacuum Angstrom, increasing.
    flux : ndarray of float64, shape (n_spectra, n_samples)
    first, n_pixels : int
        The lattice pixels wanted.

    Returns
    -------
    flux : ndarray of float32, shape (n_spectra, n_pixels)
        NaN in pixels that reach beyond the table.
    """
    edges = _edges(first, n_pixels)
    step = np.diff(wavelength)
    area = np.zeros(flux.shape)
    np.cumsum(0.5 * (flux[:, 1:] + flux[:, :-1]) * step, axis=1, out=area[:, 1:])
    left = np.clip(np.searchsorted(wavelength, edges, side="right") - 1, 0, len(step) - 1)
    into = edges - wavelength[left]
    slope = (flux[:, left + 1] - flux[:, left]) / step[left]
    integral = area[:, left] + flux[:, left] * into + 0.5 * slope * into**2
    mean = np.diff(integral, axis=1) / np.diff(edges)
    outside = (edges[:-1] < wavelength[0]) | (edges[1:] > wavelength[-1])
    mean[:, outside] = np.nan
    return mean.astype(np.float32)


def usable(flux: NDArray[np.float32], first: int, lowest: float = -0.03) -> NDArray[np.float32]:
    """Return those spectra that can be shown as a source: missing ends continued, dark pixels lifted.

    Ends that are missing (NaN or 0) are continued by the power law through the 100 and 300 pixels beside
    them. Spectra that go below `lowest` times their mean are left out; what else is below a five-hundredth
    of the mean is lifted to it.

    Parameters
    ----------
    flux : ndarray of float32, shape (n_spectra, n_pixels)
    first : int
        Lattice index of the first pixel.
    lowest : float
        In units of the mean.
    """
    log_wavelength = np.log(lattice_wavelength(first, flux.shape[1]))
    kept = []
    for row in flux:  # files have tens of spectra; archetypes come in complete
        good = np.flatnonzero(np.isfinite(row) & (row != 0))
        if len(good) < 1000:
            continue
        inside = row[good[0] : good[-1] + 1].astype(np.float64)
        mean = inside[np.isfinite(inside)].mean()
        if not np.isfinite(inside).all() or mean <= 0 or inside.min() < lowest * mean:
            continue
        out = np.empty(len(row))
        out[good[0] : good[-1] + 1] = inside
        for beyond, edge, inner in (
            (slice(0, good[0]), slice(good[0], good[0] + 100), slice(good[0] + 200, good[0] + 300)),
            (
                slice(good[-1] + 1, None),
                slice(good[-1] - 99, good[-1] + 1),
                slice(good[-1] - 299, good[-1] - 199),
            ),
        ):
            level = max(out[edge].mean(), 2e-3 * mean)
            other = max(out[inner].mean(), 2e-3 * mean)
            near, far = log_wavelength[edge].mean(), log_wavelength[inner].mean()
            slope = np.clip(np.log(other / level) / (far - near), -6, 6)
            out[beyond] = level * np.exp(slope * (log_wavelength[beyond] - near))
        kept.append(np.maximum(out / mean, 2e-3))
    return np.array(kept, dtype=np.float32).reshape(len(kept), flux.shape[1])


def _edges(first: int, n_pixels: int) -> _Array:
    return np.asarray(
        10.0 ** (LATTICE_STEP * (np.arange(first, first + n_pixels + 1) - 0.5)), dtype=np.float64
    )
