"""Calibration: from what the finders say to probabilities and errors that mean what they say. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, SPEED_OF_LIGHT, velocity

__all__ = ["BAL_FEATURES", "QUASAR_FEATURES", "Calibration", "bal_features", "quasar_features"]

_Array = NDArray[np.float64]

#: Names of the columns of `quasar_features` and `bal_features`.
QUASAR_FEATURES = ("one", "best", "best^2", "second", "rival", "ln error", "confident and agreed")
BAL_FEATURES = ("one", "bal", "bal^2")
_FAR = 12.0  # logits beyond are cut: they differ by what float32 can tell, not by what is known


def _logit(p: NDArray[Any]) -> _Array:
    p = np.clip(np.asarray(p, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(np.clip(np.log(p / (1 - p)), -_FAR, _FAR))


def quasar_features(c: NDArray[Any], z: _Array, z_best: _Array, z_err: _Array) -> _Array:
    """Return what the probabilities of a quasar, and of its redshift, are told from.

    Parameters
    ----------
    c : ndarray, shape (n_spectra, n_lines)
        Confidences of the emission lines.
    z : ndarray of float64, shape (n_spectra, n_lines)
        Their redshifts.
    z_best, z_err : ndarray of float64, shape (n_spectra,)
        Redshift and error of the verdict.

    Returns
    -------
    ndarray of float64, shape (n_spectra, len(QUASAR_FEATURES))
        1; the logit x of the best confidence, and its square; the logits of the best other line that agrees
        within `CONFLICT_KMS`, and of the best that does not; the logarithm of the error in 1000 km/s; and
        the product of the first two logits.
    """
    agrees = np.abs(velocity(z, z_best[:, None])) < CONFLICT_KMS
    rows, best = np.arange(len(c)), np.asarray(c).argmax(axis=1)
    others = np.array(c, dtype=np.float64)
    others[rows, best] = 0
    x = _logit(np.asarray(c)[rows, best])
    second = _logit(np.where(agrees, others, 0).max(axis=1)) + _FAR
    rival = _logit(np.where(agrees, 0, others).max(axis=1)) + _FAR
    kms = SPEED_OF_LIGHT * z_err / (1 + z_best)
    error = np.log(np.clip(kms, 10, 1e5) / 1000)
    return np.stack([np.ones_like(x), x, x**2 / _FAR, second, rival, error, x * second / _FAR], axis=1)


def bal_features(c: NDArray[Any]) -> _Array:
    """Return what the probability of broad absorption is told from: 1, the logit of C_BAL, and its square."""
    x = _logit(c)
    return np.stack([np.ones_like(x), x, x**2 / _FAR], axis=1)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Logistic curves over features, and the scales of errors; fitted on held-out data, kept in the model.

    Attributes
    ----------
    qso, z, bal : tuple of float
        Coefficients of P_QSO and P_Z over `QUASAR_FEATURES`, and of P_BAL over `BAL_FEATURES`.
    scale : tuple of float
        What the finders' own error is multiplied by for one line, and for two or more combined.
    scatter : tuple of float
        Of the redshifts that experts give (km/s), which is no error of the finders: added in quadrature, for
        quasars below `decision.NARROW_BELOW` and beyond.
    fitted_on : str
        On what: the probabilities are those of its mix of classes.
    """

    qso: tuple[float, ...]
    z: tuple[float, ...]
    bal: tuple[float, ...]
    scale: tuple[float, float]
    fitted_on: str
    scatter: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name, features in (("qso", QUASAR_FEATURES), ("z", QUASAR_FEATURES), ("bal", BAL_FEATURES)):
            value = getattr(self, name)
            if len(value) != len(features) or not np.isfinite(value).all():
                raise ValueError(f"calibration of {name} needs {len(features)} finite coefficients")
        if len(self.scale) != 2 or not (np.array(self.scale) > 0).all():
            raise ValueError("calibration needs two positive scales of errors")
        if len(self.scatter) != 2 or not all(0 <= kms < math.inf for kms in self.scatter):
            raise ValueError(f"calibration needs two scatters of 0 km/s or more, not {self.scatter}")

    def probability(self, name: str, features: _Array) -> _Array:
        """Return the probability "qso", "z" or "bal" for rows of features."""
        # Row by row, not as a product of matrices: that may add in another order in another batch.
        logit = (features * np.array(getattr(self, name))).sum(axis=1)
        return np.asarray(1 / (1 + np.exp(-np.clip(logit, -50, 50))))

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` described.

        Raises
        ------
        ValueError, TypeError, KeyError
            If a field is missing, unknown or impossible.
        """
        curves = {name: tuple(map(float, fields[name])) for name in ("qso", "z", "bal", "scale")}
        scatter = tuple(map(float, fields.get("scatter", (0.0, 0.0))))
        return cls(fitted_on=str(fields["fitted_on"]), scatter=scatter, **curves)  # type: ignore[arg-type]
