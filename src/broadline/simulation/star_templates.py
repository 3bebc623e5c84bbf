"""Stars from template files: archetypes of pipelines, and observed spectra."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.one_thread import one_thread
from broadline.simulation.star_tables import FIRST, MIX, N_PIXELS
from broadline.simulation.templates import found, read_table, resample, usable
from broadline.spectra import lattice_wavelength

__all__ = ["pools"]

_Array = NDArray[np.float64]
_Array32 = NDArray[np.float32]

# Kinds whose pipeline templates are observed spectra.
_OBSERVED = ("CARBON", "DQ", "DZ", "L")

_Pool = tuple[_Array32, _Array32, NDArray[np.str_]]


@lru_cache(maxsize=2)
@one_thread
def pools(folder: str) -> dict[str, _Pool]:
    """Return for each subclass: shapes (k, n_pixels), coefficients (m, k) and the set each of the m is from.

    Archetypes keep their few components; whole spectra are components of their own.
    """
    path = Path(folder)
    spectra: dict[str, list[tuple[_Array32, str]]] = {name: [] for name in MIX}  # (shapes, set)
    pools: dict[str, list[tuple[_Array32, _Array32, str]]] = {name: [] for name in MIX}

    for file in found(path, "redrock-stars"):
        letter = file.name.split("STAR-")[1][0]
        shapes, coefficients = _archetypes(file)
        pools[letter].append((shapes, coefficients, "redrock-stars"))
    for file in found(path, "redrock-wd"):
        shapes, coefficients = _archetypes(file)
        helium = _depth(shapes, coefficients, 5877.2) > _depth(shapes, coefficients, 6564.6)
        for name, these in (("DA", ~helium), ("DB", helium)):
            pools[name].append((shapes, coefficients[these], "redrock-wd"))
    for file in found(path, "redrock-cv"):
        table = read_table(file)
        if table is not None:
            shapes = np.nan_to_num(resample(table[0], table[1], FIRST, N_PIXELS))
            shapes /= np.abs(shapes[0]).mean()
            dice = np.random.default_rng(5)
            coefficients = np.c_[np.ones(600), dice.uniform(-2, 2, (600, len(shapes) - 1))].astype(np.float32)
            pools["CV"].append(
                (shapes, coefficients[(coefficients @ shapes).min(axis=1) > 0.05], "redrock-cv")
            )
    for name in ("sdss-stars", "kurucz", "mastar"):
        for file in found(path, name):
            table = read_table(file)
            if table is None:
                continue
            rows = table[1][: 1 if name == "mastar" else None]
            labels = _labels(name, file, table[2], len(rows))
            for row, label in zip(rows, labels, strict=True):
                if label is None:
                    continue
                # The ends of spectra that were observed are noise: beyond, a power law is nearer the truth.
                observed = (row != 0) & ((label not in _OBSERVED) | ((table[0] > 3700) & (table[0] < 10300)))
                if not observed.any():
                    continue
                ends = slice(int(np.argmax(observed)), len(row) - int(np.argmax(observed[::-1])))
                shape = resample(table[0][ends], row[None, ends], FIRST, N_PIXELS)
                good = usable(shape, FIRST, -0.1 if label in _OBSERVED else -0.03)
                for kind in [label] if label else _by_colour(good):
                    if len(good):
                        spectra[kind].append((good, name))
    for kind, rows_of_kind in spectra.items():
        for name in sorted({origin for _, origin in rows_of_kind}):
            stack = np.concatenate([flux for flux, origin in rows_of_kind if origin == name])
            pools[kind].append((stack, np.eye(len(stack), dtype=np.float32), name))
    return {kind: _joined(parts) for kind, parts in pools.items() if any(len(part[1]) for part in parts)}


def _joined(parts: list[tuple[_Array32, _Array32, str]]) -> _Pool:
    """Return several pools as one; each set has at least a tenth of the entries of the largest."""
    shapes = np.concatenate([part[0] for part in parts])
    most = max(len(part[1]) for part in parts)
    coefficients, origins, column = [], [], 0
    for components, weights, name in parts:
        if len(weights):
            weights = np.tile(weights, (max(1, most // (10 * len(weights))), 1))
        block = np.zeros((len(weights), len(shapes)), dtype=np.float32)
        block[:, column : column + len(components)] = weights
        column += len(components)
        coefficients.append(block)
        origins.append(np.full(len(weights), name))
    return shapes, np.concatenate(coefficients), np.concatenate(origins)


def _archetypes(file: Path) -> tuple[_Array32, _Array32]:
    """Return components and coefficients of those archetypes that hardly go negative, mean flux 1."""
    from astropy.io import fits

    table = read_table(file)
    if table is None:
        return np.zeros((0, N_PIXELS), dtype=np.float32), np.zeros((0, 0), dtype=np.float32)
    coefficients = np.array(fits.getdata(file, 1), dtype=np.float32)
    shapes = resample(table[0], table[1], FIRST, N_PIXELS)
    coarse = shapes[:, : N_PIXELS // 10 * 10].reshape(len(shapes), -1, 10).mean(axis=2)
    level = coefficients @ coarse
    mean = level.mean(axis=1)
    good = level.min(axis=1) > -0.02 * mean
    return shapes, coefficients[good] / mean[good, None]


def _depth(shapes: _Array32, coefficients: _Array32, centre: float) -> _Array32:
    """Return how deep the flux within 15 Angstrom of a line lies below that at 80-120 Angstrom from it."""
    away = np.abs(lattice_wavelength(FIRST, N_PIXELS) - centre)
    beside = shapes[:, (away > 80) & (away < 120)].mean(axis=1)
    return np.asarray(1 - (coefficients @ shapes[:, away < 15].mean(axis=1)) / (coefficients @ beside))


def _labels(name: str, file: Path, header: object, n: int) -> list[str | None]:
    """Return the subclass of each row of a file; "" where its colour must tell, None where it is no use."""
    if name == "mastar":
        return [""] * n
    if name == "kurucz":
        from astropy.io import fits

        table = fits.getdata(file, 1)
        kinds: list[str | None] = []
        for metals, temperature in zip(table["FEH"], table["TEFF"], strict=True):
            kinds.append(("sdF" if metals <= -1 else "F") if temperature >= 5800 else "G")
        return kinds
    named = [str(header[f"NAME{i}"]) for i in range(n)]  # type: ignore[index]
    early = "53724" in file.name  # 3800-9200 Angstrom only: used for carbon stars and white dwarfs
    return [_kind(label, early) for label in named]


def _kind(label: str, early: bool) -> str | None:
    """Return the subclass of a pipeline template by its name."""
    special = {"Carbon": "CARBON", "Carbon_lines": "DQ", "CarbonWD": "DQ", "CalciumWD": "DZ",
               "WDhotter": "DA", "WDcooler": "DA", "WDmagnetic": "DA", "Ldwarf": "L"}  # fmt: skip
    if label in special:
        return special[label]
    if label.startswith("sd"):
        return "sdF"
    if early:
        return None
    return label[0] if label[0] in "OBAFGKM" else None


def _by_colour(flux: _Array32) -> list[str]:
    """Return the spectral type of each spectrum by the slope from 4500 to 7500 Angstrom."""
    wavelength = lattice_wavelength(FIRST, N_PIXELS)
    blue = flux[:, (wavelength > 4450) & (wavelength < 4650)].mean(axis=1)
    red = flux[:, (wavelength > 7350) & (wavelength < 7550)].mean(axis=1)
    limits = (0.33, 0.75, 1.12, 1.42, 2.2, 4.2)  # M, K, G, F, A, B, O
    return ["MKGFABO"[int(np.searchsorted(limits, ratio))] for ratio in blue / red]
