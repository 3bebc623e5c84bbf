"""Probabilities and errors that mean what they say: fitted, stored, told in the catalogue; lines combined."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import broadline
from broadline.calibration import (
    BAL_FEATURES,
    QUASAR_FEATURES,
    Calibration,
    bal_features,
    quasar_features,
)
from broadline.decision import NARROW_BELOW, SPEED_OF_LIGHT, Rule, combine, decide
from broadline.finders import encode, errors, read_at
from broadline.grid import QUASARNET_LOG
from broadline.lines import QUASARNET_LINES
from broadline.model import Model, save_model
from broadline.named_models import load_model
from broadline.networks.architecture import Convolution, Outputs, QuasarNETConfig
from broadline.networks.graph import parameters_of
from broadline.recipe import Recipe
from broadline.representation import Representation
from files import observed, quasar, star, write_plate

CIV, BAL = 1, 6
QSO_CURVE = (-1.5, 0.6, 0.1, 0.12, -0.15, -0.4, 0.2)
Z_CURVE = (-2.5, 0.6, 0.1, 0.10, -0.20, -0.5, 0.2)
BAL_CURVE = (-0.8, 0.9, 0.3)
CALIBRATION = Calibration(QSO_CURVE, Z_CURVE, BAL_CURVE, (1.5, 2.0), "made up")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# ---- lines combined


def one(c: list[float], z: list[float], z_err: list[float], **options: Any) -> tuple[float, float, int]:
    """What `combine` makes of the lines of one spectrum."""
    arrays = np.array([c], np.float32), np.array([z]), np.array([z_err])
    combined, error, n = combine(*arrays, arrays[0].argmax(axis=1), **options)
    return float(combined[0]), float(error[0]), int(n[0])


def test_two_lines_are_weighed_by_their_inverse_variance_in_ln_1_plus_z() -> None:
    # Errors of ln(1 + z) are 0.001 and 0.002: weights 4 to 1, and 0.002 apart: 0.0004 from the first one.
    near = math.expm1(math.log(3) + 0.002)
    z, error, n = one([0.9, 0.5], [2.0, near], [0.001 * 3, 0.002 * (1 + near)])
    assert (z, n) == (pytest.approx(math.expm1(math.log(3) + 0.0004), rel=1e-12), 2)
    assert error == pytest.approx((1 + z) / math.sqrt(1e6 + 0.25e6), rel=1e-12)


def test_a_single_line_keeps_its_redshift_and_its_error() -> None:
    assert one([0.9, 0.1], [2.0, 2.001], [0.004, 0.001]) == (pytest.approx(2), pytest.approx(0.004), 1)


@pytest.mark.parametrize(("kms", "n"), [(3900, 2), (-3900, 2), (4100, 1), (-4100, 1)])
def test_lines_far_from_the_surest_have_no_say(kms: float, n: int) -> None:
    other = 2.0 + 3 * kms / SPEED_OF_LIGHT
    z, _, counted = one([0.9, 0.8], [2.0, other], [0.003, 0.003])
    assert counted == n
    assert (z == pytest.approx(2.0)) == (n == 1)


@pytest.mark.parametrize(("c", "n"), [(0.19, 1), (0.21, 2)])
def test_lines_that_are_hardly_seen_have_no_say(c: float, n: int) -> None:
    assert one([0.9, c], [2.0, 2.001], [0.003, 0.003])[2] == n


def test_the_surest_line_has_a_say_however_unsure_it_is() -> None:
    z, error, n = one([0.05, 0.01], [1.0, 1.001], [0.003, 0.003])
    assert (z, error, n) == (pytest.approx(1.0), pytest.approx(0.003), 1)


def test_errors_are_widened_by_the_scale_for_one_line_or_for_several() -> None:
    scale = (1.5, 3.0)
    assert one([0.9, 0.1], [2.0, 2.0], [0.003, 0.003], scale=scale)[1] == pytest.approx(0.0045)
    pair = one([0.9, 0.8], [2.0, 2.0], [0.003, 0.003], scale=scale)[1]
    assert pair == pytest.approx(3 * 0.003 / math.sqrt(2))


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_combined_redshift_lies_between_its_lines_and_is_surer_than_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = rng.uniform(0.3, 1, (20, 6)).astype(np.float32)
    z = 2 + rng.uniform(-0.01, 0.01, (20, 6))
    z_err = rng.uniform(0.001, 0.01, (20, 6))
    combined, error, n = combine(c, z, z_err, c.argmax(axis=1))
    assert (n == 6).all()
    assert ((combined >= z.min(axis=1) - 1e-12) & (combined <= z.max(axis=1) + 1e-12)).all()
    assert (error <= z_err.min(axis=1) * 1.02).all()


def test_absurd_output_still_gives_finite_numbers() -> None:
    z, error, n = one([0.9, 0.9], [-0.999, 5.0], [0.0, 1e9])
    assert math.isfinite(z) and math.isfinite(error) and n == 1


def test_the_verdict_takes_the_combined_redshift_where_errors_are_known() -> None:
    c, z = np.full((1, 7), 0.01, np.float32), np.full((1, 7), 2.0)
    c[0, :2], z[0, 1] = (0.9, 0.8), 2.006
    plain = decide(c, z, QUASARNET_LINES, Rule())
    assert plain.z[0] == 2.0 and np.isnan(plain.z_err[0])
    told = decide(c, z, QUASARNET_LINES, Rule(), np.full((1, 7), 0.003), (1.0, 2.0))
    assert (told.z[0], told.z_err[0]) == one([0.9, 0.8], [2.0, 2.006], [0.003] * 2, scale=(1, 2.0))[:2]


# ---- what the finders say


def test_the_error_of_a_redshift_is_that_of_its_offset() -> None:
    n_boxes, place, sigma = 52, 20.3, 0.05
    shape = (1, 1, n_boxes)
    confidence, offset = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    log_sigma = np.full(shape, 7.0, np.float32)
    confidence[0, 0, 20], offset[0, 0, 20], log_sigma[0, 0, 20] = 0.9, 0.3, math.log(sigma)
    found = errors(confidence, offset, log_sigma, QUASARNET_LINES[:1], QUASARNET_LOG)[0, 0]
    pixels = QUASARNET_LOG.size / n_boxes
    one_plus_z = QUASARNET_LOG.wavelength(np.array(place * pixels)) / QUASARNET_LINES[0].wavelength
    assert found == pytest.approx(one_plus_z * math.log(10) * QUASARNET_LOG.step * pixels * sigma, rel=1e-4)


@settings(max_examples=40)
@given(z=st.floats(0, 6), n_boxes=st.integers(2, 60))
def test_a_finder_is_read_in_the_box_where_a_redshift_puts_its_line(z: float, n_boxes: int) -> None:
    confidence = np.random.default_rng(0).random((1, n_boxes)).astype(np.float32)
    line = QUASARNET_LINES[CIV]
    found = read_at(confidence, np.array([z]), line, QUASARNET_LOG)[0]
    box = encode(np.array([z]), [line], QUASARNET_LOG, n_boxes)[0][0, 0]
    assert found == (confidence[0, box] if box >= 0 else 0)


def test_a_line_out_of_range_is_read_as_not_found() -> None:
    confidence = np.ones((3, 13), np.float32)
    found = read_at(confidence, np.array([0.5, 2.5, 6.0]), QUASARNET_LINES[CIV], QUASARNET_LOG)
    assert found.tolist() == [0, 1, 0]


# ---- features


def test_features_by_hand() -> None:
    c = np.array([[0.9, 0.7, 0.6]], np.float32)
    z, best, error = np.array([[2.0, 2.01, 3.0]]), np.array([2.0]), np.array([0.01])
    (row,) = quasar_features(c, z, best, error)
    x, second, rival = logit(0.9), logit(0.7) + 12, logit(0.6) + 12
    kms = math.log(SPEED_OF_LIGHT * 0.01 / 3 / 1000)
    expected = [1, x, x * x / 12, second, rival, kms, x * second / 12]
    assert row == pytest.approx(expected, rel=1e-6) and len(row) == len(QUASAR_FEATURES)
    assert bal_features(np.array([0.9]))[0] == pytest.approx([1, x, x * x / 12])


def test_certainty_and_absence_are_finite() -> None:
    c = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    row = quasar_features(c, np.zeros((2, 2)), np.zeros(2), np.array([0.0, np.inf]))
    assert np.isfinite(row).all() and row[:, 1].tolist() == [12, -12]
    assert row[:, 3:5].tolist() == [[0, 0], [0, 0]]


# ---- a calibrated model


def random_parameters(config: QuasarNETConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    parameters = {}
    for name, shape in config.shapes().items():
        fan_in = int(np.prod(shape[1:]))
        values = random.normal(0, 1.5 / np.sqrt(fan_in) if fan_in > 1 else 0.1, shape)
        if name.endswith("running_var") or (name.endswith(".weight") and len(shape) == 1):
            values = random.uniform(0.5, 1.5, shape)
        parameters[name] = (values - 3.0 * (name == "log_sigma.bias")).astype(np.float32)
    return parameters


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model with error heads; it knows nothing."""
    layers = (Convolution(6, 10, 4), Convolution(6, 10, 4))
    config = QuasarNETConfig(
        convolutions=layers, hidden=12, hidden_activation="norm-relu", n_boxes=26, channels=2, sigma=True
    )
    representation = Representation(channels="flux+error")
    recipe = Recipe("tiny", config, representation, QUASARNET_LINES, Rule(), {}, CALIBRATION)
    return save_model(tmp_path_factory.mktemp("models") / "ours.onnx", recipe, random_parameters(config))


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spectra") / "spPlate-4055-55359.fits"
    spectra = [observed(quasar(z), seed=i) for i, z in enumerate((0.5, 1.7, 2.3, 3.1))]
    spectra += [observed(star(), seed=9), (np.zeros_like(star()), np.zeros_like(star()))]
    return write_plate(path, *(np.stack(part) for part in zip(*spectra, strict=True)))


