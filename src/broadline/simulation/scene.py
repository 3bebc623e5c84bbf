"""Scene: noise-free spectra as they reach the telescope, and what is true of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.spectra import LATTICE_STEP, lattice_wavelength

__all__ = ["Rest", "Scene", "redshifted", "snap"]


@dataclass(frozen=True, slots=True)
class Rest:
    """Noise-free spectra in the rest frame, on the SDSS lattice.

    Attributes
    ----------
    first : int
        Lattice index of the first pixel: log10(wavelength / Angstrom) = LATTICE_STEP * index, vacuum.
    flux : ndarray of float32, shape (n_spectra, n_pixels)
        Flux density per unit wavelength, any positive scale.
    truth : dict of str to ndarray, each of shape (n_spectra,)
        What is true of each: at least SUBCLASS (str).
    """

    first: int
    flux: NDArray[np.float32]
    truth: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scene:
    """Noise-free spectra in the observed frame, on the SDSS lattice.

    Attributes
    ----------
    first : int
        Lattice index of the first pixel.
    flux : ndarray of float32, shape (n_spectra, n_pixels)
        1e-17 erg / s / cm2 / Angstrom.
    truth : dict of str to ndarray, each of shape (n_spectra,)
        CLASS ("QSO", "STAR", "GALAXY", "SKY"), SUBCLASS, Z (exact on the lattice) and what the source adds.
    """

    first: int
    flux: NDArray[np.float32]
    truth: dict[str, NDArray[Any]]

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Pixel centres, vacuum Angstrom, shape (n_pixels,)."""
        return lattice_wavelength(self.first, self.flux.shape[1])


def snap(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return redshifts moved to the nearest whole number of lattice pixels (35 km/s at most), and it.

    A redshift is then a shift of pixels, exact and free, and the truth is the redshift so rounded.

    Parameters
    ----------
    z : ndarray of float64, shape (n_spectra,)
    """
    shift = np.rint(np.log10(1 + np.asarray(z)) / LATTICE_STEP).astype(np.int64)
    return np.asarray(10.0 ** (LATTICE_STEP * shift) - 1, dtype=np.float64), shift


def redshifted(
    rest: Rest, shift: NDArray[np.int64], first: int, n_pixels: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return rest-frame spectra shifted into an observed window.

    Parameters
    ----------
    rest : Rest
    shift : ndarray of int64, shape (n_spectra,)
        Pixels, from `snap`.
    first, n_pixels : int
        The observed window on the lattice.

    Returns
    -------
    flux : ndarray of float32, shape (n_spectra, n_pixels)
        0 outside the rest-frame coverage; ``1 / (1 + z)`` is left to the scaling.
    covered : ndarray of bool, shape (n_spectra, n_pixels)
    """
    index = first - rest.first + np.arange(n_pixels)[None, :] - np.asarray(shift)[:, None]
    covered = (index >= 0) & (index < rest.flux.shape[1])
    flux = np.take_along_axis(rest.flux, np.clip(index, 0, rest.flux.shape[1] - 1), axis=1)
    return np.where(covered, flux, np.float32(0)), covered
