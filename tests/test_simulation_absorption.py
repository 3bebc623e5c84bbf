"""Simulated absorption is what the specification says it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import wofz

from broadline.simulation.absorption import (
    LYMAN_SERIES,
    absorb,
    damped,
    damped_optical_depth,
    effective_optical_depth,
    forest,
    metals,
)
from broadline.simulation.broad_absorption import absorption_index, balnicity, bals
from broadline.spectra import lattice_wavelength

FIRST, N = 35500, 4600
WAVE = lattice_wavelength(FIRST, N)
VELOCITY = np.arange(-30000.0, 1000.0, 10.0)


def box(*troughs: tuple[float, float, float]) -> np.ndarray:
    """Residual flux with rectangular troughs: velocity of the red edge, width (km/s), depth."""
    residual = np.ones((1, len(VELOCITY)))
    for red, width, depth in troughs:
        residual[:, (red >= VELOCITY) & (red - width < VELOCITY)] = 1 - depth
    return residual


@pytest.mark.parametrize("z", [2.2, 3.0, 4.0, 5.0])
def test_mean_transmission_of_the_forest_is_that_observed(z: float) -> None:
    rng = np.random.default_rng(1)
    sample = forest(FIRST, N, np.full(1000, z), rng)
    rest = WAVE / (1 + z)
    use = (rest > 1045) & (rest < 1185)
    mean = np.exp(-effective_optical_depth(WAVE[use] / 1215.67 - 1))
    np.testing.assert_allclose(sample[:, use].mean(), mean.mean(), atol=0.006)
    half = use & (rest > 1115)
    lower = use & (rest <= 1115)
    assert sample[:, half].mean() < sample[:, lower].mean()


def test_effective_optical_depth_is_the_published_power_law() -> None:
    np.testing.assert_allclose(effective_optical_depth(2.0), 0.0018 * 3**3.92)
    np.testing.assert_allclose(effective_optical_depth(2.0), 0.1335, atol=5e-4)


def test_nothing_is_absorbed_redward_of_lya_and_more_blueward_of_lyb() -> None:
    z = 3.2
    sample = forest(FIRST, N, np.full(500, z), np.random.default_rng(2))
    rest = WAVE / (1 + z)
    assert (sample[:, rest > 1216.2] == 1).all()
    assert (sample[:, rest < 1215] < 1).mean() > 0.99
    below = (rest > 980) & (rest < 1024)
    alone = np.exp(-effective_optical_depth(WAVE[below] / 1215.67 - 1)).mean()
    assert sample[:, below].mean() < 0.93 * alone


def test_the_forest_is_correlated_over_a_few_pixels() -> None:
    sample = forest(FIRST, N, np.full(300, 3.0), np.random.default_rng(3))
    use = sample[:, 900:1200] - sample[:, 900:1200].mean(axis=0)

    def correlation(lag: int) -> float:
        return float((use[:, lag:] * use[:, :-lag]).mean() / (use**2).mean())

    assert correlation(1) > 0.4
    assert correlation(30) < 0.12
    assert correlation(1) > correlation(3) > correlation(10)


def test_quasars_too_near_for_lya_have_no_forest() -> None:
    assert (forest(FIRST, N, np.array([0.1, 1.5]), np.random.default_rng(0)) == 1).all()


@pytest.mark.parametrize("line", [0, 1])
def test_damping_wings_are_those_of_the_voigt_profile(line: int) -> None:
    centre, strength, gamma = LYMAN_SERIES[line]
    log_n, b = 20.7, 20e5  # cm / s
    wave = centre + np.linspace(4, 40, 200)
    frequency = 2.99792458e18 / wave
    doppler = 2.99792458e18 / centre * b / 2.99792458e10
    x = (frequency - 2.99792458e18 / centre) / doppler
    a = gamma / (4 * np.pi * doppler)
    voigt = wofz(x + 1j * a).real / (np.sqrt(np.pi) * doppler)
    exact = 10**log_n * 0.0265400 * strength * voigt  # pi e^2 / (m c)
    approximate = damped_optical_depth(wave, log_n, line)
    np.testing.assert_allclose(approximate[:60], exact[:60], rtol=0.06)
    np.testing.assert_allclose(np.exp(-approximate), np.exp(-exact), atol=0.02)


def test_equivalent_width_of_a_damped_line_is_7_3_angstrom_at_1e20() -> None:
    wave = np.linspace(1215.67 - 800, 1215.67 + 800, 400001)
    width = np.sum(1 - np.exp(-damped_optical_depth(wave, 20.0))) * (wave[1] - wave[0])
    np.testing.assert_allclose(width, 7.3, rtol=0.02)


def test_damped_systems_and_lyman_limits_lie_in_front_of_the_quasar() -> None:
    z = np.full(3000, 3.4)
    depth, truth = damped(FIRST, N, z, np.random.default_rng(4))
    found = np.isfinite(truth["DLA_LOGN"])
    assert ((truth["DLA_LOGN"][found] > 20) & (truth["DLA_LOGN"][found] < 22.4)).all()
    assert (truth["DLA_Z"][found] < 3.4).all()
    assert 0.1 < (truth["DLA_LOGN"] > 20.3).mean() < 0.45
    pixel = np.argmin(np.abs(WAVE[None, :] - 1215.67 * (1 + truth["DLA_Z"][found])[:, None]), axis=1)
    inside = (pixel > 0) & (pixel < N - 1)
    assert (depth[found][np.arange(found.sum()), pixel][inside] > 5).all()
    limit = np.isfinite(truth["LLS_Z"])
    assert (truth["LLS_Z"][limit] < 3.4).all()
    row = np.flatnonzero(limit & (truth["LLS_Z"] > 3.1))[0]
    edge = 911.753 * (1 + truth["LLS_Z"][row])
    below = depth[row, edge - 2 > WAVE]
    assert (below > 0.4).all()


def test_metal_doublets_lie_in_front_of_the_quasar_and_mostly_outside_the_forest() -> None:
    depth, truth = metals(FIRST, N, np.full(400, 2.0), np.random.default_rng(5))
    assert np.isfinite(depth).all()
    assert (depth >= 0).all()
    none = (truth["N_MGII_ABS"] == 0) & (truth["N_CIV_ABS"] == 0)
    assert none.any()
    assert (depth[none] == 0).all()
    some = truth["N_MGII_ABS"] > 0
    assert (depth[some].max(axis=1) > 0.1).all()
    assert 0.4 < truth["N_MGII_ABS"].mean() < 1.3


@pytest.mark.parametrize(
    ("troughs", "bi", "ai"),
    [
        ([(-5000, 5000, 0.9)], 3000 * (1 - 0.1 / 0.9), 5000 * (1 - 0.1 / 0.9)),
        ([(-5000, 1900, 0.9)], 0.0, 1900 * (1 - 0.1 / 0.9)),
        ([(-5000, 400, 0.9)], 0.0, 0.0),
        ([(-5000, 5000, 0.1)], 0.0, 0.0),
        ([(-5000, 5000, 1.0)], 3000.0, 5000.0),
        ([(-1000, 4000, 1.0)], 0.0, 4000.0),  # 2,000 km/s of it lie beyond 3,000
        ([(-1000, 6000, 1.0)], 2000.0, 6000.0),
        ([(-20000, 9000, 1.0)], 3000.0, 5000.0),  # cut at 25,000
        ([(-5000, 3000, 1.0), (-12000, 4000, 0.55)], 1000.0 + 2000 * 0.5, 3000.0 + 4000 * 0.5),
        ([(-26000, 3000, 1.0)], 0.0, 0.0),
        ([], 0.0, 0.0),
    ],
)
def test_balnicity_and_absorption_index_of_boxes_are_those_by_hand(
    troughs: list[tuple[float, float, float]], bi: float, ai: float
) -> None:
    residual = box(*troughs)
    np.testing.assert_allclose(balnicity(VELOCITY, residual), bi, atol=25)
    np.testing.assert_allclose(absorption_index(VELOCITY, residual), ai, atol=25)


def test_indices_do_not_care_for_the_order_of_pixels_nor_for_the_batch() -> None:
    batch = np.concatenate([box((-5000, 5000, 0.9)), box((-9000, 7000, 0.5)), box()])
    for index in (balnicity, absorption_index):
        forward = index(VELOCITY, batch)
        np.testing.assert_allclose(index(VELOCITY[::-1], batch[:, ::-1]), forward)
        np.testing.assert_allclose([index(VELOCITY, row[None, :])[0] for row in batch], forward)


def test_balnicity_never_exceeds_twenty_thousand_km_s_and_never_the_absorption_index() -> None:
    residual = np.random.default_rng(6).uniform(0, 1.2, (200, len(VELOCITY)))
    residual[:50] = 0
    bi, ai = balnicity(VELOCITY, residual), absorption_index(VELOCITY, residual)
    assert bi.max() <= 20000
    assert (bi <= ai + 1e-9).all()
    np.testing.assert_allclose(bi[:50], 20000, atol=25)


def test_broad_absorption_has_the_published_distributions() -> None:
    _, truth = bals(FIRST, 10, np.full(6000, 2.3), np.random.default_rng(7), fraction=1.0)
    bi, ai = truth["BI_CIV"], truth["AI_CIV"]
    assert 750 < np.median(bi[bi > 0]) < 1100  # 936 km/s in DR12Q: Busca & Balland (2018), figure 6
    mini = (ai > 0) & (bi == 0)
    assert 0.25 < mini.mean() < 0.55
    assert (bi <= ai + 1e-6).all()
    assert 0.08 < truth["LOBAL"][bi > 0].mean() < 0.2
    assert (truth["BAL_TROUGHS"] >= 1).all()


def test_broad_absorption_lies_blueward_of_civ_and_only_in_those_that_have_it() -> None:
    z = np.full(600, 2.2)
    transmission, truth = bals(FIRST, N, z, np.random.default_rng(8))
    none = truth["BAL_TROUGHS"] == 0
    assert 0.7 < none.mean() < 0.92
    assert (transmission[none] == 1).all()
    assert (truth["BI_CIV"][none] == 0).all()
    rest = WAVE / 3.2
    strong = truth["BI_CIV"] > 1000
    assert (transmission[strong][:, (rest > 1420) & (rest < 1549)].min(axis=1) < 0.9).all()
    high = ~truth["LOBAL"]
    assert (transmission[high][:, rest > 1570] == 1).all()
    assert (transmission[truth["LOBAL"]][:, rest > 2600].min(axis=1) < 0.995).any()


def test_who_may_have_broad_absorption_can_be_said_quasar_by_quasar() -> None:
    chance = np.array([0.0, 1.0] * 50)
    _, truth = bals(FIRST, 10, np.full(100, 2.3), np.random.default_rng(9), chance)
    np.testing.assert_array_equal(truth["BAL_TROUGHS"] > 0, chance == 1)


def test_all_absorption_together_is_between_0_and_1_finite_and_repeatable() -> None:
    z = np.random.default_rng(10).uniform(0.01, 6, 300)
    one, truth = absorb(FIRST, N, z, np.random.default_rng(11))
    two, _ = absorb(FIRST, N, z, np.random.default_rng(11))
    assert one.dtype == np.float32
    assert one.shape == (300, N)
    assert ((one >= 0) & (one <= 1)).all()
    np.testing.assert_array_equal(one, two)
    wanted = {"BAL_TROUGHS", "BI_CIV", "AI_CIV", "LOBAL", "DLA_LOGN", "DLA_Z", "LLS_Z", "N_MGII_ABS"}
    assert wanted <= set(truth)
    assert all(len(column) == 300 for column in truth.values())


def test_a_source_with_the_mean_forest_in_it_is_not_absorbed_twice() -> None:
    z = np.full(400, 2.6)
    rest = WAVE / 3.6
    use = (rest > 1050) & (rest < 1180)
    plain, marked = (
        absorb(FIRST, N, z, np.random.default_rng(12), np.full(400, has), bal_fraction=0.0)[0][:, use].mean()
        for has in (False, True)
    )
    mean = np.exp(-effective_optical_depth(WAVE[use] / 1215.67 - 1)).mean()
    np.testing.assert_allclose(marked, plain / mean, rtol=0.02)


def test_an_empty_batch_is_a_batch() -> None:
    transmission, truth = absorb(FIRST, N, np.zeros(0), np.random.default_rng(0))
    assert transmission.shape == (0, N)
    assert all(len(column) == 0 for column in truth.values())