def test_a_calibration_survives_json_and_the_model_file(model_file: Path) -> None:
    model = load_model(model_file)
    assert model.recipe.calibration == CALIBRATION
    assert Recipe.from_json(model.recipe.to_json()) == model.recipe
    plain = replace(model.recipe, calibration=None)
    assert "calibration" not in json.loads(plain.to_json())
    assert Recipe.from_json(plain.to_json()).calibration is None


BAD: dict[str, dict[str, Any]] = {
    "too few": {"qso": QSO_CURVE[:-1]},
    "not finite": {"bal": (math.nan, 1, 1)},
    "no scale": {"scale": (0.0, 1.0)},
    "three scales": {"scale": (1.0, 1.0, 1.0)},
    "no scatter": {"scatter": (-1.0, 0.0)},
    "one scatter": {"scatter": (1.0,)},
}


@pytest.mark.parametrize("bad", BAD)
def test_an_impossible_calibration_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="calibration"):
        replace(CALIBRATION, **BAD[bad])
    with pytest.raises(ValueError, match="calibration"):
        Calibration.from_dict(CALIBRATION.to_dict() | BAD[bad])


def test_the_catalogue_of_a_calibrated_model_tells_errors_and_probabilities(
    model_file: Path, plate: Path
) -> None:
    model = load_model(model_file)
    spectra = next(iter(broadline.read(plate)))
    rows = model.classify_batch(spectra).to_pydict()
    for name in ("Z_ERR", "P_QSO", "P_Z", "P_BAL"):
        assert [value is None for value in rows[name]] == [False] * 5 + [True], name  # the last one is empty
    assert all(value > 0 for value in rows["Z_ERR"][:5])
    found, verdict = model.judge(model.representation(spectra).values)
    features = quasar_features(found.c[:, :6], found.z[:, :6], verdict.z, verdict.z_err)
    for name, curve, x in (
        ("P_QSO", QSO_CURVE, features),
        ("P_Z", Z_CURVE, features),
        ("P_BAL", BAL_CURVE, bal_features(found.c[:, BAL])),
    ):
        expected = [1 / (1 + math.exp(-float(np.dot(row, curve)))) for row in x[:5]]
        assert rows[name][:5] == pytest.approx(expected, rel=1e-5), name
        assert len(set(rows[name])) > 3, name


