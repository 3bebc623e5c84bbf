"""Simulated galaxies: stars, gas and dust as they are measured in surveys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline.simulation import galaxy, galaxy_gas
from broadline.simulation.scene import Rest, redshifted, snap
from broadline.spectra import lattice_wavelength

WAVELENGTH = lattice_wavelength(galaxy.FIRST, galaxy.N_PIXELS)
ANGSTROM = WAVELENGTH * np.log(10) * 1e-4  # of a pixel


def band(flux: np.ndarray, low: float, high: float) -> np.ndarray:
    return flux[:, (low < WAVELENGTH) & (high > WAVELENGTH)].mean(axis=1)


def line_flux(flux: np.ndarray, centre: float, half: float) -> np.ndarray:
    near = np.abs(WAVELENGTH - centre) < half
    beside = (np.abs(WAVELENGTH - centre) > half) & (np.abs(WAVELENGTH - centre) < 1.6 * half)
    continuum = np.median(flux[:, beside], axis=1, keepdims=True)
    return ((flux[:, near] - continuum) * ANGSTROM[near]).sum(axis=1)


@pytest.fixture(scope="module")
def near() -> Rest:
    return galaxy.draw(1500, np.full(1500, 0.1), np.random.default_rng(1))


def of_kind(rest: Rest, kind: str) -> np.ndarray:
    return rest.flux[rest.truth["SUBCLASS"] == kind]


@given(seed=st.integers(0, 2**32 - 1), z=st.lists(st.floats(0, 1.2), max_size=12))
@settings(max_examples=15)
def test_galaxies_are_finite_positive_and_the_same_for_the_same_seed(seed: int, z: list[float]) -> None:
    first, second = (galaxy.draw(len(z), np.array(z), np.random.default_rng(seed)) for _ in range(2))
    assert first.flux.dtype == np.float32 and first.flux.shape == (len(z), galaxy.N_PIXELS)
    assert np.isfinite(first.flux).all() and (first.flux > 0).all()
    assert np.array_equal(first.flux, second.flux)
    assert all(np.array_equal(first.truth[name], second.truth[name]) for name in first.truth)


def test_the_window_covers_the_observed_range_at_every_redshift() -> None:
    z = np.array([0.0, 0.6, 1.2])
    rest = galaxy.draw(3, z, np.random.default_rng(0))
    _, covered = redshifted(rest, snap(z)[1], 35441, 4770)  # 3500-10500 Angstrom
    assert covered.all()


@pytest.mark.parametrize("z", [np.array([1.5]), np.array([np.nan]), np.array([-1.0]), np.array([0.1, 0.2])])
def test_redshifts_that_cannot_be_shown_are_refused(z: np.ndarray) -> None:
    with pytest.raises(ValueError, match="redshift"):
        galaxy.draw(1, z, np.random.default_rng(0))


def test_old_galaxies_have_a_break_at_4000_angstrom_and_starbursts_have_none(near: Rest) -> None:
    def dn4000(flux: np.ndarray) -> np.ndarray:  # Balogh et al. 1999; in f_lambda, 4 % less than in f_nu
        return band(flux, 4000, 4100) / band(flux, 3850, 3950)

    assert np.median(dn4000(of_kind(near, "PASSIVE"))) > 1.45
    assert np.median(dn4000(of_kind(near, "STARBURST"))) < 1.2


def test_e_plus_a_galaxies_have_deeper_h_delta_than_passive_ones(near: Rest) -> None:
    def depth(flux: np.ndarray) -> float:
        beside = 0.5 * (band(flux, 4042, 4081) + band(flux, 4128, 4161))
        return float(np.median(1 - band(flux, 4090, 4116) / beside))

    assert depth(of_kind(near, "E+A")) > 0.1 > depth(of_kind(near, "PASSIVE"))
    assert np.median(near.truth["EW_HALPHA"][near.truth["SUBCLASS"] == "E+A"]) < 3


@pytest.mark.parametrize(("centre", "away"), [(3934.78, 30), (5177.0, 60), (5893.0, 40)])
def test_old_stars_have_calcium_magnesium_and_sodium(near: Rest, centre: float, away: float) -> None:
    flux = of_kind(near, "PASSIVE")
    beside = 0.5 * (
        band(flux, centre - away - 15, centre - away) + band(flux, centre + away, centre + away + 15)
    )
    assert np.median(band(flux, centre - 8, centre + 8) / beside) < 0.95


def test_the_oiii_doublet_has_the_ratio_of_atomic_physics(near: Rest) -> None:
    flux = near.flux[(near.truth["EW_OIII"] > 80) & ~near.truth["BROAD"]]
    ratio = line_flux(flux, 5008.24, 15) / line_flux(flux, 4960.295, 15)
    assert np.median(ratio) == pytest.approx(2.98, rel=0.05)


def test_equivalent_widths_are_those_of_the_truth(near: Rest) -> None:
    # Starbursts with narrow lines, little nitrogen and young stars: nothing else within 10 Angstrom.
    some = (near.truth["SUBCLASS"] == "STARBURST") & (near.truth["EW_HALPHA"] > 100)
    flux = near.flux[some]
    measured = line_flux(flux, 6564.63, 8) / band(flux, 6600, 6650)
    assert np.median(measured / near.truth["EW_HALPHA"][some]) == pytest.approx(1, abs=0.06)
    measured = line_flux(flux, 5008.24, 12) / band(flux, 5025, 5060)
    assert np.median(measured / near.truth["EW_OIII"][some]) == pytest.approx(1, abs=0.06)


def test_active_and_star_forming_galaxies_lie_on_their_sides_of_the_bpt_diagram(near: Rest) -> None:
    ratios = galaxy_gas._line_ratios(near.truth["SUBCLASS"], np.random.default_rng(0))
    column = {name: i for i, name in enumerate(galaxy.LINES)}
    nii = np.log10(ratios[:, column["NII 6585"]] / ratios[:, column["H alpha"]])
    oiii = np.log10(ratios[:, column["OIII 5008"]] / ratios[:, column["H beta"]])
    kewley = np.where(nii < 0.47, 0.61 / (np.minimum(nii, 0.46) - 0.47) + 1.19, -np.inf)  # Kewley et al. 2001
    forming = np.isin(near.truth["SUBCLASS"], ["STARFORMING", "STARBURST"])
    assert (oiii[forming] < kewley[forming]).mean() > 0.98
    agn = near.truth["SUBCLASS"] == "AGN"
    assert (oiii[agn] > kewley[agn]).mean() > 0.95


@given(z=st.floats(0, 0.55))
@settings(max_examples=20)
def test_lines_are_at_one_plus_z_times_rest_to_a_pixel(z: float) -> None:
    rest = galaxy.draw(40, np.full(40, z), np.random.default_rng(3))
    rest = Rest(rest.first, rest.flux[[np.argmax(rest.truth["EW_HALPHA"] * ~rest.truth["BROAD"])]], {})
    exact, shift = snap(np.array([z]))
    flux, _ = redshifted(rest, shift, 35441, 4770)
    wavelength = lattice_wavelength(35441, 4770)
    window = np.abs(wavelength / (6564.63 * (1 + exact[0])) - 1) < 2e-3
    peak = wavelength[window][flux[0, window].argmax()]
    assert abs(np.log10(peak / (6564.63 * (1 + z)))) < 1.6e-4


def test_nearby_starbursts_have_lines_narrower_than_two_pixels(near: Rest) -> None:
    flux = near.flux[(near.truth["SUBCLASS"] == "STARBURST") & (near.truth["EW_HALPHA"] > 150)]
    window = flux[:, np.abs(WAVELENGTH - 6564.63) < 10]
    above = window > 0.5 * window.max(axis=1, keepdims=True)
    assert len(flux) > 20 and np.median(above.sum(axis=1)) <= 2


def test_broad_line_seyferts_have_h_alpha_thousands_of_km_s_wide(near: Rest) -> None:
    assert np.array_equal(near.truth["BROAD"], near.truth["SUBCLASS"] == "BROADLINE")
    flux = of_kind(near, "BROADLINE")
    wing = band(flux, 6590, 6605)  # beyond [NII]
    assert np.median(wing / band(flux, 6850, 6950)) > 1.15


def test_starbursts_are_rarer_at_high_redshift() -> None:
    far = galaxy.draw(1500, np.full(1500, 1.0), np.random.default_rng(2))
    assert 0.02 < (far.truth["SUBCLASS"] == "STARBURST").mean() < 0.08


def test_attenuation_is_four_point_zero_five_at_v() -> None:
    assert galaxy.attenuation(np.array([5500.0]))[0] == pytest.approx(4.05, abs=0.03)
    assert (np.diff(galaxy.attenuation(WAVELENGTH)) < 0.03).all()


# --- templates ---


@pytest.mark.filterwarnings("ignore:template set")
def test_missing_sets_are_named_and_parametric_galaxies_used_instead(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'bc03'.*are used instead") as caught:
        rest = galaxy.draw(30, np.full(30, 0.3), np.random.default_rng(0), tmp_path)
    assert {"yip-galaxies", "sdss-galaxies"} <= {str(one.message).split("'")[1] for one in caught}
    assert (rest.truth["SOURCE"] == "parametric").all()
    assert np.isfinite(rest.flux).all()


def test_half_of_the_galaxies_come_from_templates_and_are_positive(data: Path) -> None:
    z = np.random.default_rng(0).uniform(0, 1.2, 600)
    rest = galaxy.draw(600, z, np.random.default_rng(0), data / "templates")
    assert np.isfinite(rest.flux).all() and (rest.flux > 0).all()
    assert 0.3 < (rest.truth["SOURCE"] != "parametric").mean() < 0.55
    assert set(rest.truth["SOURCE"]) == {"parametric", "bc03", "sdss-galaxies", "yip-galaxies"}
    assert np.isfinite(rest.truth["EW_HALPHA"]).all() and np.isfinite(rest.truth["EW_OIII"]).all()


def test_our_populations_have_the_colours_of_published_ones(data: Path) -> None:
    ours, published = galaxy._populations()[1], galaxy._bruzual_charlot(str(data / "templates"))
    assert published is not None
    colours = [np.log(band(flux, 6900, 7100) / band(flux, 4500, 4600)) for flux in (ours, published[1])]
    assert np.abs(colours[0] - colours[1]).max() < 0.45
    breaks = [band(flux, 4000, 4100) / band(flux, 3850, 3950) for flux in (ours, published[1])]
    assert np.abs(breaks[0] - breaks[1]).max() < 0.45
    near = np.abs(WAVELENGTH - 8544.4) < 6  # published ones are in air; the triplet shows they were converted
    dip = [WAVELENGTH[near][flux[9, near].argmin()] for flux in (ours, published[1])]
    assert dip[0] == pytest.approx(dip[1], abs=2.1)
