"""Finders and decision: golden decoding, the round trip at box edges, and the rule line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline.decision import Rule, decide, velocity
from broadline.errors import UsageError
from broadline.finders import decode, encode
from broadline.grid import QUASARNET_LINEAR, QUASARNET_LOG, Grid
from broadline.lines import LEGACY_LINES, QUASARNET_LINES


def dense(box: np.ndarray, offset: np.ndarray, n_boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return network output that says exactly what the targets say."""
    confidence = (np.arange(n_boxes) == box[:, :, None]).astype(np.float32)
    return confidence, np.where(confidence > 0, np.nan_to_num(offset)[:, :, None], 0.5)


def test_confidences_and_redshifts_are_decoded_as_by_the_published_code(golden: Path) -> None:
    """predict_data.npy holds output of the production weights, predict_*.npy what the original made of it."""
    output = np.load(golden / "predict_data.npy").transpose(1, 0, 2)
    c, z = decode(output[:, :, :13], output[:, :, 13:], LEGACY_LINES, QUASARNET_LOG)
    np.testing.assert_allclose(c[:, :6].T, np.load(golden / "predict_lya.npy"), rtol=1e-12)
    expected = np.load(golden / "predict_bal.npy")[0]
    # The original interpolates linearly inside a pixel (0.2 km/s) and, beyond the last pixel's left edge,
    # extrapolates; the golden file agrees everywhere to 1 km/s but in that last pixel.
    last = (1 + z[:, 6]) * LEGACY_LINES[6].wavelength > QUASARNET_LOG.edges[-2]
    assert np.abs(velocity(z[:, 6], expected))[~last].max() < 1.0
    assert last.sum() <= 2


@pytest.mark.parametrize("grid", [QUASARNET_LOG, QUASARNET_LINEAR])
@settings(max_examples=60)
@given(z=st.lists(st.floats(0, 7), min_size=1, max_size=8), n_boxes=st.integers(1, 60))
def test_decode_is_the_inverse_of_encode(grid: Grid, z: list[float], n_boxes: int) -> None:
    truth = np.array(z)
    box, offset = encode(truth, QUASARNET_LINES, grid, n_boxes)
    assert ((box >= -1) & (box < n_boxes)).all()
    seen = box >= 0
    assert ((offset[seen] >= 0) & (offset[seen] < 1)).all()
    assert np.isnan(offset[~seen]).all()
    c, found = decode(*dense(box, offset, n_boxes), QUASARNET_LINES, grid)
    np.testing.assert_array_equal(c > 0, seen)
    where = np.broadcast_to(truth[:, None], found.shape)[seen]
    np.testing.assert_allclose(velocity(found[seen], where), 0, atol=1e-4)


@pytest.mark.parametrize("n_boxes", [13, 52])
def test_the_round_trip_holds_at_and_beside_every_box_edge(n_boxes: int) -> None:
    edges = QUASARNET_LOG.wavelength(np.arange(n_boxes + 1) * QUASARNET_LOG.size / n_boxes)
    for line in QUASARNET_LINES:
        for shift in (-1e-9, 0.0, 1e-9):
            z = edges * (1 + shift) / line.wavelength - 1
            box, offset = encode(z, [line], QUASARNET_LOG, n_boxes)
            inner = slice(1, -1)
            assert np.isin(box[inner, 0] - np.arange(1, n_boxes), [-1, 0]).all()
            _, found = decode(*dense(box, offset, n_boxes), [line], QUASARNET_LOG)
            assert np.abs(velocity(found[inner, 0], z[inner])).max() < 0.01


def test_a_box_of_the_paper_is_24471_km_per_s_wide() -> None:
    width = QUASARNET_LOG.step * QUASARNET_LOG.size / 13
    assert 299_792.458 * (10**width - 1) == pytest.approx(24_471, abs=10)


def test_two_lines_are_visible_at_least_up_to_redshift_5_4() -> None:
    z = np.arange(0, 5.43, 0.01)
    box, _ = encode(z, [line for line in QUASARNET_LINES if not line.bal], QUASARNET_LOG, 13)
    assert ((box >= 0).sum(axis=1) >= 2).all()


def test_a_spectrum_without_redshift_has_no_line() -> None:
    box, offset = encode(np.array([np.nan, -1.0, 2.0]), QUASARNET_LINES, QUASARNET_LOG, 13)
    assert (box[:2] == -1).all()
    assert np.isnan(offset[:2]).all()
    assert (box[2] >= 0).any()


