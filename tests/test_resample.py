"""Resampling: golden files of the published code, spectres, and conservation laws."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import spectres
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline.grid import QUASARNET_LINEAR, QUASARNET_LOG, TRANSFER_LOG, Grid
from broadline.resample import binned, conserving, pixel_edges
from broadline.spectra import lattice_wavelength

DESI = np.round(np.arange(3600, 9824.4, 0.8), 1)


def test_desi_pixels_fall_into_the_bins_of_the_published_code(golden: Path) -> None:
    expected = ast.literal_eval((golden / "regrid.txt").read_text().replace("\n", ""))
    np.testing.assert_array_equal(QUASARNET_LOG.bins(DESI), expected)
    coarse = np.arange(3600, 9800, 10)
    np.testing.assert_array_equal(QUASARNET_LOG.bins(coarse), np.load(golden / "regrid_arbitrary.npy"))


def test_desi_pixels_fall_17_at_a_time_into_the_linear_grid() -> None:
    np.testing.assert_array_equal(QUASARNET_LINEAR.bins(DESI), np.repeat(np.arange(458), 17)[:-5])


@pytest.mark.parametrize(
    ("grid", "name"),
    [(QUASARNET_LOG, "coadd_rebinned.fits"), (QUASARNET_LINEAR, "coadd_rebinned_linear.fits")],
)
def test_binned_sums_equal_those_of_the_published_code(golden: Path, grid: Grid, name: str) -> None:
    with fits.open(golden / "test_coadd.fits") as raw, fits.open(golden / name) as expected:
        for camera in "BRZ":
            flux, ivar = (raw[f"{camera}_{kind}"].data.astype(np.float32) for kind in ("FLUX", "IVAR"))
            wavelength = raw[f"{camera}_WAVELENGTH"].data.astype(float)
            mean, weight, _ = binned(flux, ivar, wavelength, grid)
            np.testing.assert_allclose(weight, expected[f"{camera}_IVAR"].data, rtol=1e-6)
            terms, total, _ = binned(np.abs(flux), ivar, wavelength, grid)  # rounding scales with the terms
            error = np.abs(mean * weight - expected[f"{camera}_FLUX"].data)
            assert (error <= 1e-6 * terms * total).all()


@pytest.mark.parametrize("first", [35500, 35531, 35843])
def test_conserving_equals_spectres_to_rounding_with_its_variance(first: int) -> None:
    rng = np.random.default_rng(first)
    wavelength = lattice_wavelength(first, 4000)
    flux, ivar = rng.normal(1, 1, (3, 4000)), rng.gamma(2, 1, (3, 4000))
    expected, error = spectres.spectres(
        TRANSFER_LOG.centres, wavelength, flux, ivar**-0.5, fill=0, verbose=False
    )
    ours, weight, _ = conserving(flux, ivar, wavelength, TRANSFER_LOG)
    inside = weight > 0
    assert inside[0].sum() > 1500
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(weight[inside] ** -0.5, error[inside], rtol=1e-10)
    assert (error[~inside] == 0).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n_pixels=st.integers(2, 300), size=st.integers(1, 60))
def test_flux_is_conserved_where_the_output_lies_inside_the_input(
    seed: int, n_pixels: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    wavelength = 4000 + np.cumsum(rng.uniform(0.5, 3, n_pixels))
    edges = pixel_edges(wavelength)
    grid = Grid("linear", edges[0], (edges[-1] - edges[0]) / size * (1 - 1e-12), size)
    flux = rng.normal(size=(2, n_pixels))
    out, _, pixels = conserving(flux, np.ones_like(flux), wavelength, grid)
    np.testing.assert_allclose(
        out.sum(axis=1) * grid.step, (flux * np.diff(edges)).sum(axis=1), rtol=1e-8, atol=1e-8
    )
    assert pixels.sum() == pytest.approx(n_pixels)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from([binned, conserving]))
def test_variance_is_that_of_the_linear_combination_also_with_masks(seed: int, method) -> None:
    """Each output is a weighted mean of inputs: feed unit vectors to find its weights, then propagate."""
    rng = np.random.default_rng(seed)
    n_pixels = 40
    wavelength = 4000 + np.cumsum(rng.uniform(0.5, 3, n_pixels))
    grid = Grid("linear", 4005.0, 7.0, 6)
    ivar = rng.gamma(2, 1, n_pixels) * (rng.random(n_pixels) > 0.3)
    out_ivar = method(np.zeros((1, n_pixels)), ivar[None], wavelength, grid)[1][0]
    weights = method(np.eye(n_pixels), np.repeat(ivar[None], n_pixels, 0), wavelength, grid)[0].T
    good = ivar > 0
    assert (weights[:, ~good] == 0).all(), "masked pixels take no part"
    variance = (weights[:, good] ** 2 / ivar[good]).sum(axis=1)
    seen = out_ivar > 0
    np.testing.assert_array_equal(seen, variance > 0)
    np.testing.assert_allclose(1 / out_ivar[seen], variance[seen], rtol=1e-9)
    np.testing.assert_allclose(weights[seen].sum(axis=1), 1, rtol=1e-9)


@pytest.mark.parametrize("method", [binned, conserving])
def test_a_constant_stays_that_constant_and_no_data_stays_no_data(method) -> None:
    wavelength = lattice_wavelength(36000, 500)
    ivar = np.ones((2, 500), dtype=np.float32)
    ivar[1] = 0
    flux, weight, _ = method(np.full_like(ivar, 7.0), ivar, wavelength, QUASARNET_LOG)
    seen = weight[0] > 0
    assert 40 < seen.sum() < 60
    np.testing.assert_allclose(flux[0, seen], 7.0, rtol=1e-6)
    assert (weight[1] == 0).all()
    assert (flux[:, ~seen] == 0).all()


def test_batches_of_any_size_give_the_same_numbers() -> None:
    rng = np.random.default_rng(5)
    wavelength = lattice_wavelength(35600, 4600)
    flux, ivar = rng.normal(size=(2, 37, 4600)).astype(np.float32)
    ivar = ivar**2
    whole = binned(flux, ivar, wavelength, QUASARNET_LOG)[0]
    parts = [binned(flux[i : i + 5], ivar[i : i + 5], wavelength, QUASARNET_LOG)[0] for i in range(0, 37, 5)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
