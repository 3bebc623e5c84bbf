"""How good redshifts are: scatter, errors that are too small or too large, ripple, repeat observations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, SPEED_OF_LIGHT
from broadline.errors import UsageError
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Ints, Mask, Share
from broadline.grid import Grid
from broadline.lines import Line

__all__ = [
    "Moments",
    "Repeats",
    "Ripple",
    "Scatter",
    "moments",
    "pull",
    "redshift_scatter",
    "repeats",
    "ripple",
    "ripple_of",
]

#: From the median absolute deviation to the standard deviation of a normal distribution.
_NORMAL = 1.4826
_MOST_PAIRS = 20_000_000
# Neighbours of the box frequency (1 a box): where they lie, and how few are too few to compare with.
_LOWEST, _HIGHEST, _FEWEST = 0.4, 1.6, 4


@dataclass(frozen=True, slots=True)
class Moments:
    """Number of values, their mean, standard deviation (n - 1) and NMAD; NaN where there are too few.

    ``NMAD = 1.4826 median(|x - median(x)|)``: Hoaglin, Mosteller & Tukey (1983), chapter 12.
    """

    n: int
    mean: float
    std: float
    nmad: float


def moments(values: Floats) -> Moments:
    """Return the moments of the values that are not NaN."""
    x = values[np.isfinite(values)]
    if len(x) < 2:
        return Moments(len(x), float(x[0]) if len(x) else np.nan, np.nan, np.nan)
    nmad = _NORMAL * np.median(np.abs(x - np.median(x)))
    return Moments(len(x), float(x.mean()), float(x.std(ddof=1)), float(nmad))


@dataclass(frozen=True, slots=True)
class Scatter:
    """Of a quantity over the quasars found: annotated QSO, securely, and called quasar.

    Attributes
    ----------
    all : Moments
    right : Moments
        Clipped: of those with ``|dv| < 6000 km/s``.
    catastrophic : Share
        Those without.
    """

    all: Moments
    right: Moments
    catastrophic: Share


def redshift_scatter(sample: Sample) -> Scatter:
    """Return the scatter of dv (km/s) about the annotated redshift (section 4.1, figure 4).

    The paper gives a mean of 8 and a dispersion of 664 km/s, and does not say how they are clipped.
    """
    return _scatter(sample, sample.dv)


def pull(sample: Sample) -> Scatter | None:
    """Return the scatter of ``(z - z_truth) / z_err``, 1 if errors are honest; None for no errors.

    Rows without a positive error are left out of the moments.
    """
    if sample.z_err is None:
        return None
    error = np.where(sample.z_err > 0, sample.z_err, np.nan)
    return _scatter(sample, (sample.z - sample.z_truth) / error)


def _found(sample: Sample) -> Mask:
    return sample.annotated("QSO") & sample.quasar


def _scatter(sample: Sample, values: Floats) -> Scatter:
    found, near = _found(sample), sample.near
    return Scatter(moments(values[found]), moments(values[found & near]), Share.of(~near, found))


# ---- ripple


@dataclass(frozen=True, slots=True)
class Ripple:
    """A wave in dv with the period of the boxes.

    Attributes
    ----------
    n : int
        Quasars it is measured from.
    amplitude, error : float
        Half of peak to peak, and its standard error (km/s). Without any ripple the amplitude is 1.25 times
        the error on average, not 0.
    power, power_error : float
        Amplitude squared, over its mean at neighbouring periods; 1 if there is nothing special about the
        boxes.
    chance : float
        Probability of a power as high from noise alone.
    n_neighbours : int
        Periods that are compared with. Too few, where redshifts span less than five boxes or so, leave
        power and chance NaN.
    """

    n: int
    amplitude: float
    error: float
    power: float
    power_error: float
    chance: float
    n_neighbours: int


def ripple(sample: Sample, line: Line, grid: Grid, n_boxes: int) -> Ripple:
    """Return the ripple of redshifts at the box period, over quasars found with the right redshift.

    The annotated redshift says where in its box the line is; quasars whose line is beyond the grid are left
    out. Do not pick those whose redshift comes from the line: near the edge of a box a line is the surest
    only where noise has moved it inwards, which looks like ripples of hundreds of km/s where there are none.
    Of all quasars, redshifts from other lines, whose boxes are not in phase, make the ripple weaker.

    Parameters
    ----------
    sample : Sample
    line : Line
    grid : Grid
        The network's.
    n_boxes : int
        Boxes that the grid is divided into (section 3).
    """
    rows = _found(sample) & sample.near
    place = grid.position((1 + sample.z_truth[rows]) * line.wavelength) * (n_boxes / grid.size)
    inside = (place >= 0) & (place < n_boxes)
    return ripple_of(place[inside], sample.dv[rows][inside])


def ripple_of(place: Floats, dv: Floats) -> Ripple:
    """Return the ripple of dv at a period of 1 in place.

    Least squares of ``dv = m + s sin(2 pi f x) + c cos(2 pi f x)`` with f = 1; the amplitude is
    ``sqrt(s^2 + c^2)``. The same fit at frequencies ``f = 1 +- k / L``, k = 2, 3, ..., with L the range of x
    (of a uniform distribution of the same variance), gives the power of the neighbours. Of noise they are
    all nearly independent and exponential, so that the ratio to the mean of m neighbours exceeds r with a
    chance of ``(1 + r / m)^-m``: the periodogram of Scargle (1982, ApJ 263, 835), with a floating mean
    (Zechmeister & Kuerster 2009, A&A 496, 577).

    Parameters
    ----------
    place : ndarray of float64, shape (n,)
        Position of the line, in boxes.
    dv : ndarray of float64, shape (n,)
        km/s.
    """
    nan = float("nan")
    if len(dv) < 5 or np.ptp(place) == 0:
        return Ripple(len(dv), nan, nan, nan, nan, nan, 0)
    amplitude, error = _wave(place, dv, 1.0)
    step = 1 / (np.sqrt(12) * place.std())
    around = _amplitudes(place, dv, step)
    m = len(around)
    if m < _FEWEST:
        return Ripple(len(dv), amplitude, error, nan, nan, nan, m)
    mean = float(np.mean(np.square(around)))
    power = float(amplitude**2 / mean) if mean > 0 else nan
    relative = np.hypot(2 * error / amplitude, 1 / np.sqrt(m)) if amplitude > 0 else nan
    chance = float((1 + power / m) ** -m)
    return Ripple(len(dv), amplitude, error, power, float(power * relative), chance, m)


def _wave(x: Floats, y: Floats, frequency: float) -> tuple[float, float]:
    """Return the amplitude of a wave in y, and its error."""
    angle = 2 * np.pi * frequency * x
    design = np.stack([np.ones_like(x), np.sin(angle), np.cos(angle)], axis=1)
    inverse = np.linalg.pinv(design.T @ design)
    fit = inverse @ (design.T @ y)
    amplitude = float(np.hypot(fit[1], fit[2]))
    variance = float(((y - design @ fit) ** 2).sum()) / (len(x) - 3)
    # The derivative of the amplitude; without one, any direction.
    slope = fit[1:] / amplitude if amplitude > 0 else np.array([1.0, 0.0])
    return amplitude, float(np.sqrt(variance * (slope @ inverse[1:, 1:] @ slope)))


def _amplitudes(x: Floats, y: Floats, step: float) -> list[float]:
    """Return the amplitudes at 1 +- k step, k = 2, 3, ..., each wave a turn of the one before: no sines."""
    turn, wave = np.exp(2j * np.pi * step * x), np.exp(2j * np.pi * x)
    amplitudes = []
    for way, edge in ((turn, _HIGHEST - 1), (turn.conj(), 1 - _LOWEST)):
        turned = wave * way
        for _ in range(2, int(edge / step) + 1):
            turned = turned * way
            amplitudes.append(_amplitude(turned, y))
    return amplitudes


def _amplitude(wave: NDArray[np.complex128], y: Floats) -> float:
    """Return the amplitude in y of a wave, given as cosine and sine, beside a constant."""
    n, total, square = len(y), wave.sum(), wave @ wave
    design = np.array(
        [
            [n, total.imag, total.real],
            [total.imag, (n - square.real) / 2, square.imag / 2],
            [total.real, square.imag / 2, (n + square.real) / 2],
        ]
    )
    fit = np.linalg.pinv(design) @ np.array([y.sum(), wave.imag @ y, wave.real @ y])
    return float(np.hypot(fit[1], fit[2]))


# ---- repeat observations


@dataclass(frozen=True, slots=True)
class Repeats:
    """Two spectra of one object, over all pairs.

    Attributes
    ----------
    n_objects, n_pairs : int
        Objects with more than one spectrum, and their pairs. Pairs of an object with more than two spectra
        are not independent: intervals of the shares are too narrow then.
    same_class : Share
        Both or neither called quasar, of the pairs.
    conflict : Share
        Redshifts not within 6000 km/s, of the pairs both called quasar.
    std, nmad : float
        Scatter of one redshift (km/s), from the pairs called quasar within 6000 km/s of one another.
    """

    n_objects: int
    n_pairs: int
    same_class: Share
    conflict: Share
    std: float
    nmad: float


def repeats(sample: Sample) -> Repeats | None:
    """Return how well a catalogue repeats itself, or None for no object identifiers. No annotation is used.

    ``dv = c (z1 - z2) / (1 + (z1 + z2) / 2)``; std is ``sqrt(mean dv^2 / 2)`` and nmad
    ``1.4826 median |dv| / sqrt(2)``. A pair of an object with k spectra has the weight 2 / k, so that an
    object counts with its k - 1 degrees of freedom: std is the pooled scatter within objects.

    Raises
    ------
    UsageError
        If one object has so many spectra that its identifier must be a placeholder.
    """
    if sample.object_id is None:
        return None
    objects = sample.objects
    first, second = _pairs(objects, sample.object_id)
    weight = 2 / np.bincount(objects)[objects[first]]
    quasar, z = sample.quasar, sample.z
    both = quasar[first] & quasar[second]
    dv = SPEED_OF_LIGHT * (z[first] - z[second]) / (1 + (z[first] + z[second]) / 2)
    near = np.abs(dv) < CONFLICT_KMS
    used = both & near
    std = nmad = float("nan")
    if used.any():
        std = float(np.sqrt((weight * dv**2)[used].sum() / weight[used].sum() / 2))
        nmad = float(_NORMAL * _median(np.abs(dv[used]), weight[used]) / np.sqrt(2))
    everywhere = np.ones(len(first), dtype=bool)
    return Repeats(
        n_objects=int((np.bincount(objects) > 1).sum()),
        n_pairs=len(first),
        same_class=Share.of(quasar[first] == quasar[second], everywhere),
        conflict=Share.of(~near, both),
        std=std,
        nmad=nmad,
    )


def _pairs(objects: Ints, names: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Return the rows of all pairs of spectra of one object."""
    n_spectra = np.bincount(objects)
    if int((n_spectra * (n_spectra - 1) // 2).sum()) > _MOST_PAIRS:
        most = int(n_spectra.argmax())
        name = names[np.flatnonzero(objects == most)[0]]
        raise UsageError(
            f"object {name} has {n_spectra[most]} spectra: write -1 or '' where an object is not known"
        )
    order = np.argsort(objects, kind="stable")
    end = np.cumsum(n_spectra)[objects[order]]
    # The spectrum at `place` has a pair with each that follows it in its object.
    place = np.arange(len(order))
    following = end - place - 1
    first = np.repeat(place, following)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(following) - following, following)
    return order[first].astype(np.int64), order[second].astype(np.int64)


def _median(values: Floats, weight: Floats) -> float:
    """Return the weighted median: half of the weight is on either side."""
    order = np.argsort(values, kind="stable")
    middle = np.cumsum(weight[order]) - weight[order] / 2
    return float(np.interp(weight.sum() / 2, middle, values[order]))
