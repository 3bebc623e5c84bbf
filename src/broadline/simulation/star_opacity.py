"""Opacities of stars: the spectrum of each species, and how strong each is in a normal star."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from broadline.air import air_to_vacuum
from broadline.simulation.star_tables import (
    BALMER,
    BELLS,
    C2,
    CA_HK,
    CA_I,
    CA_TRIPLET,
    CAH,
    CN_RED,
    CN_VIOLET,
    COLUMN,
    FE,
    FEH,
    HE_I,
    HE_II,
    K_I,
    MG,
    MGH,
    NA_D,
    NA_RED,
    PASCHEN,
    RAMPS,
    SPECIES,
    TIO,
    VO,
    WIDTHS,
)
from broadline.spectra import lattice_wavelength

__all__ = ["opacity", "put_balmer", "strengths"]

_Array = NDArray[np.float64]
_Array32 = NDArray[np.float32]


def strengths(temperature: _Array, metallicity: _Array) -> _Array32:
    """Return the opacity of each species in normal stars, shape (n_spectra, n_species)."""
    out = np.zeros((len(temperature), len(SPECIES)), dtype=np.float32)
    log_t = np.log(temperature)
    for name, (peak, below, above, exponent, depth) in BELLS.items():
        away = log_t - np.log(peak)
        bell = np.exp(-0.5 * (away / np.where(away < 0, below, above)) ** 2)
        out[:, COLUMN[name]] = depth * bell * 10 ** (exponent * metallicity)
    for name, (on, over, off, exponent, depth) in RAMPS.items():
        ramp = np.clip((on - temperature) / over, 0, 1.4) * np.clip((temperature - off) / 300 + 1, 0, 1)
        out[:, COLUMN[name]] = depth * ramp * 10 ** (exponent * metallicity)
    away = log_t - np.log(9300)
    hydrogen = np.exp(-0.5 * (away / np.where(away < 0, 0.30, 0.75)) ** 2)
    put_balmer(out, 1.25 * hydrogen, 1.3 + 6.2 * hydrogen**1.5)
    return out


def put_balmer(
    strength: _Array32, depth: _Array, width: _Array, rows: NDArray[np.int64] | None = None
) -> None:
    """Set the Balmer opacities to a depth and half width (Angstrom), between the two nearest profiles."""
    index = np.arange(len(strength)) if rows is None else rows
    position = np.interp(np.log(width), np.log(WIDTHS), np.arange(len(WIDTHS)))
    lower = np.minimum(position.astype(np.int64), len(WIDTHS) - 2)
    strength[index[:, None], np.arange(len(WIDTHS))[None, :]] = 0
    strength[index, lower] = depth * (1 - (position - lower))
    strength[index, lower + 1] = depth * (position - lower)


@lru_cache(maxsize=4)
def opacity(first: int, n_pixels: int) -> _Array32:
    """Return the optical depth of each species at strength 1, shape (n_species, n_pixels)."""
    wavelength = lattice_wavelength(first, n_pixels)

    def gauss(table: tuple[tuple[float, float], ...], sigma: float) -> _Array:
        out = np.zeros(n_pixels)
        for air, strength in table:
            out += strength * np.exp(-0.5 * ((wavelength - float(air_to_vacuum(np.array(air)))) / sigma) ** 2)
        return out

    def wings(table: tuple[tuple[float, float], ...], width: float, power: float = 1.25) -> _Array:
        out = np.zeros(n_pixels)
        for air, strength in table:
            away = (wavelength - float(air_to_vacuum(np.array(air)))) / width
            out += strength / (1 + away**2) ** power
        return out

    def bands(table: tuple[tuple[float, float, float], ...], edge: float = 3.0) -> _Array:
        out = np.zeros(n_pixels)
        for air, strength, tail in table:
            away = (wavelength - float(air_to_vacuum(np.array(air)))) * np.sign(tail)
            rise = 1 / (1 + np.exp(-np.clip(away / edge, -60, 60)))
            out += strength * rise * np.exp(-np.maximum(away, 0) / abs(tail))
        return out

    shapes: dict[str, _Array] = {}
    for width in WIDTHS:
        # Pressure merges the high members: they fade where their wings meet.
        fade = [(air, s * min(1.0, ((air - 3646) / (22 * width)) ** 1.0)) for air, s in BALMER]
        shapes[f"BALMER {width}"] = wings(tuple(fade), width)
    jump = 1 / (1 + np.exp(np.clip((wavelength - 3705) / 12, -60, 60)))
    shapes["JUMP"] = (
        jump * (wavelength / 3646) ** 1.5
        + 0.12
        / (1 + np.exp(np.clip((wavelength - 8260) / 20, -60, 60)))
        * (np.clip(wavelength, 3700, None) / 8206) ** 3
    )
    shapes["PASCHEN"] = wings(PASCHEN, 9.0)
    shapes["HEI"], shapes["HEI BROAD"] = wings(HE_I, 2.5), wings(HE_I, 16.0)
    shapes["HEII"] = wings(HE_II, 4.0)
    shapes["CAII"], shapes["CAII WINGS"] = gauss(CA_HK, 2.2), wings(CA_HK, 7.0)
    shapes["CAII BROAD"] = wings(CA_HK, 22.0) + wings(((2852.1, 1.0), (2798.0, 1.5)), 60.0)
    shapes["CA TRIPLET"] = gauss(CA_TRIPLET, 1.8) + 0.25 * wings(CA_TRIPLET, 5.0)
    shapes["FE"], shapes["FE BROAD"] = gauss(FE, 1.5), wings(FE, 6.0)
    # Thousands of weak lines of the iron group, crowding to the blue: a fixed pattern stands for them.
    pattern = np.random.default_rng(4000)
    places = np.exp(pattern.uniform(np.log(1900), np.log(10500), 4200))
    depths = 0.30 * pattern.exponential(1.0, 4200) * np.clip((4600 / places) ** 3.5, 0, 2.5)
    shapes["WEAK"] = gauss(tuple(zip(places.tolist(), depths.tolist(), strict=True)), 1.3)
    shapes["MG"], shapes["MG BROAD"] = gauss(MG, 1.8) + 0.15 * wings(MG, 12.0), wings(MG, 16.0)
    shapes["NA"], shapes["NA WINGS"], shapes["NA BROAD"] = (
        gauss(NA_D, 1.4),
        wings(NA_D, 20.0),
        wings(NA_D, 12.0),
    )
    shapes["NA RED"] = gauss(NA_RED, 3.0)
    shapes["CAI"], shapes["KI"] = wings(CA_I, 4.0), gauss(K_I, 2.0) + 0.7 * wings(K_I, 25.0)
    shapes["CH"] = 1 / (1 + np.exp(np.clip((np.abs(wavelength - 4304) - 11) / 4, -60, 60))) + 0.25 * np.exp(
        -0.5 * ((wavelength - 4285) / 22) ** 2
    )
    shapes["CN VIOLET"] = bands(CN_VIOLET)
    # Blanketing: what of those lines is not resolved, with the breaks at 4000, 2900 and 2640 Angstrom.
    shapes["BLANKET"] = (
        0.9 * np.clip((4700 - wavelength) / 1000, 0, 1.6)
        + sum(
            (height / (1 + np.exp(np.clip((wavelength - edge) / soft, -60, 60))) for edge, height, soft in
             ((3995.0, 0.30, 6.0), (3850.0, 0.12, 8.0), (2900.0, 0.3, 8.0), (2640.0, 0.6, 10.0))),
            start=np.zeros(n_pixels),
        )
        + np.clip((2600 - wavelength) / 400, 0, 2)
    )  # fmt: skip
    shapes["UV"] = (
        np.clip((3650 - wavelength) / 1100, 0, 1.4) + 0.4 * (wavelength < 2640) + 0.2 * (wavelength < 3995)
    )
    for name, table in (("TIO", TIO), ("VO", VO), ("CAH", CAH), ("MGH", MGH), ("FEH", FEH)):
        shapes[name] = bands(table)
    # TiO has no true continuum to the blue of its strong bands.
    shapes["TIO"] += 0.5 * np.clip((7600 - wavelength) / 2500, 0, 1)
    shapes["C2"], shapes["C2 BROAD"], shapes["CN RED"] = bands(C2, 4.0), bands(C2, 15.0), bands(CN_RED)
    return np.array([shapes[name] for name in SPECIES], dtype=np.float32)
