"""Instruments played on the bins of a grid: what `Instrument.observe` does, ten to fifty times as fast.

A network in training should never see the same noise twice, and at full resolution the noise costs more than
the training. Here everything that `Instrument.observe` does happens on the bins that the network reads. The
curves are those of the instrument, averaged in each bin with the weights that the pixels have in the night of
median brightness: w_i = ivar_i / sum ivar for a source too faint to add noise. Fields that are smooth on the
scale of a bin lose nothing by that. Three things vary inside a bin:

**Variance.** Sky lines fill some pixels of a bin and spare others, so that the ivar-weighted mean has the
variance 1 / sum_i 1 / (x + l v_i), with v_i the variance of the sky lines in pixel i, l their brightness, and
x what all pixels share: sky continuum, read noise, source. For a bin with two kinds of pixels, with a line
and without, this is ``(x + l m) / n - p l^2 / (x + q l)``, with n pixels, m the mean of v_i, and p and q two
constants; that form is used for every bin, p and q being such that the value and the derivative are exact in
the median night without a source. For a bright source it is exact again, whatever p and q: all pixels have
the same variance then.

**Losses.** A bin with masked pixels loses the share w_i of each, and its noise grows by as much as its ivar
says; its flux does not move. A cosmic ray of A sigma in a pixel is one of A sqrt(w_i) sigma in the bin.

**Residuals of sky lines.** A bright source evens out the weights, and the pixels with lines count for more.
The residuals' standard deviation grows from that with w_i to that with equal weights, as x / (x + d) of the
source and the dark variance d of the pixels with lines (harmonic mean). With d the same in all of them and
few of them that is exact; with real lines the scatter of pulls is 0 to 4 % too small up to S/N 5 and 2 %
(SDSS-like lines) to 10 % (LAMOST's) at S/N 30. Of the correlation of bins the main components are kept.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from broadline.grid import QUASARNET_LOG, Grid
from broadline.simulation.instrument import QUIETEST, Defects, Instrument, _Bases, _bases, _runs

__all__ = ["Coarse", "Exposed", "blocks"]

_Image = NDArray[np.float32]
_BLOCK = 256  # spectra: smaller blocks pay for calls, larger ones for memory
_SAMPLES = 201  # pixels at which the signal-to-noise ratio is taken, odd so that one of them is the median
_KEPT = 0.99  # share of the variance of sky residuals whose correlation is kept
# OpenBLAS multiplies matrices of at most so many products in the calling thread; beside a training that uses
# all cores, waiting for its other threads costs ten times the arithmetic.
_PRODUCTS = 1 << 18
_TILE = 64  # columns multiplied at a time
_GONE = 1e-4  # a bin with less than this of its weight left has no data
# Flux, in sigma squared of a pixel of the sky, beyond which a pixel is saturated: float32 can square it.
_SATURATED = 1e8
_DARK = np.float32(1e30)  # a source that would have to be so much brighter has no light; no flux is larger


class Exposed(NamedTuple):
    """Spectra in the brightness at which they were observed, on the bins of a grid.

    Attributes
    ----------
    flux, ivar : ndarray of float32, shape (n_spectra, grid.size)
        In 1e-17 erg / s / cm2 / Angstrom of the sources brightened by `scale`; both 0 without data.
    data : ndarray of bool, shape (n_spectra, grid.size)
    scale : ndarray of float32, shape (n_spectra, 1)
        By how much each source had to be brightened for its signal-to-noise ratio.
    """

    flux: _Image
    ivar: _Image
    data: NDArray[np.bool_]
    scale: _Image


class Coarse:
    """One instrument on the bins of one grid.

    Parameters
    ----------
    instrument : Instrument
    grid : Grid
        Its bins should hold several pixels of the instrument.

    Raises
    ------
    ValueError
        If no pixel of the instrument falls on the grid.
    """

    def __init__(self, instrument: Instrument, grid: Grid = QUASARNET_LOG) -> None:
        self.instrument, self.grid = instrument, grid
        bases, pixels = _bases(instrument), _Pixels(instrument, grid)
        self._variance = _Variance(bases, pixels)
        self._samples = _Samples(bases, pixels)
        self._fields = _Fields(instrument, bases, pixels)
        self._noise = _Noise(instrument.defects, pixels)
        self._losses = _Losses(instrument, bases, pixels)

    def observe(
        self, clean: NDArray[Any], sn: NDArray[Any], rng: np.random.Generator
    ) -> tuple[_Image, _Image]:
        """Return noise-free spectra as observed: what `Instrument.observe` and `resample.binned` would give.

        Parameters
        ----------
        clean : ndarray of float, shape (n_spectra, grid.size)
            Mean noise-free flux in each bin, finite; the unit matters for sky fibres only, see `sn`. Beyond
            1e15, or where light is fainter than 1e-15, ivar leaves the range of float32.
        sn : ndarray, shape (n_spectra,)
            Median over the instrument's pixels of the true signal-to-noise ratio a pixel, > 0. Ignored where
            the median flux is not positive (sky fibres): there `clean` is in 1e-17 erg / s / cm2 / Angstrom.
        rng : numpy.random.Generator
            `numpy.random.SFC64` is the fastest.

        Returns
        -------
        flux, ivar : ndarray of float32, shape (n_spectra, grid.size)
            In the unit of `clean`; both 0 where there are no data.

        Raises
        ------
        ValueError
            If a shape does not fit, or `sn` is not positive.
        """
        clean, sn = np.asarray(clean), np.asarray(sn, dtype=np.float32)
        n = len(clean)
        if clean.ndim != 2 or clean.shape[1] != self.grid.size:
            raise ValueError(f"clean spectra have {self.grid.size} bins; the array's shape is {clean.shape}")
        if sn.shape != (n,) or not (np.isfinite(sn) & (sn > 0)).all():
            raise ValueError(f"sn must be {n} positive numbers, one a spectrum; its shape is {sn.shape}")
        flux, ivar = np.empty((2, n, self.grid.size), dtype=np.float32)
        for rows in blocks(n):
            seen = self.expose(clean[rows], sn[rows], rng)
            np.divide(seen.flux, seen.scale, out=flux[rows])
            np.multiply(seen.ivar, np.square(seen.scale), out=ivar[rows])
        return flux, ivar

    def expose(self, clean: NDArray[Any], sn: NDArray[np.float32], rng: np.random.Generator) -> Exposed:
        """Return `observe` before it is brought back to the unit of `clean`; best in blocks of some hundred.

        Fluxes brighter than 1e8 are cut there.
        """
        n, fields, defects = len(clean), self._fields, self.instrument.defects
        noise, draws = _normal(rng, (n, self.grid.size), (n, fields.size))
        bright = fields.calibration(draws)
        with np.errstate(over="ignore"):
            bright *= clean
        np.clip(bright, -_DARK, _DARK, out=bright)
        night = np.exp(draws[:, :2] * _NIGHT)
        shape = fields.shape(draws)
        scale = self._samples.brightness(bright, night, shape, sn)
        with np.errstate(over="ignore"):
            bright *= scale
        np.clip(bright, -_SATURATED, _SATURATED, out=bright)
        share = np.maximum(bright, 0)
        share *= self._variance.per_flux
        variance = self._variance(night, shape, share)
        residual = fields.residual(draws, share, rng) if fields.residuals else None
        share /= variance
        share *= self._variance.per_pixel  # now the source's share of the variance
        data = self._losses(variance, rng)
        noise = self._noise(noise)
        if defects.overstated or defects.overstated_bright:
            share *= np.float32(defects.overstated_bright)
            share += np.float32(1 + defects.overstated)
            noise /= share
        sigma = np.sqrt(variance, out=share)
        noise *= sigma
        flux = noise
        if residual is not None:
            flux += residual
        flux += bright
        self._losses.strike(flux, sigma, rng)
        if fields.uncertain:
            sigma *= fields.said(draws)
            np.square(sigma, out=variance)
        ivar = np.reciprocal(variance, out=variance)
        ivar *= data
        flux *= data
        return Exposed(flux, ivar, data, scale)


def blocks(n: int) -> list[slice]:
    """Return slices of about equal length that cover `n` spectra and suit `Coarse.expose`."""
    edges = np.linspace(0, n, -(-n // _BLOCK) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _normal(rng: np.random.Generator, *shapes: tuple[int, int]) -> list[_Image]:
    """Return arrays of standard normal numbers up to 5.8, in half the time of ``rng.standard_normal``.

    Box & Muller (1958): in float32 numpy's logarithm, sine and cosine handle many numbers at a time.
    """
    sizes = [rows * columns for rows, columns in shapes]
    half = (sum(sizes) + 1) // 2
    radius, angle = rng.random((2, half), dtype=np.float32)
    np.log(np.subtract(1, radius, out=radius), out=radius)
    np.sqrt(np.multiply(radius, -2, out=radius), out=radius)
    angle *= np.float32(2 * np.pi)
    both = np.empty((2, half), dtype=np.float32)
    np.cos(angle, out=both[0])
    np.sin(angle, out=both[1])
    both *= radius
    parts = np.split(both.reshape(-1), np.cumsum(sizes))[:-1]
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


#: Scatter of ln of sky continuum and sky lines from night to night.
_NIGHT = np.array([0.2, 0.3], dtype=np.float32)


# ---- which pixels make a bin


class _Pixels:
    """The instrument's pixels that fall on the grid, ordered by bin."""

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
        # For every pixel of the instrument, the nearest bin with data.
        self.nearest = every.clip(self.bins.min(), self.bins.max())
        # The weight of each pixel in its bin, in the median night; they sum to 1.
        ivar = 1 / _bases(instrument).variance.sum(axis=0, dtype=np.float64)[self.index]
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


