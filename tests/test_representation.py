"""Representation: the golden input of the published code, empty bins, flags, and invariances."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import broadline
from broadline.flags import Flag
from broadline.grid import QUASARNET_LINEAR, TRANSFER_LOG
from broadline.representation import Representation
from broadline.spectra import Spectra, identity, lattice_wavelength


def batch(flux: np.ndarray, ivar: np.ndarray, first: int = 35600) -> Spectra:
    flux, ivar = np.atleast_2d(flux).astype(np.float32), np.atleast_2d(ivar).astype(np.float32)
    ids = identity("test", ["x"] * len(flux))
    return Spectra(lattice_wavelength(first, flux.shape[1]), flux, ivar, ids, np.zeros(len(flux), np.uint32))


def test_real_spectra_are_represented_as_by_the_published_code(golden: Path) -> None:
    """coadd_x.npy: 24 of the 25 spectra of test_coadd.fits; the other has no data and was dropped."""
    (spectra,) = broadline.read(golden / "test_coadd.fits", archive="desi")
    represented = Representation(empty="as-published")(spectra)
    usable = (represented.flags & Flag.NO_DATA) == 0
    assert usable.sum() == 24
    expected = np.load(golden / "coadd_x.npy")
    scale = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(represented.values[usable] / scale, expected / scale, atol=2e-6)


def test_weighted_mean_is_0_and_weighted_rms_is_1_over_bins_with_data() -> None:
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(5, 2, (4, 4400)), rng.gamma(2, 1, (4, 4400))
    spectra = batch(flux, ivar)
    values = Representation()(spectra).values
    from broadline.resample import binned

    weight = binned(spectra.flux, spectra.ivar, spectra.wavelength, Representation().grid)[1]
    np.testing.assert_allclose((values * weight).sum(axis=1) / weight.sum(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose((values**2 * weight).sum(axis=1) / weight.sum(axis=1), 1, rtol=1e-5)


def test_bins_without_data_are_0_or_as_published_the_image_of_flux_0() -> None:
    rng = np.random.default_rng(1)
    flux, ivar = rng.normal(5, 1, 4400), np.ones(4400)
    ivar[1000:2000] = 0
    zero, published = (Representation(empty=empty)(batch(flux, ivar)) for empty in ("zero", "as-published"))
    empty = ~zero.data[0]
    assert 90 < empty.sum() < 110
    assert (zero.values[0, empty] == 0).all()
    assert np.ptp(published.values[0, empty]) == 0
    assert published.values[0, empty][0] < -3  # -mean/rms
    np.testing.assert_array_equal(zero.values[0, ~empty], published.values[0, ~empty])


def test_minmax_spans_minus_one_to_one_over_the_bins_with_data() -> None:
    rng = np.random.default_rng(2)
    ivar = np.ones(4400)
    ivar[:300] = 0
    represented = Representation(grid=TRANSFER_LOG, resampling="conserving", normalisation="minmax")(
        batch(rng.normal(5, 1, 4400), ivar)
    )
    seen = represented.values[0][represented.data[0]]
    assert (seen.min(), seen.max()) == (-1, 1)


@pytest.mark.parametrize("width", [1, 2])  # pixels of SDSS; 2 touch up to 3 of the 2048 bins
def test_a_cosmic_ray_moves_the_guarded_scale_of_no_other_bin(width: int) -> None:
    rng = np.random.default_rng(2)
    clean = 5 + np.sin(np.arange(4400) / 300) + rng.normal(0, 0.1, 4400)
    hit = clean.copy()
    hit[2000 : 2000 + width] += 500
    far = np.abs(np.arange(2048) - TRANSFER_LOG.position(10**3.76)) > 12
    values = {}
    for name in ("minmax", "guarded"):
        represent = Representation(grid=TRANSFER_LOG, resampling="conserving", normalisation=name)
        one, other = (represent(batch(flux, np.ones(4400))).values[0] for flux in (clean, hit))
        values[name] = float(np.abs(one - other)[far].max())
    assert values["minmax"] > 0.5 and values["guarded"] < 0.02


def test_the_guarded_scale_spans_all_but_the_noise_and_cuts_the_rest() -> None:
    rng = np.random.default_rng(2)
    ivar = np.ones(4400)
    ivar[:300] = 0
    represent = Representation(grid=TRANSFER_LOG, resampling="conserving", normalisation="guarded")
    represented = represent(batch(rng.normal(5, 1, 4400), ivar))
    seen = represented.values[0][represented.data[0]]
    assert (seen.min(), seen.max()) == (-1, 1)
    assert 0.02 < np.mean(np.abs(seen) == 1) < 0.3


@settings(max_examples=30)
@given(
    factor=st.floats(1e-6, 1e6),
    normalisation=st.sampled_from(["rms", "minmax", "guarded"]),
    grid=st.sampled_from([Representation().grid, QUASARNET_LINEAR]),
)
def test_the_unit_of_flux_does_not_matter(factor: float, normalisation, grid) -> None:
    rng = np.random.default_rng(3)
    flux, ivar = rng.normal(5, 2, (2, 4400)), rng.gamma(2, 1, (2, 4400))
    represent = Representation(grid=grid, normalisation=normalisation)
    one, other = represent(batch(flux, ivar)), represent(batch(flux * factor, ivar / factor**2))
    np.testing.assert_allclose(one.values, other.values, atol=2e-3)
    np.testing.assert_allclose(one.sn_median, other.sn_median, rtol=1e-4)


def test_each_row_depends_on_its_own_spectrum_only() -> None:
    rng = np.random.default_rng(4)
    flux, ivar = rng.normal(5, 2, (6, 4400)), rng.gamma(2, 1, (6, 4400))
    whole = Representation()(batch(flux, ivar)).values
    for i in range(6):
        np.testing.assert_array_equal(Representation()(batch(flux[i], ivar[i])).values[0], whole[i])


def test_sn_is_the_median_signal_to_noise_per_pixel() -> None:
    for factor in (0.2, 3.0):
        represented = Representation()(
            batch(np.full(4400, 2.0) + np.arange(4400) * 1e-5, np.full(4400, factor**2))
        )
        assert represented.sn_median[0] == pytest.approx(2.0 * factor, rel=0.02)
        assert bool(represented.flags[0] & Flag.LOW_SN) == (2.0 * factor < 0.5)


def test_what_cannot_be_represented_is_flagged_and_zero() -> None:
    rng = np.random.default_rng(6)
    flux = rng.normal(5, 1, (5, 4400))
    ivar = np.ones((5, 4400))
    ivar[0] = 0
    flux[1] = 3.0
    ivar[2] = 0
    ivar[2, 2000] = 1
    ivar[3] = 0
    ivar[3, 2000:2200] = 1
    represented = Representation()(batch(flux, ivar))
    assert represented.flags[0] == Flag.NO_DATA
    assert represented.flags[1] == Flag.CONSTANT_FLUX
    assert represented.flags[2] == Flag.CONSTANT_FLUX | Flag.FEW_PIXELS
    assert represented.flags[3] == Flag.FEW_PIXELS
    assert represented.flags[4] == 0
    assert (represented.values[:3] == 0).all()
    assert np.isfinite(represented.values).all()
    assert np.isnan(represented.sn_median[0])


def test_a_spectrum_off_the_grid_has_no_coverage() -> None:
    rng = np.random.default_rng(7)
    infrared = batch(rng.normal(5, 1, 1000), np.ones(1000), first=41000)
    assert Representation()(infrared).flags[0] == Flag.NO_COVERAGE


def test_a_representation_survives_json_and_refuses_what_it_does_not_know() -> None:
    original = Representation(grid=QUASARNET_LINEAR, normalisation="minmax")
    fields = json.loads(json.dumps(original.to_dict()))
    assert Representation.from_dict(fields) == original
    with pytest.raises(ValueError, match="normalisation"):
        Representation.from_dict(fields | {"normalisation": "median"})
    with pytest.raises(TypeError):
        Representation.from_dict(fields | {"colour": "red"})
    assert replace(original, empty="as-published") != original
