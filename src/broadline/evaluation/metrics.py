"""Purity and completeness as Busca & Balland (2018), section 4, define them; who is wrong, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from broadline.evaluation.sample import SURE, Sample
from broadline.evaluation.shares import Band, Floats, Ints, Mask, Share, Shares, resampled

__all__ = [
    "REDSHIFT_EDGES",
    "Bands",
    "Bins",
    "Composition",
    "Crossing",
    "Curve",
    "Score",
    "Uncertain",
    "bands",
    "bands_of_curve",
    "composition",
    "crossing",
    "curve",
    "in_bins",
    "in_redshift_bins",
    "score",
    "uncertain",
]

#: The 11 redshift bins of section 4.3.
REDSHIFT_EDGES: Floats = np.linspace(0, 5.5, 12)


@dataclass(frozen=True, slots=True)
class Score:
    """Purity and completeness of section 4.1, on secure annotations.

    Attributes
    ----------
    purity : Share
        Right of those called quasar: annotated QSO or GALAXY, and ``|dv| < 6000 km/s``.
    completeness : Share
        Called quasar with ``|dv| < 6000 km/s``, of those annotated QSO.
    catastrophic : Share
        Without ``|dv| < 6000 km/s``, of those annotated QSO and called quasar.
    n_lost : int
        Not scored, because the annotation lacks its redshift.
    """

    purity: Share
    completeness: Share
    catastrophic: Share
    n_lost: int


def score(sample: Sample) -> Score:
    """Return purity and completeness (section 4.1) of the quasars called.

    ``dv = c (z - z_truth) / (1 + z_truth)`` with c = 299792.458 km/s. A quasar called without a redshift is
    wrong.
    """
    called, quasars = sample.firm & sample.quasar, sample.annotated("QSO")
    return Score(
        purity=Share.of(_right(sample), called),
        completeness=Share.of(sample.quasar & sample.near, quasars),
        catastrophic=Share.of(~sample.near, called & quasars),
        n_lost=sample.n_lost,
    )


def _right(sample: Sample) -> Mask:
    """Return which rows have the right redshift of a secure quasar or galaxy."""
    return sample.near & (sample.annotated("QSO") | sample.annotated("GALAXY"))


# ---- against the threshold


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Purity and completeness against c_th (figure 3), as in `Score`: one value for each threshold."""

    thresholds: Floats
    purity: Shares
    completeness: Shares


