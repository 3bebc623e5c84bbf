"""Sources of a survey: noise-free spectra of given classes, as they reach the telescope."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.decision import SPEED_OF_LIGHT
from broadline.simulation import galaxy, quasar, star
from broadline.simulation.absorption import absorb
from broadline.simulation.broad_absorption import bals
from broadline.simulation.quasar_templates import QuasarTemplates
from broadline.simulation.recipe import SurveyRecipe, draw_redshifts
from broadline.simulation.scene import Scene, redshifted, snap
from broadline.spectra import lattice_wavelength

__all__ = ["Sources", "draw_classes", "draw_sources"]

_BAL_FROM = 1.35  # redshift from which CIV troughs come into view at 3600 Angstrom
_LYA = 1215.67  # Angstrom, vacuum
#: Least flux, in units of the level, of what shines: where the forest lets nothing through there is still a
#: median to which a signal-to-noise ratio can refer, and no noise in which that little would be seen.
_LEAST = np.float32(1e-3)
_TRUTH = {"CLASS": "<U6", "SUBCLASS": "<U21", "Z": "f8", "BI_CIV": "f4", "AI_CIV": "f4", "LOBAL": "?"}


class Sources(NamedTuple):
    """Noise-free spectra, and what those with broad absorption would look like without it.

    Attributes
    ----------
    scene : Scene
        Mean flux 1 (of quasars, redward of Lya) but for sky and dead fibres, which are 0. Truth: CLASS,
        SUBCLASS, Z, BI_CIV, AI_CIV (km/s), LOBAL.
    troughs : ndarray of int64, shape (n_troughs,)
        Rows with absorption troughs.
    bare : ndarray of float32, shape (n_troughs, n_pixels)
        Their flux without the troughs.
    """

    scene: Scene
    troughs: NDArray[np.int64]
    bare: NDArray[np.float32]


def draw_classes(recipe: SurveyRecipe, n: int, rng: np.random.Generator) -> NDArray[np.str_]:
    """Return what `n` fibres point at: QSO, STAR, GALAXY, SKY or DEAD."""
    on_target = max(0.0, 1 - recipe.sky - recipe.dead)
    shares = {name: share * on_target for name, share in recipe.mix.items()}
    shares |= {"SKY": recipe.sky, "DEAD": recipe.dead}
    share = np.array(list(shares.values()))
    return np.array(list(shares))[rng.choice(len(share), size=n, p=share / share.sum())]


def draw_sources(
    recipe: SurveyRecipe,
    classes: NDArray[np.str_],
    window: tuple[int, int],
    rng: np.random.Generator,
    templates: str | Path | None = None,
    z: NDArray[np.float64] | None = None,
) -> Sources:
    """Return sources of the given classes, drawn by the recipe.

    Parameters
    ----------
    recipe : SurveyRecipe
    classes : ndarray of str, shape (n_spectra,)
        From `draw_classes`.
    window : (int, int)
        Lattice index of the first pixel and number of pixels.
    rng : numpy.random.Generator
    templates : path, optional
        Templates folder; physics and published tables alone if not given.
    z : ndarray of float64, shape (n_spectra,), optional
        Redshifts of the quasars and galaxies; drawn by the recipe if not given.
    """
    n = len(classes)
    z = np.full(n, np.nan) if z is None else z
    flux = np.zeros((n, window[1]), dtype=np.float32)
    truth: dict[str, NDArray[Any]] = {name: np.zeros(n, dtype=code) for name, code in _TRUTH.items()}
    truth["CLASS"][:] = np.where(classes == "DEAD", "SKY", classes)
    truth["SUBCLASS"][:] = np.where(np.isin(classes, ("SKY", "DEAD")), classes, "")
    for name in ("STAR", "GALAXY"):
        rows = np.flatnonzero(classes == name)
        if not len(rows):
            continue
        if name == "STAR":
            rest = star.draw(len(rows), rng, templates, recipe.stars)
            moved, shift = snap(star.radial_velocity(len(rows), rng) / SPEED_OF_LIGHT)
        else:
            moved, shift = snap(_redshifts(recipe, name, z[rows], rng))
            rest = galaxy.draw(len(rows), moved, rng, templates)
        flux[rows] = redshifted(rest, shift, *window)[0]
        truth["Z"][rows], truth["SUBCLASS"][rows] = moved, rest.truth["SUBCLASS"]
    rows = np.flatnonzero(classes == "QSO")
    wanted = _redshifts(recipe, "QSO", z[rows], rng)
    flux[rows], found, broad = _quasars(recipe, wanted, window, rng, templates)
    for key, column in found.items():
        truth[key][rows] = column
    flux /= _levels(flux, truth, window)
    troughs = np.flatnonzero(broad.min(axis=1, initial=1) < 1)
    lines = broad[troughs]
    troughs = rows[troughs]
    bare = flux[troughs] / lines
    shining = truth["CLASS"] != "SKY"
    for image, lit in ((flux, shining), (bare, np.ones(len(bare), dtype=bool))):
        np.maximum(image, _LEAST, out=image, where=lit[:, None])
    return Sources(Scene(window[0], flux, truth), troughs, bare)


def _levels(
    flux: NDArray[np.float32], truth: dict[str, NDArray[Any]], window: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the mean of each spectrum, of quasars redward of Lya; 1 for those that are 0. Shape (n, 1)."""
    # Lya has left no spectrograph at the highest redshift of a recipe.
    edge = np.where(truth["CLASS"] == "QSO", _LYA * (1 + truth["Z"]), 0)
    counted = lattice_wavelength(*window) > edge[:, None]
    level = np.einsum("ij,ij->i", flux, counted, dtype=np.float32) / counted.sum(axis=1)
    return np.asarray(np.where(level > 0, level, 1)[:, None], dtype=np.float32)


def _redshifts(
    recipe: SurveyRecipe, name: str, given: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    drawn = draw_redshifts(recipe.redshifts[name], len(given), rng)
    return np.where(np.isnan(given), drawn, given)


def _quasars(
    recipe: SurveyRecipe,
    wanted: NDArray[np.float64],
    window: tuple[int, int],
    rng: np.random.Generator,
    templates: str | Path | None,
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Return flux, truth and the transmission of broad absorption, shape (n, n_pixels)."""
    z, shift = snap(wanted)
    pool = _templates(str(templates)) if templates is not None and len(z) else None
    rest = quasar.draw(len(z), z, rng, pool, recipe.narrow_line, recipe.displaced)
    flux, _ = redshifted(rest, shift, *window)
    flux *= absorb(*window, z, rng, rest.truth["HAS_FOREST"].astype(bool), 0.0)[0]
    able = (z > _BAL_FROM) & (rest.truth["SUBCLASS"] != "NLAGN")
    broad, troughs = bals(*window, z, rng, recipe.bal * able)
    # A trough that is black to the last digit would leave nothing to divide by.
    np.maximum(broad, np.float32(1e-3), out=broad)
    flux *= broad
    truth = {"Z": z, "SUBCLASS": rest.truth["SUBCLASS"]}
    return flux, truth | {name: troughs[name] for name in ("BI_CIV", "AI_CIV", "LOBAL")}, broad


_POOLS: dict[str, QuasarTemplates] = {}


def _templates(folder: str) -> QuasarTemplates:
    if folder not in _POOLS:
        _POOLS[folder] = QuasarTemplates(Path(folder))
    return _POOLS[folder]
