"""Broad absorption lines, and the two indices that measure them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import SPEED_OF_LIGHT
from broadline.spectra import LATTICE_STEP

__all__ = ["SPEED_OF_LIGHT", "absorption_index", "balnicity", "bals", "correlated_field", "lattice_index"]

Array = NDArray[np.float32]


def lattice_index(wavelength: Any) -> NDArray[np.float64]:
    """Return the (fractional) lattice index of vacuum wavelengths."""
    return np.asarray(np.log10(wavelength) / LATTICE_STEP, dtype=np.float64)


def correlated_field(n: int, n_pixels: int, rng: np.random.Generator) -> Array:
    """Return Gaussian fields of zero mean and unit variance, correlated over about 2 and 12 pixels."""
    from scipy.signal import lfilter  # takes half a second to import, and is for simulations alone

    burn = 64
    white = rng.standard_normal((n, n_pixels + burn), dtype=np.float32)
    # Two first-order autoregressions in one recursion: 0.85 / (1 - 0.65 q) + 0.12 / (1 - 0.92 q).
    short, long, a, b = 0.65, 0.92, 0.85, 0.12
    lag = np.arange(200)
    norm = np.sqrt(np.sum((a * short**lag + b * long**lag) ** 2))
    top = np.array([(a + b) / norm, -(a * long + b * short) / norm], dtype=np.float32)
    bottom = np.array([1, -(short + long), short * long], dtype=np.float32)
    field: Array = lfilter(top, bottom, white, axis=1)[:, burn:]
    return field


def _integral(
    velocity: NDArray[Any], residual: NDArray[Any], low: float, high: float, minimum: float, whole: bool
) -> NDArray[np.float64]:
    """Return the integral of ``1 - f / 0.9`` over troughs of at least `minimum` km/s between two speeds."""
    velocity, residual = np.asarray(velocity, dtype=np.float64), np.atleast_2d(residual)
    order = np.argsort(-velocity)  # from the line towards the blue
    speed = -velocity[order]
    step = np.abs(np.gradient(speed))
    edge = np.stack([speed - step / 2, speed + step / 2])
    step = np.clip(np.minimum(edge[1], high) - np.maximum(edge[0], low), 0, None)
    deep = 1 - np.asarray(residual, dtype=np.float64)[:, order] / 0.9
    positive = (deep > 0) & (step > 0)[None, :]

    def run(mask: NDArray[np.bool_], widths: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.cumsum(np.broadcast_to(widths, mask.shape), axis=1)
        return np.asarray(total - np.maximum.accumulate(np.where(mask, 0, total), axis=1))

    length = run(positive, step)
    if whole:
        length = length + run(positive[:, ::-1], step[::-1])[:, ::-1] - step
        weight = np.where(positive & (length >= minimum), step, 0)
    else:  # the part of each pixel beyond the first `minimum` km/s of its trough
        weight = np.where(positive, np.clip(length - minimum, 0, step), 0)
    return np.asarray((deep * weight).sum(axis=1))


def balnicity(velocity: NDArray[Any], residual: NDArray[Any]) -> NDArray[np.float64]:
    """Return the balnicity index of CIV, km/s.

    ``-integral of (1 - f / 0.9) C dv`` from -25000 to -3000 km/s, where C is 1 once the bracket has been
    positive for 2000 km/s on end, counted from the line outwards, else 0: Weymann et al. (1991), ApJ 373, 23.

    Parameters
    ----------
    velocity : ndarray, shape (n_pixels,)
        km/s from the emission line, negative for outflow; in any order that is monotonic.
    residual : ndarray, shape (n_spectra, n_pixels)
        Flux divided by the unabsorbed flux.

    Returns
    -------
    ndarray of float64, shape (n_spectra,)
    """
    return _integral(velocity, residual, 3000, 25000, 2000, whole=False)


def absorption_index(velocity: NDArray[Any], residual: NDArray[Any]) -> NDArray[np.float64]:
    """Return the absorption index of CIV, km/s.

    ``-integral of (1 - f / 0.9) C dv`` from -25000 to 0 km/s, where C is 1 in every trough that is at least
    450 km/s wide: Hall et al. (2002), ApJS 141, 267, as in the SDSS quasar catalogues (Paris et al. 2012,
    A&A 548, A66). Arguments as `balnicity`.
    """
    return _integral(velocity, residual, 0, 25000, 450, whole=True)


#: Ions of broad absorption: wavelength (Angstrom, weighted mean of the doublet), optical depth beside CIV.
HIGH_IONS = ((1549.06, 1.0), (1396.75, 0.45), (1240.15, 1.1), (1034.0, 1.3), (1215.67, 0.25))
LOW_IONS = ((1857.4, 0.55), (2799.1, 0.30))
#: Pixels beside a line that troughs may fill, and their velocities (km/s).
_REACH = np.arange(-500, 21)
_RATIO = 10.0 ** (2 * LATTICE_STEP * _REACH)
_VELOCITY = SPEED_OF_LIGHT * (_RATIO - 1) / (_RATIO + 1)


def _troughs(
    n: int, broad: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return optical depth and covering of CIV against velocity, shape (n, n_reach), and trough counts."""
    count = 1 + np.minimum(rng.poisson(np.where(broad, 0.8, 0.3)), 3)
    depth = np.zeros((n, len(_REACH)), dtype=np.float32)
    velocity = _VELOCITY.astype(np.float32)[None, :]
    for slot in range(4):
        on = (count > slot).astype(np.float64)
        main = broad & (slot == 0)
        width = np.where(
            main,
            np.clip(4300 * np.exp(0.60 * rng.standard_normal(n)), 900, 16000),
            np.clip(900 * np.exp(0.50 * rng.standard_normal(n)), 250, 2400),
        )
        red = np.where(
            main,
            np.clip(3600 * np.exp(0.75 * rng.standard_normal(n)), 300, 20000),
            rng.uniform(300, 18000, n),
        )
        width = np.minimum(width, np.maximum(27000 - red, 500))
        peak = on * np.exp(rng.normal(0.7, 0.8, n))
        edge = np.clip(width * rng.uniform(0.04, 0.16, n), 60, 900)
        fade = rng.uniform(0, 0.85, n)  # shallower towards the blue, as most are
        a, b, c, d = (value.astype(np.float32)[:, None] for value in (red, width, edge, fade))
        place = (-velocity - a) / b
        shape = 1 / (1 + np.exp(np.clip(-(-velocity - a) / c, -30, 30)))
        shape /= 1 + np.exp(np.clip((-velocity - a - b) / c, -30, 30))
        shape *= 1 - d * np.clip(place, 0, 1)
        depth += peak.astype(np.float32)[:, None] * shape
    depth *= np.exp(0.35 * correlated_field(n, len(_REACH), rng))
    cover = np.where(broad, 1 - 0.70 * rng.beta(1.4, 1.7, n), 1 - 0.75 * rng.beta(1.6, 1.2, n))
    return depth, cover.astype(np.float32)[:, None], count


