"""Calibration of a trained model: logistic curves and scales of errors, fitted on data it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, brentq, minimize

from broadline.calibration import Calibration, bal_features, quasar_features
from broadline.decision import CONFLICT_KMS, NARROW_BELOW, SPEED_OF_LIGHT, Rule, combine, velocity
from broadline.model import Model, save_model, serialise
from broadline.networks.graph import parameters_of
from broadline.training.objective import inflation
from broadline.training.simulated import Examples

__all__ = [
    "Findings",
    "bal_threshold",
    "calibrated",
    "deflated",
    "even_threshold",
    "findings",
    "fit_calibration",
    "implied",
    "inflated",
    "kept_rule",
]

_RIDGE = 1e-3  # keeps coefficients of features that never vary at 0
_SURE = 0.4
_FEWEST = 50  # quasars that errors are scaled by; with broad absorption, and without, for its threshold
_FAR = 20.0  # from 1, of a scale of errors
# Slopes of the curves with the logit x of the best (or BAL) confidence, as weights of the coefficients. They
# are linear in x and the agreeing line's s, hence least at a corner of where these can lie: -12 <= x <= 12
# and 0 <= s <= x + 12. Curves that rise at the corners rise everywhere.
_QUASAR_SLOPES = np.array([[0, 1, -2, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0, 2]])
_BAL_SLOPES = np.array([[0, 1, -2], [0, 1, 2]])


@dataclass(frozen=True, slots=True)
class Findings:
    """What a model says of examples, beside the truth; arrays of shape (n,) or (n, n_lines).

    Attributes
    ----------
    c, z_lines, z_err_lines : ndarray
        Of the emission lines.
    c_bal : ndarray
        Of the BAL finder, where the redshift found puts CIV.
    z, z_err : ndarray
        Combined, errors not scaled yet; and how many lines had a say is `several`.
    truth, firm, bal : ndarray
        As in `Examples`.
    """

    c: NDArray[np.float32]
    z_lines: NDArray[np.float64]
    z_err_lines: NDArray[np.float64]
    c_bal: NDArray[np.float32]
    z: NDArray[np.float64]
    z_err: NDArray[np.float64]
    several: NDArray[np.bool_]
    truth: NDArray[np.float64]
    firm: NDArray[np.float64]
    bal: NDArray[np.int8]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Quasars whose redshift is right."""
        dv = velocity(self.z, np.nan_to_num(self.truth))
        return np.isfinite(self.truth) & (np.abs(dv) < CONFLICT_KMS)


