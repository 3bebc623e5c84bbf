"""Wavelength grids: equal pixels in wavelength or in its logarithm, with edges and positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["QUASARNET_LINEAR", "QUASARNET_LOG", "TRANSFER_LOG", "Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels of equal width in wavelength (linear) or in log10 wavelength (log).

    A *position* counts pixels from the left edge of the first one: pixel i covers positions [i, i + 1).

    Attributes
    ----------
    kind : {"log", "linear"}
    start : float
        Left edge of the first pixel: Angstrom, or log10(Angstrom) for a log grid.
    step : float
        Pixel width: Angstrom, or dex.
    size : int
        Number of pixels.
    """

    kind: Literal["log", "linear"]
    start: float
    step: float
    size: int

    def __post_init__(self) -> None:
        if self.kind not in ("log", "linear"):
            raise ValueError(f"a grid is 'log' or 'linear', not {self.kind!r}")
        if not (np.isfinite(self.start) and self.step > 0 and self.size > 0):
            raise ValueError(f"a grid needs a finite start, a positive step and size, not {self}")

    def position(self, wavelength: ArrayLike) -> NDArray[np.float64]:
        """Return the position of each vacuum wavelength (Angstrom), also outside the grid."""
        wavelength = np.asarray(wavelength, dtype=np.float64)
        x = np.log10(wavelength) if self.kind == "log" else wavelength
        return np.asarray((x - self.start) / self.step)

    def wavelength(self, position: ArrayLike) -> NDArray[np.float64]:
        """Return the vacuum wavelength (Angstrom) at each position: the inverse of `position`."""
        x = self.start + self.step * np.asarray(position, dtype=np.float64)
        return np.asarray(10.0**x if self.kind == "log" else x)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Pixel edges (Angstrom), shape (size + 1,)."""
        return self.wavelength(np.arange(self.size + 1))

    @property
    def centres(self) -> NDArray[np.float64]:
        """Pixel centres (Angstrom), shape (size,): in the middle of the pixel in the grid's own measure."""
        return self.wavelength(np.arange(self.size) + 0.5)

    def bins(self, wavelength: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the pixel that holds each wavelength; outside the grid a number < 0 or >= size."""
        # DESI's 0.8 Angstrom pixels sit exactly on the edges of the 13.6 Angstrom grid: rounding at 1e-7 of a
        # pixel, far below the error of any archive's wavelengths, keeps them on the upper side of the edge.
        return np.floor(np.round(self.position(wavelength), 7)).astype(np.int64)


#: The 443 pixels of QuasarNET (Busca & Balland 2018, section 3). The paper says 3600-10000 Angstrom; at
#: 1e-3 dex the last pixel ends at 9983.95.
QUASARNET_LOG = Grid("log", float(np.log10(3600.0)), 1e-3, 443)
#: The linear grid of later weights for DESI: 17 DESI pixels of 0.8 Angstrom in one.
QUASARNET_LINEAR = Grid("linear", 3600.0, 13.6, 458)
#: The 2048 pixels of Podsztavek, Skoda & Tvrdik (2021), section 2: 3839-8915 Angstrom.
TRANSFER_LOG = Grid("log", float(np.log10(3839.0)), float(np.log10(8915.0 / 3839.0)) / 2048, 2048)
