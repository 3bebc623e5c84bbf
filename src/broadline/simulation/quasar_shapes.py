"""Shapes that the continua of quasars are made of: power laws, dust, iron, Balmer continuum, host galaxy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.quasar_tables import (
    FIRST,
    IRON_BLEND,
    IRON_OPTICAL,
    IRON_UV,
    IRON_WIDTHS,
    N_PIXELS,
)
from broadline.spectra import lattice_wavelength

__all__ = ["Shapes", "constant_shapes"]

Array = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shapes:
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
def constant_shapes() -> Shapes:
    """Return the shapes, which are made once."""
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
        for table, blend in zip((IRON_UV, IRON_OPTICAL), IRON_BLEND, strict=True)
        for sigma in IRON_WIDTHS
    ]
    return Shapes(
        power.astype(np.float32),
        dust.astype(np.float32),
        np.stack([*iron, balmer]).astype(np.float32),
        _hosts(wave).astype(np.float32),
    )
