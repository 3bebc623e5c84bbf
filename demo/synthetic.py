"""Plain synthetic quasars, stars and galaxies on the SDSS lattice: enough for a demonstration, no more.

Quasars are a power law with six broad lines (and a few narrow ones) and a thinned-out forest; stars are black
bodies with absorption lines; galaxies have a break, absorption lines and narrow emission. All have the noise
of a sky-limited spectrograph.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from broadline.lines import LINES
from broadline.spectra import Spectra, identity, lattice_wavelength

FIRST, N_PIXELS = 35530, 4600
_C = 299_792.458
_Array = NDArray[np.float64]
# rest wavelength, equivalent width (Angstrom), width (km/s): round numbers from any composite spectrum
_BROAD = {"LYA": (80, 4500), "CIV": (30, 4500), "CIII": (20, 6000), "MGII": (35, 4000), "HBETA": (60, 4500)}
_NARROW = ((4960.3, 8.0), (5008.2, 24.0), (3728.5, 5.0))
_STELLAR = (3934.8, 3969.6, 4102.9, 4341.7, 4862.7, 5176.0, 5895.6, 6564.6)


def simulate(n: int, seed: int) -> tuple[Spectra, _Array]:
    """Return n spectra, and their redshifts (NaN for stars, negative for galaxies); half are quasars."""
    rng = np.random.default_rng(seed)
    wavelength = lattice_wavelength(FIRST, N_PIXELS)
    kind = np.arange(n) % 4  # 0, 1 quasars; 2 star; 3 galaxy
    z = np.where(kind < 2, rng.uniform(0.1, 3.8, n), rng.uniform(0.02, 0.6, n))
    clean = np.empty((n, N_PIXELS))
    for rows, make in ((kind < 2, _quasars), (kind == 2, _stars), (kind == 3, _galaxies)):
        clean[rows] = make(wavelength, z[rows], rng)
    clean /= np.median(clean, axis=1, keepdims=True)
    sn = 10 ** rng.normal(0.6, 0.25, (n, 1))
    sky = 1 + 2.5 * np.exp(-0.5 * ((wavelength - 5579) / 4) ** 2) + ((wavelength - 6500) / 2600) ** 2
    sky = sky + (wavelength > 7200) * np.abs(np.sin(wavelength / 23)) ** 9 * 3
    ivar = np.broadcast_to((sn / np.sqrt(sky)) ** 2, clean.shape) * rng.gamma(50, 1 / 50, (n, 1))
    flux = clean + rng.normal(size=clean.shape) / np.sqrt(ivar)
    fiber = np.arange(1, n + 1)
    ids = identity(
        "sdss",
        [""] * n,
        OBJID=[f"0001-60000-{f:04d}" for f in fiber],
        RA=rng.uniform(0, 360, n),
        DEC=rng.uniform(-5, 60, n),
        PLATE=np.full(n, 1),
        MJD=np.full(n, 60000),
        FIBERID=fiber,
    )
    spectra = Spectra(
        wavelength, flux.astype(np.float32), ivar.astype(np.float32), ids, np.zeros(n, np.uint32)
    )
    return spectra, np.where(kind == 2, np.nan, np.where(kind == 3, -z, z))


def _bump(wavelength: _Array, centre: _Array, width_kms: _Array | float) -> _Array:
    sigma = centre * np.asarray(width_kms) / 2.355 / _C
    return np.exp(-0.5 * ((wavelength - centre[:, None]) / np.asarray(sigma)[:, None]) ** 2)


def _quasars(wavelength: _Array, z: _Array, rng: np.random.Generator) -> _Array:
    n = len(z)
    rest = wavelength / (1 + z[:, None])
    flux = (rest / 2500) ** rng.normal(-1.5, 0.4, (n, 1))
    broad = dict(_BROAD, HALPHA=(200, 4000))
    common = rng.normal(0, 0.15, n)
    for name, (width, speed) in broad.items():
        centre = LINES[name].wavelength
        fwhm = speed * 10 ** rng.normal(0, 0.12, n)
        strength = width * 10 ** (common + rng.normal(0, 0.12, n)) * _C / (1.06 * fwhm * centre)
        continuum = (centre / 2500) ** -1.5
        flux += continuum * strength[:, None] * _bump(rest, np.full(n, centre), fwhm)
    for centre, width in _NARROW:
        strength = width * 10 ** rng.normal(0, 0.3, n) * _C / (1.06 * 700 * centre)
        flux += (centre / 2500) ** -1.5 * strength[:, None] * _bump(rest, np.full(n, centre), 700)
    # a forest: lognormal optical depth a few pixels wide, deeper with redshift, and little light below 912
    depth = np.exp(1.5 * np.repeat(rng.normal(size=(n, N_PIXELS // 4)), 4, axis=1))
    tau = 0.0018 * (wavelength / 1215.67) ** 3.92 * depth / np.exp(1.5**2 / 2)
    flux *= np.where(rest < 1215.67, np.exp(-tau), 1) * np.where(rest < 912, 0.15, 1)
    return flux


def _stars(wavelength: _Array, z: _Array, rng: np.random.Generator) -> _Array:
    n = len(z)
    temperature = 10 ** rng.uniform(np.log10(3300), np.log10(12000), (n, 1))
    flux = 1e17 / wavelength**5 / np.expm1(1.438777e8 / (wavelength * temperature))
    for centre in _STELLAR:
        depth = rng.uniform(0.05, 0.6, n)
        flux *= 1 - depth[:, None] * _bump(wavelength, np.full(n, centre), rng.uniform(300, 2000, n))
    return flux


def _galaxies(wavelength: _Array, z: _Array, rng: np.random.Generator) -> _Array:
    n = len(z)
    rest = wavelength / (1 + z[:, None])
    flux = (rest / 4000) ** rng.uniform(-0.8, 0.8, (n, 1)) * (
        1 - rng.uniform(0.1, 0.5, (n, 1)) * (rest < 4000)
    )
    for centre in _STELLAR:
        flux *= 1 - rng.uniform(0.05, 0.3, n)[:, None] * _bump(rest, np.full(n, centre), 900)
    strength = 10 ** rng.normal(0, 0.5, (n, 1))
    for centre, width in (*_NARROW, (6564.6, 20.0), (4862.7, 6.0)):
        flux += strength * width * _C / (1.06 * 400 * centre) * 0.5 * _bump(rest, np.full(n, centre), 400)
    return flux
