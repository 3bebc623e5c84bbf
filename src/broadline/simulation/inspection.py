"""A simulated visual inspection: what an expert would have said of a spectrum, errors included.

What an expert sees is measured without noise: `significance` is the chi2 of the features that remain when the
continuum is taken away. Confidence is ordinal: the logarithm of the significance, blurred by a logistic
scatter (experts and moments differ), is compared with three levels a class, so that half of the spectra at a
level pass it and ``1 / (1 + (level / s)^4)`` of those at significance s.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, NARROW_BELOW, SPEED_OF_LIGHT, velocity
from broadline.grid import QUASARNET_LOG
from broadline.lines import LINES
from broadline.resample import binned
from broadline.simulation.pointing import COLUMNS

__all__ = ["bal_significance", "inspect", "mistaken", "significance"]

_Image = NDArray[np.float32]
_Array = NDArray[np.float64]
_Bool = NDArray[np.bool_]

#: Significance at which half of the spectra get a confidence of 1, 2 and 3. Lines are needed to call a
#: quasar or galaxy; the continuum alone shows a star for what it is, or DR12Q would not have firm classes
#: for 98 % of its spectra (Busca & Balland 2018, section 2).
_LEVELS = {"QSO": (8.0, 25.0, 60.0), "GALAXY": (8.0, 25.0, 60.0), "STAR": (0.1, 0.3, 1.0)}
_SHARPNESS = 4.0  # exponent of the rise at a level

#: Probability of a wrong class and, of what is called a quasar, of a wrong redshift, at confidence 1, 2, 3.
#: Confident ones: a third of QuasarNET's 0.14 % of wrong redshifts, and a part of its stars, are errors of
#: inspection (section 4.1). Tentative redshifts: QuasarNET agrees with 60 % of them.
_WRONG_CLASS = np.array([0.3, 0.0, 0.0005])
_WRONG_Z = np.array([0.5, 0.25, 0.001])

#: What is a matter of taste: (true class, subclass) -> the class it may be given, and how often.
_AMBIGUOUS = {
    ("QSO", "NLAGN"): ("GALAXY", 0.3),
    ("GALAXY", "BROADLINE"): ("QSO", 0.5),
    ("GALAXY", "AGN"): ("QSO", 0.08),
    ("GALAXY", "STARBURST"): ("QSO", 0.01),
}

#: Scatter of the visual redshifts of bright quasars (km/s) below `NARROW_BELOW`, where [O III] is seen, and
#: beyond: no two experts set a broad line alike. Of the size of the scatter of lines about the systemic
#: redshift, 48 km/s for [O III], 205 and 233 for MgII and CIII]: Shen et al. (2016), ApJ 831, 7.
VISUAL_SCATTER = (50.0, 200.0)
#: Scatter of visual redshifts (km/s) times 1 / sqrt(significance); of narrow lines also at infinite one.
_SCATTER_BROAD = 4000.0
_SCATTER_NARROW = (40.0, 1500.0)
_CIV_ONLY = -150.0  # km/s: CIV lies blueward of the other lines, and nothing else says so

#: Probability to flag a mini-trough (BI = 0) that can be seen, and a quasar without trough; and class 30 for
#: what is flagged: 26,211 of class 30 beside 27,815 flags (sections 2 and 4.2).
_MINI, _FALSE_BAL, _CLASS_30 = 0.5, 0.01, 0.94
#: Significance of a trough at which half are flagged, and at which half have a measured BI > 0; relative
#: scatter of BI at infinite significance, and times 1 / sqrt(significance). DR12Q flags 12.5 % of the quasars
#: beyond z = 1.6 and has BI > 0 for 7.3 % (section 4.2); the eye is the more sensitive, and errs more.
_FLAG_LEVEL, _BI_LEVEL, _SCATTER_BI = 25.0, 45.0, (0.1, 3.0)
#: SiIV + OIV], the blue end of the search for CIV troughs: Paris et al. (2017), A&A 597, A79, from z = 1.57.
_BLUEST_TROUGH = 1400.8

_CODES = {"STAR": 1, "QSO": 3, "GALAXY": 4, "": 0}
_NAMES = ("STAR", "QSO", "GALAXY")
_EMISSION = tuple(line.wavelength for line in LINES.values() if not line.bal)
_PAIRS = tuple((true, taken, 1.0) for true, taken in permutations(_EMISSION, 2))


def significance(model: _Image, ivar: _Image, wavelength: _Array) -> _Array:
    """Return the noise-free significance of the features of each spectrum.

    ``sum((smooth3(f) - smooth71(f))^2 ivar)`` over the 443 pixels of QuasarNET, where smooth_k is the mean
    over k pixels around each, of those that have data.

    Parameters
    ----------
    model, ivar : ndarray of float32, shape (n_spectra, n_pixels)
        Noise-free flux and inverse variance, as in `Observed`.
    wavelength : ndarray of float64, shape (n_pixels,)
        Vacuum Angstrom.

    Returns
    -------
    ndarray of float64, shape (n_spectra,)
    """
    flux, weight, _ = binned(model, ivar, wavelength, QUASARNET_LOG)
    good = weight > 0
    feature = _running_mean(flux, good, 3) - _running_mean(flux, good, 71)
    return np.asarray(np.einsum("ij,ij,ij->i", feature, feature, weight.astype(np.float64)))


def bal_significance(
    model: _Image, ivar: _Image, wavelength: _Array, unabsorbed: _Image, z: _Array
) -> _Array:
    """Return the noise-free significance of broad absorption in CIV.

    ``sum((unabsorbed - model)^2 ivar)`` over the pixels of QuasarNET from -25000 to 0 km/s. Rows stand for
    themselves: give those that have troughs alone.

    Parameters
    ----------
    model, ivar : ndarray of float32, shape (n_spectra, n_pixels)
        Noise-free flux and inverse variance, as in `Observed`.
    wavelength : ndarray of float64, shape (n_pixels,)
        Vacuum Angstrom.
    unabsorbed : ndarray of float32, shape (n_spectra, n_pixels)
        What `model` would be without troughs: its errors of flux calibration must be the same.
    z : ndarray of float64, shape (n_spectra,)

    Returns
    -------
    ndarray of float64, shape (n_spectra,)
    """
    missing, weight, _ = binned(unabsorbed - model, ivar, wavelength, QUASARNET_LOG)
    ratio = (QUASARNET_LOG.centres / (LINES["CIV"].wavelength * (1 + np.asarray(z))[:, None])) ** 2
    speed = SPEED_OF_LIGHT * (ratio - 1) / (ratio + 1)
    weight = np.where((speed >= -25_000) & (speed <= 0), weight, 0)
    return np.asarray(np.einsum("ij,ij,ij->i", missing, missing, weight, dtype=np.float64))


def inspect(
    truth: Mapping[str, NDArray[Any]],
    significance: NDArray[Any],
    bal_significance: NDArray[Any],
    rng: np.random.Generator,
    coverage: tuple[float, float] = (3600.0, 10_000.0),
) -> dict[str, NDArray[Any]]:
    """Return what a simulated expert says of each spectrum.

    Confidence 3 is a firm class and redshift, 2 a firm class, 1 a guess; at confidence 0 there is neither
    class nor redshift (CLASS_PERSON 0, Z_VI -1), as for sky. Redshifts have three decimals, stars exactly 0.

    Parameters
    ----------
    truth : mapping of str to ndarray, each of shape (n_spectra,)
        TRUE_CLASS, TRUE_SUBCLASS, TRUE_Z, TRUE_BI_CIV and TRUE_AI_CIV (km/s, 0 for none).
    significance : ndarray, shape (n_spectra,)
    bal_significance : ndarray, shape (n_spectra,)
        Where there is no trough it is not read.
    rng : numpy.random.Generator
    coverage : tuple of float
        Wavelengths of the spectra (Angstrom): lines and troughs outside are not seen.

    Returns
    -------
    dict of str to ndarray, each of shape (n_spectra,)
        CLASS_PERSON, Z_CONF_PERSON, Z_VI, BAL_FLAG_VI (0 or 1) and BI_CIV (km/s), as in
        `broadline.simulation.pointing.COLUMNS`.
    """
    kind = np.asarray(truth["TRUE_CLASS"]).astype(str)
    z = np.asarray(truth["TRUE_Z"], dtype=np.float64)
    strength = np.maximum(np.asarray(significance, dtype=np.float64), 1e-3)
    confidence = _confidence(kind, strength, rng)
    said = _class(kind, np.asarray(truth["TRUE_SUBCLASS"]).astype(str), confidence, rng)
    z_said = _redshift(kind, said, z, strength, confidence, coverage, rng)
    seen = (said == "QSO") & (kind == "QSO") & (confidence >= 2)
    seen &= np.abs(velocity(z_said, z)) < CONFLICT_KMS
    seen &= (_BLUEST_TROUGH * (1 + z) > coverage[0]) & (LINES["CIV"].wavelength * (1 + z) < coverage[1])
    flag, index = _troughs(truth, np.asarray(bal_significance, dtype=np.float64), seen, rng)
    code = np.select([said == name for name in _CODES], list(_CODES.values()))
    code[flag & (rng.random(len(z)) < _CLASS_30)] = 30
    columns = {
        "CLASS_PERSON": code,
        "Z_CONF_PERSON": confidence,
        "Z_VI": z_said,
        "BAL_FLAG_VI": flag,
        "BI_CIV": index,
    }
    return {name: values.astype(np.dtype(COLUMNS[name][0])) for name, values in columns.items()}


def mistaken(
    z: _Array,
    rng: np.random.Generator,
    pairs: tuple[tuple[float, float, float], ...] = _PAIRS,
    coverage: tuple[float, float] = (3600.0, 10_000.0),
) -> _Array:
    """Return the redshifts that follow when one line is taken for another.

    Parameters
    ----------
    z : ndarray of float64, shape (n_spectra,)
    rng : numpy.random.Generator
    pairs : tuple of (float, float, float)
        Wavelength of a line and of the line it is taken for (Angstrom), and a weight; by default every two
        emission lines of QuasarNET.
    coverage : tuple of float
        The line must lie between these wavelengths (Angstrom).

    Returns
    -------
    ndarray of float64, shape (n_spectra,)
        0 < z < 7; the redshift given where no pair leads there.
    """
    line, taken, weight = np.array(pairs).T
    place = line * (1 + z)[:, None]
    wrong = place / taken - 1
    possible = (place > coverage[0]) & (place < coverage[1]) & (wrong > 0) & (wrong < 7)
    total = np.cumsum(possible * weight, axis=1)
    pick = (total <= rng.random(len(z))[:, None] * total[:, -1:]).sum(axis=1)
    found = pick < len(line)
    chosen = wrong[np.arange(len(z)), np.minimum(pick, len(line) - 1)]
    return np.where(found, chosen, z)


def _running_mean(flux: _Image, good: _Bool, k: int) -> _Array:
    """Return the mean over k pixels around each that have data; 0 where none has."""
    half = k // 2

    def total(values: NDArray[Any]) -> _Array:
        ends = np.cumsum(np.pad(values, ((0, 0), (half + 1, half))), axis=1, dtype=np.float64)
        return np.asarray(ends[:, k:] - ends[:, :-k])

    return total(flux) / np.maximum(total(good), 1)


def _confidence(kind: NDArray[np.str_], strength: _Array, rng: np.random.Generator) -> NDArray[np.int64]:
    perceived = np.log(strength) + rng.logistic(0, 1 / _SHARPNESS, len(kind))
    confidence = np.zeros(len(kind), dtype=np.int64)
    for name, levels in _LEVELS.items():
        rows = kind == name
        confidence[rows] = (perceived[rows, None] > np.log(levels)).sum(axis=1)
    return confidence


def _class(
    kind: NDArray[np.str_],
    subclass: NDArray[np.str_],
    confidence: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """Return the class given, "" where there is none."""
    n = len(kind)
    chance, other = rng.random(n), rng.integers(1, 3, n)
    said = np.where(confidence > 0, kind, "").astype("U6")
    for (name, sub), (instead, probability) in _AMBIGUOUS.items():
        said[(said == name) & (kind == name) & (subclass == sub) & (chance < probability)] = instead
    wrong = (said != "") & (rng.random(n) < _WRONG_CLASS[confidence - 1])
    position = np.select([said == name for name in _NAMES], range(3))
    said[wrong] = np.array(_NAMES)[(position + other) % 3][wrong]
    return said


def visual_scatter(z: _Array, significance: _Array) -> _Array:
    """Return the scatter of the redshifts (km/s) that inspectors give quasars, shape (n,).

    Parameters
    ----------
    z : ndarray, shape (n,)
    significance : ndarray, shape (n,)
        Of their features (`significance`), above 0.
    """
    return np.hypot(
        np.where(z < NARROW_BELOW, *VISUAL_SCATTER), np.float64(_SCATTER_BROAD) / np.sqrt(significance)
    )


def _redshift(
    kind: NDArray[np.str_],
    said: NDArray[np.str_],
    z: _Array,
    strength: _Array,
    confidence: NDArray[np.int64],
    coverage: tuple[float, float],
    rng: np.random.Generator,
) -> _Array:
    n = len(z)
    quasar = said == "QSO"
    narrow = np.hypot(_SCATTER_NARROW[0], np.float64(_SCATTER_NARROW[1]) / np.sqrt(strength))
    shift = rng.standard_normal(n) * np.where(quasar, visual_scatter(z, strength), narrow)
    observed = np.array([line.wavelength for line in LINES.values()]) * (1 + z)[:, None]
    visible = dict(zip(LINES, ((observed > coverage[0]) & (observed < coverage[1])).T, strict=True))
    others = visible["CIII"] | visible["MGII"] | visible["HBETA"] | visible["HALPHA"]
    shift += np.where(quasar & visible["CIV"] & ~others, _CIV_ONLY, 0)
    out = z + (1 + z) * shift / SPEED_OF_LIGHT
    wrong = np.flatnonzero(quasar & (rng.random(n) < _WRONG_Z[confidence - 1]))
    out[wrong] = mistaken(out[wrong], rng, coverage=coverage)
    # A star's spectrum has no redshift to find: whatever noise suggests.
    guess = rng.random(n) * np.where(quasar, 4.0, 1.0)
    out = np.where(kind == "STAR", guess, np.maximum(out, 0))
    return np.select([said == "", said == "STAR"], [-1.0, 0.0], np.round(out, 3))


def _troughs(
    truth: Mapping[str, NDArray[Any]], strength: _Array, seen: _Bool, rng: np.random.Generator
) -> tuple[_Bool, _Array]:
    """Return the visual flag and the measured BI; the eye and the program err independently."""
    n = len(seen)
    index = np.asarray(truth["TRUE_BI_CIV"], dtype=np.float64)
    broad, trough = index > 0, (index > 0) | (np.asarray(truth["TRUE_AI_CIV"]) > 0)
    strength = np.where(trough, np.maximum(strength, 1e-3), 1e-3)
    by_eye, by_program = (1 / (1 + (level / strength) ** _SHARPNESS) for level in (_FLAG_LEVEL, _BI_LEVEL))
    probability = np.select([broad, trough], [by_eye, _MINI * by_eye], 0)
    flag = seen & (rng.random(n) < np.maximum(probability, _FALSE_BAL))
    measured = seen & broad & (rng.random(n) < by_program)
    scatter = np.hypot(_SCATTER_BI[0], _SCATTER_BI[1] / np.sqrt(strength)) * rng.standard_normal(n)
    return flag, np.where(measured, index * np.exp(np.where(measured, scatter, 0)), 0.0)
