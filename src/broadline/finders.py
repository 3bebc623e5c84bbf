"""Line finders: encode truth to targets, decode network output to line positions. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from broadline.grid import Grid
from broadline.lines import Line

__all__ = ["decode", "encode", "errors", "read_at"]


def encode(
    z: NDArray[np.float64], lines: Sequence[Line], grid: Grid, n_boxes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the box that holds each line's centre and where in the box it lies.

    The grid is divided into `n_boxes` boxes of equal length in its own measure.

    Parameters
    ----------
    z : ndarray of float64, shape (n_spectra,)
        Redshifts; NaN for a spectrum without lines.
    lines : sequence of Line
    grid : Grid
    n_boxes : int

    Returns
    -------
    box : ndarray of int64, shape (n_spectra, n_lines)
        -1 where the line is out of range, or z is NaN.
    offset : ndarray of float64, shape (n_spectra, n_lines)
        Distance from the left edge of the box in units of its length, in [0, 1); NaN where box is -1.

    Notes
    -----
    Busca & Balland (2018), section 3: Y is 1 in the box that contains the line's centre, X the offset from
    the left edge of the box.
    """
    rest = np.array([line.wavelength for line in lines])
    with np.errstate(invalid="ignore", divide="ignore"):
        place = grid.position((1 + np.asarray(z, dtype=np.float64))[:, None] * rest) * (n_boxes / grid.size)
        seen = (place >= 0) & (place < n_boxes)
    box = np.where(seen, np.floor(np.where(seen, place, 0)), -1).astype(np.int64)
    return box, np.where(seen, place - box, np.nan)


def decode(
    confidence: NDArray[np.float32], offset: NDArray[np.float32], lines: Sequence[Line], grid: Grid
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return how sure each finder is of its line and the redshift that the line's position implies.

    Parameters
    ----------
    confidence, offset : ndarray of float32, shape (n_spectra, n_lines, n_boxes)
    lines : sequence of Line, length n_lines
    grid : Grid

    Returns
    -------
    c : ndarray of float32, shape (n_spectra, n_lines)
        Confidence of the most confident box.
    z : ndarray of float64, shape (n_spectra, n_lines)
        Redshift from the position in that box. An offset outside [0, 1) is taken as it is.

    Notes
    -----
    Busca & Balland (2018), section 3. The inverse of `encode`.
    """
    n_boxes = confidence.shape[2]
    box = confidence.argmax(axis=2)[:, :, None]
    c = np.take_along_axis(confidence, box, axis=2)[:, :, 0]
    place = box[:, :, 0] + np.take_along_axis(offset, box, axis=2)[:, :, 0].astype(np.float64)
    rest = np.array([line.wavelength for line in lines])
    return c, grid.wavelength(place * (grid.size / n_boxes)) / rest - 1


def errors(
    confidence: NDArray[np.float32],
    offset: NDArray[np.float32],
    log_sigma: NDArray[np.float32],
    lines: Sequence[Line],
    grid: Grid,
) -> NDArray[np.float64]:
    """Return the error of the redshifts that `decode` returns, as the finders themselves put it.

    Parameters
    ----------
    confidence, offset, log_sigma : ndarray of float32, shape (n_spectra, n_lines, n_boxes)
        `log_sigma` is the natural logarithm of the offset's error in boxes.
    lines : sequence of Line, length n_lines
    grid : Grid

    Returns
    -------
    ndarray of float64, shape (n_spectra, n_lines)
    """
    n_boxes = confidence.shape[2]
    box = confidence.argmax(axis=2)[:, :, None]
    place, sigma = (
        np.take_along_axis(x, box, axis=2)[:, :, 0].astype(np.float64) for x in (offset, log_sigma)
    )
    place, sigma = place + box[:, :, 0], np.exp(np.clip(sigma, -12, 3))
    rest = np.array([line.wavelength for line in lines])
    ends = [grid.wavelength((place + side * sigma) * (grid.size / n_boxes)) for side in (1, -1)]
    return np.asarray(0.5 * (ends[0] - ends[1]) / rest)


def read_at(
    confidence: NDArray[np.float32], z: NDArray[np.float64], line: Line, grid: Grid
) -> NDArray[np.float32]:
    """Return a finder's confidence in the box where a redshift puts its line; 0 where that is out of range.

    Parameters
    ----------
    confidence : ndarray of float32, shape (n_spectra, n_boxes)
    z : ndarray of float64, shape (n_spectra,)
    line : Line
    grid : Grid
    """
    box = encode(z, [line], grid, confidence.shape[1])[0][:, 0]
    found = confidence[np.arange(len(z)), np.maximum(box, 0)]
    return np.where(box >= 0, found, np.float32(0))
