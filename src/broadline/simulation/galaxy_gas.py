"""Gas and dust of galaxies: nebular lines, the nuclei of Seyferts, and what dust takes of the light."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from broadline.simulation.galaxy_tables import (
    BROAD,
    CASE_B,
    FIRST,
    LINES,
    MG_II,
    N_PIXELS,
    NORMAL,
    PIXEL,
    pixel_of,
)
from broadline.spectra import LATTICE_STEP, lattice_wavelength

__all__ = ["add_gas", "attenuation", "measured_widths"]

_Array = NDArray[np.float64]
_Array32 = NDArray[np.float32]


def attenuation(wavelength: _Array) -> _Array:
    """Return A(wavelength) / E(B-V) of starburst galaxies: Calzetti et al. 2000 (ApJ 533, 682), eq. 4."""
    micron = wavelength * 1e-4
    blue = 2.659 * (-2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 / micron) + 4.05
    return np.asarray(np.where(micron < 0.63, blue, red))


def add_gas(
    flux: _Array32, subclass: NDArray[np.str_], ebv: _Array, z: _Array, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Add active nuclei and nebular lines to continua, in place; return what is true of the lines."""
    n = len(subclass)
    broad = subclass == "BROADLINE"
    h_alpha, oiii = round(pixel_of(LINES["H alpha"])), round(pixel_of(LINES["OIII 5008"]))
    wide = _add_nuclei(flux, np.flatnonzero(broad), rng)

    beside = flux[:, h_alpha - 60 : h_alpha + 61]
    continuum = np.median(beside, axis=1).astype(np.float64)
    if broad.any():  # the broad line itself is not continuum
        away = np.r_[h_alpha - 420 : h_alpha - 380, h_alpha + 380 : h_alpha + 420]
        continuum[broad] = flux[np.ix_(broad, away)].mean(axis=1)
    continuum_oiii = flux[:, oiii - 60 : oiii + 61].mean(axis=1).astype(np.float64)

    typical = {
        "PASSIVE": (0.2, 0.8),
        "STARFORMING": (25.0, 0.75),
        "STARBURST": (140.0, 0.7),
        "LINER": (4.0, 0.5),
    }
    typical |= {"AGN": (22.0, 0.8), "E+A": (0.5, 0.8), "BROADLINE": (14.0, 0.8)}
    middle, scatter = np.array([typical[name] for name in subclass], dtype=np.float64).reshape(n, 2).T
    ew = np.exp(rng.normal(np.log(middle), scatter))
    ew *= np.where(np.isin(subclass, ["STARFORMING", "STARBURST"]), (1 + np.clip(z, 0, 1.2)) ** 1.2, 1)
    ew = np.minimum(ew, 1200)
    strength = _line_ratios(subclass, rng)
    # Reddening of the gas is that of the stars divided by 0.44 (Calzetti et al. 2000).
    curve = attenuation(np.array(list(LINES.values())))
    red = 10 ** (-0.4 * ebv[:, None] / 0.44 * (curve - attenuation(np.array([LINES["H alpha"]]))))
    strength = (ew * continuum)[:, None] * strength * red
    width = {"STARFORMING": (65.0, 0.35), "STARBURST": (38.0, 0.3)}
    centre, spread = (
        np.array([width.get(name, (170.0, 0.35)) for name in subclass], dtype=np.float64).reshape(n, 2).T
    )
    sigma = np.exp(rng.normal(np.log(centre), spread))
    for i, wavelength in enumerate(LINES.values()):
        _add_line(flux, strength[:, i], wavelength, sigma, 22)
    names = list(LINES)
    ew_oiii = strength[:, names.index("OIII 5008")] / continuum_oiii
    return {"EW_HALPHA": ew + wide / continuum, "EW_OIII": ew_oiii, "BROAD": broad}


def _add_nuclei(flux: _Array32, rows: NDArray[np.int64], rng: np.random.Generator) -> _Array:
    """Add the power law and the broad lines of type 1 nuclei; return the flux of broad H alpha."""
    wide = np.zeros(len(flux))
    n = len(rows)
    if not n:
        return wide
    wavelength = lattice_wavelength(FIRST, N_PIXELS)
    share = rng.uniform(0.1, 0.8, (n, 1))  # of the light at 3500-5500
    power = (wavelength / 4500) ** rng.normal(-1.4, 0.4, (n, 1))
    power /= power[:, NORMAL].mean(axis=1, keepdims=True)
    flux[rows] = (1 - share) * flux[rows] + share * power
    nucleus = share[:, 0] * power[:, int(pixel_of(LINES["H alpha"]))]
    wide[rows] = nucleus * np.exp(rng.normal(np.log(220), 0.4, n))
    sigma = np.exp(rng.normal(np.log(1300), 0.45, n))
    sigma = np.clip(sigma, 500, 3200)
    part = flux[rows]
    for name, ratio in BROAD.items():
        scatter = np.exp(rng.normal(0, 0.15, n)) if name != "H alpha" else 1.0
        _add_line(part, wide[rows] * ratio * scatter, LINES[name], sigma, 150)
    magnesium = share[:, 0] * power[:, int(pixel_of(MG_II))] * np.exp(rng.normal(np.log(45), 0.4, n))
    _add_line(part, magnesium, MG_II, 0.8 * sigma, 150)
    flux[rows] = part
    return wide


