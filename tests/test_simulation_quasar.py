"""Simulated quasars are what the specification says they are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from broadline.simulation.quasar import FIRST, LINES, N_PIXELS, draw, draw_m1450, parametric
from broadline.simulation.quasar_templates import EIGENSPECTRA, QuasarTemplates
from broadline.simulation.scene import Rest, redshifted, snap
from broadline.spectra import LATTICE_STEP, lattice_wavelength

WAVE = lattice_wavelength(FIRST, N_PIXELS)
LIGHT = 299792.458
KEYS = ("SUBCLASS", "KIND", "M1450", "EBV", "CIV_BLUESHIFT", "LINE_FWHM", "HOST", "HAS_FOREST")


def peak(flux: np.ndarray, wave: np.ndarray, line: float, reach: float = 6000) -> np.ndarray:
    """Velocity (km/s) of the highest point above a straight continuum within `reach` km/s of a line."""
    velocity = (wave / line - 1) * LIGHT
    near = np.abs(velocity) < reach
    part = flux[:, near]
    ramp = np.linspace(0, 1, part.shape[1])
    part = part - part[:, :1] * (1 - ramp) - part[:, -1:] * ramp
    return velocity[near][np.argmax(part, axis=1)]


def test_the_rest_frame_lattice_covers_what_an_observed_spectrum_shows_at_0_to_6() -> None:
    assert WAVE[0] < 3500 / 7
    assert WAVE[-1] > 10500


@pytest.mark.parametrize("seed", range(3))
def test_every_spectrum_is_finite_and_positive_with_one_row_of_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rest = draw(300, rng.uniform(0, 6.2, 300), rng, narrow_line_fraction=0.2)
    assert rest.first == FIRST
    assert rest.flux.shape == (300, N_PIXELS)
    assert rest.flux.dtype == np.float32
    assert np.isfinite(rest.flux).all()
    assert (rest.flux > 0).all()
    for key in KEYS:
        assert len(rest.truth[key]) == 300
    assert set(rest.truth["SUBCLASS"]) == {"BROADLINE", "NLAGN"}
    assert not rest.truth["HAS_FOREST"].any()


def test_an_empty_batch_is_a_batch() -> None:
    assert draw(0, np.zeros(0), np.random.default_rng(0)).flux.shape == (0, N_PIXELS)


def test_a_wrong_number_of_redshifts_is_refused() -> None:
    with pytest.raises(ValueError, match="3 quasars need 3 redshifts"):
        parametric(3, np.array([1.0]), np.random.default_rng(0))


def test_the_same_seed_gives_the_same_quasars() -> None:
    z = np.linspace(0.1, 5, 20)
    one, two, other = (draw(20, z, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(one.flux, two.flux)
    for key in KEYS:
        np.testing.assert_array_equal(one.truth[key], two.truth[key])
    assert not np.array_equal(one.flux, other.flux)


@pytest.mark.parametrize(("line", "z"), [(1215.67, 2.6), (2799.12, 1.1), (4862.68, 0.5), (6564.61, 0.3)])
def test_lines_lie_where_the_redshift_says(line: float, z: float) -> None:
    zs, shift = snap(np.full(200, z))
    rest = parametric(200, zs, np.random.default_rng(1))
    first, n_pixels = 35500, 4700
    flux, covered = redshifted(rest, shift, first, n_pixels)
    assert covered.all()
    velocity = peak(flux, lattice_wavelength(first, n_pixels), line * (1 + zs[0]), reach=4500)
    assert abs(np.median(velocity)) < 200
    assert np.percentile(np.abs(velocity), 90) < 900


def test_civ_lies_blueward_by_the_blueshift_and_the_mgii_does_not() -> None:
    rest = parametric(600, np.full(600, 2.0), np.random.default_rng(2))
    blue = rest.truth["CIV_BLUESHIFT"]
    velocity = peak(rest.flux, WAVE, 1549.06)
    assert np.corrcoef(blue, -velocity)[0, 1] > 0.7  # the peak moves less than the centroid
    np.testing.assert_allclose(np.median(-velocity), 0.65 * np.median(blue), atol=150)
    assert abs(np.median(peak(rest.flux, WAVE, 2799.12))) < 100
    assert 400 < np.median(blue) < 900
    assert np.percentile(blue, 99) > 1800


def test_stronger_civ_is_less_blueshifted() -> None:
    rest = parametric(1500, np.full(1500, 2.0), np.random.default_rng(3))
    near = (WAVE > 1500) & (WAVE < 1590)
    side = ((WAVE > 1440) & (WAVE < 1460)) | ((WAVE > 1700) & (WAVE < 1710))
    strength = rest.flux[:, near].mean(axis=1) / rest.flux[:, side].mean(axis=1)
    assert np.corrcoef(np.log(strength), rest.truth["CIV_BLUESHIFT"])[0, 1] < -0.4


def test_fainter_quasars_have_stronger_civ_as_baldwin_found() -> None:
    z = np.full(800, 2.0)
    strength = []
    for magnitude in (-28.0, -23.0):
        rest = parametric(800, z, np.random.default_rng(4), m1450=np.full(800, magnitude))
        top = rest.flux[:, np.abs(WAVE - 1547) < 12].mean(axis=1)
        strength.append(np.median(top / rest.flux[:, np.abs(WAVE - 1455) < 10].mean(axis=1)) - 1)
    expected = 10 ** (5 * next(line for line in LINES if line.name == "CIV").baldwin)
    assert 0.6 * expected < strength[1] / strength[0] < 1.6 * expected


def test_the_host_fades_with_luminosity() -> None:
    z = np.full(500, 0.4)
    faint, bright = (
        parametric(500, z, np.random.default_rng(5), m1450=np.full(500, m)).truth["HOST"] for m in (-21, -26)
    )
    assert np.median(faint) > 2 * np.median(bright)


def test_reddening_has_a_short_tail_and_less_of_it_beyond_redshift_2() -> None:
    near, far = (
        parametric(1500, np.full(1500, z), np.random.default_rng(6)).truth["EBV"] for z in (1.0, 3.0)
    )
    assert near.max() <= 0.6 and 0.005 < np.mean(near > 0.15) < 0.05
    assert far.mean() < 0.7 * near.mean()


def test_displaced_lines_are_balmer_lines_and_mgii_and_leave_narrow_lines_where_they_are() -> None:
    near = np.full(200, 0.3)
    usual, moved = (
        parametric(200, near, np.random.default_rng(8), displaced=np.full(200, displaced))
        for displaced in (False, True)
    )
    wave = 10 ** ((FIRST + np.arange(N_PIXELS)) * LATTICE_STEP)

    def light_at(rest: Rest, wavelength: float, kms: float) -> float:
        at = np.abs(wave / wavelength - 1) < kms / LIGHT
        beside = (np.abs(wave / wavelength - 1) > 0.08) & (np.abs(wave / wavelength - 1) < 0.085)
        return float(np.median(rest.flux[:, at].mean(axis=1) / rest.flux[:, beside].mean(axis=1)))

    assert light_at(moved, 6564.61, 1500) < 0.8 * light_at(usual, 6564.61, 1500)
    assert light_at(moved, 2799.12, 1500) < 0.9 * light_at(usual, 2799.12, 1500)
    assert light_at(moved, 1549.06, 1500) == pytest.approx(light_at(usual, 1549.06, 1500), rel=0.02)
    assert light_at(moved, 5008.24, 600) == pytest.approx(light_at(usual, 5008.24, 600), rel=0.25)


def test_narrow_line_agn_have_no_broad_lines() -> None:
    rest = parametric(200, np.full(200, 0.3), np.random.default_rng(7), narrow_line=np.ones(200, dtype=bool))
    assert set(rest.truth["SUBCLASS"]) == {"NLAGN"}
    velocity = (WAVE / 5008.24 - 1) * LIGHT
    core, wing = np.abs(velocity) < 500, (np.abs(velocity) > 1900) & (np.abs(velocity) < 2500)
    assert (rest.flux[:, core].max(axis=1) > 2 * np.median(rest.flux[:, wing], axis=1)).mean() > 0.9
    velocity = (WAVE / 2799.12 - 1) * LIGHT
    wing, far = ((np.abs(velocity) > low) & (np.abs(velocity) < low + 500) for low in (2500, 6000))
    np.testing.assert_allclose(rest.flux[:, wing].mean(), rest.flux[:, far].mean(), rtol=0.03)


def test_there_are_more_than_forty_lines_and_none_twice() -> None:
    assert len(LINES) > 40
    assert len({line.name for line in LINES}) == len(LINES)


def test_magnitudes_follow_a_flux_limit() -> None:
    rng = np.random.default_rng(8)
    near, far = draw_m1450(np.full(2000, 0.7), rng), draw_m1450(np.full(2000, 3.0), rng)
    assert np.median(near) > np.median(far) + 1.5


def test_median_quasar_resembles_the_composite_of_vanden_berk(data: Path) -> None:
    path = data / "templates" / "qso" / "selsing" / "VandenBerk2001.dat.gz"
    columns = np.genfromtxt(path, comments="#")
    rng = np.random.default_rng(9)
    rest = parametric(1000, np.full(1000, 1.9), rng)
    composite = np.interp(WAVE, columns[:, 0], columns[:, 1])
    use = (WAVE > 1280) & (WAVE < 4000)
    ratio = np.median(rest.flux, axis=0)[use] / composite[use]
    ratio /= np.median(ratio)
    assert np.std(np.log(ratio)) < 0.12
    assert np.abs(np.log(ratio)).max() < 0.45


@pytest.fixture(scope="module")
def templates(data: Path) -> QuasarTemplates:
    folder = data / "templates"
    if not folder.exists():
        pytest.skip("templates not present")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return QuasarTemplates(folder, n_library=300)


def test_templates_give_every_kind_of_source_finite_and_positive(templates: QuasarTemplates) -> None:
    rng = np.random.default_rng(10)
    z = rng.uniform(0.05, 5.5, 1000)
    rest = draw(1000, z, rng, templates)
    assert np.isfinite(rest.flux).all()
    assert (rest.flux > 0).all()
    kinds = set(rest.truth["KIND"])
    assert {"parametric", "qsogen-lines", *(row[0] for row in EIGENSPECTRA)} <= kinds
    assert (rest.truth["KIND"] == "parametric").mean() < 0.6
    for name, _, forest, _ in EIGENSPECTRA:
        assert (rest.truth["HAS_FOREST"][rest.truth["KIND"] == name] == forest).all()
    assert not rest.truth["HAS_FOREST"][z > 2.9].any()


def test_template_quasars_have_their_lines_where_the_redshift_says(templates: QuasarTemplates) -> None:
    rng = np.random.default_rng(11)
    z = np.full(60, 2.2)
    for basis in templates.eigenspectra:
        if basis.covers(z).all():
            rest = templates.from_basis(basis, z, rng)
            assert np.median(np.abs(peak(rest.flux, WAVE, 1549.06))) < 1500, basis.name
            assert np.median(np.abs(peak(rest.flux, WAVE, 1908.73))) < 2500, basis.name


def test_the_same_seed_gives_the_same_template_quasars(templates: QuasarTemplates) -> None:
    z = np.linspace(0.1, 5, 40)
    one, two = (draw(40, z, np.random.default_rng(12), templates).flux for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_folder_without_templates_is_said_set_by_set_and_parametric_quasars_stand_in(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match="used instead") as said:
        empty = QuasarTemplates(tmp_path, n_library=20)
    text = " ".join(str(warning.message) for warning in said)
    for name in ("redrock-HIZ", "spEigenQSO-58596", "Yip2004", "VandenBerk2001", "qsogen emission lines"):
        assert name in text
        assert name in empty.missing
    rest = draw(10, np.full(10, 2.0), np.random.default_rng(0), empty)
    assert set(rest.truth["KIND"]) == {"parametric"}


def test_redshift_is_an_exact_shift_of_pixels() -> None:
    z, shift = snap(np.array([1.0, 2.345]))
    rest = parametric(2, z, np.random.default_rng(0))
    flux, _ = redshifted(rest, shift, 36000, 100)
    for row in range(2):
        start = 36000 - FIRST - shift[row]
        np.testing.assert_array_equal(flux[row], rest.flux[row, start : start + 100])
        np.testing.assert_allclose(np.log10(1 + z[row]) / LATTICE_STEP, shift[row], atol=1e-6)
