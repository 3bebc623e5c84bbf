"""Simulated stars: finite and positive, with the features of their class where they belong."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline.air import air_to_vacuum
from broadline.simulation import star, templates
from broadline.simulation.scene import redshifted, snap
from broadline.spectra import lattice_wavelength

WAVELENGTH = lattice_wavelength(star.FIRST, star.N_PIXELS)


def drawn(subclass: str, n: int = 40, seed: int = 1, **more: object) -> np.ndarray:
    return star.draw(n, np.random.default_rng(seed), mix={subclass: 1.0}, **more).flux


def band(flux: np.ndarray, low: float, high: float) -> np.ndarray:
    return flux[:, (low < WAVELENGTH) & (high > WAVELENGTH)].mean(axis=1)


def half_depth_width(flux: np.ndarray, centre: float) -> np.ndarray:
    """Pixels within 100 Angstrom of a line that are below the middle between its bottom and its shoulders."""
    window = flux[:, np.abs(WAVELENGTH - centre) < 100]
    slope = np.linspace(0, 1, window.shape[1])
    level = window[:, :10].mean(1)[:, None] * (1 - slope) + window[:, -10:].mean(1)[:, None] * slope
    relative = window / level
    return (relative < 0.5 * (1 + relative.min(axis=1, keepdims=True))).sum(axis=1)


@pytest.mark.parametrize("subclass", star.MIX)
def test_every_subclass_is_finite_and_positive_with_mean_one(subclass: str) -> None:
    rest = star.draw(60, np.random.default_rng(0), mix={subclass: 1.0})
    assert rest.flux.dtype == np.float32
    assert rest.flux.shape == (60, star.N_PIXELS)
    assert np.isfinite(rest.flux).all()
    assert (rest.flux > 0).all()
    assert np.allclose(rest.flux.mean(axis=1), 1, rtol=1e-4)
    assert (rest.truth["SUBCLASS"] == subclass).all()


def test_a_third_of_the_default_mix_is_a_and_f_stars() -> None:
    assert sum(star.MIX.values()) == pytest.approx(1)
    assert star.MIX["A"] + star.MIX["F"] + star.MIX["sdF"] == pytest.approx(1 / 3, abs=0.02)
    subclass = star.draw(4000, np.random.default_rng(3)).truth["SUBCLASS"]
    for name, share in star.MIX.items():
        assert (subclass == name).mean() == pytest.approx(share, abs=4 * np.sqrt(share / 4000))


@pytest.mark.parametrize("mix", [{"A": 0.5}, {"A": 0.7, "F": 0.7}, {"A": 1.5, "F": -0.5}, {"Q": 1.0}])
def test_a_mix_that_cannot_be_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"add up to 1|not subclasses"):
        star.draw(3, np.random.default_rng(0), mix=mix)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 20))
@settings(max_examples=15)
def test_the_same_seed_gives_the_same_stars(seed: int, n: int) -> None:
    first, second = (star.draw(n, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first.flux, second.flux)
    assert all(np.array_equal(first.truth[name], second.truth[name]) for name in first.truth)
    assert np.isfinite(first.flux).all() and (first.flux > 0).all()


def test_m_dwarfs_have_tio_bands_and_k_stars_have_not() -> None:
    def tio(flux: np.ndarray) -> np.ndarray:  # the gamma system at 7053 Angstrom
        return band(flux, 7060, 7080) / band(flux, 7030, 7048)

    assert (tio(drawn("M")) < 0.85).mean() > 0.9
    assert (tio(drawn("K")) > 0.85).mean() > 0.9


def test_white_dwarfs_have_wider_balmer_lines_than_a_stars_and_these_wider_than_f_stars() -> None:
    width = {name: np.median(half_depth_width(drawn(name), 4341.7)) for name in ("DA", "A", "F")}
    assert width["DA"] > 1.5 * width["A"] > 1.5 * width["F"]


def test_f_subdwarfs_have_weaker_metals_than_f_stars_and_strong_balmer_lines() -> None:
    def depth(flux: np.ndarray, centre: float, half: float, away: float) -> float:
        beside = 0.5 * (
            band(flux, centre - away - 10, centre - away) + band(flux, centre + away, centre + away + 10)
        )
        return float(np.median(1 - band(flux, centre - half, centre + half) / beside))

    poor, rich = drawn("sdF", 100), drawn("G", 100)
    assert depth(poor, 3934.8, 4, 15) < depth(rich, 3934.8, 4, 15)
    assert depth(poor, 5175, 12, 40) < 0.5 * depth(rich, 5175, 12, 40)
    assert depth(poor, 4862.7, 3, 40) > 0.2


@pytest.mark.parametrize(
    ("subclass", "air"),
    [("DB", 4471.5), ("DB", 5875.6), ("DZ", 3933.66), ("A", 4861.33), ("G", 8542.09), ("K", 5183.60)],
)
def test_absorption_lines_lie_at_their_vacuum_wavelengths(subclass: str, air: float) -> None:
    vacuum = float(air_to_vacuum(np.array(air)))
    near = np.abs(WAVELENGTH - vacuum) < 12
    deepest = WAVELENGTH[near][drawn(subclass).mean(axis=0)[near].argmin()]
    assert deepest == pytest.approx(vacuum, abs=3)


def test_carbon_stars_and_dq_have_swan_bands() -> None:
    for name, limit in (("CARBON", 0.85), ("DQ", 0.97)):
        flux = drawn(name)
        assert np.median(band(flux, 5100, 5160) / band(flux, 5185, 5220)) < limit


def test_dc_white_dwarfs_have_no_line_at_all() -> None:
    flux = drawn("DC")
    smooth = 0.5 * (flux[:, :-40] + flux[:, 40:])
    assert np.abs(flux[:, 20:-20] / smooth - 1).max() < 2e-3


@pytest.mark.parametrize("subclass", ["dMe", "FLARE", "CV"])
def test_active_stars_have_h_alpha_in_emission(subclass: str) -> None:
    flux = drawn(subclass)
    assert (band(flux, 6560, 6570) > 1.05 * band(flux, 6480, 6510)).mean() > 0.9
    if subclass == "CV":
        assert np.median(band(flux, 4850, 4875) / band(flux, 4930, 4960)) > 1.1


def test_pairs_are_blue_like_a_white_dwarf_and_have_the_bands_of_an_m_dwarf() -> None:
    flux = drawn("WD+M")
    assert np.median(band(flux, 3600, 3800) / band(flux, 5800, 5840)) > 0.7
    assert np.median(band(flux, 7060, 7080) / band(flux, 7030, 7048)) < 0.97


@given(velocity=st.floats(-550, 550))
@settings(max_examples=20)
def test_lines_move_with_the_radial_velocity_to_a_pixel(velocity: float) -> None:
    rest = star.draw(1, np.random.default_rng(5), mix={"A": 1.0})
    z, shift = snap(np.array([velocity / 299792.458]))
    flux, covered = redshifted(rest, shift, 35500, 4600)
    assert covered.all()
    wavelength = lattice_wavelength(35500, 4600)
    near = np.abs(wavelength - 6564.63 * (1 + z[0])) < 10
    deepest = wavelength[near][flux[0, near].argmin()]
    assert abs(np.log10(deepest / (6564.63 * (1 + velocity / 299792.458)))) < 1.6e-4


def test_the_window_covers_the_observed_range_at_any_velocity() -> None:
    velocity = star.radial_velocity(20000, np.random.default_rng(0))
    z = velocity / 299792.458
    assert WAVELENGTH[0] * (1 + z.max()) < 3500 and WAVELENGTH[-1] * (1 + z.min()) > 10500
    assert 50 < velocity.std() < 90 and abs(velocity.mean()) < 3


def test_interstellar_extinction_is_three_point_one_at_v() -> None:
    law = star.extinction(np.array([4400.0, 5500.0, 9000.0]))
    assert law[1] == pytest.approx(3.1, abs=0.05)
    assert law[0] - law[1] == pytest.approx(1.0, abs=0.06)
    assert law[2] == pytest.approx(0.48 * 3.1, rel=0.05)


def test_sky_and_dead_fibres_have_no_flux() -> None:
    for rest, name in ((star.sky(4), "SKY"), (star.dead(4), "DEAD")):
        assert rest.flux.shape == (4, star.N_PIXELS) and not rest.flux.any()
        assert (rest.truth["SUBCLASS"] == name).all()


# --- templates ---


def test_resampling_keeps_straight_lines_and_the_integral() -> None:
    wavelength = np.arange(3000, 11000, 0.1)
    bump = np.exp(-0.5 * ((wavelength - 6000) / 0.3) ** 2)
    out = templates.resample(wavelength, np.array([2 * wavelength, bump]), star.FIRST, star.N_PIXELS)
    assert np.allclose(out[0], 2 * WAVELENGTH, rtol=1e-6)
    width = WAVELENGTH * np.log(10) * 1e-4
    assert (out[1] * width).sum() == pytest.approx(0.3 * np.sqrt(2 * np.pi), rel=1e-4)
    short = templates.resample(
        wavelength[wavelength > 4000], np.ones((1, (wavelength > 4000).sum())), star.FIRST, star.N_PIXELS
    )
    assert np.isnan(short[0, WAVELENGTH < 3999]).all() and np.allclose(short[0, WAVELENGTH > 4001], 1)


@pytest.mark.filterwarnings("ignore:template set")
def test_missing_sets_are_named_and_parametric_stars_used_instead(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'redrock-stars'.*parametric stars are used instead") as caught:
        rest = star.draw(20, np.random.default_rng(0), tmp_path)
    assert sum("'kurucz'" in str(one.message) for one in caught) == 1
    assert (rest.truth["SOURCE"] == "parametric").all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        star.draw(20, np.random.default_rng(0), tmp_path)


def test_a_templates_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such templates folder"):
        star.draw(2, np.random.default_rng(0), tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore:template set")
def test_an_unreadable_file_is_left_out_with_a_warning(data: Path, tmp_path: Path) -> None:
    (tmp_path / "redrock").mkdir()
    shutil.copy(data / "templates" / "redrock" / "rrtemplate-STAR-A-v0.1.fits.gz", tmp_path / "redrock")
    (tmp_path / "redrock" / "rrtemplate-STAR-B-v0.1.fits").write_bytes(b"no FITS file")
    with pytest.warns(UserWarning, match="STAR-B.*cannot be read"):
        rest = star.draw(60, np.random.default_rng(0), tmp_path, mix={"A": 0.5, "B": 0.5})
    assert set(rest.truth["SOURCE"][rest.truth["SUBCLASS"] == "A"]) == {"parametric", "redrock-stars"}
    assert set(rest.truth["SOURCE"][rest.truth["SUBCLASS"] == "B"]) == {"parametric"}


def test_half_of_the_stars_come_from_templates_and_are_positive(data: Path) -> None:
    rest = star.draw(600, np.random.default_rng(0), data / "templates")
    assert np.isfinite(rest.flux).all() and (rest.flux > 0).all()
    assert 0.35 < (rest.truth["SOURCE"] != "parametric").mean() < 0.5
    assert {"redrock-stars", "redrock-wd", "sdss-stars"} <= set(rest.truth["SOURCE"])


@pytest.mark.parametrize("subclass", ["A", "F", "G", "K", "M", "DA", "DB", "CV"])
def test_parametric_stars_resemble_the_templates_of_their_class(data: Path, subclass: str) -> None:
    parametric = drawn(subclass, 100)
    real = drawn(subclass, 100, templates=data / "templates", fraction=1.0)
    colours = [np.log(band(flux, 7200, 7800) / band(flux, 4300, 4700)) for flux in (parametric, real)]
    assert abs(np.median(colours[0]) - np.median(colours[1])) < 0.5
