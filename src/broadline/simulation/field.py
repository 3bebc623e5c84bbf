"""A field of a survey: its targets drawn, seen through an instrument once or twice, inspected and fitted."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.lines import LINES
from broadline.simulation.fitting import five_fits
from broadline.simulation.inspection import bal_significance, inspect, significance
from broadline.simulation.instrument import NODATA, Instrument, Observed, draw_sn
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.one_thread import one_thread
from broadline.simulation.pointing import Pointing
from broadline.simulation.recipe import SurveyRecipe
from broadline.simulation.scene import Scene
from broadline.simulation.sources import Sources, draw_classes, draw_sources

__all__ = ["observe_field"]

#: ugriz: where the bands lie, vacuum Angstrom, as boxes (the red end of z as far as spectra reach).
_BANDS = ((3000, 3900), (3900, 5400), (5600, 6900), (6900, 8200), (8300, 10300))
_RADIUS = 1.5  # degrees from the centre of a field
_SECOND_LOOK = 0.25  # scatter of ln S/N between visits: weather and exposure time
_DEPTH = 0.2  # scatter of ln brightness at a given S/N: exposures differ


def observe_field(
    archive: str,
    number: int,
    size: int,
    again: int,
    recipe: SurveyRecipe,
    seed: int,
    templates: str | Path | None = None,
) -> list[Pointing]:
    """Return the visits to a field: all of its targets, then some of them again.

    Parameters
    ----------
    archive : {"boss", "sdss", "lamost", "desi"}
    number : int
        The field's number; with `seed` it decides everything that is drawn.
    size, again : int
        Spectra of the first and of the second visit (no pointing for 0); `again` <= `size`.
    recipe : SurveyRecipe
    seed : int
    templates : path, optional
    """
    rng = np.random.default_rng([seed, number])
    instrument = INSTRUMENTS[archive]
    classes = draw_classes(recipe, size, rng)
    sources = draw_sources(recipe, classes, instrument.window, rng, templates)
    factor = np.array([recipe.sn_factor.get(name, 1.0) for name in classes])
    sn = draw_sn(size, rng, recipe.sn_median, recipe.sn_sigma, recipe.sn_highest)
    sn = np.minimum(sn * factor, recipe.sn_highest)
    sn = _through_forest(sn, sources, instrument)
    exposed = instrument.observe(sources.scene, sn, rng)
    # As bright as the noise implies; exposures differ, and dead fibres have no light.
    bright = np.exp(_DEPTH * rng.standard_normal(size)) * exposed.scale
    same = _place(number, size, rng)
    same["PSFMAG"] = _magnitudes(exposed.model, bright, instrument.wavelength, rng)
    visits = [_visit(archive, number, 0, instrument, sources, exposed, sn, bright, same, rng)]
    if again:
        rows = np.sort(rng.choice(size, again, replace=False))
        sn = np.minimum(sn[rows] * np.exp(_SECOND_LOOK * rng.standard_normal(again)), recipe.sn_highest)
        same = {name: column[rows] for name, column in same.items()}
        some = _some(sources, rows)
        exposed = instrument.observe(some.scene, sn, rng)
        visits.append(_visit(archive, number, 1, instrument, some, exposed, sn, bright[rows], same, rng))
    return visits


def _through_forest(sn: NDArray[Any], sources: Sources, instrument: Instrument) -> NDArray[np.float32]:
    """Return the median signal-to-noise ratios of spectra that would have `sn` were there no Lya forest.

    Up to z = 3 that is `sn` itself, as recipes mean the median pixel of real spectra; from z = 4 it is what
    the median pixel has when the pixels redward of Lya have a median of `sn`. If half of the pixels are in
    the forest a median of `sn` would make a quasar outshine everything.
    """
    scene, out = sources.scene, np.array(sn, dtype=np.float32)
    rows = np.flatnonzero((scene.truth["CLASS"] == "QSO") & (scene.truth["Z"] > 3))
    if len(rows):
        z, wavelength = scene.truth["Z"][rows], instrument.wavelength
        flux = instrument.smeared(replace(scene, flux=scene.flux[rows], truth={}))
        dark, electrons = _dark(instrument), instrument.table("electrons", wavelength)
        # As `Instrument.observe` has it, solved for the brightness of each pixel.
        half = 0.5 * sn[rows, None] ** 2 / electrons
        bright = (half + np.sqrt(half**2 + sn[rows, None] ** 2 * dark)) / flux
        red = wavelength > LINES["LYA"].wavelength * (1 + z)[:, None]
        source = flux * np.nanmedian(np.where(red, bright, np.nan), axis=1)[:, None]
        median = np.median(source / np.sqrt(dark + source / electrons), axis=1)
        out[rows] *= np.minimum(median / sn[rows], 1) ** np.clip(z - 3, 0, 1)
    return out


@lru_cache(maxsize=len(INSTRUMENTS))
@one_thread
def _dark(instrument: Instrument) -> NDArray[np.float64]:
    """Return the variance of a pixel of empty sky in a usual night, shape (n_pixels,)."""
    first, size = instrument.window
    nothing = Scene(first, np.zeros((64, size), dtype=np.float32), {})
    seen = instrument.perfect().observe(nothing, np.ones(64), np.random.default_rng(0))
    return np.asarray(1 / seen.ivar.mean(axis=0, dtype=np.float64))


def _place(number: int, n: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return identity and position of the targets of a field, uniform in a disk."""
    ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.08, 0.86)))
    angle, radius = rng.uniform(0, 2 * np.pi, n), _RADIUS * np.sqrt(rng.random(n))
    dec_of = dec + radius * np.sin(angle)
    return {
        "THING_ID": number * 10_000 + np.arange(1, n + 1, dtype=np.int64),
        "FIBER": np.arange(1, n + 1, dtype=np.int32),
        "RA": (ra + radius * np.cos(angle) / np.cos(np.radians(dec_of))) % 360,
        "DEC": dec_of,
    }


