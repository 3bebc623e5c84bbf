"""The lattice of galaxies at rest, and the lines of their gas."""

from __future__ import annotations

import numpy as np

from broadline.spectra import LATTICE_STEP

__all__ = ["BROAD", "CASE_B", "FIRST", "LINES", "MG_II", "NORMAL", "N_PIXELS", "PIXEL", "pixel_of"]

#: Rest-frame lattice window of galaxies: 1528-10765 Angstrom, the observed 3500-10500 for 0 <= z < 1.25.
FIRST, N_PIXELS = 31840, 8480
#: Width of a pixel, km/s.
PIXEL = 299792.458 * np.log(10) * LATTICE_STEP

#: Nebular lines, vacuum Angstrom (NIST Atomic Spectra Database).
LINES: dict[str, float] = {
    "OII 3727": 3727.092,
    "OII 3730": 3729.875,
    "NeIII 3870": 3869.86,
    "H8": 3890.166,
    "NeIII 3969": 3968.59,
    "H epsilon": 3971.198,
    "H delta": 4102.892,
    "H gamma": 4341.692,
    "OIII 4364": 4364.436,
    "HeII 4687": 4687.015,
    "H beta": 4862.691,
    "OIII 4960": 4960.295,
    "OIII 5008": 5008.240,
    "HeI 5877": 5877.243,
    "OI 6302": 6302.046,
    "OI 6366": 6365.536,
    "NII 6550": 6549.86,
    "H alpha": 6564.632,
    "NII 6585": 6585.27,
    "SII 6718": 6718.294,
    "SII 6733": 6732.674,
    "ArIII 7138": 7137.77,
    "SIII 9071": 9071.1,
    "SIII 9533": 9533.2,
}
#: Case B at 10,000 K (Osterbrock & Ferland 2006, table 4.4), in units of H alpha.
CASE_B = {
    "H alpha": 1.0,
    "H beta": 0.350,
    "H gamma": 0.164,
    "H delta": 0.0907,
    "H epsilon": 0.0556,
    "H8": 0.0368,
}
#: Lines of the broad-line region with a constant flux in units of broad H alpha, and MgII.
BROAD = {"H alpha": 1.0, "H beta": 0.32, "H gamma": 0.13, "H delta": 0.06, "HeI 5877": 0.05}
MG_II = 2799.1  # both lines


def pixel_of(wavelength: float) -> float:
    """Return where a wavelength (vacuum Angstrom) lies on the lattice, in pixels from its start."""
    return float(np.log10(wavelength) / LATTICE_STEP - FIRST)


#: The pixels in which galaxies have mean flux 1: 3500-5500 Angstrom.
NORMAL = slice(int(pixel_of(3500)), int(pixel_of(5500)))