def _line_ratios(subclass: NDArray[np.str_], rng: np.random.Generator) -> _Array:
    """Return line fluxes before reddening in units of H alpha, shape (n_spectra, n_lines).

    Star-forming galaxies lie along the sequence of Kewley et al. 2013 (ApJ 774, L10), log OIII/Hb =
    0.61 / (log NII/Ha + 0.08) + 1.1; Seyferts and LINERs where Kewley et al. 2006 (MNRAS 372, 961) have them.
    Doublet ratios fixed by atomic physics: OIII 2.98 (Storey & Zeippen 2000), NII 3.05, OI 3.1.
    """
    n = len(subclass)
    forming = np.isin(subclass, ["STARFORMING", "STARBURST", "E+A", "PASSIVE"])
    liner = subclass == "LINER"
    poor = subclass == "STARBURST"
    abundance = np.where(poor, rng.normal(-1.0, 0.3, n), rng.normal(-0.55, 0.17, n))
    nii = np.clip(abundance, -1.8, -0.3)
    oiii = 0.61 / (nii + 0.08) + 1.1 + rng.normal(0, 0.1, n)
    nii = np.where(forming, nii, np.where(liner, rng.normal(0.05, 0.1, n), rng.normal(-0.05, 0.15, n)))
    oiii = np.where(forming, oiii, np.where(liner, rng.normal(0.25, 0.12, n), rng.normal(0.9, 0.15, n)))
    oii = np.where(liner, rng.normal(0.75, 0.15, n), rng.normal(0.45, 0.15, n))
    sii = np.where(
        forming, rng.normal(-0.5, 0.12, n), np.where(liner, rng.normal(0.0, 0.1, n), rng.normal(-0.3, 0.1, n))
    )
    oi = np.where(
        forming,
        rng.normal(-1.6, 0.15, n),
        np.where(liner, rng.normal(-0.6, 0.15, n), rng.normal(-0.9, 0.15, n)),
    )
    out = np.zeros((n, len(LINES)))
    column = {name: i for i, name in enumerate(LINES)}

    def put(name: str, value: Any) -> None:
        out[:, column[name]] = value

    for name, ratio in CASE_B.items():
        put(name, ratio)
    beta = CASE_B["H beta"]
    density = rng.uniform(1.15, 1.45, n)
    put("OII 3730", beta * 10**oii * density / (1 + density))
    put("OII 3727", beta * 10**oii / (1 + density))
    put("OIII 5008", beta * 10**oiii)
    put("OIII 4960", beta * 10**oiii / 2.98)
    put("OIII 4364", beta * 10**oiii * np.where(poor, 0.012, 0.006))
    put("NeIII 3870", beta * 10**oiii * 0.09)
    put("NeIII 3969", beta * 10**oiii * 0.03)
    put("HeII 4687", beta * np.where(forming, 0.005, 0.15))
    put("HeI 5877", 0.04)
    put("OI 6302", 10**oi)
    put("OI 6366", 10**oi / 3.1)
    put("NII 6585", 10**nii)
    put("NII 6550", 10**nii / 3.05)
    put("SII 6718", 10**sii * density / (1 + density))
    put("SII 6733", 10**sii / (1 + density))
    put("ArIII 7138", 0.03)
    put("SIII 9071", 0.05)
    put("SIII 9533", 0.13)
    return out


def _add_line(flux: _Array32, strength: _Array, wavelength: float, sigma: _Array, reach: int) -> None:
    """Add a Gaussian line (sigma in km/s), integrated over pixels, to all spectra in place."""
    centre = pixel_of(wavelength)
    start = max(round(centre) - reach, 0)
    stop = min(round(centre) + reach + 1, N_PIXELS)
    edges = np.arange(start, stop + 1) - 0.5 - centre
    share = np.diff(ndtr(edges[None, :] * (PIXEL / sigma)[:, None]), axis=1)
    per_pixel = strength / (wavelength * np.log(10) * LATTICE_STEP)
    flux[:, start:stop] += (per_pixel[:, None] * share).astype(np.float32)


def measured_widths(flux: _Array32, wavelength: float, half: int) -> _Array:
    """Return equivalent widths over `half` pixels either side, against the medians of 40 pixels beyond 25."""
    centre = round(pixel_of(wavelength))
    beside = np.r_[centre - 65 : centre - 25, centre + 40 : centre + 80]
    continuum = np.median(flux[:, beside], axis=1, keepdims=True)
    excess = flux[:, centre - half : centre + half + 1] / continuum - 1
    return np.asarray(excess.sum(axis=1) * wavelength * np.log(10) * LATTICE_STEP, dtype=np.float64)