def _some(sources: Sources, rows: NDArray[np.int64]) -> Sources:
    """Return some of the sources, `rows` rising."""
    scene = sources.scene
    truth = {name: column[rows] for name, column in scene.truth.items()}
    kept = np.isin(sources.troughs, rows)
    troughs = np.searchsorted(rows, sources.troughs[kept])
    return Sources(replace(scene, flux=scene.flux[rows], truth=truth), troughs, sources.bare[kept])


def _visit(
    archive: str,
    number: int,
    visit: int,
    instrument: Instrument,
    sources: Sources,
    observed: Observed,
    sn: NDArray[Any],
    bright: NDArray[Any],
    same: dict[str, NDArray[Any]],
    rng: np.random.Generator,
) -> Pointing:
    """Return a pointing; `same` is what all visits have in common, `observed` is changed in place."""
    scene = sources.scene
    dead = scene.truth["SUBCLASS"] == "DEAD"
    observed.flux[dead], observed.ivar[dead] = 0, 0
    observed.and_mask[dead] |= NODATA
    truth = {f"TRUE_{name}": column for name, column in scene.truth.items()}
    seen = significance(observed.model, observed.ivar, instrument.wavelength)
    trough = np.zeros(len(sn), dtype=np.float32)
    rows = sources.troughs
    if len(rows):
        # Without the troughs, but with the same errors of flux calibration.
        bare = instrument.smeared(replace(scene, flux=sources.bare, truth={}))
        clean = instrument.smeared(replace(scene, flux=scene.flux[rows], truth={}))
        bare *= np.divide(observed.model[rows], clean, out=np.ones_like(clean), where=clean > 0)
        trough[rows] = bal_significance(
            observed.model[rows], observed.ivar[rows], instrument.wavelength, bare, truth["TRUE_Z"][rows]
        )
    _to_flux_units(observed, bright)
    empty = scene.truth["CLASS"] == "SKY"
    table: dict[str, NDArray[Any]] = {
        **same,
        **truth,
        "THING_ID": np.where(empty, -1, same["THING_ID"]),
        "SN": np.where(empty, 0, sn),
        "SIGNIFICANCE": seen,
        "BAL_SIGNIFICANCE": trough,
        **inspect(truth, seen, trough, rng, (instrument.wavelength.min(), instrument.wavelength.max())),
        **five_fits(truth, seen, rng),
    }
    return Pointing(archive, number, visit, instrument, observed, table)


def _to_flux_units(observed: Observed, bright: NDArray[Any]) -> None:
    """Bring flux and ivar to 1e-17 erg / s / cm2 / Angstrom, in place."""
    scale = bright.astype(np.float32)[:, None]
    for image in (observed.flux, observed.model):
        np.multiply(image, scale, out=image)
    np.divide(observed.ivar, scale, out=observed.ivar)
    np.divide(observed.ivar, scale, out=observed.ivar)


def _magnitudes(
    model: NDArray[np.float32],
    bright: NDArray[Any],
    wavelength: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return AB magnitudes in ugriz with photometric scatter; 0, as in the archives, where there are none."""
    out = np.zeros((len(model), len(_BANDS)), dtype=np.float32)
    for band, (low, high) in enumerate(_BANDS):
        inside = np.flatnonzero((wavelength > low) & (wavelength < high))
        if not len(inside):
            continue
        flux = model[:, inside].mean(axis=1) * bright * 1e-17  # erg / s / cm2 / Angstrom
        frequency_flux = flux * wavelength[inside].mean() ** 2 / 2.99792458e18
        shining = frequency_flux > 0
        out[shining, band] = -2.5 * np.log10(frequency_flux[shining]) - 48.6
        out[:, band] += shining * rng.normal(0, 0.03, len(model))
    return out
