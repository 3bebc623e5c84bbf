"""Quasars: rest-frame spectral energy distributions before any absorption, many at once.

The parametric quasar needs no file. Its lines are those of `quasar_tables`, its continuum is made of
`quasar_shapes`; its trends follow the papers named below.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.quasar_shapes import constant_shapes
from broadline.simulation.quasar_tables import CIV, FIRST, LINES, N_BROAD, N_PIXELS, EmissionLine
from broadline.simulation.scene import Rest
from broadline.spectra import LATTICE_STEP

if TYPE_CHECKING:
    from broadline.simulation.quasar_templates import QuasarTemplates

__all__ = ["FIRST", "LINES", "N_PIXELS", "EmissionLine", "draw", "draw_m1450", "parametric"]

Array = NDArray[np.float32]
Vector = NDArray[np.float64]

PIXEL = 299792.458 * np.log(10) * LATTICE_STEP  # km / s
FWHM = 2 * np.sqrt(2 * np.log(2))

#: The composite is of quasars brighter than i = 19.1, and blends raise the continuum beside its lines: broad
#: lines of BOSS quasars, two magnitudes fainter, are stronger (Baldwin 1977, ApJ 214, 679).
_FAINTER = 1.4
#: Of broad lines 55 % are in a core, 45 % in a wing 1.9 times as broad that takes more of the blueshift:
#: share, width, displacement.
_CORE_AND_WING = ((0.55, 0.72, 0.65), (0.45, 1.37, 1.4278))
#: Lines beyond this wavelength (Angstrom), MgII and redder, are of low ionisation; they are displaced in some
#: quasars, seen where Balmer lines are.
_LOW_IONISATION, _DISPLACED_BELOW = 2750.0, 1.0


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
    displaced: NDArray[np.bool_] | None = None,
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
    displaced : ndarray of bool, shape (n,), optional
        Which have double-peaked or displaced broad lines of low ionisation; default none.
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
    shapes, faint = constant_shapes(), m1450 + 25
    n_broad = N_BROAD

    def normal(*shape: int) -> Vector:
        return np.asarray(rng.standard_normal(shape or (n,)))

    # Continuum: slopes of f_lambda; Fe II and the Balmer continuum on top make -1.7 Vanden Berk's -1.5;
    # -0.45 below the break Telfer et al.'s (2002, ApJ
    # 565, 773). Narrow-line AGN are redder.
    middle = np.where(type2, -0.7, -1.72) + 0.27 * normal()
    blue = -0.45 + 0.40 * normal() + 0.4 * (middle + 1.5)
    red = -0.80 + 0.25 * normal() + 0.5 * (middle + 1.5)
    slopes = np.stack([blue, middle, red, 0.10 * normal()], axis=1)
    # Most have little dust, some are red (Richards et al. 2003, AJ 126, 1131; Glikman et al. 2012, ApJ 757,
    # 51).
    dust = rng.choice([0.012, 0.05, 0.25], n, p=[0.88, 0.09, 0.03])
    ebv = rng.exponential(dust) * np.where(z > 2, 0.5, 1.0)
    # Type 2: what is seen of the nucleus is scattered light.
    ebv = np.where(type2, 0.0, np.minimum(ebv, 0.6))
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
    civ = log_width[:, CIV]
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
        b = slice(0, n_broad)
        sigma = fwhm[:, None] / FWHM * breadth[:, b] * 10 ** (0.04 * normal(n, n_broad))
        move = 90 * normal(n, n_broad) - blueshift[:, None] * blue_share[:, b]
        move[:, CIV] = -blueshift
        low = np.array([line.wavelength > _LOW_IONISATION for line in table[b]])
        peaks = np.zeros((2, n), dtype=np.float32)
        if displaced is not None:
            peaks = _peaks(displaced, rng)
            sigma *= np.where(displaced[:, None] & low, 1.4, 1.0)
        for (share, scale, moved), peak in zip(_CORE_AND_WING, peaks, strict=True):
            shift = moved * move + peak[:, None] * low
            _add_lines(ratio, table[b], share * width[:, b], shift, scale * sigma)
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


def _peaks(displaced: NDArray[np.bool_], rng: np.random.Generator) -> Array:
    """Return where core and wing of broad lines lie (km/s): apart, or both to one side. Shape (2, n).

    As in Strateva et al. (2003), AJ 126, 1720, and Eracleous et al. (2012), ApJS 201, 23.
    """
    n = len(displaced)
    core = rng.uniform(1200, 8000, n) * rng.choice([-1, 1], n)
    apart = rng.random(n) < 0.5
    wing = np.where(apart, -rng.uniform(0.3, 1.2, n) * core, rng.uniform(0.3, 1.1, n) * core)
    return np.asarray(np.stack([core, wing]) * displaced, dtype=np.float32)


def draw(
    n: int,
    z: Vector,
    rng: np.random.Generator,
    templates: QuasarTemplates | None = None,
    narrow_line_fraction: float = 0.03,
    displaced_fraction: float = 0.03,
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
    displaced_fraction : float
        Fraction of those with displaced broad lines among the near ones (z < 1), always parametric.

    Returns
    -------
    Rest
        Truth as `parametric`; KIND tells the source, HAS_FOREST whether it contains the mean Lya forest.
    """
    z = np.asarray(z, dtype=np.float64)
    type2 = rng.random(n) < narrow_line_fraction
    displaced = (rng.random(n) < displaced_fraction) & (z < _DISPLACED_BELOW) & ~type2
    if templates is None:
        return parametric(n, z, rng, narrow_line=type2, displaced=displaced)
    return templates.mix(n, z, rng, type2, displaced)