def findings(model: Model, examples: Iterable[Examples]) -> Findings:
    """Return what a model that tells errors says of examples.

    Raises
    ------
    ValueError
        If the model's network has no error head.
    """
    emission = np.array([not line.bal for line in model.lines])
    parts: list[list[NDArray[np.generic]]] = []
    for batch in examples:
        c, z, z_err = model.predict(batch.x.numpy())
        if z_err is None:
            raise ValueError(f"model {model.name} tells no errors: there is nothing to calibrate")
        c_bal = c[:, ~emission].max(axis=1) if not emission.all() else np.zeros(len(c), np.float32)
        c, z, z_err = c[:, emission], z[:, emission], z_err[:, emission]
        joint, error, n_lines = combine(c, z, z_err, c.argmax(axis=1))
        parts.append([c, z, z_err, c_bal, joint, error, n_lines > 1, batch.z, batch.firm, batch.bal])
    return Findings(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _logistic(
    x: NDArray[np.float64], y: NDArray[np.bool_], weight: NDArray[np.float64], slopes: NDArray[np.int64]
) -> tuple[float, ...]:
    """Return the coefficients of most likelihood of a logistic curve with a slight pull to 0.

    Its `slopes`, of shape (n, n_features), are not below 0. All coefficients are 0 if nothing has a weight.
    """
    if not weight.sum():
        return (0.0,) * int(x.shape[1])
    spread = np.maximum(x.std(axis=0), 1e-9)
    spread[0] = 1.0
    scaled = x / spread

    def loss(a: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        t = scaled @ a
        p = 1 / (1 + np.exp(-np.clip(t, -50, 50)))
        value = (weight * (np.logaddexp(0, t) - y * t)).sum() / weight.sum() + _RIDGE * (a[1:] ** 2).sum()
        slope = scaled.T @ (weight * (p - y)) / weight.sum()
        slope[1:] += 2 * _RIDGE * a[1:]
        return value, slope

    rising = LinearConstraint(slopes / spread, 0, np.inf)
    options = {"ftol": 1e-12, "maxiter": 1000}
    best = minimize(
        loss, np.zeros(x.shape[1]), jac=True, method="SLSQP", constraints=rising, options=options
    ).x
    return tuple(float(value) for value in best / spread)


def _scale(difference: NDArray[np.float64], z_err: NDArray[np.float64], floor: NDArray[np.float64]) -> float:
    """Return what errors are multiplied by, so that with a floor in quadrature they spread as differences do.

    1 for too few to tell, and within a factor `_FAR` of it.
    """
    if len(z_err) <= _FEWEST:
        return 1.0

    def excess(log_scale: float) -> float:
        pull = difference / np.hypot(np.exp(log_scale) * z_err, floor)
        return float(1.4826 * np.median(np.abs(pull - np.median(pull)))) - 1

    low, high = -np.log(_FAR), np.log(_FAR)
    if excess(low) <= 0 or excess(high) >= 0:
        return float(np.exp(low if excess(low) <= 0 else high))
    return float(np.exp(brentq(excess, low, high, xtol=1e-6)))


def fit_calibration(
    found: Findings, fitted_on: str, scatter: tuple[float, float] = (0.0, 0.0)
) -> Calibration:
    """Return the calibration that findings imply.

    P_QSO is the probability of a quasar, P_Z that of a quasar with a redshift within `CONFLICT_KMS`, P_BAL
    that of broad absorption in a quasar. The error is the finders' own times a scale, and `scatter` (km/s) of
    the redshifts of experts in quadrature; scales bring the robust spread of pulls against the annotated
    redshift to 1. No probability falls where the best confidence rises and all else stays.
    """
    quasar = np.isfinite(found.truth)
    floor = (1 + found.z) * np.where(found.z < NARROW_BELOW, *scatter) / SPEED_OF_LIGHT
    scale = []
    for kind in (~found.several, found.several):
        rows = kind & found.right & (found.firm > 0.5) & (found.c.max(axis=1) > _SURE)
        scale.append(_scale((found.z - found.truth)[rows], found.z_err[rows], floor[rows]))
    z_err = np.hypot(found.z_err * np.where(found.several, scale[1], scale[0]), floor)
    x = quasar_features(found.c, found.z_lines, found.z, z_err)
    known = quasar & (found.bal >= 0) & (found.c_bal > 0)
    return Calibration(
        qso=_logistic(x, quasar, found.firm, _QUASAR_SLOPES),
        z=_logistic(x, found.right, found.firm, _QUASAR_SLOPES),
        bal=_logistic(
            bal_features(found.c_bal[known]), found.bal[known] == 1, found.firm[known], _BAL_SLOPES
        ),
        scale=(scale[0], scale[1]),
        fitted_on=fitted_on,
        scatter=scatter,
    )


def deflated(model: Model) -> Model:
    """Return the model with confidences in emission lines that are probabilities.

    What the loss adds to their logits (`objective.inflation`) is taken off the biases.
    """
    return _shifted(model, -inflation(model.recipe.finders))


def inflated(model: Model) -> Model:
    """Return the model as the loss wants it: the inverse of `deflated`."""
    return _shifted(model, inflation(model.recipe.finders))


def _shifted(model: Model, by: float) -> Model:
    """Return the model with something added to the logits of confidences in emission lines."""
    parameters = dict(parameters_of(model.content))
    shape = (model.recipe.finders.n_lines, model.recipe.finders.n_boxes)
    bias = parameters["confidence.bias"].reshape(shape).copy()
    bias[[not line.bal for line in model.lines]] += np.float32(by)
    parameters["confidence.bias"] = bias.reshape(-1)
    return Model(serialise(model.recipe, parameters))


def even_threshold(found: Findings) -> float:
    """Return the confidence above which as many are called quasars as there are: purity is completeness."""
    best = found.c.max(axis=1)
    order = np.argsort(-best)
    called = np.cumsum(found.firm[order])
    quasars = (found.firm * np.isfinite(found.truth)).sum()
    return float(best[order[min(np.searchsorted(called, quasars), len(order) - 1)]])


def bal_threshold(found: Findings) -> float:
    """Return the confidence at which the shares missed and wrongly called are as 2 to 3.

    So they are in Busca & Balland (2018), section 4.2, where 98.0 % of the BAL quasars are found and 97.0 %
    of the others rejected: a BAL quasar that is missed does more harm than one too many. Troughs that are too
    weak or too narrow to be sure of count as none, as they do for most who look.
    """
    seen = found.right & (found.c_bal > 0)
    absorbed, others = (np.sort(found.c_bal[seen & rows]) for rows in (found.bal == 1, found.bal <= 0))
    if min(len(absorbed), len(others)) < _FEWEST:
        return Rule().c_th_bal
    missed = np.searchsorted(absorbed, absorbed) / len(absorbed)
    called = 1 - np.searchsorted(others, absorbed) / len(others)
    return float(absorbed[np.argmax(3 * missed >= 2 * called)])


def kept_rule(rule: Rule, before: Findings, after: Findings) -> Rule:
    """Return the rule with which a model decides as generously as another does with its own.

    As many spectra are called quasars, and as large a share of the quasars without broad absorption BAL:
    where to put a threshold weighs two kinds of mistakes, which nobody asked to be weighed anew.

    Parameters
    ----------
    rule : Rule
        Of the model before.
    before, after : Findings
        Of both models on the same spectra.
    """
    best = [np.sort(found.c.max(axis=1))[::-1] for found in (before, after)]
    n_called = min(int((best[0] > rule.c_th).sum()), len(best[1]) - 1)
    plain = [found.c_bal[found.right & (found.c_bal > 0) & (found.bal <= 0)] for found in (before, after)]
    c_th_bal = rule.c_th_bal
    if min(map(len, plain)) >= _FEWEST:
        c_th_bal = round(float(np.quantile(plain[1], np.mean(plain[0] <= rule.c_th_bal))), 3)
    return replace(rule, c_th=round(float(best[1][n_called]), 3), c_th_bal=c_th_bal)


def implied(
    found: Findings, fitted_on: str, scatter: tuple[float, float] = (0.0, 0.0)
) -> tuple[Calibration, Rule]:
    """Return the calibration and the decision rule that findings imply."""
    rule = Rule(c_th=round(even_threshold(found), 3), c_th_bal=round(bal_threshold(found), 3))
    return fit_calibration(found, fitted_on, scatter), rule


def calibrated(model: Model, calibration: Calibration, rule: Rule, path: Path, card: dict[str, str]) -> Path:
    """Write a model with a calibration, a decision rule, and more on its card; return its path."""
    recipe = replace(model.recipe, calibration=calibration, rule=rule, card=model.recipe.card | card)
    return save_model(path, recipe, parameters_of(model.content))
