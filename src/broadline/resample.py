"""Resampling as sparse linear operators, built once for a pair of wavelength grids and applied to batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from broadline.grid import Grid

__all__ = ["binned", "conserving", "pixel_edges"]

# scipy multiplies a sparse matrix by many vectors stored side by side; transposing this many spectra at a
# time keeps both sides in the first-level cache, which the whole batch would leave.
_BLOCK = 16

_Array64 = NDArray[np.float64]
_Real = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Resampler:
    """A linear map from the pixels of a spectrum to those of a grid.

    Attributes
    ----------
    weights : scipy.sparse.csr_array, shape (n_out, n_in)
        Binned: 1 where the input pixel's centre falls in the output pixel. Conserving: width of the
        overlap of the two pixels in Angstrom.
    pixels : ndarray of float64, shape (n_out,)
        How many input pixels, fractions counted, an output pixel holds.
    """

    weights: sparse.csr_array
    pixels: _Array64

    def apply(self, values: _Real) -> _Real:
        """Return ``values @ weights.T`` for a batch, shape (n_spectra, n_in) -> (n_spectra, n_out)."""
        return _apply(self.weights.astype(values.dtype, copy=False), values)


def _apply(weights: sparse.csr_array, values: _Real) -> _Real:
    out = np.empty((len(values), weights.shape[0]), dtype=values.dtype)
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        out[block] = (weights @ np.ascontiguousarray(values[block].T)).T
    return out


def binned(flux: _Real, ivar: _Real, wavelength: _Array64, grid: Grid) -> tuple[_Real, _Real, _Array64]:
    """Return the inverse-variance weighted mean of the pixels whose centres fall in each grid pixel.

    Parameters
    ----------
    flux, ivar : ndarray of float, shape (n_spectra, n_in)
    wavelength : ndarray of float64, shape (n_in,)
        Pixel centres, vacuum Angstrom.
    grid : Grid

    Returns
    -------
    flux, ivar : ndarray, shape (n_spectra, grid.size)
        ``sum(flux ivar) / sum(ivar)`` and ``sum(ivar)``; both 0 where there is no data.
    pixels : ndarray of float64, shape (grid.size,)
        Input pixels in each output pixel.

    Notes
    -----
    Busca & Balland (2018), section 3, leave the weights open; these are those of the authors' code.
    """
    operator = _binning(wavelength.tobytes(), grid)
    weight = operator.apply(ivar)
    total = operator.apply(flux * ivar)
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return mean, weight, operator.pixels


def conserving(flux: _Real, ivar: _Real, wavelength: _Array64, grid: Grid) -> tuple[_Real, _Real, _Array64]:
    """Return the flux-conserving resampling of Carnall (2017), with exact variance and masks.

    Each output pixel is the mean flux density over the input pixels it overlaps, weighted by the width of
    the overlap. Pixels with ivar 0 take no part: the mean is over what remains.

    Parameters
    ----------
    flux, ivar : ndarray of float, shape (n_spectra, n_in)
    wavelength : ndarray of float64, shape (n_in,)
        Pixel centres, vacuum Angstrom. Pixel edges lie half-way between them.
    grid : Grid
        Output pixels that reach beyond the input's edges hold no data, as in Carnall's code.

    Returns
    -------
    flux, ivar : ndarray, shape (n_spectra, grid.size)
        0 where there is no data. `ivar` neglects the correlation between neighbouring output pixels.
    pixels : ndarray of float64, shape (grid.size,)
        Input pixels in each output pixel.

    Notes
    -----
    ``f_j = sum_i w_ij f_i / sum_i w_ij`` and ``var_j = sum_i w_ij^2 var_i / (sum_i w_ij)^2`` with w_ij the
    overlap times the mask: Carnall (2017), arXiv:1705.05165, equations 3 and 4.
    """
    operator = _overlap(wavelength.tobytes(), grid)
    good: _Real = (ivar > 0).astype(flux.dtype)
    width = operator.apply(good)
    total = operator.apply(flux * good)
    variance = np.divide(good, ivar, out=np.zeros_like(good), where=ivar > 0)
    squared = operator.weights.astype(flux.dtype)
    squared.data **= 2
    variance = _apply(squared, variance)
    mean = np.divide(total, width, out=np.zeros_like(total), where=width > 0)
    weight = np.divide(width**2, variance, out=np.zeros_like(width), where=variance > 0)
    return mean, weight, operator.pixels


def pixel_edges(wavelength: _Array64) -> _Array64:
    """Return pixel edges half-way between centres, the outer ones mirrored; shape (n + 1,), n >= 2."""
    middle = 0.5 * (wavelength[1:] + wavelength[:-1])
    first = 2 * wavelength[0] - middle[0]
    last = 2 * wavelength[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


@lru_cache(maxsize=64)
def _binning(wavelength: bytes, grid: Grid) -> Resampler:
    bins = grid.bins(np.frombuffer(wavelength))
    inside = np.flatnonzero((bins >= 0) & (bins < grid.size))
    weights = sparse.csr_array(
        (np.ones(len(inside), dtype=np.float32), (bins[inside], inside)), shape=(grid.size, len(bins))
    )
    return Resampler(weights, np.asarray(weights.sum(axis=1), dtype=np.float64))


@lru_cache(maxsize=16)
def _overlap(wavelength: bytes, grid: Grid) -> Resampler:
    edges = pixel_edges(np.frombuffer(wavelength))
    out = _grid_edges(grid)
    # Every boundary of either grid cuts the axis; each piece between two cuts belongs to one pixel of each.
    cuts = np.union1d(edges, out)
    middle = 0.5 * (cuts[1:] + cuts[:-1])
    source = np.searchsorted(edges, middle) - 1
    target = np.searchsorted(out, middle) - 1
    # An output pixel that ends where the input ends is inside it, whatever the rounding of its edge.
    slack = 1e-9 * np.diff(out)
    covered = (out[:-1] >= edges[0] - slack) & (out[1:] <= edges[-1] + slack)
    shared = (source >= 0) & (source < len(edges) - 1) & (target >= 0) & (target < grid.size)
    shared[shared] = covered[target[shared]]
    width = np.diff(cuts)[shared]
    shape = (grid.size, len(edges) - 1)
    weights = sparse.coo_array((width, (target[shared], source[shared])), shape=shape).tocsr()
    fraction = weights @ (1.0 / np.diff(edges))
    return Resampler(weights, np.asarray(fraction, dtype=np.float64))


def _grid_edges(grid: Grid) -> _Array64:
    """Return the edges Carnall's code gives the grid: half-way between centres, in wavelength."""
    return pixel_edges(grid.centres) if grid.size > 1 else grid.edges
