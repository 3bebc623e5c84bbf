"""Broad absorption: what Busca & Balland (2018), section 4.2, measure without a firm truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from broadline.decision import Rule
from broadline.evaluation.redshifts import Scatter, redshift_scatter
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Mask, Share, Shares

__all__ = ["CIV_SEEN", "Annotated", "BalCurve", "BalScore", "annotated", "bal_curve", "bal_score"]

#: Redshift at which CIV enters the BOSS spectrograph (section 4.2).
CIV_SEEN = 1.6


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """What the visual flag and the balnicity index together say of annotated quasars, shape (n,).

    Of a truth that has only one of the two, that one alone.

    Attributes
    ----------
    both : ndarray of bool
        Flagged, and balnicity above 0.
    either : ndarray of bool
        Flagged, or balnicity above 0.
    neither : ndarray of bool
        Known to be not flagged, and a balnicity of 0.
    """

    both: Mask
    either: Mask
    neither: Mask


def annotated(sample: Sample) -> Annotated | None:
    """Return which secure quasars have broad absorption, or None for a truth without it."""
    votes = []
    if sample.bal is not None:
        votes.append((sample.bal == 1, sample.bal == 0))
    if sample.balnicity is not None:
        votes.append((sample.balnicity > 0, sample.balnicity == 0))
    if not votes:
        return None
    quasars = sample.annotated("QSO")
    yes, no = (np.stack(vote) for vote in zip(*votes, strict=True))
    return Annotated(
        both=quasars & yes.all(axis=0), either=quasars & yes.any(axis=0), neither=quasars & no.all(axis=0)
    )


@dataclass(frozen=True, slots=True, eq=False)
class BalCurve:
    """Against the threshold of the BAL finder (figure 5): one value for each threshold.

    Spectra are called BAL that are called quasar and have a BAL confidence above the threshold; all are
    secure annotations.

    Attributes
    ----------
    thresholds : ndarray of float64
    pseudo_purity : Shares
        Flagged or balnicity above 0, of those called BAL. Quasars of which it is not known are left out;
        what is annotated as no quasar is wrong.
    pseudo_completeness : Shares
        Called BAL, of the quasars flagged with balnicity above 0. The paper calls the same number the
        accuracy for recognising BAL quasars.
    non_bal : Shares
        Not called BAL, of the quasars neither flagged nor with balnicity above 0: the accuracy for rejecting
        non-BAL quasars. Only those with z above `CIV_SEEN`, as there is no CIV in the others to go wrong.
    """

    thresholds: Floats
    pseudo_purity: Shares
    pseudo_completeness: Shares
    non_bal: Shares


def bal_curve(sample: Sample, thresholds: ArrayLike) -> BalCurve | None:
    """Return the scores of section 4.2 against threshold, or None for no BAL confidences or annotations."""
    truth = annotated(sample)
    if truth is None or sample.c_bal is None:
        return None
    edges = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    strength = np.where(sample.quasar & ~np.isnan(sample.c_bal), sample.c_bal, -np.inf)

    def above(rows: Mask) -> Shares:
        ordered = np.sort(strength[rows])
        place = np.searchsorted(ordered, edges.astype(ordered.dtype), side="right")
        return Shares(len(ordered) - place, np.full(len(edges), len(ordered)))

    no_quasar = sample.firm & (sample.truth != "QSO")
    wrong = above(truth.neither & (sample.z_truth > CIV_SEEN))
    right, judged = above(truth.either), above(truth.either | truth.neither | no_quasar)
    return BalCurve(
        thresholds=edges,
        pseudo_purity=Shares(right.k, judged.k),
        pseudo_completeness=above(truth.both),
        non_bal=Shares(wrong.n - wrong.k, wrong.n),
    )


@dataclass(frozen=True, slots=True, eq=False)
class BalScore:
    """Broad absorption at one threshold, on secure annotations.

    Attributes
    ----------
    pseudo_purity, pseudo_completeness, non_bal : Share
        As in `BalCurve`.
    balnicity, balnicity_missed : ndarray of float64
        Balnicity (km/s) above 0 of the quasars called quasar, and of those among them not called BAL
        (figure 6); empty for a truth without balnicity.
    median_balnicity, median_missed : float
        Their medians (km/s), NaN if empty.
    redshifts : Scatter
        Of the quasars called BAL.
    """

    pseudo_purity: Share
    pseudo_completeness: Share
    non_bal: Share
    balnicity: Floats
    balnicity_missed: Floats
    median_balnicity: float
    median_missed: float
    redshifts: Scatter


def bal_score(sample: Sample, c_th: float = Rule().c_th_bal) -> BalScore | None:
    """Return all of section 4.2 at one threshold, or None for no BAL confidences or annotations."""
    curve = bal_curve(sample, c_th)
    if curve is None or sample.c_bal is None:
        return None
    called = sample.quasar & (sample.c_bal > c_th)
    every = missed = np.empty(0)
    if sample.balnicity is not None:
        found = sample.annotated("QSO") & sample.quasar & (sample.balnicity > 0)
        every, missed = sample.balnicity[found], sample.balnicity[found & ~called]
    return BalScore(
        pseudo_purity=_single(curve.pseudo_purity),
        pseudo_completeness=_single(curve.pseudo_completeness),
        non_bal=_single(curve.non_bal),
        balnicity=every,
        balnicity_missed=missed,
        median_balnicity=float(np.median(every)) if len(every) else float("nan"),
        median_missed=float(np.median(missed)) if len(missed) else float("nan"),
        redshifts=redshift_scatter(sample.take(called)),
    )


def _single(shares: Shares) -> Share:
    return Share(int(shares.k[0]), int(shares.n[0]))
