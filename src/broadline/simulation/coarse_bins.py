"""What the pixels of an instrument make of the bins of a grid: their variance, noise and losses.

The weights w_i of a bin's pixels are those of `coarse`: of the night of median brightness, for a source too
faint to add noise.

**Variance.** Sky lines fill some pixels of a bin and spare others, so that the ivar-weighted mean has the
variance 1 / sum_i 1 / (x + l v_i), with v_i the variance of the sky lines in pixel i, l their brightness, and
x what all pixels share: sky continuum, read noise, source. For a bin with two kinds of pixels, with a line
and without, this is ``(x + l m) / n - p l^2 / (x + q l)``, with n pixels, m the mean of v_i, and p and q two
constants; that form is used for every bin, p and q being such that the value and the derivative are exact in
the median night without a source. For a bright source it is exact again, whatever p and q: all pixels have
the same variance then.

**Losses.** A bin with masked pixels loses the share w_i of each, and its noise grows by as much as its ivar
says; its flux does not move. A cosmic ray of A sigma in a pixel is one of A sqrt(w_i) sigma in the bin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from broadline.grid import Grid
from broadline.simulation.instrument import Defects, Instrument
from broadline.simulation.instrument_curves import Bases, bases_of, random_runs

__all__ = ["DARK", "Losses", "Noise", "Pixels", "Samples", "Variance"]

#: A source that would have to be so much brighter has no light; no flux is larger.
DARK = np.float32(1e30)

_Image = NDArray[np.float32]
_SAMPLES = 201  # pixels at which the signal-to-noise ratio is taken, odd so that one of them is the median
_GONE = 1e-4  # a bin with less than this of its weight left has no data


# ---- which pixels make a bin


class Pixels:
    """The instrument's pixels that fall on the grid, ordered by bin.

    Attributes
    ----------
    size, n_pixels : int
        Bins of the grid, and all pixels of the instrument.
    index, bins, weight : ndarray, shape (n_on_grid,)
        Of each pixel on the grid: its place in the instrument, its bin, its weight there.
    count, covered : ndarray, shape (size,)
        Pixels in each bin, and whether there are any.
    nearest : ndarray of int64, shape (n_pixels,)
        For every pixel of the instrument, the nearest bin with data.
    weights : csr_array, shape (size, n_pixels)

    Raises
    ------
    ValueError
        If no pixel of the instrument falls on the grid.
    """

    def __init__(self, instrument: Instrument, grid: Grid) -> None:
        every = grid.bins(instrument.wavelength)
        index = np.flatnonzero((every >= 0) & (every < grid.size))
        if not len(index):
            raise ValueError(f"no pixel of {instrument.name} falls on the grid {grid}")
        self.size, self.n_pixels = grid.size, len(every)
        self.index = index[np.argsort(every[index], kind="stable")]
        self.bins = every[self.index]
        self.count = np.bincount(self.bins, minlength=grid.size)
        self.covered = self.count > 0
        self.nearest = every.clip(self.bins.min(), self.bins.max())
        # The weight of each pixel in its bin, in the median night; they sum to 1.
        ivar = 1 / bases_of(instrument).variance.sum(axis=0, dtype=np.float64)[self.index]
        self.weight = ivar / np.bincount(self.bins, ivar, grid.size)[self.bins]
        shape = (grid.size, len(every))
        self.weights = csr_array((self.weight, (self.bins, self.index)), shape=shape)

    def weighted(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the means of curves on the instrument's pixels, (n_rows, n_pixels) -> (n_rows, size)."""
        return np.asarray((self.weights @ rows.T.astype(np.float64)).T)

    def mean(self, curve: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean without weights of a curve on the instrument's pixels, shape (size,)."""
        return np.bincount(self.bins, curve[self.index], self.size) / np.maximum(self.count, 1)


# ---- variance


class Variance:
    """The variance of a bin, in squares of the unit of flux: see the head of the module."""

    def __init__(self, bases: Bases, pixels: Pixels) -> None:
        count = np.maximum(pixels.count, 1)
        continuum, lines, read = bases.variance.astype(np.float64)
        smooth = np.stack([pixels.mean(continuum), pixels.mean(read)])
        x, m = smooth.sum(axis=0), pixels.mean(lines)
        value = pixels.mean(1 / (continuum + lines + read)) * count
        value = np.divide(1, value, out=np.ones_like(value), where=pixels.covered)
        slope = np.bincount(pixels.bins, pixels.weight**2, pixels.size)
        # By how much the form without p misses the value and the slope.
        below, steeper = (x + m) / count - value, slope - 1 / count
        bent = pixels.covered & (below > 1e-6 * value) & (steeper > 1e-6 / count)
        # Not below this q: the variance would be negative for a sky without continuum.
        floor = np.divide(below * x, value - x / count, out=np.zeros_like(x), where=bent)
        turn = np.divide(below, steeper, out=x + 1, where=bent) - x
        turn = np.maximum(turn, floor)
        smooth[1] += ~pixels.covered  # nothing divides by 0
        self.smooth = smooth.astype(np.float32)  # x of sky continuum and of read noise
        self.per_flux = pixels.mean(1 / bases.electrons).astype(np.float32)  # x of a source of flux 1
        self.per_pixel = (1 / count).astype(np.float32)  # 1 / n
        self.lines = m.astype(np.float32)
        self.depth = np.where(bent, below * (x + turn), 0).astype(np.float32)  # p
        self.turn = turn.astype(np.float32)  # q

    def __call__(self, night: _Image, shape: _Image | None, source: _Image) -> _Image:
        """Return variances, shape (n, size).

        `night` are the brightness of continuum and lines, `shape` what multiplies the variance of the dark
        sky, `source` the source's part of x.
        """
        x: _Image = night[:, :1] * self.smooth[0]
        x += self.smooth[1]
        line: _Image = night[:, 1:]
        if shape is not None:
            x *= shape
            line = line * shape
        x += source
        bend = line * self.turn
        bend += x
        np.divide(line, bend, out=bend)
        bend *= line
        bend *= self.depth
        x += line * self.lines
        x *= self.per_pixel
        x -= bend
        return x


# ---- the signal-to-noise ratio of native pixels


class Samples:
    """Some of the instrument's pixels, also beyond the grid: ten of each stretch, of all brightnesses of sky.

    Their median is that of all pixels to 1 % (3 % at worst, of power laws from -4 to 2 and lines).
    """

    def __init__(self, bases: Bases, pixels: Pixels) -> None:
        n = pixels.n_pixels
        stretch = np.arange(n) * (_SAMPLES // 10) // n
        order = np.lexsort((bases.variance.sum(axis=0) * (-1) ** stretch, stretch))
        at = order[((np.arange(_SAMPLES) + 0.5) * n / _SAMPLES).astype(int)]
        self.bins = pixels.nearest[at]
        self.variance = bases.variance[:, at]
        self.half = (0.5 / bases.electrons[at]).astype(np.float32)

    def brightness(
        self, model: _Image, night: _Image, shape: _Image | None, sn: NDArray[np.float32]
    ) -> _Image:
        """Return `instrument_curves.brightness` from the sampled pixels, shape (n, 1)."""
        dark = night @ self.variance[:2]
        dark += self.variance[2]
        if shape is not None:
            dark *= shape.take(self.bins, axis=1)
        square = np.square(sn)[:, None]
        half = square * self.half
        dark *= square
        dark += np.square(half)
        u = np.sqrt(dark, out=dark)
        u += half
        flux = model.take(self.bins, axis=1)
        # A bin without flux needs infinitely much.
        np.maximum(flux, np.finfo(np.float32).tiny, out=flux)
        with np.errstate(over="ignore"):
            u /= flux
        middle = _SAMPLES // 2
        u.partition(middle, axis=1)
        scale = u[:, middle : middle + 1]
        return np.where(scale < DARK, scale, np.float32(1))


# ---- noise of neighbouring bins


class Noise:
    """White noise to the noise of ivar-weighted means of pixels whose neighbours are correlated.

    A bin's mean is sum_i a_i n_i of unit noise n_i with a_i = sqrt(w_i); its variance and its covariance with
    the bin before follow from the correlation r / (1 + r^2) of neighbours that r leaves in the pixels.
    """

    def __init__(self, defects: Defects, pixels: Pixels) -> None:
        self._correlated = defects.correlation > 0
        neighbours = defects.correlation / (1 + defects.correlation**2)
        share, bins = np.zeros(pixels.n_pixels), np.full(pixels.n_pixels, -1)
        share[pixels.index], bins[pixels.index] = np.sqrt(pixels.weight), pixels.bins
        pair, left, right = neighbours * share[:-1] * share[1:], bins[:-1], bins[1:]
        within, across = (left == right) & (left >= 0), (left + 1 == right) & (left >= 0)
        spread = np.sqrt(1 + 2 * np.bincount(left[within], pair[within], pixels.size))
        shared = np.bincount(left[across], pair[across], pixels.size)[:-1] / spread[:-1]
        self._own = np.sqrt(np.square(spread) - np.square(np.concatenate([[0], shared]))).astype(np.float32)
        self._before = shared.astype(np.float32)

    def __call__(self, noise: _Image) -> _Image:
        """Return the noise of bins in units of their sigma."""
        if not self._correlated:
            return noise
        left = noise[:, :-1] * self._before
        noise *= self._own
        noise[:, 1:] += left
        return noise


# ---- lost pixels and cosmic rays


class Losses:
    """Where data are missing. Tables hold the weight that is left in a bin."""

    def __init__(self, instrument: Instrument, bases: Bases, pixels: Pixels) -> None:
        self._defects, self._pixels, self._rejected = instrument.defects, pixels, bases.rejected
        self._weight = pixels.weight.astype(np.float32)
        # The place of each pixel in the order of bins, -1 off the grid.
        self._rank = np.full(pixels.n_pixels, -1)
        self._rank[pixels.index] = np.arange(len(pixels.index))
        weight = np.zeros(pixels.n_pixels)
        weight[pixels.index] = pixels.weight
        longest = pixels.n_pixels // 10
        ends = np.arange(longest), np.arange(pixels.n_pixels)[: -longest - 1 : -1]
        # Bins at each end of the spectrum, and what is left of them when so many pixels are gone.
        self._ends = [self._end(pixels.nearest[end], weight[end]) for end in ends]
        arms = [np.bincount(pixels.nearest[p], weight[p], pixels.size) for p in instrument.slices.values()]
        self._arms = _left(np.stack(arms))

    @staticmethod
    def _end(bins: NDArray[np.int64], weight: NDArray[np.float64]) -> tuple[slice, _Image]:
        first, last = int(bins.min()), int(bins.max()) + 1
        steps = np.zeros((len(bins) + 1, last - first))
        steps[np.arange(len(bins)) + 1, bins - first] = weight
        return slice(first, last), _left(np.cumsum(steps, axis=0))

    def __call__(self, variance: _Image, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Raise the variance of bins that lose pixels, in place; return where data are left."""
        defects, n = self._defects, len(variance)
        data = np.repeat(self._pixels.covered[None], n, axis=0)
        if defects.ragged:
            for part, table in self._ends:
                length = np.minimum(rng.exponential(defects.ragged, n), len(table) - 1).astype(int)
                left = table[length]
                variance[:, part] /= left
                data[:, part] &= left > _GONE
        if defects.lost_arm:
            for row in np.flatnonzero(rng.random(n) < defects.lost_arm):
                left = self._arms[rng.integers(len(self._arms))]
                variance[row] /= left
                data[row] &= left > _GONE
        if defects.rejected or defects.missing:
            places, left = self._masked(n, rng)
            variance.reshape(-1)[places] /= left
            data.reshape(-1)[places] &= left > _GONE
        return data

    def _masked(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], _Image]:
        """Return places in the flat image that lose masked runs, and how much of each is left."""
        pixels, defects = self._pixels, self._defects
        runs = [random_runs(rng, n, pixels.n_pixels, defects.rejected, 1.5, self._rejected)]
        runs.append(random_runs(rng, n, pixels.n_pixels, defects.missing, 60))
        row, pixel = (np.concatenate(part) for part in zip(*runs, strict=True))
        rank = self._rank[pixel]
        place = (row * len(self._weight) + rank)[rank >= 0]
        place.sort()
        place = place[np.diff(place, prepend=-1) > 0]  # a pixel hit twice is lost once
        row, rank = np.divmod(place, len(self._weight))
        target = row * pixels.size + pixels.bins[rank]
        first = np.flatnonzero(np.diff(target, prepend=-1))
        if not len(first):
            return first, np.empty(0, dtype=np.float32)
        return target[first], _left(np.add.reduceat(self._weight[rank], first))

    def strike(self, flux: _Image, sigma: _Image, rng: np.random.Generator) -> None:
        """Add cosmic rays, in place."""
        row, pixel = random_runs(rng, len(flux), self._pixels.n_pixels, self._defects.spikes, 1.5)
        rank = self._rank[pixel]
        row, rank = row[rank >= 0], rank[rank >= 0]
        at = row, self._pixels.bins[rank]
        height = (5 + rng.exponential(8, len(row))).astype(np.float32)
        np.add.at(flux, at, height * np.sqrt(self._weight[rank]) * sigma[at])


def _left(lost: NDArray[np.floating[Any]]) -> _Image:
    left: _Image = np.maximum(1 - lost, 0.5 * _GONE).astype(np.float32)
    return left
