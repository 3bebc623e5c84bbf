"""From lines to a verdict: class, redshift, broad absorption, need of inspection. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.lines import Line

__all__ = [
    "CONFLICT_KMS",
    "NARROW_BELOW",
    "SPEED_OF_LIGHT",
    "Decision",
    "Rule",
    "combine",
    "decide",
    "velocity",
]

#: km/s, exact by definition of the metre.
SPEED_OF_LIGHT = 299_792.458
#: Redshifts further apart than this come from different lines (Busca & Balland 2018, section 4.1).
CONFLICT_KMS = 6000.0
#: Redshift at which [O III] 5008 leaves spectra that end at 10,000 Angstrom.
NARROW_BELOW = 1.0
# Lines at least this sure, and this near to the surest one (km / s), have a say in the redshift.
_SAY, _NEAR = 0.2, 4000.0


@dataclass(frozen=True, slots=True)
class Rule:
    """The decision rule of Busca & Balland (2018), section 4.1.

    Attributes
    ----------
    c_th : float
        Confidence above which a line is found.
    l_min : int
        Lines that must be found to call a spectrum a quasar.
    c_th_bal : float
        Confidence above which a quasar is called a broad absorption line quasar (section 4.2).
    """

    c_th: float = 0.4
    l_min: int = 1
    c_th_bal: float = 0.4

    def __post_init__(self) -> None:
        for name in ("c_th", "c_th_bal"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is a confidence between 0 and 1, not {getattr(self, name)}")
        if self.l_min < 1:
            raise UsageError(f"l_min is a number of lines of at least 1, not {self.l_min}")


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict a spectrum; every attribute is an array of shape (n_spectra,).

    Attributes
    ----------
    is_qso : ndarray of bool
    z : ndarray of float64
        Redshift of the most confident emission line, whether or not it is above the threshold; of all lines
        that agree with it, where their errors are known.
    z_err : ndarray of float64
        Its error; NaN where the finders do not tell.
    best_line : ndarray of int64
        Index of that line.
    n_lines : ndarray of int16
        Emission lines found.
    is_bal : ndarray of bool
    needs_vi : ndarray of bool
        Exactly one line found: the paper's discussion (section 5) sends these to visual inspection and
        accepts two-line detections unseen.
    conflict : ndarray of bool
        Lines found at redshifts more than `CONFLICT_KMS` apart.
    """

    is_qso: NDArray[np.bool_]
    z: NDArray[np.float64]
    z_err: NDArray[np.float64]
    best_line: NDArray[np.int64]
    n_lines: NDArray[np.int16]
    is_bal: NDArray[np.bool_]
    needs_vi: NDArray[np.bool_]
    conflict: NDArray[np.bool_]


def velocity(z: NDArray[np.float64], z_reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the velocity difference ``c (z - z_ref) / (1 + z_ref)`` in km/s (section 4.1)."""
    return SPEED_OF_LIGHT * (z - z_reference) / (1 + z_reference)


def combine(
    c: NDArray[np.float32],
    z: NDArray[np.float64],
    z_err: NDArray[np.float64],
    best: NDArray[np.int64],
    scale: tuple[float, float] = (1.0, 1.0),
    scatter: tuple[float, float] = (0.0, 0.0),
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return redshift, error and number of the emission lines that agree with the most confident one.

    The inverse-variance mean of ln(1 + z).

    Parameters
    ----------
    c, z, z_err : ndarray, shape (n_spectra, n_lines)
        Confidences, redshifts and errors of the emission lines.
    best : ndarray of int64, shape (n_spectra,)
        Column of the most confident line.
    scale : (float, float)
        What the error is multiplied by where one line has a say, and where more have: the errors of lines of
        one spectrum are correlated.
    scatter : (float, float)
        Of the redshifts that experts give (km/s), added in quadrature: below `NARROW_BELOW`, and beyond.
    """
    rows = np.arange(len(c))
    near = np.abs(velocity(z, z[rows, best][:, None])) < _NEAR
    say = (c > _SAY) & near
    say[rows, best] = True
    log, error = np.log1p(np.maximum(z, -0.99)), z_err / np.maximum(1 + z, 0.01)
    weight = say / np.maximum(error, 1e-7) ** 2
    total = weight.sum(axis=1)
    combined = np.expm1((weight * log).sum(axis=1) / total)
    widened = np.where(say.sum(axis=1) > 1, scale[1], scale[0])
    kms = np.where(combined < NARROW_BELOW, *scatter)
    total_error = (1 + combined) * np.hypot(widened / np.sqrt(total), kms / SPEED_OF_LIGHT)
    return combined, total_error, say.sum(axis=1)


def decide(
    c: NDArray[np.float32],
    z: NDArray[np.float64],
    lines: Sequence[Line],
    rule: Rule,
    z_err: NDArray[np.float64] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    scatter: tuple[float, float] = (0.0, 0.0),
) -> Decision:
    """Return the verdict on each spectrum from its lines' confidences and redshifts.

    Parameters
    ----------
    c : ndarray of float32, shape (n_spectra, n_lines)
    z : ndarray of float64, shape (n_spectra, n_lines)
    lines : sequence of Line, length n_lines
    rule : Rule
    z_err : ndarray of float64, shape (n_spectra, n_lines), optional
        Errors of the redshifts: lines are combined then (`combine`).
    scale, scatter
        As `combine` takes them.
    """
    emission = np.flatnonzero([not line.bal for line in lines])
    absorption = np.flatnonzero([line.bal for line in lines])
    rows = np.arange(len(c))
    best = emission[c[:, emission].argmax(axis=1)]
    z_best = z[rows, best]
    error = np.full(len(c), np.nan)
    if z_err is not None:
        at = c[:, emission].argmax(axis=1)
        z_best, error, _ = combine(c[:, emission], z[:, emission], z_err[:, emission], at, scale, scatter)
    found = c[:, emission] > rule.c_th
    n_lines = found.sum(axis=1, dtype=np.int16)
    is_qso = n_lines >= rule.l_min
    apart = np.abs(velocity(z[:, emission], z_best[:, None])) > CONFLICT_KMS
    return Decision(
        is_qso=is_qso,
        z=z_best,
        z_err=error,
        best_line=best,
        n_lines=n_lines,
        is_bal=is_qso & (c[:, absorption] > rule.c_th_bal).any(axis=1),
        needs_vi=n_lines == 1,
        conflict=np.any(found & apart, axis=1),
    )
