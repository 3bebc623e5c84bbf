"""Features that the page marks in a spectrum, and the quasar that it lays over one."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.quasar import FIRST, N_PIXELS, parametric
from broadline.simulation.quasar_tables import LINES
from broadline.spectra import lattice_wavelength

__all__ = ["MARKS", "Mark", "composite"]


class Mark(NamedTuple):
    """A feature with its rest wavelength (vacuum Angstrom); it absorbs or emits."""

    text: str
    wavelength: float
    absorbs: bool = False


_EMISSION = {
    "Lyb": "Ly\u03b2", "OVI": "O VI", "Lya": "Ly\u03b1", "NV": "N V", "SiIV": "Si IV", "CIV": "C IV",
    "HeII1640": "He II", "CIII]": "C III]", "CII]": "C II]", "[NeIV]": "[Ne IV]", "MgII": "Mg II",
    "[NeV]3427": "[Ne V]", "[OII]3730": "[O II]", "[NeIII]3870": "[Ne III]", "Hdelta": "H\u03b4",
    "Hgamma": "H\u03b3", "Hbeta": "H\u03b2", "[OIII]4960": "[O III]", "[OIII]5008": "[O III]",
    "Halpha": "H\u03b1", "[NII]6585": "[N II]", "[SII]6718": "[S II]",
}  # fmt: skip
#: Emission lines of `simulation.quasar_tables`, and what is seen of stars: K and H of Ca II, the G band, Mg b
#: and Na D (SDSS line list, Stoughton et al. 2002, AJ 123, 485), and two heads of bands of TiO.
MARKS: tuple[Mark, ...] = (
    *(Mark(_EMISSION[line.name], line.wavelength) for line in LINES if line.name in _EMISSION),
    Mark("Ca K", 3934.78, True),
    Mark("Ca H", 3969.59, True),
    Mark("G", 4305.61, True),
    Mark("Mg b", 5176.63, True),
    Mark("Na D", 5895.6, True),
    Mark("TiO", 6159.0, True),
    Mark("TiO", 7055.0, True),
)

_QUASARS, _STEP = 60, 4


@cache
def composite() -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return rest wavelengths (vacuum Angstrom) and flux of a typical quasar, 1 in the mean.

    The geometric mean of simulated broad-line quasars (`simulation.quasar.parametric`), which keeps the mean
    of their slopes, without the Lya forest.
    """
    rest = parametric(_QUASARS, np.full(_QUASARS, 2.0), np.random.default_rng(0), np.full(_QUASARS, -25.5))
    wavelength = lattice_wavelength(FIRST, N_PIXELS)
    mean = np.exp(np.log(np.maximum(rest.flux, 1e-6)).mean(axis=0))
    n = len(mean) // _STEP * _STEP
    flux = mean[:n].reshape(-1, _STEP).mean(axis=1)
    return wavelength[:n].reshape(-1, _STEP).mean(axis=1), (flux / flux.mean()).astype(np.float32)