def test_errors_in_the_catalogue_are_scaled_as_calibrated(model_file: Path, plate: Path) -> None:
    model = load_model(model_file)
    values = model.representation(next(iter(broadline.read(plate)))).values[:5]
    found, verdict = model.judge(values)
    assert found.z_err is not None
    best = found.c[:, :6].argmax(axis=1)
    plain = combine(found.c[:, :6], found.z[:, :6], found.z_err[:, :6], best)
    widened = np.where(plain[2] > 1, 2.0, 1.5)
    np.testing.assert_allclose(verdict.z_err, plain[1] * widened)


def test_the_catalogue_of_a_published_model_leaves_errors_and_probabilities_out(
    tiny_model: Path, plate: Path
) -> None:
    table = load_model(tiny_model).classify_batch(next(iter(broadline.read(plate))))
    for name in ("Z_ERR", "P_QSO", "P_Z", "P_BAL"):
        assert table[name].null_count == len(table) == 6, name
    assert table["Z"].null_count == 1


def test_broad_absorption_is_read_where_the_redshift_puts_civ(model_file: Path) -> None:
    model = Model(model_file.read_bytes())
    shape = (2, 7, 26)
    confidence = np.full(shape, 0.01, np.float32)
    z = np.array([2.5, 0.6])  # of the second, CIV is out of range
    box, _ = encode(z, QUASARNET_LINES, QUASARNET_LOG, 26)
    lines = [0, 3]  # LYA and MGII
    for i, line in enumerate(lines):
        confidence[i, line, box[i, line]] = 0.9
    confidence[:, BAL] = 0.99
    confidence[0, BAL, box[0, CIV]] = 0.3
    flat = np.zeros(shape, np.float32)
    model.run = lambda _: Outputs(confidence, flat + 0.5, flat - 3)
    found = model.predict(np.zeros((2, 2, 443), np.float32))
    assert found.c[:, BAL].tolist() == [np.float32(0.3), 0]
    z_best = [found.z[0, 0], found.z[1, 3]]
    assert found.z[:, BAL].tolist() == z_best
    assert np.abs(np.array(z_best) - z).max() < 0.1