def curve(sample: Sample, thresholds: ArrayLike, l_min: int = 1) -> Curve:
    """Return purity and completeness against the threshold (figure 3).

    Parameters
    ----------
    sample : Sample
        With confidences.
    thresholds : array_like of float, shape (n_thresholds,), increasing
        A line is found if its confidence is greater.
    l_min : int
        Lines that must be found.
    """
    steps = _Steps.of(sample, sample.strength(l_min), thresholds)
    n_right_qso, n_right, n_called, n_qso = steps.counts(np.bincount(steps.cells, minlength=steps.n_cells))
    return Curve(steps.thresholds, Shares(n_right, n_called), Shares(n_right_qso, n_qso))


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """Rows sorted into cells, by what they count for and by how many thresholds they are above."""

    thresholds: Floats
    rows: Ints  # the scored rows
    cells: Ints  # theirs: kind * (n_thresholds + 1) + number of thresholds below the strength

    @classmethod
    def of(cls, sample: Sample, strength: NDArray[np.floating], thresholds: ArrayLike) -> _Steps:
        edges = np.asarray(thresholds, dtype=np.float64)
        if edges.ndim != 1 or not (np.diff(edges) > 0).all():
            raise ValueError("thresholds must increase")
        rows = np.flatnonzero(sample.firm)
        # In the precision of the confidences, as the rule itself compares.
        step = np.searchsorted(edges.astype(strength.dtype), strength[rows], side="left")
        quasar, right = sample.annotated("QSO")[rows], _right(sample)[rows]
        kind = np.select([quasar & right, quasar, right], [0, 1, 2], 3)
        return cls(edges, rows, kind * (len(edges) + 1) + step)

    @property
    def n_cells(self) -> int:
        return 4 * (len(self.thresholds) + 1)

    def counts(self, held: Ints) -> Ints:
        """Return right quasars, all right, all called, and annotated quasars, from what each cell holds.

        Shape (..., n_cells) becomes (4, ..., n_thresholds).
        """
        each = held.reshape(*held.shape[:-1], 4, len(self.thresholds) + 1)
        above = np.cumsum(each[..., ::-1], axis=-1)[..., ::-1]
        called = above[..., 1:]
        quasars = np.broadcast_to(above[..., :2, :1].sum(axis=-2), called[..., 0, :].shape)
        right = called[..., 0, :]
        return np.stack([right, right + called[..., 2, :], called.sum(axis=-2), quasars])


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where purity and completeness are equal: the threshold, and their value there."""

    threshold: float
    value: float


def crossing(curve: Curve) -> Crossing | None:
    """Return where purity rises above completeness, or None if it does not.

    Linear between thresholds. Of several crossings, the one of the lowest threshold.
    """
    purity, completeness = curve.purity.value, curve.completeness.value
    known = np.isfinite(purity) & np.isfinite(completeness)
    at, purity, excess = curve.thresholds[known], purity[known], (purity - completeness)[known]
    if len(at) and excess[0] == 0:
        return Crossing(float(at[0]), float(purity[0]))
    up = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    if not len(up):
        return None
    i = int(up[0])
    part = excess[i] / (excess[i] - excess[i + 1])
    return Crossing(
        float(at[i] + part * (at[i + 1] - at[i])), float(purity[i] + part * (purity[i + 1] - purity[i]))
    )


# ---- errors


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """Bootstrap errors of purity and completeness."""

    purity: Band
    completeness: Band


def bands_of_curve(
    sample: Sample, thresholds: ArrayLike, l_min: int = 1, n_resamples: int = 200, seed: int = 0
) -> Bands:
    """Return bootstrap bands of `curve`, objects drawn with replacement (`resampled`).

    Where every spectrum of a sample is right, so it is in every resample: use the intervals of the shares
    themselves there.
    """
    return _bands(_Steps.of(sample, sample.strength(l_min), thresholds), sample, n_resamples, seed)


def bands(sample: Sample, n_resamples: int = 200, seed: int = 0) -> Bands:
    """Return bootstrap errors of `score`, of one element each; as `bands_of_curve`."""
    return _bands(_Steps.of(sample, sample.quasar.astype(np.float64), [0.5]), sample, n_resamples, seed)


def _bands(steps: _Steps, sample: Sample, n_resamples: int, seed: int) -> Bands:
    held = resampled(sample.objects[steps.rows], steps.cells, steps.n_cells, n_resamples, seed)
    right_qso, right, called, qso = steps.counts(held)
    return Bands(Band.of(Shares(right, called).value), Band.of(Shares(right_qso, qso).value))


# ---- who is wrong


@dataclass(frozen=True, slots=True)
class Composition:
    """The misidentified and the missed sample of section 4.1, on secure annotations.

    Attributes
    ----------
    star, galaxy, other : Share
        Annotated so, of those called quasar; galaxies of any redshift.
    galaxy_right : Share
        With the right redshift, of the galaxies called quasar: misidentified, but right in the purity.
    wrong_z : Share
        Annotated QSO without the right redshift, of those called quasar.
    missed : Share
        Not called, of those annotated QSO.
    missed_z : Share
        Called without the right redshift, of those annotated QSO.
    """

    star: Share
    galaxy: Share
    other: Share
    galaxy_right: Share
    wrong_z: Share
    missed: Share
    missed_z: Share


def composition(sample: Sample) -> Composition:
    """Return what the misidentified and the missed sample consist of (section 4.1).

    With galaxies that have the right redshift taken off, the misidentified add up to one minus the purity;
    the missed add up to one minus the completeness.
    """
    called, near = sample.firm & sample.quasar, sample.near
    quasar, star, galaxy = (sample.annotated(kind) for kind in ("QSO", "STAR", "GALAXY"))
    return Composition(
        star=Share.of(star, called),
        galaxy=Share.of(galaxy, called),
        other=Share.of(~(quasar | star | galaxy), called),
        galaxy_right=Share.of(near, called & galaxy),
        wrong_z=Share.of(quasar & ~near, called),
        missed=Share.of(~sample.quasar, quasar),
        missed_z=Share.of(sample.quasar & ~near, quasar),
    )


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The sample without secure annotations (section 4.1).

    Attributes
    ----------
    uncertain : Share
        Annotated with a confidence of 0, 1 or 2, of all whose annotation has a confidence.
    tentative : Share
        With a redshift all the same, of the uncertain.
    called : Share
        Called quasar, of the uncertain.
    agree : Share
        With ``|dv| < 6000 km/s``, of the uncertain called quasar that have a redshift. The paper's "over 60%
        of the cases" does not say what becomes of those that have none.
    """

    uncertain: Share
    tentative: Share
    called: Share
    agree: Share


def uncertain(sample: Sample) -> Uncertain | None:
    """Return what is said of spectra without secure annotation, or None if annotations have no confidence."""
    if sample.confidence is None:
        return None
    rated = sample.confidence >= 0
    rows = rated & (sample.confidence < SURE)
    known = np.isfinite(sample.z_truth)
    return Uncertain(
        uncertain=Share.of(rows, rated),
        tentative=Share.of(known, rows),
        called=Share.of(sample.quasar, rows),
        agree=Share.of(sample.near, rows & known & sample.quasar),
    )


# ---- in bins


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Purity and completeness as in `Score`, in bins from `edges[i]` up to, not including, `edges[i + 1]`."""

    edges: Floats
    purity: Shares
    completeness: Shares


def in_redshift_bins(sample: Sample, edges: ArrayLike = REDSHIFT_EDGES) -> Bins:
    """Return purity in bins of the redshift found, completeness in bins of the annotated one (section 4.3).

    `Shares.interval` are the error bars of figure 7.
    """
    return _in_bins(sample, sample.z, sample.z_truth, edges)


def in_bins(sample: Sample, values: ArrayLike, edges: ArrayLike) -> Bins:
    """Return purity and completeness in bins of anything, such as `sample.sn` or `sample.magnitude`.

    Parameters
    ----------
    sample : Sample
    values : array_like of float, shape (n,)
        Rows with NaN are in no bin.
    edges : array_like of float, shape (n_bins + 1,), increasing
    """
    x = np.asarray(values, dtype=np.float64)
    return _in_bins(sample, x, x, edges)


def _in_bins(sample: Sample, of_called: Floats, of_quasars: Floats, edges: ArrayLike) -> Bins:
    bounds = np.asarray(edges, dtype=np.float64)
    if len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise ValueError("the edges of bins must increase")

    def count(values: Floats, rows: Mask) -> Ints:
        # NaN sorts behind the last edge.
        place = np.searchsorted(bounds, values[rows], side="right")
        return np.bincount(place, minlength=len(bounds) + 1)[1:-1].astype(np.int64)

    called, quasars, right = sample.firm & sample.quasar, sample.annotated("QSO"), _right(sample)
    return Bins(
        bounds,
        Shares(count(of_called, called & right), count(of_called, called)),
        Shares(count(of_quasars, called & right & quasars), count(of_quasars, quasars)),
    )
