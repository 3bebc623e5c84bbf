"""Absorption between a quasar and the telescope: transmission on the observed lattice, for a batch at once.

The redshift-space scale of everything here is the lattice pixel, 69 km/s. The forest is a lognormal field of
optical depth with two correlation lengths, about 2 and 12 pixels (150 and 800 km/s): the thermal and
instrumental width of the lines, and their clustering. Mean transmission at a redshift is exact by
construction, whatever the width of the lognormal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.broad_absorption import SPEED_OF_LIGHT, bals, correlated_field, lattice_index
from broadline.simulation.one_thread import one_thread
from broadline.spectra import LATTICE_STEP, lattice_wavelength

__all__ = [
    "LYMAN_LIMIT",
    "LYMAN_SERIES",
    "absorb",
    "damped",
    "damped_optical_depth",
    "effective_optical_depth",
    "forest",
    "metals",
]

Array = NDArray[np.float32]

#: km / s in one lattice pixel.
PIXEL = SPEED_OF_LIGHT * np.log(10) * LATTICE_STEP
#: Vacuum Angstrom.
LYMAN_LIMIT = 911.753

#: Lya, Lyb, Lyc, Lyd: vacuum wavelength (Angstrom), oscillator strength, damping constant (1 / s).
#: Morton (2003), ApJS 149, 205.
LYMAN_SERIES = (
    (1215.6701, 0.4164, 6.265e8),
    (1025.7223, 0.07912, 1.897e8),
    (972.5368, 0.02900, 8.127e7),
    (949.7431, 0.01394, 4.204e7),
)

#: Width of the lognormal: natural logarithm of the optical depth, one value a sight line.
SIGMAS = np.round(np.arange(1.2, 2.41, 0.1), 1)


def effective_optical_depth(z: Any) -> NDArray[np.float64]:
    """Return the effective Lya optical depth, ``0.0018 (1 + z)**3.92``.

    Faucher-Giguere et al. (2008), ApJ 681, 831.
    """
    return np.asarray(0.0018 * (1 + np.asarray(z)) ** 3.92, dtype=np.float64)


@lru_cache(maxsize=8)
@one_thread
def _log_scale(first: int, n_pixels: int) -> Array:
    """Return ln A, shape (n_sigmas, n_pixels), such that <exp(-A exp(sigma g))> = exp(-tau_eff)."""
    g = np.linspace(-6, 6, 1201)
    weight = np.exp(-0.5 * g**2)
    weight /= weight.sum()
    log_a = np.linspace(-16, 9, 251)
    wanted = np.log(effective_optical_depth(lattice_wavelength(first, n_pixels) / LYMAN_SERIES[0][0] - 1))
    table = np.empty((len(SIGMAS), n_pixels), dtype=np.float32)
    for row, sigma in zip(table, SIGMAS, strict=True):
        mean = np.exp(-np.exp(log_a[:, None] + sigma * g[None, :])) @ weight
        row[:] = np.interp(wanted, np.log(-np.log(mean)), log_a)
    return table


def _forest_depth(first: int, n_pixels: int, z: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Return the optical depth of the Lyman series forest, shape (n_spectra, n_pixels)."""
    depth = np.zeros((len(z), n_pixels), dtype=np.float32)
    alpha = lattice_index(LYMAN_SERIES[0][0])
    end = np.rint(alpha + lattice_index(1 + z)).astype(np.int64) - first  # first pixel redward of Lya
    rows = np.flatnonzero(end > 0)
    if not len(rows):
        return depth
    lags = [int(np.rint(alpha - lattice_index(line[0]))) for line in LYMAN_SERIES]
    width = int(min(end.max(), n_pixels + lags[-1]))
    level = rng.integers(len(SIGMAS), size=len(rows))
    tau = correlated_field(len(rows), width, rng)
    tau *= SIGMAS[level].astype(np.float32)[:, None]
    tau += _log_scale(first, width)[level]
    np.minimum(tau, 6, out=tau)  # exp(-400) is dark enough
    np.exp(tau, out=tau)
    tau *= np.arange(width)[None, :] < end[rows, None]
    total = np.zeros((len(rows), n_pixels), dtype=np.float32)
    for lag, (wavelength, strength, _) in zip(lags, LYMAN_SERIES, strict=True):
        if width <= lag:
            continue
        ratio = strength * wavelength / (LYMAN_SERIES[0][1] * LYMAN_SERIES[0][0])
        total[:, : width - lag] += np.float32(ratio) * tau[:, lag : lag + n_pixels]
    depth[rows] = total
    return depth