# ---- fitting

torch = pytest.importorskip("torch")

from broadline.training.calibrate import (  # noqa: E402
    Findings,
    bal_threshold,
    calibrated,
    deflated,
    even_threshold,
    findings,
    fit_calibration,
    kept_rule,
)
from broadline.training.simulated import Examples  # noqa: E402


def sigmoid(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-t))


def known(n: int = 40_000, seed: int = 0) -> Findings:
    """Findings whose truth follows the curves and scales of `CALIBRATION`."""
    rng = np.random.default_rng(seed)
    c = sigmoid(rng.normal(-4, 4, (n, 6))).astype(np.float32)
    best, rows = c.argmax(axis=1), np.arange(n)
    z = rng.uniform(0.3, 4, n)
    z_lines = np.where(rng.random((n, 6)) < 0.5, z[:, None], 5.0)
    z_lines[rows, best] = z
    z_err = (1 + z) * np.exp(rng.normal(-7.5, 0.7, n))
    several = rng.random(n) < 0.6
    scale = np.where(several, CALIBRATION.scale[1], CALIBRATION.scale[0])
    x = quasar_features(c, z_lines, z, scale * z_err)  # the error as the catalogue gives it
    u = rng.random(n)  # those with a right redshift are among the quasars
    is_quasar, right = u < sigmoid(x @ np.array(QSO_CURVE)), u < sigmoid(x @ np.array(Z_CURVE))
    pull = rng.normal(0, 1, n) * scale
    truth = np.where(right, z - pull * z_err, z + 1.0)
    c_bal = sigmoid(rng.normal(0, 2, n)).astype(np.float32)
    bal = (rng.random(n) < sigmoid(bal_features(c_bal) @ np.array(BAL_CURVE))).astype(np.int8)
    bal[rng.random(n) < 0.1] = -1
    return Findings(
        c,
        z_lines,
        z_err[:, None] + 0 * c,
        c_bal,
        z,
        z_err,
        several,
        np.where(is_quasar, truth, np.nan),
        np.ones(n),
        bal,
    )


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit_calibration(known(), "known data")