# ---- decision

ROW = {"LYA": 0, "CIV": 1, "CIII": 2, "MGII": 3, "HBETA": 4, "HALPHA": 5, "BAL_CIV": 6}


def one(rule: Rule = Rule(), z: dict[str, float] | None = None, **c: float):  # noqa: B008
    confidence, redshift = np.zeros((1, 7), np.float32), np.full((1, 7), 2.0)
    for name, value in c.items():
        confidence[0, ROW[name]] = value
    for name, value in (z or {}).items():
        redshift[0, ROW[name]] = value
    return decide(confidence, redshift, LEGACY_LINES, rule)


def test_one_line_above_the_threshold_makes_a_quasar_and_sends_it_to_inspection() -> None:
    verdict = one(LYA=0.41, z={"LYA": 2.5})
    assert verdict.is_qso[0] and verdict.needs_vi[0]
    assert verdict.n_lines[0] == 1
    assert verdict.z[0] == 2.5


def test_a_confidence_equal_to_the_threshold_is_not_above_it() -> None:
    assert not one(Rule(c_th=0.5), LYA=0.5).is_qso[0]


def test_two_lines_are_accepted_unseen() -> None:
    verdict = one(LYA=0.9, CIV=0.8)
    assert verdict.is_qso[0] and not verdict.needs_vi[0]


def test_with_l_min_2_a_single_line_is_no_quasar_but_is_sent_to_inspection() -> None:
    verdict = one(Rule(l_min=2), MGII=0.99)
    assert not verdict.is_qso[0] and verdict.needs_vi[0]
    assert one(Rule(l_min=2), MGII=0.99, CIII=0.5).is_qso[0]


def test_the_redshift_is_that_of_the_most_confident_emission_line_never_of_the_bal_finder() -> None:
    verdict = one(CIV=0.7, CIII=0.9, BAL_CIV=0.99, z={"CIII": 1.7, "BAL_CIV": 3.0})
    assert verdict.z[0] == 1.7
    assert LEGACY_LINES[verdict.best_line[0]].name == "CIII"


def test_bal_needs_a_quasar_and_its_own_threshold() -> None:
    assert one(CIV=0.9, BAL_CIV=0.5).is_bal[0]
    assert not one(CIV=0.3, BAL_CIV=0.99).is_bal[0]
    assert not one(CIV=0.9, BAL_CIV=0.5, rule=Rule(c_th_bal=0.6)).is_bal[0]
    assert one(CIV=0.9, BAL_CIV=0.99).n_lines[0] == 1  # the BAL finder is no emission line


def test_lines_found_more_than_6000_km_per_s_apart_conflict() -> None:
    near, far = 2.0 + 3 * 5990 / 299_792.458, 2.0 + 3 * 6010 / 299_792.458
    assert not one(LYA=0.9, CIV=0.8, z={"CIV": near}).conflict[0]
    assert one(LYA=0.9, CIV=0.8, z={"CIV": far}).conflict[0]
    assert not one(LYA=0.9, CIV=0.3, z={"CIV": far}).conflict[0]


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), c_th=st.floats(0, 1), l_min=st.integers(1, 4))
def test_the_verdict_equals_the_rule_written_as_a_loop(seed: int, c_th: float, l_min: int) -> None:
    rng = np.random.default_rng(seed)
    c, z = rng.random((9, 7)).astype(np.float32), rng.uniform(0, 5, (9, 7))
    verdict = decide(c, z, LEGACY_LINES, Rule(c_th=c_th, l_min=l_min))
    for i in range(9):
        found = [j for j in range(6) if c[i, j] > c_th]
        best = max(range(6), key=lambda j: c[i, j])
        assert verdict.n_lines[i] == len(found)
        assert verdict.is_qso[i] == (len(found) >= l_min)
        assert verdict.z[i] == z[i, best]
        assert verdict.needs_vi[i] == (len(found) == 1)
        assert verdict.is_bal[i] == (len(found) >= l_min and c[i, 6] > 0.4)


@pytest.mark.parametrize(
    "bad", [{"c_th": 1.2}, {"c_th": -0.1}, {"l_min": 0}, {"c_th_bal": 7.0}, {"c_th": np.nan}]
)
def test_an_impossible_rule_is_refused(bad: dict) -> None:
    with pytest.raises(UsageError):
        Rule(**bad)
