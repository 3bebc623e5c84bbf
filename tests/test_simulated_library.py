"""Libraries of clean spectra: the same for any number of workers, with labels as inspectors give them."""

from __future__ import annotations

import numpy as np

from broadline.grid import QUASARNET_LOG
from broadline.resample import binned
from broadline.simulation.inspection import bal_significance, significance
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.library import TRAINING, build_library, training_redshifts
from broadline.simulation.sources import draw_sources
from broadline.simulation.stream import Library, batches


def test_a_library_is_the_same_for_one_worker_and_for_two() -> None:
    alone, together = (build_library(2100, seed=3, workers=n) for n in (1, 2))
    assert len(alone) == 2100 and len(alone.troughs) > 50
    assert np.array_equal(alone.flux, together.flux)
    assert np.array_equal(alone.troughs, together.troughs)
    assert all(np.array_equal(alone.truth[name], together.truth[name]) for name in alone.truth)
    other = build_library(100, seed=4, workers=1)
    assert not np.array_equal(other.flux, alone.flux[:100])


def test_six_of_ten_quasars_are_spread_evenly_and_only_quasars_are() -> None:
    classes = np.repeat(["QSO", "STAR"], 4000)
    z = training_redshifts(classes, np.random.default_rng(0))
    assert np.isnan(z[4000:]).all()
    given = np.isfinite(z[:4000])
    assert abs(given.mean() - 0.6) < 0.03
    assert z[:4000][given].min() >= 0.01 and z[:4000][given].max() <= 5.2
    assert np.mean(z[:4000][given] < 1) > 0.3  # near ones come in plenty


def test_significance_on_bins_is_that_of_an_inspector_on_pixels() -> None:
    boss, rng = INSTRUMENTS["boss"].perfect(), np.random.default_rng(5)
    n = 300
    sources = draw_sources(TRAINING, np.full(n, "QSO"), boss.window, rng, z=rng.uniform(1.7, 3.0, n))
    seen = boss.observe(sources.scene, np.full(n, 3.0), rng)
    fine = significance(seen.model, seen.ivar, boss.wavelength)

    def on_bins(flux: np.ndarray) -> np.ndarray:
        return binned(flux, np.ones_like(flux), sources.scene.wavelength, QUASARNET_LOG)[0].astype(np.float32)

    library = Library(
        on_bins(sources.scene.flux), sources.scene.truth, sources.troughs, on_bins(sources.bare)
    )
    (batch,) = batches(library, {"boss": 1.0}, n, rng, lambda rows, _: np.full(len(rows), 3.0))
    coarse = np.empty(n)
    coarse[batch.rows] = batch.significance
    ratio = coarse / fine
    assert 0.85 < np.median(ratio) < 1.15
    assert np.percentile(np.abs(np.log(ratio)), 90) < np.log(1.8)  # another night, and other mistakes
    rows = sources.troughs
    bare = boss.smeared(type(sources.scene)(sources.scene.first, sources.bare, {}))
    z = sources.scene.truth["Z"][rows]
    deep = bal_significance(seen.model[rows], seen.ivar[rows], boss.wavelength, bare, z)
    trough = np.zeros(n)
    trough[batch.rows] = batch.bal_significance
    strong = deep > 60
    assert strong.sum() > 15
    assert 0.7 < np.median(trough[rows][strong] / deep[strong]) < 1.4
    assert (trough[np.setdiff1d(np.arange(n), rows)] == 0).all()