def test_known_curves_are_recovered(fitted: Calibration) -> None:
    fresh = known(seed=1)
    scale = np.where(fresh.several, CALIBRATION.scale[1], CALIBRATION.scale[0])
    x = quasar_features(fresh.c, fresh.z_lines, fresh.z, scale * fresh.z_err)
    for name, wanted, features in (
        ("qso", QSO_CURVE, x),
        ("z", Z_CURVE, x),
        ("bal", BAL_CURVE, bal_features(fresh.c_bal)),
    ):
        found = getattr(fitted, name)  # slightly pulled to 0, but for the first one
        assert found[0] == pytest.approx(wanted[0], abs=0.3), name
        assert found[1:] == pytest.approx(wanted[1:], abs=0.15), name
        difference = fitted.probability(name, features) - CALIBRATION.probability(name, features)
        assert np.abs(difference).mean() < 0.01, name
    assert fitted.fitted_on == "known data"


def test_scales_recover_a_known_pull(fitted: Calibration) -> None:
    assert fitted.scale == pytest.approx(CALIBRATION.scale, rel=0.04)


def test_the_scatter_of_experts_is_added_to_errors_in_quadrature() -> None:
    assert one([0.9, 0.1], [2.0, 2.0], [0.003, 0.003], scatter=(0.0, 400.0))[1] == pytest.approx(
        0.005, rel=1e-3
    )
    assert one([0.9, 0.1], [0.5, 0.5], [0.0015, 0.0015], scatter=(400.0, 0.0))[1] == pytest.approx(
        0.0025, rel=1e-3
    )
    found = known(20_000)
    wide = fit_calibration(found, "", (50.0, 200.0))
    assert wide.scatter == (50.0, 200.0)
    assert Calibration.from_dict(wide.to_dict()) == wide
    old = {key: value for key, value in wide.to_dict().items() if key != "scatter"}
    assert Calibration.from_dict(old).scatter == (0.0, 0.0)


def test_scales_are_those_that_bring_pulls_with_the_scatter_of_experts_to_1() -> None:
    found, scatter = known(), (50.0, 150.0)
    floor = (1 + found.z) * np.where(found.z < NARROW_BELOW, *scatter) / SPEED_OF_LIGHT
    said = found.truth + floor * np.random.default_rng(3).standard_normal(len(floor))  # by experts
    assert fit_calibration(replace(found, truth=said), "", scatter).scale == pytest.approx(
        CALIBRATION.scale, rel=0.06
    )
    exact = replace(
        found, truth=np.where(found.right, found.z, found.truth)
    )  # nothing is left to the finders
    assert max(fit_calibration(exact, "", scatter).scale) == pytest.approx(0.05)


def test_the_threshold_of_broad_absorption_misses_two_for_three_that_it_calls_wrongly() -> None:
    found = known()
    c_th = bal_threshold(found)
    missed = np.mean(found.c_bal[(found.bal == 1) & found.right] < c_th)
    called = np.mean(found.c_bal[(found.bal <= 0) & found.right] > c_th)
    assert 3 * missed == pytest.approx(2 * called, abs=0.006) and 0.1 < missed < 0.4
    assert bal_threshold(replace(found, bal=np.ones_like(found.bal))) == Rule().c_th_bal


