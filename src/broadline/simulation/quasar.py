"""Quasars: rest-frame spectral energy distributions before any absorption, many at once.

The parametric quasar needs no file. Its line table follows the composite of Vanden Berk et al. (2001), AJ
122, 549, tables 2-4 (wavelengths, equivalent widths, widths), with blends taken apart and weak lines set
above the Fe II pseudo-continuum as usual in spectral fits; its trends follow the papers named below.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.scene import Rest
from broadline.spectra import LATTICE_STEP, lattice_wavelength

if TYPE_CHECKING:
    from broadline.simulation.quasar_templates import QuasarTemplates

__all__ = ["FIRST", "LINES", "N_PIXELS", "EmissionLine", "draw", "draw_m1450", "parametric"]

Array = NDArray[np.float32]
Vector = NDArray[np.float64]

#: The rest-frame lattice of all quasars: 479 to 10,963 Angstrom, what 3,500-10,500 needs at 0 < z < 6.3.
FIRST, N_PIXELS = 26_800, 13_600
PIXEL = 299792.458 * np.log(10) * LATTICE_STEP  # km / s
FWHM = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, slots=True)
class EmissionLine:
    """An emission line of the parametric quasar.

    Attributes
    ----------
    name : str
    wavelength : float
        Vacuum Angstrom.
    width : float
        Median rest equivalent width (Angstrom) at M1450 = -25, of broad-line quasars.
    baldwin : float
        Change of log10 equivalent width with a magnitude of M1450 (fainter is stronger).
    breadth : float
        Width relative to the quasar's MgII (broad) or [O III] (narrow).
    blueshift : float
        Centroid relative to the quasar's CIV blueshift.
    narrow : float
        Median equivalent width (Angstrom) in narrow-line AGN; lines with one are narrow in all quasars.
    """

    name: str
    wavelength: float
    width: float
    baldwin: float = 0.0
    breadth: float = 1.0
    blueshift: float = 0.0
    narrow: float = 0.0


_BROAD = (
    # name, wavelength, width, Baldwin, breadth, blueshift
    ("LyE", 937.80, 1.5, 0.03, 1.2, 0.3), ("LyD", 949.74, 2.0, 0.03, 1.2, 0.3),
    ("CIII977+LyG", 977.02, 6.0, 0.04, 1.5, 0.5), ("NIII991", 991.00, 3.0, 0.03, 1.3, 0.5),
    ("Lyb", 1025.72, 4.0, 0.04, 1.1, 0.4), ("OVI", 1034.00, 11.0, 0.08, 1.3, 0.7),
    ("ArI", 1066.66, 2.5, 0.03, 1.2, 0.2), ("NII1084", 1084.60, 1.5, 0.03, 1.0, 0.2),
    ("FeIII1123", 1123.00, 2.5, 0.02, 1.6, 0.2), ("CIII1175", 1175.70, 1.8, 0.03, 1.0, 0.4),
    ("Lya", 1215.67, 46.0, 0.055, 1.1, 0.25), ("Lya wing", 1216.50, 28.0, 0.05, 2.6, 0.5),
    ("NV", 1240.14, 17.0, 0.02, 1.25, 0.7), ("SiII1262", 1262.59, 2.2, 0.02, 1.2, 0.3),
    ("OI+SiII", 1305.42, 3.0, 0.02, 0.9, 0.1), ("CII", 1335.30, 1.0, 0.02, 0.8, 0.1),
    ("SiIV", 1396.76, 6.0, 0.035, 1.2, 0.6), ("OIV]", 1402.06, 3.0, 0.035, 1.1, 0.4),
    ("NIV]", 1486.50, 0.6, 0.03, 0.9, 0.3), ("CIV", 1549.06, 28.0, 0.07, 1.05, 1.0),
    ("1600 shelf", 1610.0, 5.0, 0.04, 3.5, 0.4), ("HeII1640", 1640.42, 4.5, 0.085, 1.6, 1.2),
    ("OIII]", 1663.48, 3.2, 0.05, 1.1, 0.3), ("AlII", 1670.79, 0.5, 0.03, 0.9, 0.1),
    ("NIV1718", 1718.55, 0.6, 0.03, 1.0, 0.4), ("NIII]", 1750.26, 1.4, 0.03, 1.0, 0.3),
    ("FeII1788", 1788.73, 1.5, 0.03, 1.2, 0.1), ("AlIII", 1857.40, 3.0, 0.0, 1.0, 0.3),
    ("SiIII]", 1892.03, 3.6, 0.02, 0.9, 0.2), ("CIII]", 1908.73, 17.0, 0.045, 1.15, 0.3),
    ("FeIII2077", 2076.62, 2.8, 0.0, 2.0, 0.1), ("CII]", 2326.44, 2.2, 0.03, 0.9, 0.0),
    ("NeIV br", 2423.83, 1.4, 0.03, 0.9, 0.0), ("MgII", 2799.12, 30.0, 0.05, 0.85, 0.0),
    ("MgII wing", 2799.12, 6.0, 0.04, 2.0, 0.0), ("OIII3133", 3133.70, 1.0, 0.04, 0.9, 0.1),
    ("HeI3189", 3188.67, 0.6, 0.0, 0.9, 0.0), ("HeII3203", 3204.04, 0.6, 0.03, 1.0, 0.0),
    ("H8", 3890.15, 1.2, 0.0, 0.9, 0.0), ("Heps", 3971.20, 2.0, 0.0, 0.9, 0.0),
    ("Hdelta", 4102.89, 6.0, 0.0, 1.0, 0.0), ("Hgamma", 4341.68, 14.0, 0.0, 1.0, 0.0),
    ("HeI4472", 4472.76, 0.8, 0.0, 1.0, 0.0), ("HeII4687", 4687.02, 2.5, 0.04, 1.4, 0.2),
    ("Hbeta", 4862.68, 52.0, 0.0, 1.0, 0.0), ("HeI5877", 5877.25, 6.0, 0.0, 1.1, 0.0),
    ("Halpha", 6564.61, 235.0, 0.0, 0.9, 0.0), ("HeI7067", 7067.20, 4.0, 0.0, 1.0, 0.0),
    ("OI8446", 8448.70, 11.0, 0.0, 0.7, 0.0), ("CaII8579", 8579.0, 7.0, 0.0, 1.8, 0.0),
    ("Pa10", 9017.40, 3.0, 0.0, 0.8, 0.0), ("Pa9", 9231.60, 5.0, 0.0, 0.9, 0.0),
    ("PaEps", 9548.60, 7.0, 0.0, 0.9, 0.0), ("PaDelta", 10052.1, 12.0, 0.0, 0.9, 0.0),
)  # fmt: skip
_NARROW = (
    # name, wavelength, width in broad-line quasars, Baldwin, breadth, in narrow-line AGN
    ("OVI n", 1034.00, 0.0, 0.0, 1.4, 6.0), ("Lya n", 1215.67, 1.0, 0.03, 1.3, 95.0),
    ("NV n", 1240.14, 0.1, 0.0, 1.3, 7.0), ("SiIV n", 1396.76, 0.1, 0.0, 1.3, 4.0),
    ("CIV n", 1549.06, 0.1, 0.03, 1.3, 34.0), ("HeII1640 n", 1640.42, 0.4, 0.03, 1.1, 15.0),
    ("OIII]1664 n", 1663.48, 0.1, 0.0, 1.0, 4.0), ("SiIII] n", 1892.03, 0.1, 0.0, 1.0, 3.0),
    ("CIII] n", 1908.73, 0.2, 0.03, 1.1, 17.0), ("CII] n", 2326.44, 0.2, 0.0, 1.0, 6.0),
    ("[NeIV]", 2423.83, 0.6, 0.02, 1.1, 9.0), ("MgII n", 2799.12, 0.2, 0.0, 1.2, 12.0),
    ("[NeV]3346", 3346.82, 0.35, 0.03, 1.2, 4.0), ("[NeV]3427", 3426.84, 1.0, 0.03, 1.2, 11.0),
    ("[OII]3727", 3727.09, 0.9, 0.02, 0.9, 17.0), ("[OII]3730", 3729.88, 1.1, 0.02, 0.9, 19.0),
    ("[NeIII]3870", 3869.86, 1.5, 0.02, 1.0, 15.0), ("[NeIII]3969", 3968.59, 0.45, 0.02, 1.0, 4.5),
    ("Hd n", 4102.89, 0.3, 0.0, 0.9, 4.0), ("Hg n", 4341.68, 0.5, 0.0, 0.9, 7.0),
    ("[OIII]4364", 4364.44, 0.6, 0.02, 1.0, 4.0), ("HeII4687 n", 4687.02, 0.2, 0.0, 1.0, 4.0),
    ("Hb n", 4862.68, 1.6, 0.0, 0.9, 16.0), ("[OIII]4960", 4960.30, 4.6, 0.02, 1.0, 50.0),
    ("[OIII]5008", 5008.24, 13.7, 0.02, 1.0, 150.0), ("[FeVII]6087", 6088.70, 0.5, 0.0, 1.0, 1.5),
    ("[OI]6302", 6302.05, 1.0, 0.0, 0.9, 9.0), ("[NII]6549", 6549.85, 1.5, 0.0, 0.9, 13.0),
    ("Ha n", 6564.61, 6.0, 0.0, 0.9, 75.0), ("[NII]6585", 6585.28, 4.5, 0.0, 0.9, 39.0),
    ("[SII]6718", 6718.29, 1.8, 0.0, 0.9, 14.0), ("[SII]6733", 6732.67, 1.6, 0.0, 0.9, 13.0),
    ("[ArIII]7138", 7137.80, 0.4, 0.0, 0.9, 4.0), ("[OII]7325", 7325.0, 0.3, 0.0, 1.5, 3.0),
    ("[SIII]9071", 9071.10, 1.2, 0.0, 0.9, 12.0), ("[SIII]9533", 9533.20, 2.8, 0.0, 0.9, 28.0),
)  # fmt: skip

#: All lines: 54 broad, 36 narrow.
LINES: tuple[EmissionLine, ...] = (
    *(EmissionLine(*row) for row in _BROAD),
    *(EmissionLine(n, w, ew, b, s, 0.0, ew2) for n, w, ew, b, s, ew2 in _NARROW),
)

_CIV = next(number for number, line in enumerate(LINES) if line.name == "CIV")

#: Fe II and Fe III pseudo-lines: wavelength, equivalent width (Angstrom) of the median quasar. Ultraviolet:
#: the humps of Vestergaard & Wilkes (2001), ApJS 134, 1, each a blend of hundreds of lines and so broadened
#: by `_IRON_BLEND`; optical: multiplets 27, 28, 37, 38, 42, 48, 49, 74.
_IRON_UV = (
    (1650.0, 2.5), (1720.0, 5.0), (1785.0, 6.0), (1845.0, 6.0), (1910.0, 4.0), (1960.0, 5.0), (2030.0, 5.0),
    (2085.0, 6.0), (2130.0, 4.0), (2190.0, 4.5), (2235.0, 5.0),
    (2275.0, 5.5), (2320.0, 7.5), (2370.0, 9.5), (2405.0, 9.0), (2450.0, 7.0), (2490.0, 8.5), (2530.0, 8.0),
    (2575.0, 8.0), (2615.0, 8.0), (2655.0, 3.0), (2695.0, 2.5), (2740.0, 5.0), (2775.0, 3.0), (2845.0, 3.5),
    (2885.0, 4.5), (2930.0, 6.0), (2965.0, 6.0), (3010.0, 4.0), (3060.0, 2.5), (3165.0, 3.5), (3195.0, 3.5),
    (3230.0, 3.0), (3280.0, 2.5), (3330.0, 1.0), (3500.0, 1.0),
)  # fmt: skip
_IRON_OPTICAL = (
    (4179.0, 1.3), (4234.3, 2.0), (4297.8, 1.2), (4352.9, 1.6), (4418.0, 1.6), (4474.0, 0.8), (4492.7, 2.0),
    (4509.6, 2.2), (4523.9, 2.6), (4550.8, 4.2), (4585.1, 4.4), (4630.6, 4.2), (4668.0, 1.6), (4732.8, 0.8),
    (4925.3, 4.2), (5019.8, 4.6), (5132.0, 1.3), (5170.5, 5.2), (5199.0, 3.8), (5236.1, 3.9), (5265.0, 3.2),
    (5277.5, 4.0), (5318.1, 5.2), (5364.0, 2.6), (5415.0, 1.6), (5536.4, 1.2), (6149.3, 0.8), (6240.0, 1.2),
    (6457.0, 1.2), (6517.9, 1.0),
)  # fmt: skip
#: The composite is of quasars brighter than i = 19.1, and blends raise the continuum beside its lines: broad
#: lines of BOSS quasars, two magnitudes fainter, are stronger (Rakshit et al. 2020, ApJS 249, 17).
_FAINTER = 1.4
_IRON_WIDTHS = (900.0, 2500.0)  # km / s, standard deviation
_IRON_BLEND = (2600.0, 300.0)  # km / s, ultraviolet and optical


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Constant rest-frame shapes on the lattice, float32."""

    power: Array  # (4, n_pixels): what the exponent of the continuum is made of
    dust: Array  # (n_pixels,): ln of the extinction per unit E(B-V)
    extra: Array  # (5, n_pixels): Fe II ultraviolet and optical, narrow and broad; Balmer continuum
    host: Array  # (2, n_pixels): old and young stars, 1 at 5100 Angstrom


