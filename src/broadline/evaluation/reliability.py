"""Whether probabilities mean what they say, and whether one catalogue is really better than another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from broadline.errors import UsageError
from broadline.evaluation.bal import CIV_SEEN, annotated
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import LEVEL, Floats, Mask, Shares, resampled

__all__ = [
    "N_BINS",
    "Comparison",
    "Difference",
    "McNemar",
    "Reliability",
    "compare",
    "mcnemar",
    "reliabilities",
    "reliability",
]

#: Bins of a reliability diagram.
N_BINS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """A reliability diagram in bins of equal count.

    Attributes
    ----------
    n : int
    p : ndarray of float64, shape (n_bins,)
        Mean probability in each bin.
    observed : Shares
        How often it came true there, of how many.
    ece : float
        Expected calibration error; NaN for n = 0. Also a perfect probability has one above 0, of about
        ``sqrt(n_bins p (1 - p) / n)``.
    """

    n: int
    p: Floats
    observed: Shares
    ece: float


def reliability(p: Floats, true: Mask, n_bins: int = N_BINS) -> Reliability:
    """Return the reliability diagram of probabilities.

    ``ECE = sum_b n_b / n |mean(p) - mean(true)|_b``: Guo et al. (2017, arXiv:1706.04599), equation 3, in bins
    of equal count (Nguyen & O'Connor 2015, arXiv:1508.05154) instead of equal width. Equal probabilities
    share a bin: bins are then fewer, or of unequal count.

    Parameters
    ----------
    p : ndarray of float64, shape (n,)
        NaN are left out.
    true : ndarray of bool, shape (n,)
    n_bins : int
    """
    known = np.isfinite(p)
    p, true = p[known], true[known]
    n = len(p)
    rank = np.searchsorted(np.sort(p), p, side="left")
    place = np.unique(rank * n_bins // max(n, 1), return_inverse=True)[1]
    count = np.bincount(place)
    observed = Shares(np.bincount(place[true], minlength=len(count)), count)
    mean = np.bincount(place, p) / count
    ece = float(count @ np.abs(mean - observed.value) / n) if n else float("nan")
    return Reliability(n, mean, observed, ece)


def reliabilities(sample: Sample) -> dict[str, Reliability]:
    """Return the reliability of those of "p_qso", "p_z" and "p_bal" that the sample has, where it has truth.

    All on secure annotations. p_qso: annotated QSO. p_z: annotated QSO, and ``|dv| < 6000 km/s``; both over
    all spectra, called or not. p_bal, over annotated quasars with z above `CIV_SEEN`: flagged with balnicity
    above 0, against neither; where the two disagree a quasar is left out, as in training (section 4.2).
    """
    firm, quasars = sample.firm, sample.annotated("QSO")
    result = {}
    if sample.p_qso is not None:
        result["p_qso"] = reliability(sample.p_qso[firm], quasars[firm])
    if sample.p_z is not None:
        result["p_z"] = reliability(sample.p_z[firm], (quasars & sample.near)[firm])
    truth = annotated(sample)
    if sample.p_bal is not None and truth is not None:
        rows = (truth.both | truth.neither) & (sample.z_truth > CIV_SEEN)
        result["p_bal"] = reliability(sample.p_bal[rows], truth.both[rows])
    return result


# ---- two catalogues of the same spectra


@dataclass(frozen=True, slots=True)
class McNemar:
    """Spectra that only one of two catalogues has right, and the probability of as uneven a split by chance.

    NaN if there are none.
    """

    only_one: int
    only_other: int
    p_value: float


def mcnemar(one: Mask, other: Mask) -> McNemar:
    """Return McNemar's exact test (1947, Psychometrika 12, 153) of two verdicts on the same spectra.

    Two-sided: twice the binomial probability, at 1/2, of the smaller number or fewer of all that differ; at
    most 1.

    Parameters
    ----------
    one, other : ndarray of bool, shape (n,)
        Which spectra each has right.
    """
    b, c = int((one & ~other).sum()), int((other & ~one).sum())
    p_value = min(1.0, 2 * float(binom.cdf(min(b, c), b + c, 0.5))) if b + c else float("nan")
    return McNemar(b, c, p_value)


@dataclass(frozen=True, slots=True)
class Difference:
    """A number of one catalogue minus that of the other.

    Attributes
    ----------
    value : float
    std, low, high : float
        Over resamples: standard deviation, and the middle `LEVEL`.
    p_value : float
        Twice the share of resamples on the rarer side of 0 (0 itself counts on both), at most 1; one
        resample is added, so that it is never 0.
    """

    value: float
    std: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two catalogues on the same spectra, on secure annotations.

    Attributes
    ----------
    quasars : McNemar
        Annotated QSO: right are those called with ``|dv| < 6000 km/s``.
    others : McNemar
        Everything else: right are those not called, and galaxies called with the right redshift.
    purity, completeness : Difference
        Of `metrics.score`.
    """

    quasars: McNemar
    others: McNemar
    purity: Difference
    completeness: Difference


def compare(one: Sample, other: Sample, n_resamples: int = 1000, seed: int = 0) -> Comparison:
    """Return whether two catalogues of the same spectra differ by more than chance.

    Exact tests of McNemar, which take spectra as independent; and a paired bootstrap: the same objects are
    drawn for both (`resampled`; Efron & Tibshirani 1993, chapter 13).

    Raises
    ------
    UsageError
        If the rows of the two are not the same spectra, by their annotations and objects.
    """
    _same_spectra(one, other)
    firm, quasars = one.firm, one.annotated("QSO")
    galaxies = one.annotated("GALAXY")
    called = [x.firm & x.quasar for x in (one, other)]
    right = [called[i] & x.near & (quasars | galaxies) for i, x in enumerate((one, other))]
    # A sum of a column over rows is a count of `score`: called and right of each, and annotated quasars.
    columns = np.stack([*called, *right, *(quasars & x for x in right), quasars], axis=1)[firm]
    # A row's kind is the number that its bits spell.
    bits = np.arange(7)
    drawn = resampled(one.objects[firm], columns @ (1 << bits), 1 << 7, n_resamples, seed)
    counts = np.concatenate([columns.sum(axis=0)[None], drawn @ ((np.arange(1 << 7)[:, None] >> bits) & 1)])
    with np.errstate(invalid="ignore", divide="ignore"):
        purity = counts[:, 2] / counts[:, 0] - counts[:, 3] / counts[:, 1]
        completeness = (counts[:, 4] - counts[:, 5]) / counts[:, 6]
    rest = firm & ~quasars
    return Comparison(
        quasars=mcnemar(right[0][quasars], right[1][quasars]),
        others=mcnemar((right[0] | ~called[0])[rest], (right[1] | ~called[1])[rest]),
        purity=_difference(purity),
        completeness=_difference(completeness),
    )


def _difference(values: Floats) -> Difference:
    """Return the difference of a sample, the first value, with its scatter over resamples, the others."""
    value, resampled = float(values[0]), values[1:]
    if len(resampled) < 2 or not np.isfinite(values).all():
        nan = float("nan")
        return Difference(value, nan, nan, nan, nan)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    rarer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p_value = min(1.0, 2 * (rarer + 1) / (len(resampled) + 1))
    return Difference(value, float(resampled.std(ddof=1)), float(low), float(high), p_value)


def _same_spectra(one: Sample, other: Sample) -> None:
    if len(one) != len(other):
        raise UsageError(
            f"two catalogues are compared on the same spectra, not on {len(one)} and {len(other)}"
        )
    for name in ("truth", "z_truth", "confidence", "object_id"):
        a, b = getattr(one, name), getattr(other, name)
        if (a is None) != (b is None):
            raise UsageError(f"only one of the two catalogues has {name}: join both with the same truth")
        if a is not None:
            differ = np.flatnonzero((a != b) & ~((a != a) & (b != b)))
            if len(differ):
                raise UsageError(
                    f"row {differ[0]} of the two catalogues has another {name}: not the same spectra"
                )