def test_labels_in_doubt_count_as_little_as_they_are_firm() -> None:
    found = known(20_000)
    doubtful = np.random.default_rng(2).random(20_000) < 0.5
    lie = np.where(doubtful, np.nan, found.truth)  # said to be no quasars, by nobody who is sure
    told = fit_calibration(replace(found, truth=lie, firm=np.where(doubtful, 0.0, 1.0)), "")
    half = Findings(*(getattr(found, name)[~doubtful] for name in Findings.__slots__))
    assert told.qso == pytest.approx(fit_calibration(half, "").qso, abs=0.05)


def test_without_any_known_absorption_its_probability_is_a_half() -> None:
    found = known(3000)
    calibration = fit_calibration(replace(found, bal=np.full(3000, -1, np.int8)), "")
    assert calibration.bal == (0, 0, 0)
    assert calibration.probability("bal", bal_features(np.array([0.1, 0.9]))).tolist() == [0.5, 0.5]


def test_a_model_with_kept_thresholds_calls_as_many_as_the_one_before() -> None:
    before, rule = known(5000), Rule(c_th=0.31, c_th_bal=0.42)
    # The model after has the same order of confidences, but others.
    after = replace(before, c=before.c**2, c_bal=np.sqrt(before.c_bal))
    kept = kept_rule(rule, before, after)
    assert kept.c_th == pytest.approx(0.31**2, abs=2e-3) and kept.c_th_bal == pytest.approx(
        0.42**0.5, abs=5e-3
    )
    assert kept == replace(rule, c_th=kept.c_th, c_th_bal=kept.c_th_bal)
    called = [(found.c.max(axis=1) > each.c_th).sum() for found, each in ((before, rule), (after, kept))]
    assert abs(int(called[1]) - int(called[0])) < 10
    # Where nobody knows of broad absorption, and where nothing is called, thresholds stay or call nothing.
    unknown = replace(before, bal=np.ones(5000, np.int8))
    assert kept_rule(rule, unknown, unknown).c_th_bal == 0.42
    assert (after.c <= kept_rule(replace(rule, c_th=1.0), before, after).c_th + 5e-4).all()


def test_with_too_few_pulls_errors_are_left_as_they_are() -> None:
    found = known(3000)
    few = replace(found, several=np.arange(3000) >= 60)
    assert fit_calibration(few, "").scale[0] == 1.0


def contrary(seed: int, n: int = 2000) -> Findings:
    """Findings whose truth has little to do with them, or is the opposite."""
    rng = np.random.default_rng(seed)
    found = known(n, seed)
    sense = rng.choice([-1, 1]) * (found.c.max(axis=1) - 0.9) * rng.uniform(0, 20)
    quasar_ = rng.random(n) < sigmoid(sense)
    bal = (rng.random(n) < sigmoid(rng.choice([-4, 4]) * (found.c_bal - 0.5))).astype(np.int8)
    return replace(
        found, truth=np.where(quasar_, found.z + found.z_err * rng.normal(0, 1, n), np.nan), bal=bal
    )


@settings(max_examples=12)
@given(
    seed=st.integers(0, 1000),
    second=st.floats(0, 24),
    rival=st.floats(0, 24),
    error=st.floats(-4.6, 4.6),
)
def test_probabilities_never_fall_where_the_best_confidence_rises_and_all_else_stays(
    seed: int, second: float, rival: float, error: float
) -> None:
    calibration = fit_calibration(contrary(seed), "")
    x = np.linspace(max(second, rival) - 12, 12, 60)  # the best line is the best one
    one_, full = np.ones_like(x), np.full_like(x, 1.0)
    features = [one_, x, x**2 / 12, full * second, full * rival, full * error, x * second / 12]
    y = np.linspace(-12, 12, 60)
    for name, columns in (("qso", features), ("z", features), ("bal", [one_, y, y**2 / 12])):
        p = calibration.probability(name, np.stack(columns, axis=1))
        assert ((p >= 0) & (p <= 1)).all()
        assert (np.diff(p) >= -1e-9).all(), name


