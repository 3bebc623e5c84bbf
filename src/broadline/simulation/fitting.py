"""A simulated pipeline of five best fits, as in spZall of SDSS (Bolton et al. 2012, AJ 144, 144).

This is a confusion model: no template is fitted to any flux. Of each spectrum it knows the true class and
redshift and the noise-free significance of its features, and draws what a pipeline would have said:

1. The noise-free chi2 distance d between the true solution and the best wrong one is a part of the
   significance (`_SHARE`). Noise makes of it ``d + 2 sqrt(d) N(0, 1)``, less what the best of many wrong
   solutions gains by chance (`_TRIALS`). Where that is negative a wrong solution comes first.
2. Some spectra resemble another class or another redshift however bright they are (`_TABLE`, ``always``).
3. ZWARNING has SMALL_DELTA_CHI2 where the reduced chi2 of the next solution is less than 0.01 larger, the
   pipeline's own rule.

`_TABLE` and `_SHARE` are chosen so that simulated BOSS quasar targets, in the proportions of Busca & Balland
(2018), give about what they report of the pipeline (section 4.1): purity 99.14, completeness 94.98 % of the
quasar sample, 99.17 and 99.26 % with inspection of some 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.decision import SPEED_OF_LIGHT
from broadline.lines import LINES
from broadline.simulation.inspection import mistaken
from broadline.simulation.pointing import COLUMNS, N_FITS

__all__ = [
    "LITTLE_COVERAGE",
    "MANY_OUTLIERS",
    "NEGATIVE_EMISSION",
    "SKY",
    "SMALL_DELTA_CHI2",
    "UNPLUGGED",
    "Z_FITLIMIT",
    "five_fits",
]

_Array = NDArray[np.float64]
_Int = NDArray[np.int64]
_Bool = NDArray[np.bool_]
_Words = NDArray[np.str_]

#: Bits of ZWARNING that occur here (SDSS data release 12, bit mask ZWARNING).
SKY, LITTLE_COVERAGE, SMALL_DELTA_CHI2, MANY_OUTLIERS = 1 << 0, 1 << 1, 1 << 2, 1 << 4
Z_FITLIMIT, NEGATIVE_EMISSION, UNPLUGGED = 1 << 5, 1 << 6, 1 << 7

# ---- the table of confusions

#: What a solution may be: the first and third at the true redshift, the next ones at a wrong one.
_OUTCOMES = ("QSO", "QSO", "GALAXY", "GALAXY", "STAR")
_QSO, _QSO_WRONG, _GALAXY, _GALAXY_WRONG, _STAR = range(5)


class _Row(NamedTuple):
    """How often (per cent) each of `_OUTCOMES` comes first."""

    always: tuple[float, ...]  # where noise plays no part
    by_chance: tuple[float, ...]  # where noise decides against the truth


_TABLE: dict[str, _Row] = {
    #                         QSO, other z, GALAXY, other z, STAR
    "QSO": _Row(always=(99.48, 0.27, 0.05, 0.10, 0.10), by_chance=(0, 78, 2, 16, 4)),
    # The colours and, without the line, the spectrum of A and F stars.
    "QSO, 2.7 < z < 3.5": _Row(always=(99.28, 0.27, 0.05, 0.10, 0.30), by_chance=(0, 74, 2, 16, 8)),
    # The templates end: every z > 5 seen in real files was wrong, with ZWARNING 0.
    "QSO, z > 5": _Row(always=(10, 85, 0, 4, 1), by_chance=(0, 80, 0, 15, 5)),
    # Beyond, there is no galaxy template.
    "QSO, NLAGN, z < 1.2": _Row(always=(55, 1, 43, 1, 0), by_chance=(0, 40, 30, 30, 0)),
    "GALAXY": _Row(always=(0.2, 1.5, 97.0, 1.0, 0.3), by_chance=(2, 30, 0, 58, 10)),
    "GALAXY, AGN": _Row(always=(6, 1, 92.5, 0.5, 0), by_chance=(10, 25, 0, 60, 5)),
    "GALAXY, BROADLINE": _Row(always=(60, 2, 37.5, 0.5, 0), by_chance=(40, 30, 10, 20, 0)),
    "STAR": _Row(always=(0, 1.0, 0, 1.0, 98.0), by_chance=(0, 40, 0, 45, 15)),
    # Breaks and bands that look like the forest or like broad lines.
    "STAR, A F sdF": _Row(always=(0, 2.5, 0, 1.0, 96.5), by_chance=(0, 45, 0, 40, 15)),
    "STAR, M dMe WD+M CV": _Row(always=(0, 1.5, 0, 1.5, 97.0), by_chance=(0, 40, 0, 45, 15)),
    "SKY": _Row(always=(0, 45, 0, 40, 15), by_chance=(0, 45, 0, 40, 15)),
}

#: Of which class the other four solutions are (per cent QSO, GALAXY, STAR), by the class they lie close to.
_ALTERNATES = {"QSO": (76, 22.5, 1.5), "GALAXY": (15, 79, 6), "STAR": (8, 14, 78), "SKY": (45, 40, 15)}
#: Place of the true solution where it is not the best: per cent in places 2 to 5, else lost.
_PLACE_OF_TRUTH = (45, 20, 12, 8)

#: One line taken for another, and how often beside the others. The first is the pipeline's known one: quasars
#: of z ~ 1 contaminate the highest redshifts (Busca & Balland 2018, section 4.3).
_LYA, _CIV, _CIII, _MGII, _HBETA, _HALPHA = (
    LINES[name].wavelength for name in ("LYA", "CIV", "CIII", "MGII", "HBETA", "HALPHA")
)
_OIII = 5008.24  # SDSS line list
_PAIRS = (
    (_MGII, _LYA, 5.0),
    (_LYA, _MGII, 3.0),
    (_MGII, _CIII, 3.0),
    (_CIII, _MGII, 3.0),
    (_CIII, _CIV, 3.0),
    (_CIV, _CIII, 2.0),
    (_CIV, _LYA, 1.0),
    (_LYA, _CIV, 1.0),
    (_CIV, _MGII, 1.0),
    (_MGII, _CIV, 1.0),
    (_HALPHA, _MGII, 1.0),
    (_MGII, _HALPHA, 1.0),
    (_OIII, _MGII, 0.5),
    (_MGII, _HBETA, 0.5),
    (_HBETA, _MGII, 0.5),
    (_LYA, _OIII, 0.3),
    (_OIII, _LYA, 0.3),
)

# ---- strengths

#: Median of d / significance: much of a galaxy's or star's evidence is in features narrower than the
#: significance sees, and much of a quasar's is shared with the solution of the wrong line.
_SHARE = {"QSO": 0.72, "GALAXY": 1.0, "STAR": 1.0, "SKY": 0.0}
_SHARE_SCATTER = 0.4  # of its natural logarithm
_TRIALS = 6.0
_MARGIN_CONFUSED = 0.3  # mean lead of a solution that always misleads, in units of d
_MARGIN_CHANCE = 8.0  # mean lead (chi2) of one that leads by chance, and from fit to fit in sky
_SMALL, _DOF = 0.01, 4480  # reduced chi2; degrees of freedom of a BOSS spectrum
#: Beyond this significance nothing changes, and float32 holds every chi2.
_BRIGHTEST = 1e6

#: Sizes of Z_ERR, of chi2 and of DOF are those in the headers of real BOSS and eBOSS files; no score rests on
#: them. Z_ERR (km/s at significance 1; scatter of its logarithm), and what it leaves out (km/s; factor).
_Z_ERR = {"QSO": (1600.0, 300.0, 2.5), "GALAXY": (350.0, 15.0, 1.5), "STAR": (250.0, 8.0, 1.5)}
_Z_ERR_SCATTER, _Z_ERR_LEAST = 0.4, 3.0
_WIDEST = 1500.0  # km/s: what lies further off is another minimum of chi2
_RANGE = (0.003, 7.0)  # redshifts searched

#: Probabilities of other bits: of any spectrum; bright ones; QSO solutions without and with broad absorption;
#: QSO and GALAXY solutions at the end of their range.
_LITTLE, _OUTLIERS, _OUTLIERS_BRIGHT = 0.0005, 0.0005, 0.02
_NEGATIVE, _NEGATIVE_BAL, _LIMIT = 0.001, 0.06, 0.0005
_BRIGHT = 1e4

#: Names the pipeline gives to kinds of star; any of `_ANY_STAR` to what is none.
_STARS = {
    "O": "O",
    "B": "B6",
    "A": "A0",
    "F": "F5",
    "sdF": "F9",
    "G": "G2",
    "K": "K5",
    "M": "M3",
    "dMe": "M4",
    "FLARE": "M5",
    "WD+M": "M2",
    "L": "L1",
    "CARBON": "Carbon",
    "CV": "CV",
    **dict.fromkeys(("DA", "DB", "DC", "DQ", "DZ"), "WD"),
}
_ANY_STAR = np.array(["A0", "F2", "F5", "F9", "G0", "G2", "K1", "K5", "M2", "M5", "L1", "WD", "CV", "Carbon"])
_GALAXIES = ("STARFORMING", "STARBURST", "AGN", "BROADLINE")


def five_fits(
    truth: Mapping[str, NDArray[Any]], significance: NDArray[Any], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Return the five best solutions of a simulated pipeline, best first.

    Drawn from a confusion model (see the module), not fitted. The probabilities are those of `_TABLE`.

    Parameters
    ----------
    truth : mapping of str to ndarray, each of shape (n_spectra,)
        TRUE_CLASS, TRUE_SUBCLASS, TRUE_Z and TRUE_BI_CIV.
    significance : ndarray, shape (n_spectra,)
        From `broadline.simulation.inspection.significance`.
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to ndarray, each of shape (n_spectra, 5)
        FIT_CLASS, FIT_SUBCLASS, FIT_Z, FIT_Z_ERR, FIT_RCHI2 (rising), FIT_DOF and FIT_ZWARNING, as in
        `broadline.simulation.pointing.COLUMNS`.
    """
    kind = np.asarray(truth["TRUE_CLASS"]).astype(str)
    subclass = np.asarray(truth["TRUE_SUBCLASS"]).astype(str)
    z = np.asarray(truth["TRUE_Z"], dtype=np.float64)
    strength = np.clip(np.asarray(significance, dtype=np.float64), 0, _BRIGHTEST)
    n = len(kind)

    best, lead = _best(kind, _case(kind, subclass, z), strength, rng)
    outcome = _places(kind, best, lead, rng)
    named = np.array(_OUTCOMES)[outcome]
    right = (outcome == _QSO) | (outcome == _GALAXY) | ((outcome == _STAR) & (kind == "STAR")[:, None])
    z_fit, z_err = _redshifts(kind, subclass, z, named, right, strength, rng)

    dof = np.repeat(_DOF + np.rint(40 * rng.standard_normal(n)).astype(np.int64)[:, None], N_FITS, axis=1)
    # Behind the second solution the others follow ever closer.
    gaps = rng.exponential(np.maximum(lead, _MARGIN_CHANCE)[:, None] * np.array([1, 0.5, 0.35, 0.25, 0.2]))
    gaps = np.maximum(gaps, 0.01)
    gaps[:, 0] = np.maximum(lead, 0.01)
    excess = 0.15 * strength / dof[:, 0] * np.exp(0.8 * rng.standard_normal(n))
    rchi2 = np.maximum(1.01 + 0.06 * rng.standard_normal(n), 0.7) + excess
    rising = np.concatenate([np.zeros((n, 1)), np.cumsum(gaps[:, :-1], axis=1)], axis=1)
    columns = {
        "FIT_CLASS": named,
        "FIT_SUBCLASS": _subclasses(named, right, z_fit, subclass, strength, rng),
        "FIT_Z": z_fit,
        "FIT_Z_ERR": z_err,
        "FIT_RCHI2": rchi2[:, None] + rising / dof,
        "FIT_DOF": dof,
        "FIT_ZWARNING": _warnings(truth, kind, subclass, named, strength, gaps / dof, rng),
    }
    return {name: values.astype(np.dtype(COLUMNS[name][0])) for name, values in columns.items()}