def bals(
    first: int,
    n_pixels: int,
    z: NDArray[np.float64],
    rng: np.random.Generator,
    fraction: float | NDArray[np.float64] = 0.18,
) -> tuple[Array, dict[str, NDArray[Any]]]:
    """Return the transmission of broad absorption lines, and what is true of them.

    CIV with SiIV, NV, OVI and Lya; one in eight of the broad ones also in AlIII and MgII. Absorbers cover
    part of the source, less of the broad-line region than of the continuum. Two in five are narrow
    mini-troughs only.

    Parameters
    ----------
    first, n_pixels : int
        The observed window on the lattice.
    z : ndarray of float64, shape (n_spectra,)
    rng : numpy.random.Generator
    fraction : float or ndarray of float64, shape (n_spectra,)
        Probability of any trough.

    Returns
    -------
    transmission : ndarray of float32, shape (n_spectra, n_pixels)
    truth : dict
        BAL_TROUGHS (number in CIV), BI_CIV, AI_CIV (km/s, noise-free; 0 for none), LOBAL (bool).
    """
    z = np.asarray(z, dtype=np.float64)
    n = len(z)
    transmission = np.ones((n, n_pixels), dtype=np.float32)
    truth: dict[str, NDArray[Any]] = {
        "BAL_TROUGHS": np.zeros(n, dtype=np.int64),
        "BI_CIV": np.zeros(n),
        "AI_CIV": np.zeros(n),
        "LOBAL": np.zeros(n, dtype=bool),
    }
    rows = np.flatnonzero(rng.random(n) < fraction)
    if not len(rows):
        return transmission, truth
    broad = rng.random(len(rows)) < 0.6
    low = broad & (rng.random(len(rows)) < 0.14)
    depth, cover, count = _troughs(len(rows), broad, rng)
    lines = rng.uniform(0.2, 1.0, len(rows)).astype(np.float32)[:, None]  # covering of the broad-line region
    for ion, (wavelength, strength) in enumerate((*HIGH_IONS, *LOW_IONS)):
        scale = strength * 10 ** rng.normal(0, 0.15 if ion else 0.0, len(rows))
        if ion >= len(HIGH_IONS):
            scale = scale * low
        # Light of the line itself (and of Lya, for NV) is covered less.
        bump = np.exp(-0.5 * (_VELOCITY / 2500) ** 2)
        if wavelength == 1240.15:
            bump = bump + np.exp(-0.5 * ((_VELOCITY + 5950) / 2000) ** 2)
        covering = cover * (1 - 0.55 * (1 - lines) * bump.astype(np.float32)[None, :])
        residual = 1 - covering * (1 - np.exp(-depth * scale.astype(np.float32)[:, None]))
        if ion == 0:
            truth["BI_CIV"][rows] = balnicity(_VELOCITY, residual)
            truth["AI_CIV"][rows] = absorption_index(_VELOCITY, residual)
        start = np.rint(lattice_index(wavelength * (1 + z[rows]))).astype(np.int64) - first
        pixel = start[:, None] + _REACH[None, :]
        inside = (pixel >= 0) & (pixel < n_pixels)
        flat = (rows[:, None] * n_pixels + pixel)[inside]
        transmission.reshape(-1)[flat] *= residual[inside]
    truth["BAL_TROUGHS"][rows] = count
    truth["LOBAL"][rows] = low
    return transmission, truth