def test_a_model_is_calibrated_on_examples_with_all_else_kept(model_file: Path, tmp_path: Path) -> None:
    model = load_model(model_file)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(0, 1, (300, 2, 443)).astype(np.float32))
    z = np.where(rng.random(300) < 0.5, rng.uniform(0, 4, 300), np.nan)
    bal = rng.integers(-1, 2, 300).astype(np.int8)
    parts = [slice(0, 200), slice(200, 300)]
    examples = [
        Examples(x[p], None, z[p], np.ones(300)[p], bal[p], np.arange(300)[p])  # type: ignore[arg-type]
        for p in parts
    ]
    found = findings(model, examples)
    output, verdict = model.predict(x.numpy()), model.judge(x.numpy())[1]
    np.testing.assert_allclose(found.c, output.c[:, :6], atol=1e-6)
    np.testing.assert_allclose(found.c_bal, output.c[:, BAL], atol=1e-6)
    np.testing.assert_allclose(found.z, verdict.z, rtol=1e-5)
    unscaled = verdict.z_err / np.where(found.several, 2.0, 1.5)
    np.testing.assert_allclose(found.z_err, unscaled, rtol=1e-3)
    assert np.array_equal(found.truth, z, equal_nan=True) and np.array_equal(found.bal, bal)
    calibration = fit_calibration(found, "noise")
    path = calibrated(model, calibration, Rule(c_th=0.3), tmp_path / "new.onnx", {"calibrated_on": "noise"})
    new = load_model(path)
    assert new.recipe.calibration == calibration != CALIBRATION
    assert new.recipe.card == {"calibrated_on": "noise"} and new.rule == Rule(c_th=0.3)
    for name, value in parameters_of(model.content).items():
        assert np.array_equal(value, parameters_of(new.content)[name])


def test_deflated_confidences_are_those_of_a_finder_asked_as_often_as_it_is_right(model_file: Path) -> None:
    model = load_model(model_file)
    x = np.random.default_rng(0).normal(0, 1, (5, 2, 443)).astype(np.float32)
    before, after = model.run(x), deflated(model).run(x)
    n_boxes = 26
    inflated = after.confidence / (after.confidence + (1 - after.confidence) / n_boxes)
    np.testing.assert_allclose(inflated[:, :6], before.confidence[:, :6], rtol=1e-4, atol=1e-5)
    for name in ("offset", "log_sigma"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-6)
    np.testing.assert_allclose(after.confidence[:, BAL], before.confidence[:, BAL], rtol=1e-5, atol=1e-6)


def test_above_the_even_threshold_lie_as_many_as_there_are_quasars() -> None:
    found = known(5000)
    c_th = even_threshold(found)
    n_called = (found.c.max(axis=1) > c_th).sum()
    assert abs(n_called - np.isfinite(found.truth).sum()) <= 1
    unsure = np.arange(5000) < 2500  # half of them count for nothing
    half = even_threshold(replace(found, firm=np.where(unsure, 0.0, 1.0)))
    called, quasars = found.c[~unsure].max(axis=1) > half, np.isfinite(found.truth[~unsure])
    assert abs(int(called.sum()) - int(quasars.sum())) <= 1


def test_a_network_without_error_heads_cannot_be_calibrated(tiny_model: Path) -> None:
    example = Examples(torch.zeros(2, 443), None, np.zeros(2), np.ones(2), np.zeros(2), np.arange(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model tiny tells no errors"):
        findings(load_model(tiny_model), [example])


def test_right_is_within_6000_km_per_s() -> None:
    found = known(4)
    step = 3 * np.array([5990, 6010, -5990, -6010]) / SPEED_OF_LIGHT
    found = replace(found, truth=np.full(4, 2.0), z=2.0 + step)
    assert found.right.tolist() == [True, False, True, False]
    assert not replace(found, truth=np.full(4, np.nan)).right.any()


def test_features_are_named() -> None:
    assert len(bal_features(np.array([0.5]))[0]) == len(BAL_FEATURES)