class _Variance:
    """The variance of a bin: see the head of the module."""

    def __init__(self, bases: _Bases, pixels: _Pixels) -> None:
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


class _Samples:
    """Some of the instrument's pixels, also beyond the grid: ten of each stretch, of all brightnesses of sky.

    Their median is that of all pixels to 1 % (3 % at worst, of power laws from -4 to 2 and lines).
    """

    def __init__(self, bases: _Bases, pixels: _Pixels) -> None:
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
        """Return by how much to brighten each source, shape (n, 1): `instrument._brightness` on samples."""
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
        return np.where(scale < _DARK, scale, np.float32(1))


# ---- smooth random fields


class _Basis:
    """Rows whose random sums are a field: normal numbers @ rows, in tiles below `_PRODUCTS`."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.n_rows, self.size = rows.shape
        n_tiles = -(-self.size // _TILE)
        tiles = np.zeros((self.n_rows, n_tiles * _TILE), dtype=np.float32)
        tiles[:, : self.size] = rows
        self._tiles = np.ascontiguousarray(tiles.reshape(self.n_rows, n_tiles, _TILE).transpose(1, 0, 2))
        self._step = max(1, min(64, _PRODUCTS // (_TILE * max(1, self.n_rows))))

    def __call__(self, draws: _Image) -> _Image:
        """Return fields, (n, n_rows) -> (n, size)."""
        n, (n_tiles, step) = len(draws), (len(self._tiles), self._step)
        n_steps = -(-n // step)
        left = np.zeros((n_steps * step, self.n_rows), dtype=np.float32)
        left[:n] = draws
        out = np.empty((n_steps * step, n_tiles * _TILE), dtype=np.float32)
        tiles = out.reshape(n_steps, step, n_tiles, _TILE).transpose(0, 2, 1, 3)
        np.matmul(left.reshape(n_steps, 1, step, self.n_rows), self._tiles, out=tiles)
        return out[:n, : self.size]


class _Fields:
    """Random fields on the bins: columns of one table of normal numbers, times a basis each."""

    def __init__(self, instrument: Instrument, bases: _Bases, pixels: _Pixels) -> None:
        defects = instrument.defects
        variance = pixels.weighted(bases.variance.sum(axis=0, keepdims=True))
        sigma = np.where(pixels.covered, np.sqrt(variance), 1)
        residual = pixels.weighted(bases.residual)
        rows = {
            "calibration": pixels.weighted(bases.calibration),
            "shape": instrument.shape_scatter * pixels.weighted(bases.shape),
            "error": defects.ivar_shape * pixels.weighted(bases.smooth),
            "residual": _principal(residual / sigma) * sigma,
        }
        # The first columns are the night's two and the level of ivar.
        ends = 3 + np.cumsum([0] + [len(basis) for basis in rows.values()])
        self.size = int(ends[-1])
        self._columns = dict(zip(rows, (slice(int(a), int(b)) for a, b in pairwise(ends)), strict=True))
        self._bases = {name: _Basis(basis) for name, basis in rows.items()}
        self._one_sided = bases.one_sided
        self._ivar_level = np.float32(defects.ivar_level)
        self._shaped = instrument.shape_scatter > 0
        self.residuals = len(rows["residual"]) > 0
        self.uncertain = defects.ivar_level > 0 or defects.ivar_shape > 0
        even = np.linalg.norm([pixels.mean(row) for row in bases.residual], axis=0)
        dark = np.linalg.norm(residual, axis=0)
        power = np.square(bases.residual, dtype=np.float64).sum(axis=0)
        energy, darkness = pixels.mean(power), pixels.mean(power / bases.variance.sum(axis=0))
        lit = energy > 0
        # By how much residuals are larger with equal weights, and the dark variance where they come from.
        self._growth = (np.divide(even, dark, out=np.ones_like(dark), where=lit) - 1).astype(np.float32)
        self._darkness = np.divide(energy, darkness, out=np.ones_like(dark), where=lit).astype(np.float32)

    def _field(self, name: str, draws: _Image) -> _Image:
        return self._bases[name](draws[:, self._columns[name]])

    def calibration(self, draws: _Image) -> _Image:
        """Return what flux calibration and fibre placement multiply the spectra by."""
        lossy = draws[:, self._columns["calibration"]][:, : self._one_sided]
        np.negative(np.abs(lossy, out=lossy), out=lossy)
        factor = self._field("calibration", draws)
        factor += 1
        np.maximum(factor, 0.1, out=factor)
        return factor

    def shape(self, draws: _Image) -> _Image | None:
        """Return what multiplies the variance of the dark sky; None stands for 1."""
        if not self._shaped:
            return None
        shape = self._field("shape", draws)
        shape += 1
        np.maximum(shape, QUIETEST, out=shape)
        return np.square(shape, out=shape)

    def residual(self, draws: _Image, source: _Image, rng: np.random.Generator) -> _Image:
        """Return the flux that sky subtraction left; in some spectra it is worse than in others.

        `source` is the source's part of x.
        """
        loud = rng.standard_normal((len(draws), 1), dtype=np.float32)
        draws[:, self._columns["residual"]] *= np.exp(np.float32(0.3) * loud)
        residual = self._field("residual", draws)
        larger = source + self._darkness
        np.divide(source, larger, out=larger)
        larger *= self._growth
        larger += 1
        residual *= larger
        return residual

    def said(self, draws: _Image) -> _Image:
        """Return sigma as the pipeline gives it, relative to the true one."""
        error = self._field("error", draws)
        error += (1 + self._ivar_level * draws[:, 2:3]).clip(0.5, 2)
        np.maximum(error, 0.3, out=error)
        return error


def _principal(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return fewer rows with the same variance in every bin and nearly the same correlation of bins."""
    if not rows.any():
        return np.empty((0, rows.shape[1]))
    _, strength, axes = np.linalg.svd(rows, full_matrices=False)
    share = np.cumsum(strength**2) / np.sum(strength**2)
    keep = int(np.searchsorted(share, _KEPT)) + 1
    few = strength[:keep, None] * axes[:keep]
    kept = np.square(few).sum(axis=0)
    return np.asarray(few * np.sqrt(np.divide(np.square(rows).sum(axis=0), kept, where=kept > 0, out=kept)))


