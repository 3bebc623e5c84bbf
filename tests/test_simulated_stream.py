"""Instruments on coarse bins agree with the full simulation; batches for training, noise anew each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from broadline.grid import QUASARNET_LOG, Grid
from broadline.representation import Representation
from broadline.resample import binned
from broadline.simulation import coarse
from broadline.simulation.coarse import Coarse
from broadline.simulation.coarse_bins import Pixels, Variance
from broadline.simulation.instrument import Defects, Instrument, draw_sn
from broadline.simulation.instrument_curves import bases_of
from broadline.simulation.instruments import BOSS, DESI, INSTRUMENTS, LAMOST, SDSS
from broadline.simulation.scene import Scene
from broadline.simulation.stream import Batch, Library, Stream, batches, normalised
from broadline.spectra import Spectra, lattice_wavelength

EVERY = pytest.mark.parametrize("instrument", INSTRUMENTS.values(), ids=INSTRUMENTS)
SIZE = QUASARNET_LOG.size
ALL = {"boss": 0.5, "sdss": 0.2, "lamost": 0.2, "desi": 0.1}
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


@cache
def camera(instrument: Instrument) -> Coarse:
    return Coarse(instrument)


def source(wavelength: NDArray[np.float64], level: float) -> NDArray[np.float32]:
    """A blue continuum and one broad line."""
    line = 2 * np.exp(-0.5 * ((wavelength - 5000) / 60) ** 2)
    return (level * ((wavelength / 5000) ** -1.0 + line)).astype(np.float32)


def clean(n: int, level: float = 3.0) -> NDArray[np.float32]:
    return np.tile(source(QUASARNET_LOG.centres, level), (n, 1))


@cache
def seen_fine(instrument: Instrument, n: int, sn: float, level: float = 3.0, seed: int = 1) -> Pair:
    first, size = instrument.window
    scene = Scene(first, np.tile(source(lattice_wavelength(first, size), level), (n, 1)), {})
    observed = instrument.observe(scene, np.full(n, sn), np.random.default_rng(seed))
    flux, ivar, _ = binned(observed.flux, observed.ivar, instrument.wavelength, QUASARNET_LOG)
    return flux, ivar


def seen_coarse(instrument: Instrument, n: int, sn: float, level: float = 3.0, seed: int = 2) -> Pair:
    return camera(instrument).observe(clean(n, level), np.full(n, sn), rng_of(seed))


def rng_of(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def pulls(seen: Pair, level: float = 3.0) -> NDArray[np.float64]:
    flux, ivar = seen
    values = (flux - clean(len(flux), level)).astype(np.float64) * np.sqrt(ivar)
    return values[:, (ivar > 0).any(axis=0)]


def usual(ivar: NDArray[np.float32]) -> NDArray[np.float64]:
    """The median ivar of each covered bin, of spectra that have data there."""
    covered = ivar[:, (ivar > 0).any(axis=0)]
    return np.asarray(np.nanmedian(np.where(covered > 0, covered, np.nan), axis=0), dtype=np.float64)


def lag(values: NDArray[np.float64], bins: int) -> float:
    return float((values[:, bins:] * values[:, :-bins]).mean() / (values**2).mean())


# ---- coarse and fine agree


@EVERY
@pytest.mark.parametrize("sn", [0.5, 2.6, 40.0])
def test_ivar_coverage_and_signal_to_noise_are_those_of_the_full_simulation(
    instrument: Instrument, sn: float
) -> None:
    fine, rough = (see(instrument, 300, sn) for see in (seen_fine, seen_coarse))
    np.testing.assert_array_equal((fine[1] > 0).any(axis=0), (rough[1] > 0).any(axis=0))
    ratio = usual(rough[1]) / usual(fine[1])
    # Each median of 300 spectra whose ivar scatters by 0.2 is good to 0.015, and bins share that error.
    assert np.median(ratio) == pytest.approx(1, abs=0.06)
    assert np.quantile(np.abs(ratio / np.median(ratio) - 1), 0.9) < 0.06
    assert np.abs(ratio - 1).max() < 0.2
    medians = [np.median(flux * np.sqrt(ivar), axis=1) for flux, ivar in (fine, rough)]
    error = 2 * np.std(medians[0]) / np.sqrt(300)  # of the difference of such quantiles
    for part in (16, 50, 84):
        found = [np.percentile(median, part) for median in medians]
        assert found[1] == pytest.approx(found[0], abs=4 * error)
    # One lost arm is 0.002.
    empty = [(ivar[:, (ivar > 0).any(axis=0)] == 0).mean() for _, ivar in (fine, rough)]
    assert empty[1] == pytest.approx(empty[0], abs=0.007)


@EVERY
@pytest.mark.parametrize(("level", "sn"), [(0.0, 1.0), (3.0, 0.5), (3.0, 2.6)])
def test_pulls_are_those_of_the_full_simulation(instrument: Instrument, level: float, sn: float) -> None:
    fine, rough = (pulls(see(instrument, 300, sn, level), level) for see in (seen_fine, seen_coarse))
    wide = [np.diff(np.quantile(values, [0.16, 0.84]))[0] for values in (fine, rough)]
    assert wide[1] == pytest.approx(wide[0], rel=0.06)
    # Spectra are the independent samples: sky offset and grey loss move all their bins together.
    means = [values.mean(axis=1) for values in (fine, rough)]
    error = np.hypot(*(mean.std() / np.sqrt(len(mean)) for mean in means))
    assert means[1].mean() == pytest.approx(means[0].mean(), abs=4 * error)
    within = [
        (values - values.mean(axis=1, keepdims=True)).clip(-5, 5).std(axis=0) for values in (fine, rough)
    ]
    assert np.median(within[1] / within[0]) == pytest.approx(1, abs=0.07)
    assert lag(rough.clip(-5, 5), 5) == pytest.approx(lag(fine.clip(-5, 5), 5), abs=0.08)


DEFECTS: list[dict[str, float]] = [
    {"overstated": 0.3, "overstated_bright": 0.4},
    {"correlation": 0.4},
    {"ivar_level": 0.15, "ivar_shape": 0.15},
    {"sky_lines": 0.03},
    {"sky_offset": 0.1, "sky_broad": 0.2},
    {"grey_loss": 0.1, "blue_loss": 0.1},
    {"slope": 0.2, "curvature": 0.1, "ripple": 0.05},
    {"step": 0.2, "join": 0.2, "fringe": 0.1},
    {"spikes": 8.0},
    {"rejected": 15.0},
    {"missing": 2.0},
    {"ragged": 60.0},
    {"lost_arm": 0.5},
]


@pytest.mark.parametrize("only", DEFECTS, ids=lambda only: next(iter(only)))
def test_each_defect_alone_does_what_it_does_in_the_full_simulation(only: dict[str, float]) -> None:
    instrument = replace(BOSS, defects=replace(Defects().scaled(0), **only))
    fine, rough = (see(instrument, 300, 5.0) for see in (seen_fine, seen_coarse))
    figures = []
    for seen in (fine, rough):
        values, ivar = pulls(seen), seen[1] / np.median(fine[1], axis=0)
        figures.append(
            [values.std(), np.mean(np.abs(values) > 4), lag(values, 1), lag(values, 5)]
            + [np.mean(ivar < limit) for limit in (0.01, 0.5, 0.8)]
        )
    allowed = [0.08 * figures[0][0], 0.1 * figures[0][1] + 0.001, 0.05, 0.05, 0.05, 0.05, 0.05]
    if only.keys() & {"grey_loss", "slope", "step"}:  # few numbers a spectrum decide all of its pulls
        allowed[:4] = [0.2 * figures[0][0], 0.3 * figures[0][1], 0.1, 0.1]
    if "correlation" in only:
        assert figures[1][2] == pytest.approx(figures[0][2], abs=0.008)
        assert figures[1][2] > 0.012
    if "rejected" in only:
        allowed[4:] = [0.001, 0.002, 0.02]
    if "missing" in only or "ragged" in only:
        allowed[4:] = [0.005, 0.005, 0.02]
    np.testing.assert_array_less(np.abs(np.subtract(*figures)), allowed)


@EVERY
@pytest.mark.parametrize("flux", [0.0, 3.0, 30.0, 1000.0])
def test_the_variance_of_a_bin_follows_from_its_pixels_on_any_night(
    instrument: Instrument, flux: float
) -> None:
    """1 / sum(1 / variance of pixels): the closed form is within 8 % for 98 % of bins and nights."""
    pixels, bases = Pixels(instrument, QUASARNET_LOG), bases_of(instrument)
    closed = Variance(bases, pixels)
    night = np.exp(np.random.default_rng(0).normal(0, [0.2, 0.3, 0], (100, 3))).astype(np.float32)
    night[0] = 1
    fine = (night @ bases.variance + flux / bases.electrons)[:, pixels.index]
    exact = 1 / np.stack([np.bincount(pixels.bins, 1 / row, SIZE) for row in fine])[:, pixels.covered]
    part = np.full((100, SIZE), flux, dtype=np.float32) * closed.per_flux
    error = closed(night[:, :2], None, part)[:, pixels.covered] / exact - 1
    assert np.quantile(np.abs(error), 0.8) < 0.005
    assert np.quantile(np.abs(error), 0.98) < 0.08
    assert np.abs(error).max() < 0.15
    if flux == 0:
        np.testing.assert_allclose(error[0], 0, atol=1e-4)  # exact in the median night


@EVERY
@pytest.mark.parametrize(("level", "sn"), [(3.0, 0.3), (3.0, 50.0), (0.0, 1.0)])
def test_without_defects_pulls_are_standard_normal(instrument: Instrument, level: float, sn: float) -> None:
    values = pulls(seen_coarse(instrument.perfect(), 120, sn, level), level)
    n = values.size
    # Four standard errors: of the mean 1 / sqrt(n), of the variance sqrt(2 / n).
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert kstest(values[:, ::3].ravel(), "norm").pvalue > 1e-3
    for bins in (1, 5):
        assert abs(lag(values, bins)) < 4 / np.sqrt(n)
    between = values[1:] * values[:-1]
    assert abs(between.mean()) < 4 / np.sqrt(n)


def test_the_tails_of_the_noise_are_those_of_a_normal_distribution() -> None:
    (draws,) = coarse._normal(rng_of(3), (1000, 1001))
    assert draws.shape == (1000, 1001)
    for limit, share in ((3, 2.70e-3), (4, 6.33e-5)):
        expected = share * draws.size
        assert abs((np.abs(draws) > limit).sum() - expected) < 4 * np.sqrt(expected)
    assert abs((draws**4).mean() - 3) < 4 * np.sqrt(96 / draws.size)


@pytest.mark.parametrize("instrument", [BOSS, DESI], ids=lambda i: i.name)
def test_a_lost_arm_leaves_the_bins_of_the_others(instrument: Instrument) -> None:
    only = replace(Defects().scaled(0), lost_arm=1.0)
    _, ivar = Coarse(replace(instrument, defects=only)).observe(clean(40), np.ones(40), rng_of(1))
    expected = []
    for lost in instrument.slices.values():
        left = np.ones(len(instrument.wavelength), dtype=bool)
        left[lost] = False
        bins = QUASARNET_LOG.bins(instrument.wavelength[left])
        expected.append(np.isin(np.arange(SIZE), bins))
    found = np.unique(ivar > 0, axis=0)
    np.testing.assert_array_equal(found, np.unique(expected, axis=0))


def test_pixels_lost_in_a_bin_make_it_noisier_by_as_much_as_ivar_says() -> None:
    only = replace(Defects().scaled(0), rejected=800.0)
    values = pulls(seen_coarse(replace(BOSS, defects=only), 300, 2.0))
    assert values.std() == pytest.approx(1, abs=0.01)


def test_another_grid_is_served_too() -> None:
    grid = Grid("linear", 3600.0, 13.6, 458)
    flux, ivar = Coarse(DESI, grid).observe(np.ones((5, 458)), np.ones(5), rng_of(1))
    assert flux.shape == ivar.shape == (5, 458)
    assert (ivar > 0).mean() > 0.9


def test_a_grid_beyond_the_instrument_is_refused() -> None:
    with pytest.raises(ValueError, match="no pixel of sdss falls on the grid"):
        Coarse(SDSS, Grid("linear", 20000.0, 10.0, 5))


@pytest.mark.parametrize("sn", [np.ones(2), np.zeros(3), np.array([1, np.nan, 1])])
def test_impossible_signal_to_noise_is_refused(sn: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="sn must be 3 positive numbers"):
        camera(BOSS).observe(clean(3), sn, rng_of(0))


def test_spectra_on_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clean spectra have 443 bins; the array's shape is \(2, 400\)"):
        camera(BOSS).observe(np.ones((2, 400)), np.ones(2), rng_of(0))


def test_no_spectra_in_no_spectra_out() -> None:
    flux, ivar = camera(BOSS).observe(clean(0), np.ones(0), rng_of(0))
    assert flux.shape == ivar.shape == (0, SIZE)


def test_the_unit_of_flux_does_not_matter() -> None:
    """But for sky fibres; sn says how bright the source is."""
    one = camera(LAMOST).observe(clean(20, 1.0), np.full(20, 3.0), rng_of(4))
    other = camera(LAMOST).observe(clean(20, 1024.0), np.full(20, 3.0), rng_of(4))
    np.testing.assert_allclose(other[0], 1024 * one[0], rtol=1e-3, atol=1e-1)
    np.testing.assert_allclose(other[1] * 1024**2, one[1], rtol=1e-3)


# ---- normalisation


@EVERY
def test_values_are_those_of_the_representation(instrument: Instrument) -> None:
    n = 200
    sn = draw_sn(n, np.random.default_rng(1))
    flux, ivar = camera(instrument).observe(clean(n), sn, rng_of(5))
    wavelength = QUASARNET_LOG.centres
    ids: dict[str, NDArray[Any]] = {}
    expected = Representation()(Spectra(wavelength, flux, ivar, ids, np.zeros(n, dtype=np.uint32)))
    seen = camera(instrument).expose(clean(n), sn, rng_of(5))
    values, error = np.empty((2, n, SIZE), dtype=np.float32)
    normalised(seen, values, error)
    np.testing.assert_array_equal(seen.data, expected.data)
    np.testing.assert_allclose(values, expected.values, rtol=1e-4, atol=2e-4)
    # A unit of the values is the weighted rms of the flux.
    weight = ivar.astype(np.float64) / ivar.sum(axis=1, keepdims=True)
    mean = (flux * weight).sum(axis=1, keepdims=True)
    rms = np.sqrt((np.square(flux - mean) * weight).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(error, np.sqrt(ivar) * rms, rtol=1e-3)


# ---- libraries and epochs


def library(n: int, dtype: Any = np.float16) -> Library:
    return Library(clean(n).astype(dtype), {"CLASS": np.full(n, "QSO")})


def epoch(seed: int, **options: Any) -> list[Batch]:
    return list(batches(library(230), ALL, 64, rng_of(seed), **options))


def test_an_epoch_visits_every_spectrum_once_in_random_order() -> None:
    first, second = (np.concatenate([batch.rows for batch in epoch(seed)]) for seed in (1, 2))
    np.testing.assert_array_equal(np.sort(first), np.arange(230))
    assert not np.array_equal(first, np.arange(230))
    assert not np.array_equal(first, second)
    assert [len(batch.rows) for batch in epoch(1)] == [64, 64, 64, 38]


def test_the_seed_decides_everything() -> None:
    for one, same in zip(epoch(7), epoch(7), strict=True):
        for left, right in zip(one, same, strict=True):
            np.testing.assert_array_equal(left, right)


def test_noise_is_new_at_every_visit() -> None:
    rng, spectra = rng_of(1), library(10)
    visits = [next(batches(spectra, {"boss": 1.0}, 10, rng)) for _ in range(2)]
    one, two = (visit.values[np.argsort(visit.rows)] for visit in visits)
    assert np.mean(one == two) < 0.1


def test_batches_have_the_types_and_zeros_that_they_promise() -> None:
    for batch in epoch(3):
        assert (batch.values.dtype, batch.error.dtype, batch.data.dtype) == (np.float32, np.float32, np.bool_)
        assert batch.values.shape == batch.error.shape == batch.data.shape == (len(batch.rows), SIZE)
        np.testing.assert_array_equal(batch.error > 0, batch.data)
        assert (batch.values[~batch.data] == 0).all()


def test_instruments_have_their_shares() -> None:
    """Only BOSS and SDSS here: SDSS has no bins below 3800 Angstrom."""
    shares = {"boss": 3.0, "sdss": 1.0}
    seen = np.concatenate([batch.data for batch in batches(library(2000), shares, 500, rng_of(1))])
    sdss = ~seen[:, 5:15].any(axis=1)
    assert sdss.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 2000))


def test_signal_to_noise_may_depend_on_the_row() -> None:
    def by_row(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        return 1.0 + 0.01 * rows

    for batch in epoch(1, draw_sn=by_row):
        np.testing.assert_allclose(batch.sn, 1 + 0.01 * batch.rows, rtol=1e-6)


def test_the_error_channel_says_how_noisy_the_values_are() -> None:
    spectra = Library(clean(1000), {})
    (batch,) = batches(spectra, {"boss": 1.0}, 1000, rng_of(1), lambda rows, rng: np.full(len(rows), 20.0))
    smooth = 0.5 * (batch.values[:, 300:399] + batch.values[:, 302:401])
    chi = (batch.values[:, 301:400] - smooth) * batch.error[:, 301:400] / np.sqrt(1.5)
    # Pipelines overstate their errors by 17 % and more, sky lines leave residuals.
    assert 0.6 < np.median(np.abs(chi[batch.data[:, 301:400]])) / 0.6745 < 1.1


@EVERY
def test_a_sky_fibre_is_noise_and_residuals_around_zero(instrument: Instrument) -> None:
    spectra = Library(np.zeros((300, SIZE), dtype=np.float16), {})
    (batch,) = batches(spectra, {instrument.name: 1.0}, 300, rng_of(1))
    assert np.isfinite(batch.values).all()
    pull = batch.values * batch.error
    assert abs(np.median(pull)) < 0.1
    assert 0.9 < np.diff(np.quantile(pull[batch.data], [0.16, 0.84]))[0] / 2 < 1.5


@settings(max_examples=30)
@given(
    levels=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32)
        | st.sampled_from([0.0, 1e-45, -1e-30, 1.0, 3e38]),
        min_size=3,
        max_size=3,
    ),
    name=st.sampled_from(sorted(INSTRUMENTS)),
    sn=st.floats(0.01, 1000),
    seed=st.integers(0, 2**32 - 1),
)
def test_batches_are_finite_whatever_the_fluxes(levels: list[float], name: str, sn: float, seed: int) -> None:
    shape = np.random.default_rng(seed).integers(0, 3, (4, SIZE))
    shape[0] = 0  # a flat one
    spectra = Library(np.array(levels, dtype=np.float32)[shape], {})
    (batch,) = batches(spectra, {name: 1.0}, 4, rng_of(seed), lambda rows, rng: np.full(len(rows), sn))
    assert np.isfinite(batch.values).all()
    assert np.isfinite(batch.error).all()
    assert (batch.error >= 0).all()


def test_impossible_libraries_are_refused() -> None:
    with pytest.raises(ValueError, match="spectra of 443 bins"):
        Library(np.ones((2, 442), dtype=np.float32), {})
    with pytest.raises(ValueError, match="float32 or float16, not float64"):
        Library(np.ones((2, SIZE)), {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="column Z has 3 rows, the library 2 spectra"):
        Library(np.ones((2, SIZE), dtype=np.float32), {"Z": np.ones(3)})
    broken = np.ones((40_000, SIZE), dtype=np.float16)
    broken[33_333, 7] = np.inf
    with pytest.raises(ValueError, match="spectrum 33333 of the library is not finite"):
        Library(broken, {})


@pytest.mark.parametrize(
    ("instruments", "batch", "message"),
    [
        ({"hubble": 1.0}, 8, "no instrument 'hubble'; there are boss, sdss, lamost, desi"),
        ({"boss": 0.0}, 8, "shares must be >= 0 and not all 0"),
        ({"boss": -1.0, "sdss": 2.0}, 8, "shares must be >= 0"),
        ({}, 8, "shares must be >= 0"),
        ({"boss": 1.0}, 0, "at least one spectrum, not 0"),
    ],
)
def test_impossible_epochs_are_refused_at_once(
    instruments: dict[str, float], batch: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        batches(library(3), instruments, batch, rng_of(1))


# ---- preparing ahead


def test_a_stream_gives_the_same_batches_in_the_same_order() -> None:
    with Stream(batches(library(230), ALL, 64, rng_of(7))) as stream:
        ahead = list(stream)
    for one, same in zip(epoch(7), ahead, strict=True):
        for left, right in zip(one, same, strict=True):
            np.testing.assert_array_equal(left, right)
    assert list(stream) == []


def test_a_stream_prepares_while_nobody_asks_and_no_more_than_it_may() -> None:
    made = []

    def slowly() -> Iterator[Batch]:
        for batch in epoch(1) * 3:
            made.append(batch)
            yield batch

    with Stream(slowly(), ahead=2) as stream:
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 3  # two wait, one is in hand
        next(stream)


def test_an_error_of_the_source_is_raised_where_its_batch_was_due() -> None:
    def broken() -> Iterator[Batch]:
        yield epoch(1)[0]
        raise RuntimeError("no more light")

    stream = Stream(broken())
    next(stream)
    with pytest.raises(RuntimeError, match="no more light"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_left_early_ends_its_thread() -> None:
    def endless() -> Iterator[Batch]:
        while True:
            yield epoch(1)[0]

    def running() -> int:
        return sum(thread.name == "broadline-stream" for thread in threading.enumerate())

    before = running()
    with Stream(endless()) as stream:
        next(stream)
    assert running() == before
    forgotten = Stream(endless())
    assert running() == before + 1
    del forgotten
    deadline = time.monotonic() + 5
    while running() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running() == before


def test_a_stream_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch must be prepared ahead, not 0"):
        Stream(iter([]), ahead=0)