def forest(first: int, n_pixels: int, z: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Return the transmission of the Lyman-alpha forest with its higher lines.

    Lya has mean transmission ``exp(-effective_optical_depth(z))``; Lyb to Lyd are the same clouds seen again,
    with optical depths in the ratio of f times wavelength.

    Parameters
    ----------
    first, n_pixels : int
        The observed window on the lattice.
    z : ndarray of float64, shape (n_spectra,)
        Redshifts of the quasars.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (n_spectra, n_pixels)
        In 0 to 1; 1 redward of Lya.
    """
    depth = _forest_depth(first, n_pixels, np.asarray(z, dtype=np.float64), rng)
    return np.exp(-depth)


def damped_optical_depth(wavelength: Any, log_n: Any, line: int = 0) -> NDArray[np.floating[Any]]:
    """Return the optical depth of damping wings at rest wavelengths, 4.24 A^2 N20 / (offset)^2 for Lya.

    The Lorentzian limit of the Voigt profile: right outside the core, which is black in any case.

    Parameters
    ----------
    wavelength : array_like
        Rest frame of the absorber, Angstrom.
    log_n : array_like
        log10 of the column density, cm^-2.
    line : int
        Index into `LYMAN_SERIES`.
    """
    centre, strength, gamma = LYMAN_SERIES[line]
    first = LYMAN_SERIES[0]
    ratio = strength * gamma * centre**4 / (first[1] * first[2] * first[0] ** 4)
    core = 0.2  # Angstrom: keeps the centre finite
    scale = 4.24 * ratio * 10 ** (np.asarray(log_n) - 20.0)
    return np.asarray(scale / ((np.asarray(wavelength) - centre) ** 2 + core**2))


@lru_cache(maxsize=1)
def _column_densities() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log N and the cumulative distribution of damped systems, 20 < log N < 22.3.

    Gamma function with index -1.27 and log N* = 21.26: Noterdaeme et al. (2009), A&A 505, 1087.
    """
    log_n = np.linspace(20, 22.3, 300)
    x = 10 ** (log_n - 21.26)
    density = np.cumsum(x ** (-1.27 + 1) * np.exp(-x))
    return log_n, (density - density[0]) / (density[-1] - density[0])


def damped(
    first: int, n_pixels: int, z: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Array, dict[str, NDArray[Any]]]:
    """Return the optical depth of damped systems and Lyman limits, and what was drawn.

    Damped systems (log N > 20): 0.35 ((1 + z) / 3.5)^1.3 a unit redshift, of which about 0.25 have
    log N > 20.3, near Noterdaeme et al. (2012), A&A 547, L1; at most two a sight line. Lyman limits
    (17.2 < log N < 20): 2.84 ((1 + z) / 4.5)^2.04 a unit redshift, of which the two highest count;
    Ribaudo, Lehner & Howk (2011), ApJ 736, 42, find an exponent of 1.83 +- 0.21.

    Returns
    -------
    depth : ndarray of float32, shape (n_spectra, n_pixels)
    truth : dict
        DLA_LOGN, DLA_Z (strongest system; NaN for none), LLS_Z (NaN for none in the window).
    """
    z = np.asarray(z, dtype=np.float64)
    n = len(z)
    depth = np.zeros((n, n_pixels), dtype=np.float32)
    wave = lattice_wavelength(first, n_pixels)
    alpha = LYMAN_SERIES[0][0]
    low = np.maximum(wave[0] / alpha - 1, (1 + z) * LYMAN_LIMIT / alpha - 1)
    path = np.clip(z - low, 0, None)
    count = rng.poisson(0.35 * ((1 + z) / 3.5) ** 1.3 * path)
    best_n, best_z = np.full(n, np.nan), np.full(n, np.nan)
    limits: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
    for slot in range(2):
        rows = np.flatnonzero(count > slot)
        if not len(rows):
            continue
        z_dla = low[rows] + rng.random(len(rows)) * path[rows]
        log_n, cumulative = _column_densities()
        log_n = np.interp(rng.random(len(rows)), cumulative, log_n)
        rest = (wave[None, :] / (1 + z_dla)[:, None]).astype(np.float32)
        for line in range(2):
            depth[rows] += damped_optical_depth(rest, log_n.astype(np.float32)[:, None], line)
        limits.append((rows, z_dla, log_n))
        stronger = ~(best_n[rows] >= log_n)
        best_n[rows[stronger]], best_z[rows[stronger]] = log_n[stronger], z_dla[stronger]

    # Distance to the next Lyman limit, in l = integral of l(z) dz, is exponential.
    def along(redshift: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(2.84 * 4.5 / 3.04 * ((1 + redshift) / 4.5) ** 3.04)

    place = along(z)
    z_lls = np.full(n, np.nan)
    for slot in range(2):
        place = place - rng.exponential(1.0, n)
        z_limit = 4.5 * np.clip(place * 3.04 / (2.84 * 4.5), 0, None) ** (1 / 3.04) - 1
        rows = np.flatnonzero(LYMAN_LIMIT * (1 + z_limit) > wave[0])
        if slot == 0:
            z_lls[rows] = z_limit[rows]
        log_n = 17.2 + rng.exponential(0.9, len(rows))  # f(N) about N^-1.5
        limits.append((rows, z_limit[rows], np.minimum(log_n, 20.0)))
    slope = 2.75 * np.log(10) * LATTICE_STEP  # photoionisation cross-section
    shape = np.exp(slope * (np.arange(n_pixels) - n_pixels)).astype(np.float32)
    for rows, z_limit, log_n in limits:
        edge = lattice_index(LYMAN_LIMIT * (1 + z_limit)) - first
        inside = edge > 0
        rows, edge, log_n = rows[inside], edge[inside], log_n[inside]
        if len(rows):
            last = min(int(edge.max()) + 1, n_pixels)
            tau = np.minimum(6.3 * 10 ** (log_n - 18), 100) * np.exp(slope * (n_pixels - edge))
            below = np.arange(last)[None, :] < edge[:, None]
            depth[rows, :last] += below * tau.astype(np.float32)[:, None] * shape[None, :last]
    return depth, {"DLA_LOGN": best_n, "DLA_Z": best_z, "LLS_Z": z_lls}


#: Vacuum wavelength (Angstrom) and strength beside the first, unsaturated; Morton (2003).
LOW_SYSTEM = (
    (2796.354, 1.0), (2803.531, 0.75), (2852.963, 0.20), (2600.172, 0.55), (2586.650, 0.35),
    (2382.764, 0.60), (2374.460, 0.25), (2344.213, 0.40), (1670.788, 0.35), (1608.450, 0.15),
)  # fmt: skip
HIGH_SYSTEM = (
    (1548.204, 1.0), (1550.781, 0.6), (1393.760, 0.45), (1402.773, 0.25), (1238.821, 0.15),
    (1526.707, 0.12), (1260.422, 0.20), (1334.532, 0.20), (1302.169, 0.12),
)  # fmt: skip
#: Metals of a damped system, added to both of the above.
DAMPED_SYSTEM = (
    (1260.422, 0.9), (1302.169, 0.8), (1334.532, 1.0), (1526.707, 0.8), (1670.788, 0.9), (1608.450, 0.5),
    (1854.718, 0.3), (1862.791, 0.2),
)  # fmt: skip


def _add_system(
    depth: Array,
    first: int,
    rows: NDArray[np.int64],
    z: NDArray[np.float64],
    width: NDArray[np.float64],
    lines: tuple[tuple[float, float], ...],
    rng: np.random.Generator,
) -> None:
    """Add Gaussian optical depths of metal systems of given rest equivalent width (Angstrom) in place."""
    if not len(rows):
        return
    reach = 12
    wavelength = np.array([line[0] for line in lines])
    strength = np.array([line[1] for line in lines])[None, :] * 10 ** rng.normal(
        0, 0.12, (len(z), len(lines))
    )
    sigma = np.clip((60 + 55 * width) / PIXEL, 1.0, 3.5)[:, None]
    peak = width[:, None] * strength / (np.sqrt(2 * np.pi) * sigma * wavelength * np.log(10) * LATTICE_STEP)
    centre = lattice_index(wavelength[None, :] * (1 + z)[:, None]) - first
    pixel = np.rint(centre).astype(np.int64)[..., None] + np.arange(-reach, reach + 1)
    tau = (np.minimum(peak, 6) * 1.25)[..., None] * np.exp(
        -0.5 * ((pixel - centre[..., None]) / sigma[..., None]) ** 2
    )
    inside = (pixel >= 0) & (pixel < depth.shape[1])
    flat = (rows[:, None, None] * depth.shape[1] + pixel)[inside]
    np.add.at(depth.reshape(-1), flat, tau[inside].astype(np.float32))


def metals(
    first: int,
    n_pixels: int,
    z: NDArray[np.float64],
    rng: np.random.Generator,
    z_damped: NDArray[np.float64] | None = None,
) -> tuple[Array, dict[str, NDArray[Any]]]:
    """Return the optical depth of intervening metal systems, and what was drawn.

    MgII with FeII: 0.5 a unit redshift in 0.35 < z < 2.7, W(2796) > 0.3 A with an exponential of 0.6 A; CIV
    with SiIV: 1.2 a unit redshift in z > 1.2, W(1548) > 0.2 A with an exponential of 0.35 A, and one in seven
    quasars an associated one: round numbers of the size of those in Nestor et al. (2005), ApJ 628, 637, and
    Cooksey et al. (2013), ApJ 763, 37.

    Parameters
    ----------
    z_damped : ndarray of float64, shape (n_spectra,), optional
        Redshifts of damped systems, NaN for none: they get low-ionisation metals.

    Returns
    -------
    depth : ndarray of float32, shape (n_spectra, n_pixels)
    truth : dict
        N_MGII_ABS, N_CIV_ABS.
    """
    z = np.asarray(z, dtype=np.float64)
    n = len(z)
    depth = np.zeros((n, n_pixels), dtype=np.float32)
    low_path = np.clip(np.minimum(z, 2.7) - 0.35, 0, None)
    high_floor = np.maximum(1.2, (1 + z) * 1215.67 / 1548.2 - 1)
    high_path = np.clip(z - high_floor, 0, None)
    n_low, n_high = rng.poisson(0.5 * low_path), rng.poisson(1.2 * high_path)
    for count, floor, path, minimum, scale, lines in (
        (n_low, np.full(n, 0.35), low_path, 0.3, 0.6, LOW_SYSTEM),
        (n_high, high_floor, high_path, 0.2, 0.35, HIGH_SYSTEM),
    ):
        rows = np.repeat(np.arange(n), count)
        place = floor[rows] + rng.random(len(rows)) * path[rows]
        width = minimum + rng.exponential(scale, len(rows))
        _add_system(depth, first, rows, place, width, lines, rng)
    near = np.flatnonzero((rng.random(n) < 1 / 7) & (z > 1.0))
    velocity = rng.normal(-600, 700, len(near))
    place = (1 + z[near]) * (1 + velocity / SPEED_OF_LIGHT) - 1
    _add_system(depth, first, near, place, 0.3 + rng.exponential(0.7, len(near)), HIGH_SYSTEM, rng)
    if z_damped is not None:
        rows = np.flatnonzero(np.isfinite(z_damped))
        width = 0.2 + rng.exponential(0.5, len(rows))
        _add_system(depth, first, rows, z_damped[rows], width, (*DAMPED_SYSTEM, *LOW_SYSTEM), rng)
    n_high[near] += 1
    return depth, {"N_MGII_ABS": n_low, "N_CIV_ABS": n_high}


def absorb(
    first: int,
    n_pixels: int,
    z: NDArray[np.float64],
    rng: np.random.Generator,
    has_forest: NDArray[np.bool_] | None = None,
    bal_fraction: float | NDArray[np.float64] = 0.18,
) -> tuple[Array, dict[str, NDArray[Any]]]:
    """Return the transmission of everything between quasars and telescope, and what is true of it.

    Parameters
    ----------
    first, n_pixels : int
        The observed window on the lattice.
    z : ndarray of float64, shape (n_spectra,)
        Redshifts of the quasars.
    rng : numpy.random.Generator
    has_forest : ndarray of bool, shape (n_spectra,), optional
        Where the source contains the mean forest already (truth column HAS_FOREST): there the forest is
        divided by its mean transmission, at most 2.
    bal_fraction : float or ndarray of float64, shape (n_spectra,)
        Probability of any trough; 0 for what has none, such as narrow-line AGN.

    Returns
    -------
    transmission : ndarray of float32, shape (n_spectra, n_pixels)
        May pass 1 in the forest where `has_forest`.
    truth : dict
        Columns of `damped`, `metals` and `bals`.
    """
    z = np.asarray(z, dtype=np.float64)
    depth = _forest_depth(first, n_pixels, z, rng)
    if has_forest is not None and has_forest.any():
        wave = lattice_wavelength(first, n_pixels)
        mean = effective_optical_depth(wave / LYMAN_SERIES[0][0] - 1).astype(np.float32)
        rows = np.flatnonzero(has_forest)
        blue = wave[None, :] < LYMAN_SERIES[0][0] * (1 + z[rows])[:, None]
        depth[rows] = np.maximum(depth[rows] - blue * mean[None, :], np.float32(-np.log(2)))
    strong, truth = damped(first, n_pixels, z, rng)
    narrow, more = metals(first, n_pixels, z, rng, truth["DLA_Z"])
    depth += strong
    depth += narrow
    np.negative(depth, out=depth)
    np.exp(depth, out=depth)
    broad, last = bals(first, n_pixels, z, rng, bal_fraction)
    depth *= broad
    return depth, {**truth, **more, **last}
