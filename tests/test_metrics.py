"""Metrics: known answers by hand, what must hold of any sample, and nothing computed from nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from broadline.decision import Rule, decide
from broadline.errors import UsageError
from broadline.evaluation import metrics
from broadline.evaluation.bal import annotated, bal_curve, bal_score
from broadline.evaluation.redshifts import moments, pull, redshift_scatter, repeats, ripple, ripple_of
from broadline.evaluation.reliability import compare, mcnemar, reliabilities, reliability
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Share, Shares, over_splits, resampled
from broadline.finders import encode
from broadline.grid import QUASARNET_LINEAR, QUASARNET_LOG, Grid
from broadline.lines import LINES, QUASARNET_LINES

NAN = math.nan
LIGHT = 299_792.458


def shifted(z: Any, dv: Any) -> np.ndarray:
    """Redshifts a velocity (km/s) away."""
    z = np.asarray(z, dtype=float)
    return z + np.asarray(dv) * (1 + z) / LIGHT


def quasars(dv: Any, z: float = 2.0, **more: Any) -> Sample:
    """Quasars of one redshift, all called."""
    n = len(dv)
    fields = {"truth": ["QSO"] * n, "z_truth": np.full(n, z), "called": np.ones(n, dtype=bool)}
    return Sample(z=shifted(np.full(n, z), dv), **{**fields, **more})


def nothing() -> Sample:
    """No rows, every column."""
    names = ("c_bal", "balnicity", "p_qso", "p_z", "p_bal", "z_err", "sn", "magnitude")
    empty: dict[str, Any] = {name: [] for name in (*names, "confidence", "bal", "object_id")}
    return Sample(z=[], truth=[], z_truth=[], c=np.empty((0, 6)), **empty)  # type: ignore[arg-type]


#: annotation, its confidence, its redshift, called, velocity difference
BY_HAND = (
    ("QSO", 3, 2.0, True, 0),  # right
    ("QSO", 3, 1.0, True, 5999),  # right, just
    ("QSO", 3, 1.0, True, 6001),  # wrong redshift
    ("QSO", 3, 3.0, False, 0),  # missed
    ("GALAXY", 3, 0.5, True, -100),  # right in the purity only
    ("GALAXY", 3, 0.5, True, 20_000),
    ("STAR", 3, 0.0, True, 0),
    ("STAR", 3, 0.0, False, 0),
    ("QSO", 2, 2.0, True, 0),  # not sure
    ("QSO", 1, NAN, False, 0),
    ("SKY", 3, NAN, True, 0),
    ("", 0, NAN, False, 0),
    ("QSO", 3, NAN, True, 0),  # sure, without a redshift
)


@pytest.fixture
def by_hand() -> Sample:
    truth, confidence, z, called, dv = (np.array(column) for column in zip(*BY_HAND, strict=True))
    found = np.where(np.isnan(z), 1.0, shifted(z, dv))
    return Sample(z=found, truth=truth, z_truth=z, called=called, confidence=confidence)


# ---- section 4.1


def test_purity_and_completeness_are_those_of_section_4_1(by_hand: Sample) -> None:
    score = metrics.score(by_hand)
    assert score.purity == Share(3, 7)
    assert score.completeness == Share(2, 4)
    assert score.catastrophic == Share(1, 3)
    assert score.n_lost == 1


def test_the_misidentified_and_the_missed_are_told_apart(by_hand: Sample) -> None:
    assert metrics.composition(by_hand) == metrics.Composition(
        star=Share(1, 7),
        galaxy=Share(2, 7),
        other=Share(1, 7),
        galaxy_right=Share(1, 2),
        wrong_z=Share(1, 7),
        missed=Share(1, 4),
        missed_z=Share(1, 4),
    )


def test_spectra_without_sure_annotation_are_a_sample_of_their_own(by_hand: Sample) -> None:
    assert metrics.uncertain(by_hand) == metrics.Uncertain(
        uncertain=Share(3, 13), tentative=Share(1, 3), called=Share(1, 3), agree=Share(1, 1)
    )


def test_annotations_without_confidences_are_all_sure(by_hand: Sample) -> None:
    sure = dataclasses.replace(by_hand, confidence=None)
    assert metrics.score(sure).completeness == Share(3, 5)
    assert metrics.uncertain(sure) is None


def test_a_quasar_called_without_a_redshift_is_a_wrong_one() -> None:
    score = metrics.score(dataclasses.replace(quasars([0.0, 0.0]), z=np.array([2.0, NAN])))
    assert (score.purity, score.completeness, score.catastrophic) == (Share(1, 2), Share(1, 2), Share(1, 2))


def test_the_velocity_limit_itself_is_not_within_it() -> None:
    # 6000 = c (z - z_truth) / (1 + z_truth) to the last bit, for z_truth = 0.
    limit = 6000 / LIGHT
    assert limit * LIGHT == 6000
    zero = dataclasses.replace(quasars([0.0], z=0.0), z=np.array([limit]))
    assert metrics.score(zero).completeness == Share(0, 1)
    below = dataclasses.replace(zero, z=np.array([np.nextafter(limit, 0)]))
    assert metrics.score(below).completeness == Share(1, 1)


def test_confidences_call_quasars_as_the_decision_does() -> None:
    rng = np.random.default_rng(0)
    c = rng.random((200, len(QUASARNET_LINES)), dtype=np.float32)
    c[:7] = np.float32(0.4)  # exactly at the threshold
    z = np.full(c.shape, 2.0)
    sample = Sample(z=z[:, 0], truth=["QSO"] * 200, z_truth=z[:, 0], c=c[:, :6])
    np.testing.assert_array_equal(sample.quasar, decide(c, z, QUASARNET_LINES, Rule()).is_qso)
    for rule in (Rule(0.9, 1), Rule(0.4, 2), Rule(0.6, 3), Rule(0.1, 6)):
        expected = decide(c, z, QUASARNET_LINES, rule).is_qso
        assert 0 < expected.sum() < 200
        np.testing.assert_array_equal(sample.at(rule).quasar, expected)


# ---- against the threshold


def three_lines() -> Sample:
    """Two right quasars, one with the wrong redshift, a star; three lines each."""
    return Sample(
        z=[2.0, 2.0, 4.0, 1.0],
        truth=["QSO", "QSO", "QSO", "STAR"],
        z_truth=[2.0, 2.0, 2.0, 0.0],
        c=np.array([[0.9, 0.5, 0.1], [0.3, 0.2, 0.0], [0.6, 0.0, NAN], [0.5, 0.1, 0.0]]),
    )


def test_curves_have_the_values_counted_by_hand() -> None:
    one = metrics.curve(three_lines(), [0.0, 0.4, 0.55, 0.95])
    np.testing.assert_array_equal(one.purity.k, [2, 1, 1, 0])
    np.testing.assert_array_equal(one.purity.n, [4, 3, 2, 0])
    np.testing.assert_array_equal(one.completeness.k, [2, 1, 1, 0])
    np.testing.assert_array_equal(one.completeness.n, [3, 3, 3, 3])
    np.testing.assert_array_equal(one.purity.value, [0.5, 1 / 3, 0.5, NAN])
    two = metrics.curve(three_lines(), [0.15, 0.3], l_min=2)
    np.testing.assert_array_equal(two.purity.value, [1, 1])
    np.testing.assert_array_equal(two.completeness.value, [2 / 3, 1 / 3])
    three = metrics.curve(three_lines(), [0.05, 0.1], l_min=3)
    np.testing.assert_array_equal(three.purity.value, [1, NAN])
    four = metrics.curve(three_lines(), [0.0], l_min=4)
    assert np.isnan(four.purity.value).all()
    assert (four.completeness.value == 0).all()


def test_confidences_at_the_threshold_in_their_own_precision_are_not_above_it() -> None:
    c = np.full((1, 1), 0.4, dtype=np.float32)  # as float64 a little above 0.4
    sample = Sample(z=[2.0], truth=["QSO"], z_truth=[2.0], c=c, c_bal=c[0], bal=[1])
    curve = bal_curve(dataclasses.replace(sample, called=np.array([True])), [0.4, 0.5])
    assert curve is not None
    assert not sample.quasar[0]
    assert metrics.curve(sample, [0.4]).purity.n[0] == curve.pseudo_purity.n[0] == 0


def of_shares(purity: list[float], completeness: list[float], thresholds: list[float]) -> metrics.Curve:
    parts = [
        Shares(np.round(1000 * np.array(x)).astype(int), np.full(len(x), 1000))
        for x in (purity, completeness)
    ]
    return metrics.Curve(np.array(thresholds), *parts)


def test_purity_crosses_completeness_between_thresholds() -> None:
    crossing = metrics.crossing(of_shares([0.8, 0.9, 1.0], [1.0, 0.96, 0.9], [0.2, 0.4, 0.6]))
    assert crossing is not None
    # The difference goes from -0.06 to 0.1: the crossing is at 0.375 of the step.
    assert crossing.threshold == pytest.approx(0.475)
    assert crossing.value == pytest.approx(0.9375)


def test_curves_that_do_not_cross_have_no_crossing() -> None:
    assert metrics.crossing(of_shares([0.9, 1.0], [0.8, 0.7], [0.2, 0.4])) is None
    assert metrics.crossing(of_shares([0.7, 0.8], [0.9, 0.9], [0.2, 0.4])) is None
    assert metrics.crossing(metrics.curve(nothing(), [0.1, 0.2])) is None


def test_curves_that_begin_equal_cross_there() -> None:
    assert metrics.crossing(of_shares([0.9, 1.0], [0.9, 0.7], [0.2, 0.4])) == metrics.Crossing(0.2, 0.9)


# ---- errors


def test_intervals_are_beta_quantiles_with_the_prior_of_jeffreys() -> None:
    low, high = Share(5, 10).interval
    assert low + high == pytest.approx(1)
    # 0 of 1 leaves Beta(1/2, 3/2), whose distribution is 2 / pi (asin(sqrt x) + sqrt(x (1 - x))).
    low, high = Share(0, 1).interval
    assert low == 0
    assert 2 / math.pi * (math.asin(math.sqrt(high)) + math.sqrt(high * (1 - high))) == pytest.approx(0.975)
    assert Share(1, 1).interval == (pytest.approx(1 - high), 1.0)
    assert all(math.isnan(end) for end in Share(0, 0).interval)


def test_the_bootstrap_of_a_share_has_the_scatter_of_a_binomial() -> None:
    dv = np.where(np.arange(400) < 100, 9000.0, 0.0)
    bands = metrics.bands(quasars(dv), n_resamples=4000)
    expected = math.sqrt(0.75 * 0.25 / 400)
    assert bands.completeness.std[0] == pytest.approx(expected, rel=0.05)
    assert bands.completeness.low[0] == pytest.approx(0.75 - 1.96 * expected, abs=0.006)
    assert bands.completeness.high[0] == pytest.approx(0.75 + 1.96 * expected, abs=0.006)


def test_spectra_of_one_object_are_drawn_together() -> None:
    dv = np.where(np.arange(400) < 100, 9000.0, 0.0)
    alone = metrics.bands(quasars(dv), n_resamples=1000)
    objects = np.arange(400) // 4
    together = metrics.bands(quasars(dv, object_id=objects), n_resamples=1000)
    assert together.purity.std[0] == pytest.approx(2 * alone.purity.std[0], rel=0.1)


def test_drawing_kinds_of_objects_is_drawing_objects() -> None:
    rng = np.random.default_rng(3)
    objects, cells = rng.integers(0, 60, 150), rng.integers(0, 4, 150)
    counts = resampled(objects, cells, 4, 20_000, 1).astype(float)
    table = np.zeros((60, 4))
    np.add.at(table, (objects, cells), 1)
    table = table[table.sum(axis=1) > 0]
    drawn = table[rng.integers(len(table), size=(20_000, len(table)))].sum(axis=1)
    np.testing.assert_allclose(counts.mean(axis=0), drawn.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(np.cov(counts.T), np.cov(drawn.T), atol=0.05 * np.cov(drawn.T).max())


def test_bands_of_a_curve_are_those_of_each_threshold() -> None:
    rng = np.random.default_rng(4)
    sample = Sample(
        z=np.full(300, 2.0), truth=["QSO"] * 300, z_truth=np.full(300, 2.0), c=rng.random((300, 2))
    )
    bands = metrics.bands_of_curve(sample, [0.2, 0.6], n_resamples=3000)
    for i, c_th in enumerate((0.2, 0.6)):
        p = metrics.score(sample.at(Rule(c_th))).completeness.value
        assert bands.completeness.std[i] == pytest.approx(math.sqrt(p * (1 - p) / 300), rel=0.1)
    np.testing.assert_array_equal(bands.purity.std, 0)


def test_splits_have_a_mean_and_an_rms() -> None:
    spread = over_splits([[0.99, 0.5, NAN], [0.97, NAN, NAN]])
    np.testing.assert_allclose(spread.mean, [0.98, 0.5, NAN])
    np.testing.assert_allclose(spread.rms, [0.01, NAN, NAN])
    np.testing.assert_array_equal(spread.n, [2, 1, 0])
    assert over_splits([1.0, 2.0, 3.0]).rms == pytest.approx(math.sqrt(2 / 3))


# ---- bins


def test_purity_is_binned_by_the_redshift_found_and_completeness_by_the_annotated_one() -> None:
    sample = Sample(
        z=[0.7, 0.7, 2.2, 0.8, 5.5, NAN],
        truth=["QSO", "QSO", "QSO", "GALAXY", "STAR", "QSO"],
        z_truth=[0.7, 2.2, 2.2, 0.8, 0.0, 0.5],
        called=[True, True, False, True, True, True],  # type: ignore[arg-type]
    )
    bins = metrics.in_redshift_bins(sample)
    assert len(bins.purity.n) == 11
    assert dict(enumerate(bins.purity.n)) == {**dict.fromkeys(range(11), 0), 1: 3}
    assert bins.purity.k[1] == 2
    np.testing.assert_array_equal(bins.completeness.n, [0, 2, 0, 0, 2, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(bins.completeness.k, [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    low, high = bins.completeness.interval
    assert np.isnan(low[0]) and np.isnan(high[0])
    assert (low[1], high[1]) == Share(1, 2).interval


def test_bins_of_signal_to_noise_hold_their_lower_edge() -> None:
    sn = np.array([0.0, 0.99, 1.0, 2.0, NAN])
    sample = quasars([0, 9000, 0, 0, 0], sn=sn)
    bins = metrics.in_bins(sample, sn, [0, 1, 2])
    np.testing.assert_array_equal(bins.completeness.k, [1, 1])
    np.testing.assert_array_equal(bins.completeness.n, [2, 1])
    np.testing.assert_array_equal(bins.purity.value, [0.5, 1])


# ---- redshifts


def test_moments_are_those_of_the_textbook() -> None:
    m = moments(np.array([1.0, 2.0, 3.0, 4.0, 100.0, NAN]))
    assert (m.n, m.mean) == (5, 22.0)
    assert m.std == pytest.approx(math.sqrt((21**2 + 20**2 + 19**2 + 18**2 + 78**2) / 4))
    assert m.nmad == pytest.approx(1.4826)  # deviations from 3 are 2, 1, 0, 1, 97


def test_catastrophic_redshifts_are_clipped_and_counted() -> None:
    scatter = redshift_scatter(quasars([-100, 0, 100, 60_000]))
    assert (scatter.all.n, scatter.right.n) == (4, 3)
    assert scatter.all.mean == pytest.approx(15_000)
    assert scatter.right.mean == pytest.approx(0, abs=1e-6)
    assert scatter.right.std == pytest.approx(100)
    assert scatter.right.nmad == pytest.approx(148.26)
    assert scatter.catastrophic == Share(1, 4)


def test_redshifts_of_stars_and_of_what_is_not_called_do_not_count() -> None:
    sample = quasars([100, 200, 300, 400], called=np.array([True, True, False, True]))
    scatter = redshift_scatter(dataclasses.replace(sample, truth=np.array(["QSO", "QSO", "QSO", "GALAXY"])))
    assert scatter.all.n == 2
    assert scatter.all.mean == pytest.approx(150)


def test_the_pull_of_honest_errors_is_one() -> None:
    rng = np.random.default_rng(0)
    dv, error = rng.normal(300, 600, 20_000), np.full(20_000, 3 * 600 / LIGHT)
    scatter = pull(quasars(dv, z_err=error))
    assert scatter is not None
    assert scatter.all.mean == pytest.approx(0.5, abs=0.03)
    assert scatter.all.std == pytest.approx(1, abs=0.03)
    assert scatter.all.nmad == pytest.approx(1, abs=0.03)
    halved = pull(quasars(dv, z_err=error / 2))
    assert halved is not None
    assert halved.right.nmad == pytest.approx(2, abs=0.05)


def test_errors_that_are_missing_or_zero_have_no_pull() -> None:
    scatter = pull(quasars([300, 300, 300], z_err=np.array([NAN, 0.0, 0.001])))
    assert scatter is not None
    assert scatter.all.n == 1
    assert scatter.all.mean == pytest.approx(3 * 300 / LIGHT / 0.001)
    assert math.isnan(scatter.all.std)
    assert pull(quasars([300])) is None


@pytest.mark.parametrize("grid", [QUASARNET_LOG, QUASARNET_LINEAR])
@pytest.mark.parametrize("n_boxes", [13, 52])
def test_a_ripple_put_in_is_found_with_its_amplitude(grid: Grid, n_boxes: int) -> None:
    rng = np.random.default_rng(1)
    z = rng.uniform(1.5, 5.0, 20_000)
    offset = encode(z, [LINES["CIV"]], grid, n_boxes)[1][:, 0]
    noise = rng.normal(0, 600, len(z))
    for amplitude in (0.0, 100.0):
        dv = np.nan_to_num(amplitude * np.sin(2 * np.pi * offset + 0.7)) + 50 + noise
        sample = quasars(dv)
        sample = dataclasses.replace(sample, z=shifted(z, dv), z_truth=z)
        found = ripple(sample, LINES["CIV"], grid, n_boxes)
        assert found.n == int(np.isfinite(offset).sum())
        assert found.error == pytest.approx(600 * math.sqrt(2 / found.n), rel=0.05)
        assert found.amplitude == pytest.approx(amplitude, abs=3.5 * found.error)
        assert found.n_neighbours >= 4
        assert (found.chance < 1e-4) == (amplitude > 0)
        assert found.power > 20 if amplitude else found.power < 8


def test_a_pure_sine_is_fitted_exactly() -> None:
    x = np.linspace(0, 10, 4001)
    found = ripple_of(x, 7 + 30 * np.sin(2 * np.pi * x) - 40 * np.cos(2 * np.pi * x))
    assert found.amplitude == pytest.approx(50)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_a_slow_drift_is_no_ripple() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 12, 50_000)
    found = ripple_of(x, 40 * (x - 6) + rng.normal(0, 100, len(x)))
    assert found.power < 3
    assert found.chance > 0.05


def test_the_chance_of_noise_is_uniform() -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 10, 500)
    chances = np.array([ripple_of(x, rng.normal(0, 1, 500)).chance for _ in range(2000)])
    assert np.mean(chances < 0.01) == pytest.approx(0.01, abs=0.006)
    assert np.mean(chances < 0.1) == pytest.approx(0.1, abs=0.02)
    assert np.mean(chances) == pytest.approx(0.5, abs=0.02)


def test_redshifts_within_few_boxes_have_an_amplitude_but_nothing_to_compare_it_with() -> None:
    x = np.random.default_rng(0).uniform(0, 2, 1000)
    found = ripple_of(x, np.sin(2 * np.pi * x))
    assert found.amplitude == pytest.approx(1)
    assert math.isnan(found.power) and math.isnan(found.chance)


# ---- repeat observations


def test_pairs_of_one_object_are_counted_and_measured() -> None:
    sample = Sample(
        z=np.concatenate(
            [shifted([1, 1], [200, -200]), [2.0, 3.0], shifted([1] * 3, [0, 300, 600]), [1.0, 1.0]]
        ),
        truth=[""] * 9,
        z_truth=[NAN] * 9,
        called=np.array([1, 1, 1, 1, 1, 1, 1, 1, 0], dtype=bool),
        object_id=[7, 7, 8, 8, 9, 9, 9, 5, 5],
    )
    found = repeats(sample)
    assert found is not None
    assert (found.n_objects, found.n_pairs) == (4, 6)
    assert found.same_class == Share(5, 6)
    assert found.conflict == Share(1, 5)
    # Pooled: squares about the means of 7 and of 9, by their degrees of freedom.
    squares = 2 * 200**2 + 2 * 300**2
    assert found.std == pytest.approx(math.sqrt(squares / 3), rel=1e-3)
    # |dv| of 300, 300, 600 with weight 2/3 each, 400 with weight 1: midpoints 1/3, 1, 11/6; half is 1.5.
    assert found.nmad == pytest.approx(1.4826 / math.sqrt(2) * (300 + 100 * 0.5 / (5 / 6)), rel=1e-3)


def test_repeats_recover_the_scatter_of_one_redshift() -> None:
    rng = np.random.default_rng(6)
    z = shifted(np.full(8000, 2.0), rng.normal(0, 500, 8000))
    sample = dataclasses.replace(quasars(np.zeros(8000), object_id=np.arange(8000) // 2), z=z)
    found = repeats(sample)
    assert found is not None
    assert found.std == pytest.approx(500, rel=0.05)
    assert found.nmad == pytest.approx(500, rel=0.05)


def test_rows_of_unknown_object_are_no_repeats() -> None:
    for unknown in (np.full(4, -1), np.full(4, "")):
        sample = quasars([0, 100, 200, 300], object_id=unknown)
        assert len(set(sample.objects)) == 4
        found = repeats(sample)
        assert found is not None
        assert found.n_pairs == 0
        assert math.isnan(found.same_class.value) and math.isnan(found.std) and math.isnan(found.nmad)
    assert repeats(quasars([0, 100])) is None


def test_a_placeholder_for_all_objects_is_refused() -> None:
    with pytest.raises(UsageError, match="object 0 has 10000 spectra"):
        repeats(quasars(np.zeros(10_000), object_id=np.zeros(10_000, dtype=int)))


# ---- broad absorption

#: flag, balnicity, BAL confidence, called, annotation, redshift
BALS = (
    (1, 900.0, 0.9, True, "QSO", 2.0),
    (1, 100.0, 0.3, True, "QSO", 2.0),  # missed BAL
    (1, 500.0, 0.8, False, "QSO", 2.0),  # not called quasar
    (1, 0.0, 0.7, True, "QSO", 2.0),  # the two disagree
    (0, 50.0, 0.1, True, "QSO", 2.0),
    (0, 0.0, 0.5, True, "QSO", 2.0),  # misidentified
    (0, 0.0, 0.1, True, "QSO", 2.0),
    (0, 0.0, 0.1, True, "QSO", 1.0),  # no CIV
    (-1, 0.0, 0.9, True, "QSO", 2.0),  # not known
    (0, 0.0, 0.9, True, "STAR", 0.0),
)


@pytest.fixture
def bals() -> Sample:
    bal, bi, c_bal, called, truth, z = (np.array(column) for column in zip(*BALS, strict=True))
    return Sample(z=z, truth=truth, z_truth=z, called=called, c_bal=c_bal, bal=bal, balnicity=bi)


def test_broad_absorption_is_scored_as_in_section_4_2(bals: Sample) -> None:
    score = bal_score(bals)
    assert score is not None
    assert score.pseudo_purity == Share(2, 4)
    assert score.pseudo_completeness == Share(1, 3)
    assert score.non_bal == Share(1, 2)
    np.testing.assert_array_equal(score.balnicity, [900, 100, 50])
    np.testing.assert_array_equal(score.balnicity_missed, [100, 50])
    assert (score.median_balnicity, score.median_missed) == (100, 75)
    assert score.redshifts.all.n == 4  # the quasars called BAL
    curve = bal_curve(bals, [0.2, 0.4, 0.95])
    assert curve is not None
    np.testing.assert_array_equal(curve.pseudo_completeness.value, [2 / 3, 1 / 3, 0])
    np.testing.assert_array_equal(curve.pseudo_purity.value, [3 / 5, 2 / 4, NAN])
    np.testing.assert_array_equal(curve.non_bal.value, [1 / 2, 1 / 2, 1])


def test_redshifts_of_bals_are_those_of_quasars_called_bal(bals: Sample) -> None:
    z = bals.z.copy()
    z[0], z[6] = shifted(2.0, 300), shifted(2.0, -5000)
    score = bal_score(dataclasses.replace(bals, z=z))
    assert score is not None
    assert score.redshifts.all.mean == pytest.approx(75)


def test_a_truth_with_one_of_flag_and_balnicity_is_scored_by_that(bals: Sample) -> None:
    flag = bal_score(dataclasses.replace(bals, balnicity=None))
    index = bal_score(dataclasses.replace(bals, bal=None))
    assert flag is not None and index is not None
    assert (flag.pseudo_completeness, index.pseudo_completeness) == (Share(2, 4), Share(1, 4))
    assert (flag.pseudo_purity, index.pseudo_purity) == (Share(2, 4), Share(1, 5))
    assert len(flag.balnicity) == 0
    assert math.isnan(flag.median_balnicity)


def test_without_annotations_or_confidences_there_is_no_score_of_broad_absorption(bals: Sample) -> None:
    assert bal_score(dataclasses.replace(bals, c_bal=None)) is None
    blank = dataclasses.replace(bals, bal=None, balnicity=None)
    assert annotated(blank) is None
    assert bal_score(blank) is None


# ---- probabilities


def test_the_calibration_error_is_the_mean_distance_from_the_diagonal() -> None:
    p = np.array([0.1, 0.1, 0.3, 0.3, 0.9, 0.9, 0.7, 0.7])
    true = np.array([0, 0, 0, 1, 1, 1, 1, 0], dtype=bool)
    found = reliability(p, true, n_bins=2)
    np.testing.assert_allclose(found.p, [0.2, 0.8])
    np.testing.assert_allclose(found.observed.value, [0.25, 0.75])
    assert found.ece == pytest.approx(0.05)
    assert reliability(p, true, n_bins=4).ece == pytest.approx((0.1 + 0.2 + 0.2 + 0.1) / 4)


def test_equal_probabilities_share_a_bin() -> None:
    found = reliability(np.full(100, 0.5), np.arange(100) < 50)
    assert len(found.p) == 1
    assert found.ece == 0
    np.testing.assert_array_equal(found.observed.n, [100])


def test_honest_probabilities_have_a_small_calibration_error_and_overconfident_ones_do_not() -> None:
    rng = np.random.default_rng(7)
    p = rng.random(100_000)
    true = rng.random(100_000) < p
    honest = reliability(p, true)
    np.testing.assert_array_equal(honest.observed.n, 5000)
    assert honest.ece < 0.01
    # Everything pushed to the ends: |p - 0| below one half, |1 - p| above, both 1/4 on average.
    assert reliability(np.round(p), true).ece == pytest.approx(0.25, abs=0.01)


def test_each_probability_is_held_against_its_own_event() -> None:
    sample = Sample(
        z=[2.0, 4.0, 2.0, 0.0, 2.0],
        truth=["QSO", "QSO", "GALAXY", "STAR", "QSO"],
        z_truth=[2.0, 2.0, 2.0, 0.0, 2.0],
        called=np.zeros(5, dtype=bool),
        confidence=[3, 3, 3, 3, 1],
        bal=[1, 0, 0, 0, 1],
        balnicity=[10.0, 5.0, 0.0, 0.0, 5.0],
        p_qso=[0.1, 0.2, 0.3, 0.4, 0.5],
        p_z=[0.1, 0.2, 0.3, NAN, 0.5],
        p_bal=[0.1, 0.2, 0.3, 0.4, 0.5],
    )
    found = reliabilities(sample)
    np.testing.assert_array_equal(found["p_qso"].observed.value, [1, 1, 0, 0])
    np.testing.assert_array_equal(found["p_z"].observed.value, [1, 0, 0])
    np.testing.assert_array_equal(found["p_bal"].observed.value, [1])
    assert found["p_bal"].ece == pytest.approx(0.9)
    assert reliabilities(quasars([0.0])) == {}


# ---- two catalogues


def test_mcnemar_is_the_exact_binomial() -> None:
    one = np.array([True] * 9 + [False] * 2 + [True] * 50)
    other = np.array([False] * 9 + [True] * 2 + [True] * 50)
    found = mcnemar(one, other)
    assert (found.only_one, found.only_other) == (9, 2)
    assert found.p_value == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert mcnemar(np.array([True, False]), np.array([False, True])).p_value == 1
    assert math.isnan(mcnemar(one, one).p_value)


def test_two_catalogues_are_compared_on_the_same_spectra(by_hand: Sample) -> None:
    called = by_hand.quasar.copy()
    called[[3, 6]] = True, False  # finds the missed quasar, leaves the star
    better = dataclasses.replace(by_hand, called=called)
    found = compare(better, by_hand, n_resamples=500)
    assert (found.quasars.only_one, found.quasars.only_other) == (1, 0)
    assert (found.others.only_one, found.others.only_other) == (1, 0)
    assert found.purity.value == pytest.approx(4 / 7 - 3 / 7)
    assert found.completeness.value == pytest.approx(3 / 4 - 2 / 4)
    assert found.purity.low <= found.purity.value <= found.purity.high
    back = compare(by_hand, better, n_resamples=500)
    assert back.purity.value == -found.purity.value
    assert back.quasars.only_other == 1


def test_a_paired_bootstrap_sees_what_two_separate_ones_would_not() -> None:
    n = 4000
    dv = np.where(np.arange(n) % 4 == 0, 9000.0, 0.0)
    worse = dv.copy()
    worse[np.flatnonzero(dv == 0)[:40]] = 9000  # one in a hundred more
    found = compare(quasars(dv), quasars(worse), n_resamples=1000).completeness
    assert found.value == pytest.approx(0.01)
    assert found.std == pytest.approx(math.sqrt(0.01 * 0.99 / n), rel=0.1)
    assert found.p_value == pytest.approx(2 / 1001)
    same = compare(quasars(dv), quasars(dv), n_resamples=100)
    assert (same.completeness.value, same.completeness.p_value) == (0, 1)


def test_catalogues_of_other_spectra_are_not_compared(by_hand: Sample) -> None:
    with pytest.raises(UsageError, match="not on 12 and 13"):
        compare(by_hand.take(np.arange(12)), by_hand)
    with pytest.raises(UsageError, match=r"row 1 .* another truth"):
        compare(by_hand, by_hand.take(np.arange(13)[::-1]))
    with pytest.raises(UsageError, match=r"only one .* has object_id"):
        compare(by_hand, dataclasses.replace(by_hand, object_id=np.arange(13)))


# ---- bad input


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"z": [-1.0, 2.0]}, "z of row 0 is -1.0"),
        ({"z_truth": [2.0, math.inf]}, "z_truth of row 1 is inf"),
        ({"truth": ["QSO ", "STAR"]}, "'QSO ' is not understood"),
        ({"truth": ["qso", "STAR"]}, "'qso' is not understood"),
        ({"p_z": [0.5, 1.5]}, "p_z is a probability"),
        ({"called": None}, "give called or confidences"),
    ],
)
def test_what_cannot_be_true_is_refused(columns: dict[str, Any], message: str) -> None:
    good = {
        "z": [2.0, 2.0],
        "truth": ["QSO", "STAR"],
        "z_truth": [2.0, 0.0],
        "called": np.array([True, False]),
    }
    with pytest.raises(UsageError, match=message):
        Sample(**{**good, **columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"called": np.array([1.0, NAN])}, "called cannot be of type float64"),
        ({"confidence": [3.0, NAN]}, "confidence cannot be of type float64"),
        ({"object_id": [1.0, 2.0]}, "object_id cannot be of type float64"),
        ({"object_id": np.array(["a", None])}, "object_id holds what is not text"),
        ({"sn": [1.0]}, r"sn has shape \(1,\), for 2 spectra"),
        ({"c": [1.0, 2.0]}, "c has shape"),
        ({"z": np.ma.masked_invalid([NAN, 1.0])}, "z is a masked array"),
    ],
)
def test_columns_of_another_kind_are_refused(columns: dict[str, Any], message: str) -> None:
    good = {
        "z": [2.0, 2.0],
        "truth": ["QSO", "STAR"],
        "z_truth": [2.0, 0.0],
        "called": np.array([True, False]),
    }
    with pytest.raises(ValueError, match=message):
        Sample(**{**good, **columns})


def test_thresholds_need_confidences_and_order() -> None:
    with pytest.raises(UsageError, match="no confidences"):
        metrics.curve(quasars([0.0]), [0.1])
    with pytest.raises(ValueError, match="must increase"):
        metrics.curve(three_lines(), [0.2, 0.1])
    with pytest.raises(UsageError, match="l_min"):
        metrics.curve(three_lines(), [0.1], l_min=0)
    with pytest.raises(ValueError, match="must increase"):
        metrics.in_bins(three_lines(), np.zeros(4), [1, 1])


def numbers(value: Any) -> list[float]:
    """All shares and measurements in a result, as numbers; counts are left out."""
    if isinstance(value, Share | Shares):
        return [*np.ravel(value.value), *np.ravel(value.interval)]
    if isinstance(value, np.ndarray):
        return [*value.ravel().astype(float)]
    if isinstance(value, float):
        return [value]
    if dataclasses.is_dataclass(value):
        skip = ("n", "thresholds", "edges")
        names = [f.name for f in dataclasses.fields(value) if f.name not in skip]
        return [number for name in names for number in numbers(getattr(value, name))]
    return []


def everything(sample: Sample) -> dict[str, Any]:
    """Every metric of a sample with confidences."""
    thresholds = [0.1, 0.4, 0.8]
    return {
        "score": metrics.score(sample),
        "composition": metrics.composition(sample),
        "uncertain": metrics.uncertain(sample),
        "curves": [metrics.curve(sample, thresholds, l_min) for l_min in (1, 2, 3)],
        "bands": metrics.bands(sample, 20),
        "bands of curve": metrics.bands_of_curve(sample, thresholds, 1, 20),
        "redshift bins": metrics.in_redshift_bins(sample),
        "sn bins": metrics.in_bins(sample, sample.sn, [0, 1, 2]),
        "scatter": redshift_scatter(sample),
        "pull": pull(sample),
        "ripple": ripple(sample, LINES["CIV"], QUASARNET_LOG, 13),
        "repeats": repeats(sample),
        "bal curve": bal_curve(sample, thresholds),
        "bal": bal_score(sample),
        "reliability": list(reliabilities(sample).values()),
        "comparison": compare(sample, sample, 20),
    }


def test_an_empty_sample_has_no_numbers_at_all() -> None:
    for name, result in everything(nothing()).items():
        for part in result if isinstance(result, list) else [result]:
            values = [x for x in numbers(part) if not math.isnan(x)]
            assert values == [], name


def only(kind: str) -> Sample:
    rng = np.random.default_rng(8)
    z = np.full(50, 2.0)
    return Sample(
        z=z,
        truth=[kind] * 50,
        z_truth=z,
        c=rng.random((50, 6)),
        c_bal=rng.random(50),
        bal=np.zeros(50, dtype=int),
        balnicity=np.zeros(50),
        confidence=np.full(50, 3),
        object_id=np.arange(50),
        sn=rng.random(50),
        z_err=np.full(50, 0.01),
        p_qso=rng.random(50),
        p_z=rng.random(50),
        p_bal=rng.random(50),
    )


def test_without_quasars_there_is_no_completeness() -> None:
    found = everything(only("STAR"))
    assert found["score"].purity.value == 0
    assert math.isnan(found["score"].completeness.value)
    assert math.isnan(found["score"].catastrophic.value)
    assert np.isnan(found["curves"][0].completeness.value).all()
    assert np.isnan(found["bands"].completeness.std).all()
    assert math.isnan(found["comparison"].completeness.value)
    assert math.isnan(found["scatter"].all.mean)
    assert math.isnan(found["bal"].pseudo_completeness.value)
    assert math.isnan(found["bal"].non_bal.value)


def test_without_anything_but_quasars_there_is_still_a_purity() -> None:
    found = everything(only("QSO"))
    assert found["score"].purity.value == 1
    assert found["composition"].star.value == 0
    assert math.isnan(found["composition"].galaxy_right.value)
    assert math.isnan(found["uncertain"].called.value)
    assert found["comparison"].others.only_one == 0
    assert math.isnan(found["comparison"].others.p_value)


def test_one_object_has_no_scatter() -> None:
    alone = dataclasses.replace(only("QSO"), object_id=np.zeros(50, dtype=int))
    assert np.isnan(metrics.bands(alone).completeness.std).all()


# ---- what holds of any sample

ROWS = st.tuples(
    st.sampled_from(["QSO", "STAR", "GALAXY", "SKY", ""]),
    st.sampled_from([-1, 0, 1, 2, 3, 3, 3]),
    st.sampled_from([0.0, 0.5, 2.0, 3.0, NAN]),
    st.sampled_from([0.0, 1000.0, -5000.0, 9000.0, NAN]),
    st.lists(st.floats(0, 1) | st.just(NAN), min_size=4, max_size=4),
    st.integers(-1, 4),
    st.sampled_from([-1, 0, 1]),
    st.sampled_from([0.0, 10.0, NAN]),
)


def drawn(rows: list[Any]) -> Sample:
    truth, confidence, z, dv, c, objects, bal, bi = (np.array(column) for column in zip(*rows, strict=True))
    return Sample(
        z=shifted(np.nan_to_num(z), dv),
        truth=truth,
        z_truth=z,
        c=c[:, :3],
        c_bal=c[:, 3],
        confidence=confidence,
        object_id=objects,
        bal=bal,
        balnicity=bi,
        p_qso=c[:, 0],
        p_z=c[:, 1],
        p_bal=c[:, 2],
        z_err=np.full(len(rows), 0.01),
        sn=np.nan_to_num(c[:, 0]) * 2,
    )


def shares_in(value: Any) -> list[Any]:
    if isinstance(value, Share | Shares):
        return [value]
    if isinstance(value, list):
        return [share for part in value for share in shares_in(part)]
    if dataclasses.is_dataclass(value):
        return [share for f in dataclasses.fields(value) for share in shares_in(getattr(value, f.name))]
    return []


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_shares_are_between_0_and_1_and_within_their_intervals_or_missing(rows: list[Any]) -> None:
    for share in shares_in(list(everything(drawn(rows)).values())):
        k, n = np.ravel(share.k), np.ravel(share.n)
        assert ((k >= 0) & (k <= n)).all()
        value, (low, high) = np.ravel(share.value), map(np.ravel, share.interval)
        np.testing.assert_array_equal(np.isnan(value), n == 0)
        some = n > 0
        assert ((low >= 0) & (low <= value) & (value <= high) & (high <= 1))[some].all()


@settings(max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Any], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, other = everything(drawn(rows)), everything(drawn(shuffled))
    one["bal"], other["bal"] = (
        x["bal"].redshifts if x["bal"] else None for x in (one, other)
    )  # its lists of balnicity are in the order of the rows
    for name in one:
        parts = [x if isinstance(x, list) else [x] for x in (one[name], other[name])]
        for a, b in zip(*parts, strict=True):
            np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-6, atol=1e-6, err_msg=name)


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=20))
def test_one_more_quasar_found_lowers_neither_purity_nor_completeness(rows: list[Any]) -> None:
    found = ("QSO", 3, 2.0, 0.0, [1.0, 1.0, 1.0, 0.0], -1, 0, 0.0)
    before, after = metrics.score(drawn(rows)), metrics.score(drawn([*rows, found]))
    for name in ("purity", "completeness"):
        old, new = getattr(before, name).value, getattr(after, name).value
        assert math.isnan(old) or new >= old


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=20), st.sampled_from(["STAR", "SKY", "QSO"]))
def test_one_more_false_quasar_never_raises_purity(rows: list[Any], kind: str) -> None:
    false = (kind, 3, 0.5, 9000.0, [1.0, 1.0, 1.0, 0.0], -1, 0, 0.0)
    before, after = metrics.score(drawn(rows)), metrics.score(drawn([*rows, false]))
    assert math.isnan(before.purity.value) or after.purity.value <= before.purity.value
    assert math.isnan(before.completeness.value) or after.completeness.value <= before.completeness.value


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=30), st.integers(1, 3))
def test_a_curve_is_the_score_at_each_threshold(rows: list[Any], l_min: int) -> None:
    sample, thresholds = drawn(rows), [0.0, 0.25, 0.5, 1.0]
    curve = metrics.curve(sample, thresholds, l_min)
    for i, c_th in enumerate(thresholds):
        score = metrics.score(sample.at(Rule(c_th, l_min)))
        assert Share(int(curve.purity.k[i]), int(curve.purity.n[i])) == score.purity
        assert Share(int(curve.completeness.k[i]), int(curve.completeness.n[i])) == score.completeness
    assert (np.diff(curve.completeness.k) <= 0).all()


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_the_parts_add_up_to_what_is_lacking(rows: list[Any]) -> None:
    sample = drawn(rows)
    score, parts = metrics.score(sample), metrics.composition(sample)
    wrong = parts.star.k + parts.other.k + parts.wrong_z.k + parts.galaxy.k - parts.galaxy_right.k
    assert wrong == score.purity.n - score.purity.k
    assert parts.missed.k + parts.missed_z.k == score.completeness.n - score.completeness.k
    bins = metrics.in_bins(sample, np.zeros(len(sample)), [0, 1])
    assert (bins.purity.k[0], bins.purity.n[0]) == (score.purity.k, score.purity.n)


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=30), st.lists(st.booleans(), min_size=30, max_size=30))
def test_counts_of_two_halves_add_up_to_those_of_the_whole(rows: list[Any], half: list[bool]) -> None:
    sample = drawn(rows)
    mask = np.array(half[: len(rows)])
    assume(0 < mask.sum() < len(rows))
    parts = [shares_in(metrics.score(sample.take(x))) for x in (mask, ~mask)]
    whole = shares_in(metrics.score(sample))
    assert [(a.k + b.k, a.n + b.n) for a, b in zip(*parts, strict=True)] == [(s.k, s.n) for s in whole]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80), st.integers(1, 30))
def test_reliability_holds_every_row_in_at_most_the_bins_asked_for(rows: list[Any], n_bins: int) -> None:
    p, true = (np.array(column) for column in zip(*rows, strict=True))
    found = reliability(p, true, n_bins)
    assert found.observed.n.sum() == found.n == len(p)
    assert (found.observed.n > 0).all()
    assert len(found.p) <= n_bins
    assert 0 <= found.ece <= 1
    assert (np.diff(found.p) > 0).all()


@settings(max_examples=40)
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=40), st.floats(-1e3, 1e3), st.floats(0.1, 10))
def test_scatter_shifts_and_scales_with_the_values(x: list[float], shift: float, scale: float) -> None:
    values = np.array(x)
    one, other = moments(values), moments(scale * values + shift)
    assert other.mean == pytest.approx(scale * one.mean + shift, abs=1e-6)
    assert other.std == pytest.approx(scale * one.std, abs=1e-6)
    assert other.nmad == pytest.approx(scale * one.nmad, abs=1e-6)