def _gaussians(wavelength: Vector, table: tuple[tuple[float, float], ...], sigma: float) -> Vector:
    """Return a sum of Gaussians of given area (Angstrom) and width (km/s)."""
    total = np.zeros_like(wavelength)
    for centre, width in table:
        scale = centre * sigma / 299792.458
        total += width / (np.sqrt(2 * np.pi) * scale) * np.exp(-0.5 * ((wavelength - centre) / scale) ** 2)
    return total


def _hosts(wavelength: Vector) -> Vector:
    """Return old and young stellar light, shape (2, n): like populations of 8 and 0.3 Gyr, drawn freehand.

    The 4000 Angstrom and Balmer breaks, Ca H and K, the G band, Mgb, Na D, TiO and the Balmer lines.
    """

    def step(centre: float, width: float) -> Vector:
        return np.asarray(1 / (1 + np.exp(-(wavelength - centre) / width)))

    x = np.log(wavelength / 5100)
    old = np.exp(np.where(x < 0, 1.1 * x, 0.1 * x - 1.0 * np.clip(x, 0, None) ** 2))
    old *= 0.42 + 0.58 * step(3980, 45)
    old *= 0.25 + 0.75 * step(2950, 160)
    old *= 0.10 + 0.90 * step(2300, 150)
    young = np.exp(np.where(x < 0, -1.3 * x, -1.5 * x))
    young *= 0.50 + 0.50 * step(3720, 45)
    young *= 0.15 + 0.85 * step(1300, 120)
    young *= step(920, 5)
    old_lines = (
        (3934.8, 9.0), (3969.6, 8.0), (4305.6, 6.0), (4384.0, 1.5), (4862.7, 1.7), (5176.6, 5.5),
        (5270.0, 3.0), (5328.0, 2.0), (5895.6, 3.5), (6230.0, 6.0), (6564.6, 1.3), (7150.0, 12.0),
        (8500.4, 1.5), (8544.4, 3.8), (8664.5, 3.3), (3830.0, 5.0), (3581.0, 4.0), (2798.0, 10.0),
        (2852.0, 7.0),
    )  # fmt: skip
    young_lines = (
        (3798.0, 2.5), (3835.4, 4.0), (3890.1, 5.0), (3934.8, 1.5), (3970.0, 6.0), (4102.9, 6.0),
        (4341.7, 6.0), (4862.7, 6.0), (6564.6, 4.0), (5895.6, 1.0), (8544.0, 2.0), (2798.0, 3.0),
    )  # fmt: skip
    broad = {6230.0: 1800.0, 7150.0: 2600.0, 4305.6: 700.0, 5176.6: 600.0}
    for light, lines, common in ((old, old_lines, 500.0), (young, young_lines, 750.0)):
        for centre, width in lines:
            light *= np.exp(-_gaussians(wavelength, ((centre, width),), broad.get(centre, common)))
    hosts = np.stack([old, young])
    return np.asarray(hosts / hosts[:, np.argmin(np.abs(wavelength - 5100))][:, None])