# ---- noise of neighbouring bins


class _Noise:
    """White noise to the noise of ivar-weighted means of pixels whose neighbours are correlated.

    A bin's mean is sum_i a_i n_i of unit noise n_i with a_i = sqrt(w_i); its variance and its covariance with
    the bin before follow from the correlation r / (1 + r^2) of neighbours that r leaves in the pixels.
    """

    def __init__(self, defects: Defects, pixels: _Pixels) -> None:
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


class _Losses:
    """Where data are missing. Tables hold the weight that is left in a bin."""

    def __init__(self, instrument: Instrument, bases: _Bases, pixels: _Pixels) -> None:
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
        runs = [_runs(rng, n, pixels.n_pixels, defects.rejected, 1.5, self._rejected)]
        runs.append(_runs(rng, n, pixels.n_pixels, defects.missing, 60))
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
        row, pixel = _runs(rng, len(flux), self._pixels.n_pixels, self._defects.spikes, 1.5)
        rank = self._rank[pixel]
        row, rank = row[rank >= 0], rank[rank >= 0]
        at = row, self._pixels.bins[rank]
        height = (5 + rng.exponential(8, len(row))).astype(np.float32)
        np.add.at(flux, at, height * np.sqrt(self._weight[rank]) * sigma[at])


def _left(lost: NDArray[np.floating[Any]]) -> _Image:
    left: _Image = np.maximum(1 - lost, 0.5 * _GONE).astype(np.float32)
    return left