def _case(kind: _Words, subclass: _Words, z: _Array) -> _Int:
    """Return the row of `_TABLE` of each spectrum."""
    quasar = kind == "QSO"
    conditions = {
        "QSO, NLAGN, z < 1.2": quasar & (subclass == "NLAGN") & (z < 1.2),
        "QSO, z > 5": quasar & (z > 5),
        "QSO, 2.7 < z < 3.5": quasar & (z > 2.7) & (z < 3.5),
        "GALAXY, AGN": (kind == "GALAXY") & (subclass == "AGN"),
        "GALAXY, BROADLINE": (kind == "GALAXY") & (subclass == "BROADLINE"),
        "STAR, A F sdF": (kind == "STAR") & np.isin(subclass, ("A", "F", "sdF")),
        "STAR, M dMe WD+M CV": (kind == "STAR") & np.isin(subclass, ("M", "dMe", "WD+M", "CV")),
        **{name: kind == name for name in ("QSO", "GALAXY", "STAR", "SKY")},
    }
    rows = list(_TABLE)
    return np.asarray(np.select(list(conditions.values()), [rows.index(name) for name in conditions]))


def _draw(percent: NDArray[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> _Int:
    """Return random column numbers; percent is (..., n_columns), its columns need not add up to 100."""
    total = np.cumsum(percent, axis=-1)
    level = rng.random(shape) * total[..., -1]
    return np.asarray((total <= level[..., None]).sum(axis=-1), dtype=np.int64)


def _best(kind: _Words, case: _Int, strength: _Array, rng: np.random.Generator) -> tuple[_Int, _Array]:
    """Return the first solution, and by how much chi2 it leads."""
    n = len(kind)
    share = np.select([kind == name for name in _SHARE], list(_SHARE.values()))
    distance = share * strength * np.exp(_SHARE_SCATTER * rng.standard_normal(n))
    margin = distance + 2 * np.sqrt(distance) * rng.standard_normal(n) - _TRIALS
    always = _draw(np.array([row.always for row in _TABLE.values()])[case], rng, (n,))
    chance = _draw(np.array([row.by_chance for row in _TABLE.values()])[case], rng, (n,))
    lost = margin < 0
    misled = (np.array(_OUTCOMES)[always] != kind) | np.isin(always, (_QSO_WRONG, _GALAXY_WRONG))
    misled &= ~lost
    lead = np.where(misled, _MARGIN_CONFUSED * distance, _MARGIN_CHANCE) * rng.exponential(1, n)
    return np.where(lost, chance, always), np.where(lost | misled, lead, margin)


def _places(kind: _Words, best: _Int, lead: _Array, rng: np.random.Generator) -> _Int:
    """Return which of `_OUTCOMES` each of the five solutions is, shape (n_spectra, 5)."""
    n = len(kind)
    named = np.array(_OUTCOMES)[best]
    # A clear leader is followed by its like, an unclear one by what the object really is.
    near = np.where(lead < _SMALL * _DOF, kind, named)
    like = np.select([near == name for name in _ALTERNATES], range(len(_ALTERNATES)))
    percent = np.array(list(_ALTERNATES.values()))[like][:, None, :]
    others = np.array([_QSO_WRONG, _GALAXY_WRONG, _STAR])[_draw(percent, rng, (n, N_FITS - 1))]
    out = np.concatenate([best[:, None], others], axis=1)
    truth = np.select([kind == "QSO", kind == "GALAXY"], [_QSO, _GALAXY], _STAR)
    place = 1 + _draw(np.array([*_PLACE_OF_TRUTH, 100 - sum(_PLACE_OF_TRUTH)]), rng, (n,))
    rows = np.flatnonzero((best != truth) & (kind != "SKY") & (place < N_FITS))
    out[rows, place[rows]] = truth[rows]
    return out


def _redshifts(
    kind: _Words,
    subclass: _Words,
    z: _Array,
    named: _Words,
    right: _Bool,
    strength: _Array,
    rng: np.random.Generator,
) -> tuple[_Array, _Array]:
    """Return redshifts and their errors, shape (n_spectra, 5)."""
    shape = named.shape
    constant, missing, factor = (
        np.select([named == name for name in _Z_ERR], column) for column in zip(*_Z_ERR.values(), strict=True)
    )
    error = constant / np.sqrt(np.maximum(strength, 10))[:, None]
    error = np.maximum(error * np.exp(_Z_ERR_SCATTER * rng.standard_normal(shape)), _Z_ERR_LEAST)

    # What wrong solutions are near to: the best one, or the object, or for stars and sky nothing.
    base = np.where((kind == "STAR") | (kind == "SKY"), _unreal(subclass, rng), z)
    wrong = np.repeat(base[:, None], N_FITS, axis=1)
    first = named[:, 0] == "QSO"
    extragalactic = (kind == "QSO") | (kind == "GALAXY")
    misled = extragalactic & first & ~right[:, 0]
    wrong[misled, 0] = mistaken(base[misled], rng, _PAIRS)
    later = ((named == "QSO") & ~right)[:, 1:]
    from_best = np.where(first, wrong[:, 0], base)[:, None] + np.zeros(later.shape)
    wrong[:, 1:][later] = mistaken(from_best[later], rng, _PAIRS)
    galaxy = named == "GALAXY"
    wrong[galaxy] = rng.uniform(0.01, 1.2, int(galaxy.sum()))
    wrong = np.where(named == "STAR", 100 / SPEED_OF_LIGHT * rng.standard_normal(shape), wrong)

    width = np.minimum(np.where(right, np.hypot(missing, factor * error), 3 * error), _WIDEST)
    out = np.where(right, z[:, None], wrong)
    out += (1 + out) * width * rng.standard_normal(shape) / SPEED_OF_LIGHT
    out = np.where(named == "STAR", out, np.clip(out, *_RANGE))
    return out, error * (1 + out) / SPEED_OF_LIGHT


def _unreal(subclass: _Words, rng: np.random.Generator) -> _Array:
    """Return redshifts of quasar solutions of what has none: a Balmer break may pass for a forest."""
    forest = np.isin(subclass, ("A", "F", "sdF")) & (rng.random(len(subclass)) < 0.5)
    return np.where(forest, rng.normal(3.1, 0.25, len(subclass)), rng.uniform(0.1, 4.5, len(subclass)))


def _subclasses(
    named: _Words,
    right: _Bool,
    z: _Array,
    subclass: _Words,
    strength: _Array,
    rng: np.random.Generator,
) -> _Words:
    """Return names as the pipeline gives them, shape (n_spectra, 5)."""
    chance = rng.random(named.shape)
    out = np.where(named == "STAR", _ANY_STAR[(chance * len(_ANY_STAR)).astype(np.int64)], "").astype("U21")
    for name, given in _STARS.items():
        out[:, 0][(named[:, 0] == "STAR") & right[:, 0] & (subclass == name)] = given
    # Broad lines are measured where they are clear; near ones with narrow lines, as gas of star formation.
    broad = (named == "QSO") & (chance < 1 / (1 + 500 / np.maximum(strength, 1e-3))[:, None])
    out[broad] = "BROADLINE"
    out[broad & (z < 0.5) & (chance < 0.3)] = "STARBURST BROADLINE"
    for name in _GALAXIES:
        clear = (subclass == name) & (strength > 100)
        out[(named == "GALAXY") & right & clear[:, None]] = name
    return out


def _warnings(
    truth: Mapping[str, NDArray[Any]],
    kind: _Words,
    subclass: _Words,
    named: _Words,
    strength: _Array,
    gaps: _Array,
    rng: np.random.Generator,
) -> _Int:
    """Return ZWARNING, shape (n_spectra, 5); gaps are differences of reduced chi2 to the next solution."""
    n = len(kind)
    negative = np.where(np.asarray(truth["TRUE_BI_CIV"]) > 0, _NEGATIVE_BAL, _NEGATIVE)
    outliers = np.where(strength > _BRIGHT, _OUTLIERS_BRIGHT, _OUTLIERS)
    whole = SKY * (kind == "SKY")
    whole += LITTLE_COVERAGE * (rng.random(n) < _LITTLE)
    whole += MANY_OUTLIERS * (rng.random(n) < outliers)
    whole += UNPLUGGED * (subclass == "DEAD")
    each = SMALL_DELTA_CHI2 * (gaps < _SMALL)
    each += NEGATIVE_EMISSION * ((named == "QSO") & (rng.random(n) < negative)[:, None])
    each += Z_FITLIMIT * ((named != "STAR") & (rng.random(named.shape) < _LIMIT))
    return np.asarray(whole[:, None] + each, dtype=np.int64)