@cache
def _shapes() -> _Shapes:
    wave = lattice_wavelength(FIRST, N_PIXELS)
    x = np.log(wave)

    def soft(edge: float, width: float) -> Vector:  # 0 below, x - ln(edge) above
        return np.asarray(width * np.logaddexp(0, (x - np.log(edge)) / width))

    middle, red = soft(1150, 0.03), soft(5000, 0.08)
    blue = x - np.log(1150) - middle
    power = np.stack([blue, middle - red - np.log(2500 / 1150), red, 0.5 * np.log(wave / 2500) ** 2])
    dust = -0.4 * np.log(10) * 1.39 * (wave * 1e-4) ** -1.2
    # Balmer continuum: Grandi (1982), ApJ 255, 25, at 15,000 K and optical depth 1, and its high-order lines.
    edge = 3646.0
    planck = (wave / edge) ** -5 / np.expm1(1.43878e8 / (wave * 15000))
    balmer = planck * (1 - np.exp(-((wave / edge) ** 3))) / (1 + np.exp((wave - 3700) / 25))
    balmer *= 1 / (1 + np.exp(-(wave - 1900) / 150))
    balmer *= (wave / 3000) ** 1.5
    balmer /= balmer[np.argmin(np.abs(wave - 3600))]
    series = [(edge / (1 - 4 / n**2), 2.2 * (8 / n) ** 3) for n in range(8, 25)]
    balmer += 0.035 * _gaussians(wave, tuple(series), 1500) * 10
    iron = [
        _gaussians(wave, table, np.hypot(sigma, blend))
        for table, blend in zip((_IRON_UV, _IRON_OPTICAL), _IRON_BLEND, strict=True)
        for sigma in _IRON_WIDTHS
    ]
    return _Shapes(
        power.astype(np.float32),
        dust.astype(np.float32),
        np.stack([*iron, balmer]).astype(np.float32),
        _hosts(wave).astype(np.float32),
    )


