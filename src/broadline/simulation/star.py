"""Stars, white dwarfs and what else is at redshift zero: from physics and line tables, and from templates.

A parametric star is a black body seen through opacities: ``flux = planck(T) exp(-sum_k a_k tau_k)``, where
tau_k is the spectrum of one species (a line list with its line shapes) and a_k its strength at that
temperature and metallicity. A batch is one matrix product and one exponential.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from broadline.air import air_to_vacuum
from broadline.simulation import star_templates
from broadline.simulation.scene import Rest
from broadline.simulation.star_opacity import opacity, put_balmer, strengths
from broadline.simulation.star_tables import COLUMN, FIRST, MIX, N_PIXELS, SPECIES, TEMPERATURE, WIDTHS
from broadline.spectra import lattice_wavelength

__all__ = ["FIRST", "MIX", "N_PIXELS", "dead", "draw", "extinction", "photospheres", "radial_velocity", "sky"]

_Array = NDArray[np.float64]
_Array32 = NDArray[np.float32]


def draw(
    n: int,
    rng: np.random.Generator,
    templates: str | Path | None = None,
    mix: Mapping[str, float] | None = None,
    fraction: float = 0.5,
) -> Rest:
    """Return stars at rest.

    Parameters
    ----------
    n : int
        How many.
    rng : numpy.random.Generator
    templates : path, optional
        Templates folder (`broadline.simulation.templates.SETS`); parametric stars alone if not given.
    mix : mapping of str to float, optional
        Share of each subclass, names as in `MIX`; they must add up to 1.
    fraction : float
        Part that comes from templates, of the subclasses that have any.

    Returns
    -------
    Rest
        Mean flux 1. Truth: SUBCLASS; TEFF (K; NaN where a template does not say); EBV (reddening added);
        SOURCE ("parametric" or the template set).

    Raises
    ------
    ValueError
        If the mix has unknown names, negative shares or does not add up to 1.
    """
    shares = MIX if mix is None else mix
    unknown = set(shares) - set(MIX)
    if unknown:
        raise ValueError(f"not subclasses of stars: {sorted(unknown)}; known are {list(MIX)}")
    probability = np.array([shares.get(name, 0.0) for name in MIX])
    if not (probability >= 0).all() or abs(probability.sum() - 1) > 1e-6:
        raise ValueError(
            f"the shares of the star mix must be >= 0 and add up to 1, not {probability.sum():.6g}"
        )
    names = np.array(list(MIX))
    subclass = names[rng.choice(len(names), size=n, p=probability / probability.sum())]
    low, high = np.array([TEMPERATURE[name] for name in subclass], dtype=np.float64).reshape(n, 2).T
    temperature = low * (high / low) ** rng.random(n)
    flux = _parametric(subclass, temperature, rng)
    source = np.full(n, "parametric", dtype="<U16")
    if templates is not None:
        from_template = rng.random(n) < fraction
        pools = star_templates.pools(str(templates))
        for name in names[np.isin(names, list(pools))]:
            rows = np.flatnonzero(from_template & (subclass == name))
            shapes, coefficients, origins = pools[name]
            pick = rng.integers(len(coefficients), size=len(rows))
            flux[rows] = np.maximum(coefficients[pick] @ shapes, np.float32(2e-3))
            source[rows] = origins[pick]
            temperature[rows] = np.nan
    reddening = np.minimum(rng.exponential(0.05, n), 0.4)
    flux *= np.exp(-0.4 * np.log(10) * reddening[:, None].astype(np.float32) * _reddening_curve()[None, :])
    flux /= flux.mean(axis=1, keepdims=True)
    truth = {"SUBCLASS": subclass, "TEFF": temperature, "EBV": reddening, "SOURCE": source}
    return Rest(FIRST, flux, truth)


def radial_velocity(n: int, rng: np.random.Generator) -> _Array:
    """Return heliocentric radial velocities of stars at high latitude, km/s.

    Thin disk, thick disk and halo with dispersions of 35, 60 and 120 km/s, half, 30 and 20 % of the stars.
    """
    dispersion = rng.choice([35.0, 60.0, 120.0], size=n, p=[0.5, 0.3, 0.2])
    return np.asarray(np.clip(rng.normal(0, 1, n) * dispersion, -550, 550), dtype=np.float64)


def sky(n: int) -> Rest:
    """Return fibres on empty sky: zero flux, subclass SKY."""
    return _nothing(n, "SKY")


def dead(n: int) -> Rest:
    """Return spectra of fibres that saw nothing: zero flux, subclass DEAD, for the instrument to mask."""
    return _nothing(n, "DEAD")


def extinction(wavelength: _Array) -> _Array:
    """Return A(wavelength) / E(B-V) of interstellar dust with R_V = 3.1.

    Cardelli, Clayton & Mathis 1989 (ApJ 345, 245), equations 2 and 3, 3030 to 20000 Angstrom.
    """
    x = 1e4 / wavelength
    y = x - 1.82
    a = np.polyval([0.32999, -0.77530, 0.01979, 0.72085, -0.02427, -0.50447, 0.17699, 1.0], y)
    b = np.polyval([-2.09002, 5.30260, -0.62251, -5.38434, 1.07233, 2.28305, 1.41338, 0.0], y)
    red = x < 1.1
    a = np.where(red, 0.574 * x**1.61, a)
    b = np.where(red, -0.527 * x**1.61, b)
    return np.asarray(3.1 * a + b)


def photospheres(temperature: _Array, metallicity: _Array, first: int, n_pixels: int) -> _Array32:
    """Return surface fluxes of main-sequence stars and giants without scatter, in units of sigma T^4.

    Parameters
    ----------
    temperature : ndarray of float64, shape (n_spectra,)
        K.
    metallicity : ndarray of float64, shape (n_spectra,)
        [Fe/H].
    first, n_pixels : int
        The lattice window, 1500-11000 Angstrom at most.

    Returns
    -------
    flux : ndarray of float32, shape (n_spectra, n_pixels)
        Per Angstrom, times 1e4.
    """
    strength = strengths(temperature, metallicity)
    wavelength = lattice_wavelength(first, n_pixels)
    bound = 1.438777e8 / (wavelength * temperature[:, None])
    planck = 15 / np.pi**4 * bound**4 / np.expm1(bound) / wavelength * 1e4
    return np.asarray(planck * np.exp(-strength @ opacity(first, n_pixels)), dtype=np.float32)


def _nothing(n: int, name: str) -> Rest:
    return Rest(FIRST, np.zeros((n, N_PIXELS), dtype=np.float32), {"SUBCLASS": np.full(n, name)})


# --- parametric stars ---


def _parametric(subclass: NDArray[np.str_], temperature: _Array, rng: np.random.Generator) -> _Array32:
    n = len(subclass)
    metal_poor = np.isin(subclass, ["sdF"]) | (np.isin(subclass, ["F", "G", "K"]) & (rng.random(n) < 0.15))
    metallicity = np.where(
        metal_poor, rng.uniform(-2.5, -0.8, n), np.clip(rng.normal(-0.25, 0.3, n), -1, 0.4)
    )
    strength = strengths(temperature, metallicity)
    strength *= np.exp(rng.normal(0, 0.15, strength.shape)).astype(np.float32)
    strength *= np.exp(rng.normal(0, 0.08, (n, 1))).astype(np.float32)

    def rows_of(*names: str) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(subclass, names))

    # Giants and horizontal-branch stars have weaker wings than dwarfs.
    rows = rows_of("O", "B", "A")
    strength[rows, : len(WIDTHS)] *= rng.uniform(0.75, 1.1, (len(rows), 1)).astype(np.float32)
    rows = rows_of("DA", "DB", "DC", "DQ", "DZ", "WD+M", "CV")
    strength[rows] = 0
    rows = rows_of("DA", "WD+M")
    away = np.log(temperature[rows] / 12500)
    hydrogen = np.exp(-0.5 * (away / np.where(away < 0, 0.33, 0.75)) ** 2)
    put_balmer(strength, 0.95 * hydrogen, 6 + rng.uniform(8, 15, len(rows)) * hydrogen, rows)
    strength[rows, COLUMN["JUMP"]] = 0.25 * hydrogen
    rows = rows_of("DB")
    away = np.log(temperature[rows] / 21000)
    strength[rows, COLUMN["HEI BROAD"]] = rng.uniform(0.4, 0.75, len(rows)) * np.exp(
        -0.5 * (away / 0.35) ** 2
    )
    strength[rows, COLUMN["CAII"]] = 0.5 * (rng.random(len(rows)) < 0.1)
    rows = rows_of("DQ")
    strength[rows, COLUMN["C2 BROAD"]] = 10 ** rng.uniform(-1.0, 0.1, len(rows))
    rows = rows_of("DZ")
    metals = 10 ** rng.uniform(-0.6, 0.35, len(rows))
    cool = np.clip((9000 - temperature[rows]) / 3000, 0.05, 1)
    strength[rows, COLUMN["CAII BROAD"]] = 1.8 * metals
    for name, depth in (("MG BROAD", 1.0), ("FE BROAD", 0.5), ("NA BROAD", 0.4), ("CAI", 0.8)):
        strength[rows, COLUMN[name]] = depth * metals * cool * rng.uniform(0.5, 1.5, len(rows))
    rows = rows_of("CARBON")
    for name in ("TIO", "VO", "CAH", "MGH", "CH", "BLANKET", "CAII", "CAII WINGS", "KI"):
        strength[rows, COLUMN[name]] *= 0.2
    bands = rng.uniform(0.4, 1.9, len(rows))
    strength[rows, COLUMN["C2"]] = bands
    strength[rows, COLUMN["CN RED"]] = 0.6 * bands * rng.uniform(0.4, 1.2, len(rows))
    strength[rows, COLUMN["CN VIOLET"]] = 1.5 * bands
    rows = rows_of("L")
    strength[rows, COLUMN["NA WINGS"]] *= 4
    strength[rows, COLUMN["KI"]] *= 3

    flux = _seen_through(temperature, strength)
    _add_companions(flux, subclass, rng)
    _add_emission(flux, subclass, rng)
    return flux


def _seen_through(temperature: _Array, strength: _Array32) -> _Array32:
    """Return black bodies through opacities, 1 in the continuum at 6500 Angstrom."""
    wavelength = _wavelength()
    bound = (1.438777e8 / (wavelength * temperature[:, None].astype(np.float32))).astype(np.float32)
    reference = np.expm1(1.438777e8 / (6500 * temperature))[:, None].astype(np.float32)
    flux = np.exp(-strength @ opacity(FIRST, N_PIXELS))
    flux *= reference * (6500 / wavelength) ** 5
    flux /= np.expm1(bound)
    return np.asarray(flux, dtype=np.float32)


def _add_companions(flux: _Array32, subclass: NDArray[np.str_], rng: np.random.Generator) -> None:
    """Add M dwarfs to white dwarfs and cataclysmic variables, flares to M dwarfs."""
    pairs = np.flatnonzero(subclass == "WD+M")
    donors = np.flatnonzero(subclass == "CV")
    rows = np.concatenate([pairs, donors])
    if len(rows):
        temperature = rng.uniform(2700, 3700, len(rows))
        companion = _seen_through(temperature, strengths(temperature, rng.normal(-0.1, 0.2, len(rows))))
        share = np.where(
            subclass[rows] == "CV",
            10 ** rng.uniform(-2, -0.3, len(rows)),
            10 ** rng.uniform(-0.8, 0.9, len(rows)),
        )
        flux[rows] += share[:, None].astype(np.float32) * companion
    # The disk of a cataclysmic variable is flatter than a black body, as a sum of many is.
    slope = rng.normal(0.9, 0.6, (len(donors), 1)).astype(np.float32)
    flux[donors] *= (_wavelength() / 6500) ** slope
    rows = np.flatnonzero(subclass == "FLARE")
    if len(rows):
        hot = rng.uniform(8500, 13000, len(rows))
        nothing = np.zeros((len(rows), len(SPECIES)), dtype=np.float32)
        share = 10 ** rng.uniform(-1.3, 0.0, len(rows))
        flux[rows] += share[:, None].astype(np.float32) * _seen_through(hot, nothing)


# Emission lines: air wavelength and flux relative to H alpha, in active M dwarfs and in disks.
_CHROMOSPHERE = (
    (6562.80, 1.0), (4861.33, 0.35), (4340.46, 0.2), (4101.73, 0.12), (3970.07, 0.12), (3968.47, 0.15),
    (3933.66, 0.2), (3889.05, 0.08), (3835.38, 0.05), (5875.6, 0.04),
)  # fmt: skip
_DISK_H = (
    (6562.80, 1.0), (4861.33, 0.85), (4340.46, 0.75), (4101.73, 0.6), (3970.07, 0.45), (3889.05, 0.35),
    (3835.38, 0.25), (3797.90, 0.15), (9229.01, 0.1), (9014.91, 0.1), (8862.78, 0.1), (8750.47, 0.1),
)  # fmt: skip
_DISK_HE = (
    (4471.5, 0.5), (4921.9, 0.3), (5015.7, 0.3), (5875.6, 1.0), (6678.2, 0.6), (7065.2, 0.5), (4387.9, 0.2),
)  # fmt: skip
_DISK_WIDTHS = (300.0, 600.0, 1000.0)  # km/s, standard deviation


def _add_emission(flux: _Array32, subclass: NDArray[np.str_], rng: np.random.Generator) -> None:
    shapes = _emission()
    h_alpha = int(np.searchsorted(_wavelength(), 6564.6))
    beside = flux[:, h_alpha - 60 : h_alpha + 60].mean(axis=1)
    active = np.isin(subclass, ["dMe", "FLARE"]) | ((subclass == "WD+M") & (rng.random(len(subclass)) < 0.4))
    rows = np.flatnonzero(active)
    width = np.exp(rng.normal(np.log(6), 0.6, len(rows))) * np.where(subclass[rows] == "FLARE", 3, 1)
    flux[rows] += (width * beside[rows])[:, None].astype(np.float32) * shapes[0]
    rows = np.flatnonzero(subclass == "CV")
    width = np.exp(rng.normal(np.log(45), 0.6, len(rows)))
    amount = np.zeros((len(rows), len(shapes)), dtype=np.float32)
    form = rng.integers(2 * len(_DISK_WIDTHS), size=len(rows))  # one peak or two, of three widths
    amount[np.arange(len(rows)), 1 + form] = width
    amount[np.arange(len(rows)), 1 + 2 * len(_DISK_WIDTHS) + form] = (
        0.2 * width * rng.uniform(0.5, 1.5, len(rows))
    )
    amount[:, -1] = width * np.where(rng.random(len(rows)) < 0.25, rng.uniform(0.2, 0.7, len(rows)), 0.05)
    flux[rows] += beside[rows, None] * (amount @ shapes)


@lru_cache(maxsize=1)
def _wavelength() -> _Array32:
    return lattice_wavelength(FIRST, N_PIXELS).astype(np.float32)


@lru_cache(maxsize=1)
def _reddening_curve() -> _Array32:
    return extinction(lattice_wavelength(FIRST, N_PIXELS)).astype(np.float32)


@lru_cache(maxsize=1)
def _emission() -> _Array32:
    """Return emission spectra for H alpha of 1 Angstrom: chromosphere; disks in H, in He I; He II."""
    wavelength = lattice_wavelength(FIRST, N_PIXELS)

    def lines(table: tuple[tuple[float, float], ...], sigma: float, apart: float) -> _Array:
        out = np.zeros(N_PIXELS)
        for air, strength in table:
            centre = float(air_to_vacuum(np.array(air)))
            for side in (-apart, apart):
                spread = centre * sigma / 299792.458
                peak = centre * (1 + side / 299792.458)
                out += 0.5 * strength * np.exp(-0.5 * ((wavelength - peak) / spread) ** 2) / (spread * 2.5066)
        return out

    shapes = [lines(_CHROMOSPHERE, 70.0, 0.0)]
    for table in (_DISK_H, _DISK_HE):
        for sigma in _DISK_WIDTHS:
            shapes += [lines(table, sigma, 0.0), lines(table, 0.6 * sigma, 0.9 * sigma)]
    shapes.append(lines(((4685.7, 1.0),), 500.0, 0.0))
    return np.array(shapes, dtype=np.float32)
