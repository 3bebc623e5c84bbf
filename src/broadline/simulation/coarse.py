"""Instruments played on the bins of a grid: what `Instrument.observe` does, ten to fifty times as fast.

A network in training should never see the same noise twice, and at full resolution the noise costs more than
the training. Here everything that `Instrument.observe` does happens on the bins that the network reads. The
curves are those of the instrument, averaged in each bin with the weights that the pixels have in the night of
median brightness: w_i = ivar_i / sum ivar for a source too faint to add noise. Fields that are smooth on the
scale of a bin lose nothing by that. Three things vary inside a bin: its variance and its losses, which
`coarse_bins` explains, and what sky subtraction leaves.

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

from broadline.grid import QUASARNET_LOG, Grid
from broadline.simulation.coarse_bins import DARK, Losses, Noise, Pixels, Samples, Variance
from broadline.simulation.instrument import QUIETEST, Instrument
from broadline.simulation.instrument_curves import Bases, bases_of

__all__ = ["Coarse", "Exposed", "blocks"]

_Image = NDArray[np.float32]
_BLOCK = 256  # spectra: smaller blocks pay for calls, larger ones for memory
_KEPT = 0.99  # share of the variance of sky residuals whose correlation is kept
# OpenBLAS multiplies matrices of at most so many products in the calling thread; beside a training that uses
# all cores, waiting for its other threads costs ten times the arithmetic.
_PRODUCTS = 1 << 18
_TILE = 64  # columns multiplied at a time
# Flux, in sigma squared of a pixel of the sky, beyond which a pixel is saturated: float32 can square it.
_SATURATED = 1e8


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
        bases, pixels = bases_of(instrument), Pixels(instrument, grid)
        self._variance = Variance(bases, pixels)
        self._samples = Samples(bases, pixels)
        self._fields = _Fields(instrument, bases, pixels)
        self._noise = Noise(instrument.defects, pixels)
        self._losses = Losses(instrument, bases, pixels)

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
        np.clip(bright, -DARK, DARK, out=bright)
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

    def __init__(self, instrument: Instrument, bases: Bases, pixels: Pixels) -> None:
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