@cache
def _modulus() -> tuple[Vector, Vector]:
    """Return z, and distance modulus with K correction (slope -0.5), for Omega_m 0.315, h 0.674, flat."""
    z = np.linspace(0.0, 10.0, 2001)
    rate = 1 / np.sqrt(0.315 * (1 + z) ** 3 + 0.685)
    distance = np.concatenate([[0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(z))])
    distance = np.maximum(distance, 1e-3) * (1 + z) * 299792.458 / 67.4
    return z, 5 * np.log10(distance * 1e5) - 1.25 * np.log10(1 + z)


def draw_m1450(z: Vector, rng: np.random.Generator) -> Vector:
    """Return absolute magnitudes at 1450 Angstrom of a sample limited at 22.3 (z > 1.2) to 20.5 (z = 0)."""
    limit = 22.3 - 1.5 * np.clip(1.2 - np.asarray(z), 0, 1.2)
    apparent = limit - np.minimum(rng.exponential(1.1, len(z)), 5.5)
    return np.asarray(np.clip(apparent - np.interp(z, *_modulus()), -30, -19.5))


def _add_lines(
    ratio: Array, which: tuple[EmissionLine, ...], width: Vector, shift: Vector, sigma: Vector
) -> None:
    """Add Gaussian lines to `ratio` in place; width (Angstrom), shift, sigma (km/s) have shape (n, lines)."""
    for k, line in enumerate(which):
        if not width[:, k].any():
            continue
        centre = np.log10(line.wavelength) / LATTICE_STEP - FIRST
        offset, scale = shift[:, k] / PIXEL, sigma[:, k] / PIXEL
        reach = int(np.abs(offset).max() + 4 * scale.max()) + 1
        start, stop = max(0, int(centre) - reach), min(N_PIXELS, int(centre) + reach + 2)
        if stop <= start:
            continue
        peak = width[:, k] / (np.sqrt(2 * np.pi) * scale * line.wavelength * np.log(10) * LATTICE_STEP)
        profile = (np.arange(start, stop) - centre).astype(np.float32)[None, :] - offset.astype(np.float32)[
            :, None
        ]
        profile *= (np.sqrt(0.5) / scale).astype(np.float32)[:, None]
        profile *= profile
        np.negative(profile, out=profile)
        np.exp(profile, out=profile)
        profile *= peak.astype(np.float32)[:, None]
        ratio[:, start:stop] += profile


