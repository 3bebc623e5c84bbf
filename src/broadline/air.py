"""Wavelengths in air and in vacuum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["air_to_vacuum"]


def _refraction(vacuum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the refractive index of standard air (15 C, 101325 Pa, 450 ppm CO2): Ciddor 1996, eq. 1."""
    wavenumber2 = (1e4 / vacuum) ** 2  # 1 / micron^2
    return 1 + 0.05792105 / (238.0185 - wavenumber2) + 0.00167917 / (57.362 - wavenumber2)


def air_to_vacuum(wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vacuum wavelengths of wavelengths in standard air.

    The refractive index is that of Ciddor (1996, Applied Optics 35, 1566), a function of vacuum wavelength;
    it is inverted by iteration to better than 1e-9 Angstrom. The formula of Morton (2000, ApJS 130, 403)
    agrees to 0.001. Below 2000 Angstrom wavelengths are quoted in vacuum by custom and stay as they are.

    Parameters
    ----------
    wavelength : ndarray of float64, any shape
        In air, Angstrom.
    """
    air = np.asarray(wavelength, dtype=np.float64)
    far = air >= 2000
    vacuum = np.where(far, air, 2000.0)
    start = vacuum.copy()
    for _ in range(4):  # each turn gains four digits
        vacuum = start * _refraction(vacuum)
    return np.where(far, vacuum, air)
