"""The instruments: grids, resolution, noise that ivar describes, and artefacts that can be switched off."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from broadline.simulation.instrument import (
    COMBINEREJ,
    NODATA,
    Defects,
    Instrument,
    Observed,
    draw_sn,
)
from broadline.simulation.instruments import BOSS, DESI, INSTRUMENTS, LAMOST, SDSS
from broadline.simulation.scene import Scene
from broadline.simulation.sky_lines import SKY_LINES
from broadline.spectra import LATTICE_STEP, lattice_wavelength

EVERY = pytest.mark.parametrize("instrument", INSTRUMENTS.values(), ids=INSTRUMENTS)


def sloped(instrument: Instrument, n: int, level: float = 3.0) -> Scene:
    """Quasar-like scenes: a blue continuum and one broad line."""
    first, size = instrument.window
    wavelength = lattice_wavelength(first, size)
    line = 2 * np.exp(-0.5 * ((wavelength - 5000) / 60) ** 2)
    flux = level * ((wavelength / 5000) ** -1.0 + line)
    return Scene(first, np.tile(flux.astype(np.float32), (n, 1)), {})


def dark(instrument: Instrument, n: int) -> Scene:
    first, size = instrument.window
    return Scene(first, np.zeros((n, size), dtype=np.float32), {})


def look(instrument: Instrument, scene: Scene, sn: float = 2.0, seed: int = 1) -> Observed:
    return instrument.observe(scene, np.full(len(scene.flux), sn), np.random.default_rng(seed))


def chi(observed: Observed) -> NDArray[np.float64]:
    return ((observed.flux - observed.model) * np.sqrt(observed.ivar)).astype(np.float64)


# ---- noise and ivar


@EVERY
@pytest.mark.parametrize("sn", [0.3, 2.6, 60.0])
def test_without_defects_residuals_over_sigma_are_standard_normal(instrument: Instrument, sn: float) -> None:
    values = chi(look(instrument.perfect(), sloped(instrument, 40), sn))
    n = values.size
    # Four standard errors: of the mean 1 / sqrt(n), of the variance sqrt(2 / n).
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert kstest(values[:, ::7].ravel(), "norm").pvalue > 1e-3
    neighbours = (values[:, 1:] * values[:, :-1]).mean()
    assert abs(neighbours) < 4 / np.sqrt(n)


def test_sky_fibres_without_defects_are_standard_normal_too() -> None:
    values = chi(look(SDSS.perfect(), dark(SDSS, 40)))
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / values.size)


@settings(max_examples=15)
@given(
    name=st.sampled_from(sorted(INSTRUMENTS)),
    sn=st.floats(0.05, 200),
    level=st.floats(1e-3, 1e4),
    factor=st.floats(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_flux_and_ivar_are_finite_whatever_is_asked(
    name: str, sn: float, level: float, factor: float, seed: int
) -> None:
    instrument = INSTRUMENTS[name]
    instrument = replace(instrument, defects=instrument.defects.scaled(factor))
    observed = look(instrument, sloped(instrument, 3, level), sn, seed)
    for values in (observed.flux, observed.ivar, observed.model, observed.sky, observed.wdisp):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert (observed.ivar >= 0).all()
    assert observed.and_mask.dtype == np.int32


@EVERY
@pytest.mark.parametrize("sn", [0.5, 2.6, 40.0])
def test_the_median_signal_to_noise_is_the_one_asked(instrument: Instrument, sn: float) -> None:
    observed = look(instrument.perfect(), sloped(instrument, 20), sn)
    found = np.median(observed.model * np.sqrt(observed.ivar), axis=1)
    np.testing.assert_allclose(found, sn, rtol=0.05)


def test_with_defects_it_is_so_but_for_the_errors_of_ivar() -> None:
    observed = look(BOSS, sloped(BOSS, 200), 2.6)
    signal = np.where(observed.ivar > 0, observed.model * np.sqrt(observed.ivar), np.nan)
    assert np.median(np.nanmedian(signal, axis=1)) == pytest.approx(2.6, rel=0.05)


def test_a_bright_source_adds_its_own_photons_to_the_noise() -> None:
    """At S/N 0.5 the variance follows the sky; at S/N 60 it rises where the source has a line."""
    scene, instrument = sloped(BOSS, 1), replace(BOSS.perfect(), shape_scatter=0.0)
    line, beside = (np.searchsorted(BOSS.wavelength, at) for at in (5000, 5300))
    ratio = {}
    for sn in (0.5, 60.0):
        ivar = look(instrument, scene, sn).ivar[0]
        ratio[sn] = ivar[beside] / ivar[line]
    assert ratio[0.5] < 1.2
    assert ratio[60.0] > 2


def test_sky_lines_are_where_ivar_is_low() -> None:
    observed = look(BOSS.perfect(), dark(BOSS, 1))
    at = np.searchsorted(BOSS.wavelength, max((s, w) for w, s in SKY_LINES if w < 9000)[1])
    assert observed.ivar[0, at] < 0.3 * np.median(observed.ivar[0, at - 300 : at + 300])
    assert observed.sky[0, at] > 5 * np.median(observed.sky[0])


# ---- resolution and grid


@pytest.mark.parametrize("instrument", [BOSS, SDSS, LAMOST], ids=lambda i: i.name)
@pytest.mark.parametrize("wavelength", [4200.0, 5500.0, 6800.0, 8700.0])
def test_a_delta_function_is_broadened_to_wdisp(instrument: Instrument, wavelength: float) -> None:
    first, size = instrument.window
    flux = np.zeros((1, size), dtype=np.float32)
    flux[0, round(np.log10(wavelength) / LATTICE_STEP) - first] = 1
    seen = instrument.smeared(Scene(first, flux, {}))[0].astype(np.float64)
    pixel = np.arange(len(seen))
    mean = np.average(pixel, weights=seen)
    width = np.sqrt(np.average((pixel - mean) ** 2, weights=seen))
    assert seen.sum() == pytest.approx(1, rel=0.02)
    assert width == pytest.approx(float(instrument.table("wdisp", wavelength)), rel=0.03)
    assert instrument.wavelength[round(mean)] == pytest.approx(wavelength, rel=LATTICE_STEP * 2.4)


@EVERY
def test_a_flat_spectrum_stays_flat(instrument: Instrument) -> None:
    first, size = instrument.window
    seen = instrument.smeared(Scene(first, np.ones((2, size), dtype=np.float32), {}))
    np.testing.assert_allclose(seen, 1, rtol=1e-5)


@pytest.mark.parametrize("instrument", [BOSS, SDSS, LAMOST], ids=lambda i: i.name)
def test_sdss_and_lamost_pixels_lie_on_the_lattice(instrument: Instrument) -> None:
    position = np.log10(instrument.wavelength) / LATTICE_STEP
    np.testing.assert_allclose(position, np.rint(position), atol=1e-6)
    np.testing.assert_allclose(np.diff(position), 1, atol=1e-6)


def test_desi_has_the_three_cameras_of_its_coadds() -> None:
    parts = {name: DESI.wavelength[pixels] for name, pixels in DESI.slices.items()}
    assert {name: len(part) for name, part in parts.items()} == {"b": 2751, "r": 2326, "z": 2881}
    for name, ends in {"b": (3600, 5800), "r": (5760, 7620), "z": (7520, 9824)}.items():
        np.testing.assert_allclose(parts[name][[0, -1]], ends)
        np.testing.assert_allclose(np.diff(parts[name]), 0.8)


@pytest.mark.parametrize(("instrument", "join"), [(BOSS, 6000), (SDSS, 6000), (LAMOST, 5900)])
def test_arms_meet_where_they_should(instrument: Instrument, join: float) -> None:
    blue, red = instrument.slices["blue"], instrument.slices["red"]
    assert blue.start == 0
    assert blue.stop == red.start
    assert red.stop == len(instrument.wavelength)
    assert instrument.wavelength[red.start] == pytest.approx(join, abs=1.5)


# ---- defects


def test_scaled_by_zero_there_are_no_defects() -> None:
    none = Defects().scaled(0)
    assert all(getattr(none, each.name) == 0 for each in fields(Defects))
    assert BOSS.perfect().defects == none
    with pytest.raises(ValueError, match="factor must be >= 0, not -1"):
        Defects().scaled(-1)


@pytest.mark.parametrize("name", [each.name for each in fields(Defects)])
def test_each_defect_alone_changes_what_is_observed(name: str) -> None:
    large = {"spikes": 5.0, "missing": 5.0, "rejected": 5.0, "ragged": 15.0}.get(name, 0.5)
    scene = sloped(BOSS, 20)
    only = look(replace(BOSS, defects=replace(Defects().scaled(0), **{name: large})), scene)
    none = look(BOSS.perfect(), scene)
    assert not (np.array_equal(only.flux, none.flux) and np.array_equal(only.ivar, none.ivar))


def test_masked_pixels_have_ivar_zero_and_a_bit() -> None:
    defects = replace(BOSS.defects, rejected=20.0, missing=3.0, lost_arm=0.2)
    observed = look(replace(BOSS, defects=defects), sloped(BOSS, 30))
    np.testing.assert_array_equal(observed.ivar == 0, observed.and_mask != 0)
    assert set(np.unique(observed.and_mask & ~(NODATA | COMBINEREJ))) == {0}
    assert (observed.and_mask & COMBINEREJ).any()
    assert (observed.flux[(observed.and_mask & NODATA) != 0] == 0).all()
    assert COMBINEREJ == 2**25


@EVERY
def test_a_lost_arm_loses_exactly_that_arm(instrument: Instrument) -> None:
    defects = replace(Defects().scaled(0), lost_arm=1.0)
    observed = look(replace(instrument, defects=defects), sloped(instrument, 20))
    lost = observed.ivar == 0
    arms = [np.zeros(lost.shape[1], dtype=bool) for _ in instrument.arms]
    for arm, pixels in zip(arms, instrument.slices.values(), strict=True):
        arm[pixels] = True
    assert all(any((row == arm).all() for arm in arms) for row in lost)


def test_sky_residuals_are_correlated_over_many_bins_as_real_ones() -> None:
    """Real SDSS sky fibres: 0.10 at a lag of 5 bins of 1e-3 dex, means subtracted; naive noise has 0."""
    found = {}
    for name, instrument in {"real": SDSS, "naive": SDSS.perfect()}.items():
        observed = look(instrument, dark(SDSS, 150))
        n = observed.flux.shape[1] // 10 * 10
        weight = observed.ivar[:, :n].reshape(len(observed.ivar), -1, 10)
        total = (observed.flux[:, :n].reshape(weight.shape) * weight).sum(axis=2)
        pull = total / np.sqrt(np.maximum(weight.sum(axis=2), 1e-9))
        pull = np.clip(pull - pull.mean(axis=1, keepdims=True), -5, 5)
        found[name] = (pull[:, 5:] * pull[:, :-5]).mean() / (pull**2).mean()
    assert found["real"] == pytest.approx(0.10, abs=0.04)
    assert abs(found["naive"]) < 0.015


# ---- law and order


@EVERY
def test_the_seed_decides_everything(instrument: Instrument) -> None:
    scene = sloped(instrument, 5)
    one, same, other = (look(instrument, scene, 2.0, seed) for seed in (7, 7, 8))
    for name in ("flux", "ivar", "and_mask", "sky", "model"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.flux, other.flux)


@EVERY
def test_no_spectra_in_no_spectra_out(instrument: Instrument) -> None:
    observed = look(instrument, sloped(instrument, 0))
    assert observed.flux.shape == (0, len(instrument.wavelength))


def test_the_scene_is_left_as_it_was() -> None:
    scene = sloped(BOSS, 3)
    before = scene.flux.copy()
    look(BOSS, scene)
    np.testing.assert_array_equal(scene.flux, before)


def test_a_scene_that_is_too_short_is_refused_with_what_is_needed() -> None:
    first, size = BOSS.window
    short = Scene(first + 50, np.ones((1, size - 50), dtype=np.float32), {})
    with pytest.raises(ValueError, match=f"boss needs {first} to {first + size - 1}"):
        look(BOSS, short)


@pytest.mark.parametrize("sn", [np.ones(2), np.zeros(3), np.array([1, np.nan, 1])])
def test_impossible_signal_to_noise_is_refused(sn: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="sn must be 3 positive numbers"):
        BOSS.observe(sloped(BOSS, 3), sn, np.random.default_rng(0))


def test_signal_to_noise_is_drawn_as_in_a_sample_of_quasar_targets() -> None:
    sn = draw_sn(100_000, np.random.default_rng(1))
    assert np.median(sn) == pytest.approx(2.6, rel=0.02)
    assert np.log(sn).std() == pytest.approx(0.9, rel=0.02)
    assert 30 < sn.max() <= 60