def parametric(
    n: int,
    z: Vector,
    rng: np.random.Generator,
    m1450: Vector | None = None,
    narrow_line: NDArray[np.bool_] | None = None,
    lines: Array | None = None,
) -> Rest:
    """Return quasars drawn from published trends, no file needed.

    Parameters
    ----------
    n : int
    z : ndarray of float64, shape (n,)
        Redshifts: they set luminosity, dust and host, not the frame.
    rng : numpy.random.Generator
    m1450 : ndarray of float64, shape (n,), optional
        Absolute magnitude at 1450 Angstrom; default `draw_m1450`.
    narrow_line : ndarray of bool, shape (n,), optional
        Which are narrow-line (type 2) AGN; default none.
    lines : ndarray of float32, shape (n, N_PIXELS), optional
        Lines and Fe II relative to the continuum, in place of the line table (an emission-line template).

    Returns
    -------
    Rest
        On the lattice FIRST, N_PIXELS. Truth: SUBCLASS ("BROADLINE" or "NLAGN"), KIND ("parametric"), M1450,
        EBV, CIV_BLUESHIFT (km/s, positive towards the blue, of the CIV centroid against systemic), LINE_FWHM
        (km/s, of MgII or [O III]), HOST (fraction of the light at 5100 Angstrom), HAS_FOREST (False).
    """
    z = np.asarray(z, dtype=np.float64)
    if z.shape != (n,):
        raise ValueError(f"{n} quasars need {n} redshifts, got shape {z.shape}")
    m1450 = draw_m1450(z, rng) if m1450 is None else np.asarray(m1450, dtype=np.float64)
    type2 = np.zeros(n, dtype=bool) if narrow_line is None else np.asarray(narrow_line, dtype=bool)
    shapes, faint = _shapes(), m1450 + 25
    n_broad = len(_BROAD)

    def normal(*shape: int) -> Vector:
        return np.asarray(rng.standard_normal(shape or (n,)))

    # Continuum: slopes of f_lambda; with Fe II and the Balmer continuum on top -1.7 becomes Vanden Berk's -1.5;
    # -0.45 below the break Telfer et al.'s (2002, ApJ
    # 565, 773). Narrow-line AGN are redder.
    middle = np.where(type2, -0.7, -1.72) + 0.27 * normal()
    blue = -0.45 + 0.40 * normal() + 0.4 * (middle + 1.5)
    red = -0.80 + 0.25 * normal() + 0.5 * (middle + 1.5)
    slopes = np.stack([blue, middle, red, 0.10 * normal()], axis=1)
    ebv = rng.exponential(np.where(rng.random(n) < 0.1, 0.05, 0.012), n) * np.where(z > 2, 0.5, 1.0)
    ebv = np.minimum(
        np.where(type2, 0.0, ebv), 0.15
    )  # type 2: what is seen of the nucleus is scattered light
    continuum = np.concatenate([slopes, ebv[:, None]], axis=1).astype(np.float32) @ np.concatenate(
        [shapes.power, shapes.dust[None, :]]
    )
    np.exp(continuum, out=continuum)

    # Eigenvector 1 ties CIV blueshift, CIV width, optical Fe II and [O III] together (Boroson & Green 1992,
    # ApJS 80, 109; Richards et al. 2011, AJ 141, 167).
    common = 0.22 * normal()
    vector = normal()
    log_width = common[:, None] + 0.12 * normal(n, len(LINES))
    log_width += faint[:, None] * np.array([line.baldwin for line in LINES])[None, :]
    log_width[:, n_broad:] += (0.33 * normal() - 0.15 * vector)[:, None] - common[:, None]
    civ = log_width[:, _CIV]
    blueshift = 750 * np.exp(0.6 * (-0.70 * civ / 0.28 + 0.45 * vector + 0.45 * normal())) - 150
    blueshift = np.clip(blueshift, -350, 3000)
    fwhm = np.clip(4600 * 10 ** (0.13 * normal() - 0.015 * faint), 1700, 11000)
    fwhm_narrow = np.where(type2, 620 * 10 ** (0.17 * normal()), 520 * 10 ** (0.15 * normal()))
    fwhm_narrow = np.clip(fwhm_narrow, 220, 1600)
    extra = np.zeros((n, 5))
    if lines is None:
        strength = 10 ** (0.20 * normal(n, 2) + np.stack([0.05 * vector, 0.20 * vector - 0.02], axis=1))
        broad_iron = rng.random(n)
        extra[:, 0], extra[:, 1] = strength[:, 0] * (1 - broad_iron), strength[:, 0] * broad_iron
        extra[:, 2], extra[:, 3] = strength[:, 1] * (1 - broad_iron), strength[:, 1] * broad_iron
        extra[:, 4] = np.clip(0.13 * 10 ** (0.25 * normal()), 0, 0.5)
        extra[type2] = 0
        ratio = extra.astype(np.float32) @ shapes.extra
        table = LINES
    else:
        ratio = np.array(lines, dtype=np.float32)
        table = ()
    ratio += 1

    if table:
        width = np.array([line.width for line in table])[None, :] * 10**log_width
        width[:, :n_broad] *= _FAINTER
        narrow = np.array([line.narrow for line in table])[None, :] * 10 ** np.clip(log_width, -1.2, 0.9)
        width = np.where(type2[:, None], narrow, width)
        breadth = np.array([line.breadth for line in table])[None, :]
        blue_share = np.array([line.blueshift for line in table])[None, :]
        # Broad lines: 55 % in a core, 45 % in a wing 1.9 times as broad that takes more of the blueshift.
        b = slice(0, n_broad)
        sigma = fwhm[:, None] / FWHM * breadth[:, b] * 10 ** (0.04 * normal(n, n_broad))
        move = 90 * normal(n, n_broad) - blueshift[:, None] * blue_share[:, b]
        move[:, _CIV] = -blueshift
        for share, scale, moved in ((0.55, 0.72, 0.65), (0.45, 1.37, 1.4278)):
            _add_lines(ratio, table[b], share * width[:, b], moved * move, scale * sigma)
        b = slice(n_broad, len(table))
        sigma = fwhm_narrow[:, None] / FWHM * breadth[:, b]
        outflow = -np.abs(60 * normal())[:, None] * np.ones((1, len(table) - n_broad))
        _add_lines(ratio, table[b], width[:, b], outflow, sigma)
    continuum *= ratio

    # Host: falls with luminosity about as in Shen et al. (2011), ApJS 194, 45; type 2 are mostly host.
    host = np.clip(0.24 * 10 ** (0.14 * (m1450 + 22.5) + 0.22 * normal()), 0, 0.8)
    host = np.where(z > 1.3, 0.5, 1.0) * host
    host = np.where(type2, np.clip(0.6 + 0.15 * normal(), 0.2, 0.9), host)
    old = np.clip(0.65 + 0.25 * normal(), 0, 1) * np.where(z > 1, 0.6, 1.0)
    at5100 = int(np.rint(np.log10(5100) / LATTICE_STEP)) - FIRST
    level = continuum[:, at5100 - 40 : at5100 + 40].mean(axis=1) * host / (1 - host)
    mix = (level[:, None] * np.stack([old, 1 - old], axis=1)).astype(np.float32)
    seen = np.flatnonzero(host > 0.005)
    start = int(np.log10(900) / LATTICE_STEP) - FIRST
    if len(seen):
        continuum[seen, start:] += mix[seen] @ shapes.host[:, start:]
    truth: dict[str, NDArray[Any]] = {
        "SUBCLASS": np.where(type2, "NLAGN", "BROADLINE").astype(object),
        "KIND": np.full(n, "parametric", dtype=object),
        "M1450": m1450,
        "EBV": ebv,
        "CIV_BLUESHIFT": np.where(type2, 0.0, blueshift),
        "LINE_FWHM": np.where(type2, fwhm_narrow, fwhm),
        "HOST": host,
        "HAS_FOREST": np.zeros(n, dtype=bool),
    }
    return Rest(FIRST, continuum, truth)


def draw(
    n: int,
    z: Vector,
    rng: np.random.Generator,
    templates: QuasarTemplates | None = None,
    narrow_line_fraction: float = 0.03,
) -> Rest:
    """Return quasars of all kinds: parametric, and from templates where there are any.

    With templates 35 % are parametric, 15 % have a template's lines on a parametric continuum, 42 % come from
    eigenspectra and 8 % from composites (of the kinds whose sets are present, in these proportions).

    Parameters
    ----------
    n : int
    z : ndarray of float64, shape (n,)
    rng : numpy.random.Generator
    templates : QuasarTemplates, optional
    narrow_line_fraction : float
        Fraction of narrow-line AGN, always parametric.

    Returns
    -------
    Rest
        Truth as `parametric`; KIND tells the source, HAS_FOREST whether it contains the mean Lya forest.
    """
    z = np.asarray(z, dtype=np.float64)
    type2 = rng.random(n) < narrow_line_fraction
    if templates is None:
        return parametric(n, z, rng, narrow_line=type2)
    return templates.mix(n, z, rng, type2)
