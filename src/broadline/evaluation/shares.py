"""Shares of rows, and how sure one can be of them: intervals, bootstrap, splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEVEL",
    "Band",
    "Floats",
    "Ints",
    "Mask",
    "Share",
    "Shares",
    "Spread",
    "credible_interval",
    "over_splits",
    "resampled",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Credible level of all intervals (Busca & Balland 2018, figure 7).
LEVEL = 0.95


def credible_interval(k: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the central credible interval of shares seen k times in n, with Jeffreys' prior.

    Quantiles of Beta(k + 1/2, n - k + 1/2), the lower end 0 for k = 0 and the upper 1 for k = n: Brown, Cai &
    DasGupta (2001), Statistical Science 16, 101. Busca & Balland (2018), figure 7, show "bayesian
    95% credible intervals" and do not name their prior.

    Parameters
    ----------
    k, n : array_like of int
    level : float

    Returns
    -------
    low, high : ndarray of float64
        NaN where n is 0.
    """
    from scipy.special import betaincinv  # here, as many programs that know shares need none

    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    tail = (1 - level) / 2
    low = np.where(k == 0, 0.0, betaincinv(k + 0.5, n - k + 0.5, tail))
    high = np.where(k == n, 1.0, betaincinv(k + 0.5, n - k + 0.5, 1 - tail))
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


@dataclass(frozen=True, slots=True)
class Share:
    """`k` of `n` rows."""

    k: int
    n: int

    @classmethod
    def of(cls, what: Mask, among: Mask) -> Share:
        """Return the share of the rows `among` that are also `what`."""
        return cls(int((what & among).sum()), int(among.sum()))

    @property
    def value(self) -> float:
        """The share; NaN where there is nothing to divide by."""
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its `credible_interval` at `LEVEL`."""
        low, high = credible_interval(self.k, self.n)
        return float(low), float(high)


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Shares side by side: `k` of `n` rows, arrays of int64 of one shape."""

    k: Ints
    n: Ints

    @property
    def value(self) -> Floats:
        """The shares; NaN where there is nothing to divide by."""
        return np.where(self.n > 0, self.k / np.maximum(self.n, 1), np.nan)

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """Their `credible_interval` at `LEVEL`: low and high."""
        return credible_interval(self.k, self.n)


def resampled(objects: Ints, cells: Ints, n_cells: int, n_resamples: int, seed: int) -> Ints:
    """Return how many rows each cell holds when objects are drawn with replacement, as many as there are.

    All spectra of an object are drawn together, as they are not independent: the bootstrap over clusters of
    Davison & Hinkley (1997), section 3.8. Objects with rows in the same cells are alike, so that only how
    many of each kind are drawn is left to chance: a multinomial number.

    Parameters
    ----------
    objects, cells : ndarray of int64, shape (n,)
        Each row's object, and what it counts for.
    n_cells, n_resamples, seed : int

    Returns
    -------
    ndarray of int64, shape (n_resamples, n_cells)
        Shape (0, n_cells) for fewer than two objects, of which there is no scatter.
    """
    from scipy.sparse import csr_array

    rng = np.random.default_rng(seed)
    order = np.argsort(objects, kind="stable")
    starts = np.flatnonzero(np.diff(objects[order], prepend=-1))
    if len(starts) < 2:
        return np.empty((0, n_cells), dtype=np.int64)
    # Alike are objects whose cells have the same sum of random 64-bit marks, wrapping around.
    marks = rng.integers(-(2**63), 2**63, size=n_cells, dtype=np.int64)
    sums = np.add.reduceat(marks[cells[order]], starts)
    _, first, kind, count = np.unique(sums, return_index=True, return_inverse=True, return_counts=True)
    length = np.diff(starts, append=len(order))
    example = np.repeat(first[kind] == np.arange(len(kind)), length)
    entries = (np.repeat(kind, length)[example], cells[order][example])
    holds = csr_array((np.ones(len(entries[0]), dtype=np.int64), entries), shape=(len(count), n_cells))
    drawn = rng.multinomial(len(starts), count / len(starts), size=n_resamples)
    return np.asarray(drawn @ holds)


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Bootstrap error of one or more shares: standard deviation, and the middle `LEVEL` of all resamples."""

    std: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, resampled: Floats) -> Band:
        """Return the band of resampled values, shape (n_resamples, ...); NaN if one of them is."""
        if len(resampled) < 2:
            nothing = np.full(resampled.shape[1:], np.nan)
            return cls(nothing, nothing, nothing)
        low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return cls(resampled.std(axis=0, ddof=1), low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Mean of a number over splits, its rms deviation from the mean, and how many splits have it."""

    mean: Floats
    rms: Floats
    n: Ints


def over_splits(values: Sequence[ArrayLike]) -> Spread:
    """Return mean and rms over training/validation splits (bands of figure 3, errors of section 4).

    ``rms = sqrt(sum((x - mean)^2) / n)``, over the splits in which x is not NaN.

    Parameters
    ----------
    values : sequence of array_like of float, each of the same shape
        A number, or a curve, of each split.

    Returns
    -------
    Spread
        Of that shape. The mean is NaN where no split has a value, the rms where fewer than two have.
    """
    x = np.array([np.asarray(value, dtype=np.float64) for value in values])
    known = np.isfinite(x)
    n = np.asarray(known.sum(axis=0), dtype=np.int64)
    some = np.maximum(n, 1)
    mean = np.where(n > 0, np.where(known, x, 0).sum(axis=0) / some, np.nan)
    rms = np.sqrt((np.where(known, x - mean, 0) ** 2).sum(axis=0) / some)
    return Spread(mean, np.where(n > 1, rms, np.nan), n)
