"""Galaxies: stars of several ages, dust and gas; with the Seyferts that are nearly quasars.

A parametric galaxy is a sum of simple stellar populations, themselves sums of the parametric stars of
`star.photospheres` over a mass function and an isochrone of power laws, behind dust, with nebular lines.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from broadline.air import air_to_vacuum
from broadline.simulation.galaxy_gas import add_gas, attenuation, measured_widths
from broadline.simulation.galaxy_tables import FIRST, LINES, N_PIXELS, NORMAL, PIXEL
from broadline.simulation.one_thread import one_thread
from broadline.simulation.scene import Rest
from broadline.simulation.star import photospheres
from broadline.simulation.templates import found, read_table, resample
from broadline.spectra import lattice_wavelength

__all__ = ["FIRST", "LINES", "N_PIXELS", "attenuation", "draw"]

_Array = NDArray[np.float64]
_Array32 = NDArray[np.float32]

#: Kinds of galaxy and their shares at z = 0 and z = 1.
_KINDS = ("PASSIVE", "STARFORMING", "STARBURST", "LINER", "AGN", "E+A", "BROADLINE")
_SHARE_NEAR = np.array([0.26, 0.36, 0.14, 0.09, 0.07, 0.02, 0.06])
_SHARE_FAR = np.array([0.30, 0.42, 0.05, 0.06, 0.08, 0.03, 0.06])

# Simple stellar populations: age in Myr, and metallicity with the name Bruzual & Charlot give it.
_AGES = (5.0, 25.0, 100.0, 290.0, 640.0, 900.0, 1400.0, 2500.0, 5000.0, 11000.0)
_METALS = {"z008": -0.4, "z02": 0.0, "z05": 0.35}
_DISPERSIONS = (60.0, 140.0, 250.0)  # km/s


def draw(
    n: int,
    z: _Array,
    rng: np.random.Generator,
    templates: str | Path | None = None,
    fraction: float = 0.5,
) -> Rest:
    """Return galaxies at rest.

    Parameters
    ----------
    n : int
        How many.
    z : ndarray of float64, shape (n,)
        Redshifts, 0 <= z < 1.25: they set the share of each kind and how strong its lines are.
    rng : numpy.random.Generator
    templates : path, optional
        Templates folder (`broadline.simulation.templates.SETS`); parametric galaxies alone if not given.
    fraction : float
        Part that comes from templates: populations of Bruzual & Charlot, and eigenspectra.

    Returns
    -------
    Rest
        Mean flux 1 between 3500 and 5500 Angstrom. Truth: SUBCLASS (PASSIVE, STARFORMING, STARBURST, LINER,
        AGN, E+A, BROADLINE); EW_HALPHA and EW_OIII (5008), rest-frame Angstrom, emission positive, without
        stellar absorption, broad part included (measured on the spectrum where SOURCE is eigenspectra);
        BROAD (bool); EBV; SOURCE.

    Raises
    ------
    ValueError
        If a redshift is not one this window covers.
    """
    z = np.asarray(z, dtype=np.float64)
    if z.shape != (n,):
        raise ValueError(f"z has shape {z.shape}; {n} galaxies need one redshift each, shape ({n},)")
    if not ((z >= -0.01) & (z < 1.25)).all():
        raise ValueError(
            "redshifts of galaxies must be in 0 <= z < 1.25: beyond, their windows are not covered"
        )
    share = _SHARE_NEAR + np.clip(z, 0, 1)[:, None] * (_SHARE_FAR - _SHARE_NEAR)
    kind = (rng.random(n)[:, None] > np.cumsum(share, axis=1)[:, :-1]).sum(axis=1)
    subclass = np.array(_KINDS)[kind]
    source = np.full(n, "parametric", dtype="<U16")
    use = rng.random(n) < (fraction if templates is not None else 0.0)
    which = rng.random(n)

    ebv = _dust(subclass, rng)
    weights = _history(subclass, rng)
    dispersion = _index_of_dispersion(subclass, rng)
    flux = np.empty((n, N_PIXELS), dtype=np.float32)
    charlot = _bruzual_charlot(str(templates)) if templates is not None else None
    from_charlot = use & (which < 0.4) & (charlot is not None)
    source[from_charlot] = "bc03"
    for i in range(len(_DISPERSIONS)):
        for rows, basis in ((~from_charlot, _populations()), (from_charlot, charlot)):
            chosen = np.flatnonzero(rows & (dispersion == i))
            if basis is not None and len(chosen):
                flux[chosen] = weights[chosen] @ basis[i]
    curve = (0.4 * np.log(10) * attenuation(lattice_wavelength(FIRST, N_PIXELS))).astype(np.float32)
    flux *= np.exp(-ebv[:, None].astype(np.float32) * curve[None, :])
    flux /= flux[:, NORMAL].mean(axis=1, keepdims=True)
    truth = add_gas(flux, subclass, ebv, z, rng)
    if templates is not None:
        _disguise(
            flux, np.flatnonzero(use & ~from_charlot), which, str(templates), subclass, truth, source, rng
        )
    flux /= flux[:, NORMAL].mean(axis=1, keepdims=True)
    return Rest(FIRST, flux, {"SUBCLASS": subclass, **truth, "EBV": ebv, "SOURCE": source})


# --- stars ---


@lru_cache(maxsize=1)
@one_thread
def _populations() -> _Array32:
    """Return simple stellar populations, shape (n_dispersions, n_metals * n_ages, n_pixels)."""
    spectra = []
    for metallicity in _METALS.values():
        for age in _AGES:
            temperature, light = _isochrone(age, metallicity)
            stars = photospheres(temperature, np.full(len(temperature), metallicity), FIRST, N_PIXELS)
            spectra.append(light @ stars)
    return _in_motion(np.array(spectra))


def _isochrone(age: float, metallicity: float) -> tuple[_Array, _Array]:
    """Return temperatures (K) and shares of the bolometric light of the stars of one age (Myr).

    Salpeter (1955) mass function; lifetime 10 Gyr m^-2.5, luminosity m^3.5 (m^2.3 below 0.43 suns) and
    effective temperature 5780 K m^0.57; giants by the share of the light they have in published models.
    """
    turnoff = min(60.0, (age / 1e4) ** -0.4)
    mass = np.geomspace(0.15, turnoff, 40)
    temperature = np.clip(5780 * mass**0.57, 2900, 45000) * 10 ** (-0.06 * metallicity)
    luminosity = np.where(mass > 0.43, mass**3.5, 0.43**1.2 * mass**2.3)
    light = mass**-1.35 * luminosity  # per logarithm of the mass
    light /= light.sum()
    giants = float(
        np.interp(np.log10(age), [0.7, 1.4, 2.0, 2.8, 3.2, 4.1], [0.0, 0.10, 0.15, 0.25, 0.40, 0.50])
    )
    # The red giant branch, and a few blue horizontal-branch stars, the UV of old galaxies.
    branch = np.array([5100.0, 4750.0, 4450.0, 4000.0, 3500.0, 9500.0]) * 10 ** (-0.03 * metallicity)
    of_branch = np.array([0.36, 0.32, 0.17, 0.09, 0.05, 0.01])
    return np.r_[temperature, branch], np.r_[(1 - giants) * light, giants * of_branch]


def _in_motion(spectra: _Array) -> _Array32:
    """Return spectra at unit mean flux, smoothed to each velocity dispersion."""
    spectra = spectra / spectra[:, NORMAL].mean(axis=1, keepdims=True)
    return np.array([gaussian_filter1d(spectra, s / PIXEL, axis=1) for s in _DISPERSIONS], dtype=np.float32)


@lru_cache(maxsize=2)
def _bruzual_charlot(folder: str) -> _Array32 | None:
    """Return the same populations by Bruzual & Charlot; None if the set is missing or incomplete."""
    names = {"5Myr": 5.0, "25Myr": 25.0, "100Myr": 100.0, "290Myr": 290.0, "640Myr": 640.0, "900Myr": 900.0}
    names |= {"1.4Gyr": 1400.0, "2.5Gyr": 2500.0, "5Gyr": 5000.0, "11Gyr": 11000.0}
    spectra: dict[tuple[str, float], _Array] = {}
    for file in found(Path(folder), "bc03"):
        _, _, age, metal = file.name.split(".spec")[0].split("_")
        wavelength, flux = np.loadtxt(file, unpack=True)
        inside = (wavelength > 1300) & (wavelength < 12500)
        vacuum = air_to_vacuum(wavelength[inside])
        spectra[metal, names[age]] = resample(vacuum, flux[None, inside], FIRST, N_PIXELS)[0].astype(
            np.float64
        )
    wanted = [(metal, age) for metal in _METALS for age in _AGES]
    if not all(key in spectra for key in wanted):
        return None
    return _in_motion(np.array([spectra[key] for key in wanted]))


def _history(subclass: NDArray[np.str_], rng: np.random.Generator) -> _Array32:
    """Return the share of each population in the light at 3500-5500 Angstrom."""
    n = len(subclass)
    # Light of each age in a galaxy of each kind, to be varied by a factor of e^0.8 a population.
    light = {
        "PASSIVE": (0, 0, 0, 0, 0.005, 0.01, 0.03, 0.15, 0.5, 1.0),
        "STARFORMING": (0.3, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.3, 0.35, 0.4),
        "STARBURST": (1.2, 0.7, 0.35, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
        "LINER": (0, 0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0),
        "AGN": (0.06, 0.06, 0.06, 0.08, 0.1, 0.1, 0.2, 0.3, 0.5, 0.8),
        "E+A": (0, 0, 0.05, 0.5, 1.0, 0.8, 0.3, 0.1, 0.2, 0.3),
        "BROADLINE": (0.05, 0.05, 0.06, 0.08, 0.1, 0.1, 0.2, 0.3, 0.5, 0.8),
    }
    mean = np.array([light[name] for name in subclass], dtype=np.float64).reshape(n, len(_AGES))
    mean = mean * np.exp(rng.normal(0, 0.8, mean.shape))
    tilt = rng.normal(0, 0.4, (n, 1))  # younger or older as a whole
    mean *= np.exp(tilt * np.linspace(-1, 1, len(_AGES)))
    metallicity = np.where(np.isin(subclass, ["STARBURST"]), -0.4, 0.0) + rng.normal(0, 0.2, n)
    node = np.array(list(_METALS.values()))
    near = np.exp(-0.5 * ((metallicity[:, None] - node) / 0.2) ** 2) + 1e-6
    weights = (near / near.sum(axis=1, keepdims=True))[:, :, None] * mean[:, None, :]
    weights = weights.reshape(n, len(_METALS) * len(_AGES))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _dust(subclass: NDArray[np.str_], rng: np.random.Generator) -> _Array:
    n = len(subclass)
    typical = np.select(
        [np.isin(subclass, ["PASSIVE", "LINER", "E+A"]), subclass == "STARFORMING"],
        [0.03, 0.15],
        default=0.10,
    )
    return np.asarray(np.minimum(rng.exponential(1.0, n) * typical, 0.6))


def _index_of_dispersion(subclass: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.int64]:
    early = np.isin(subclass, ["PASSIVE", "LINER", "AGN", "BROADLINE", "E+A"])
    return np.where(early, 1, 0) + (rng.random(len(subclass)) < 0.5)


# --- eigenspectra ---


@lru_cache(maxsize=2)
@one_thread
def _eigenspectra(folder: str) -> dict[str, tuple[slice, _Array32, _Array32]]:
    """Return for each set of components: the pixels it covers, the components and their pseudo-inverse."""
    sets = {}
    for name in ("sdss-galaxies", "yip-galaxies"):
        for file in found(Path(folder), name):
            if name == "yip-galaxies":
                from astropy.io import fits

                table = fits.getdata(file, 1)
                wavelength, components = np.array(table["WAVE"][0]), np.array(table["PCA"][0])
            else:
                read = read_table(file)
                if read is None:
                    continue
                wavelength, components, _ = read
            shapes = resample(wavelength.astype(np.float64), components.astype(np.float64), FIRST, N_PIXELS)
            inside = lattice_wavelength(FIRST, N_PIXELS)  # beyond, few galaxies were seen and fewer well
            good = np.flatnonzero(np.isfinite(shapes[0]) & (inside > 1850) & (inside < 9200))
            covered = slice(int(good[0]), int(good[-1]) + 1)
            shapes = shapes[:, covered]
            shapes /= np.sqrt((shapes**2).mean(axis=1, keepdims=True))
            sets[name] = (covered, shapes, np.linalg.pinv(shapes.astype(np.float64)).astype(np.float32))
    return sets


def _disguise(
    flux: _Array32,
    rows: NDArray[np.int64],
    which: _Array,
    folder: str,
    subclass: NDArray[np.str_],
    truth: dict[str, NDArray[Any]],
    source: NDArray[np.str_],
    rng: np.random.Generator,
) -> None:
    """Replace galaxies by their fits with eigenspectra, moved by a part of the difference of two others.

    What goes negative stays as it was; beyond the eigenspectra's range the galaxy continues, joined in level.
    Kinds that few components cannot show (active nuclei, E+A) stay as they were too, and what comes out is
    named by its lines.
    """
    rows = rows[np.isin(subclass[rows], ["PASSIVE", "STARFORMING", "STARBURST", "LINER"])]
    sets = _eigenspectra(folder)
    for i, (name, (covered, shapes, inverse)) in enumerate(sorted(sets.items())):
        lower, upper = 0.4 + 0.6 * i / len(sets), 0.4 + 0.6 * (i + 1) / len(sets)
        mine = rows[(which[rows] >= lower) & (which[rows] < upper)]
        if name == "sdss-galaxies":  # its noise shows at the blue colours of starbursts
            mine = mine[subclass[mine] != "STARBURST"]
        if not len(mine):
            continue
        coefficients = flux[mine, covered] @ inverse
        first, second = rng.permutation(len(mine)), rng.permutation(len(mine))
        amount = rng.uniform(-0.3, 0.3, (len(mine), 1)).astype(np.float32)
        moved = (coefficients + amount * (coefficients[first] - coefficients[second])) @ shapes
        good = moved.min(axis=1) > 0.02 * moved.mean(axis=1)
        mine, moved = mine[good], moved[good]
        before = flux[mine, covered]
        flux[mine, : covered.start] *= moved[:, :60].mean(1, keepdims=True) / before[:, :60].mean(
            1, keepdims=True
        )
        flux[mine, covered.stop :] *= moved[:, -60:].mean(1, keepdims=True) / before[:, -60:].mean(
            1, keepdims=True
        )
        flux[mine, covered] = moved
        source[mine] = name
        truth["EW_HALPHA"][mine] = measured_widths(flux[mine], LINES["H alpha"], 9)
        truth["EW_OIII"][mine] = measured_widths(flux[mine], LINES["OIII 5008"], 12)
        ew, nii = truth["EW_HALPHA"][mine], measured_widths(flux[mine], LINES["NII 6585"], 4)
        subclass[mine] = np.select(
            [ew < 2, ew > 70, nii > 0.8 * ew], ["PASSIVE", "STARBURST", "LINER"], "STARFORMING"
        )
