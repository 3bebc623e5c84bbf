"""Pointing: the spectra that an archive observed together, and everything that is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.instrument import Instrument, Observed

__all__ = ["COLUMNS", "N_FITS", "Pointing"]

#: Best fits of the pipeline that are kept for each spectrum, as in spZall.
N_FITS = 5

#: The columns of `Pointing.table`: type, and length of the second axis where there is one.
#:
#: Who it is: THING_ID (an object, the same at every visit; -1 for sky), FIBER (from 1, unique in a pointing),
#: RA, DEC (degrees), PSFMAG (ugriz, AB), SN (true median signal-to-noise ratio a pixel).
#: What is true: TRUE_CLASS ("QSO", "STAR", "GALAXY", "SKY"), TRUE_SUBCLASS, TRUE_Z, TRUE_BI_CIV, TRUE_AI_CIV
#: (km/s), TRUE_LOBAL, SIGNIFICANCE and BAL_SIGNIFICANCE (noise-free chi2 of the features).
#: What an inspector said: CLASS_PERSON (DR12Q: 0 not inspected, 1 star, 3 quasar, 4 galaxy, 30 BAL quasar),
#: Z_CONF_PERSON (0-3), Z_VI, BAL_FLAG_VI, BI_CIV (km/s, measured).
#: What the pipeline said, best fit first: FIT_CLASS, FIT_SUBCLASS, FIT_Z, FIT_Z_ERR, FIT_RCHI2, FIT_DOF,
#: FIT_ZWARNING.
COLUMNS: Mapping[str, tuple[str, int]] = {
    "THING_ID": ("i8", 0),
    "FIBER": ("i4", 0),
    "RA": ("f8", 0),
    "DEC": ("f8", 0),
    "PSFMAG": ("f4", 5),
    "SN": ("f4", 0),
    "TRUE_CLASS": ("U6", 0),
    "TRUE_SUBCLASS": ("U21", 0),
    "TRUE_Z": ("f8", 0),
    "TRUE_BI_CIV": ("f4", 0),
    "TRUE_AI_CIV": ("f4", 0),
    "TRUE_LOBAL": ("?", 0),
    "SIGNIFICANCE": ("f4", 0),
    "BAL_SIGNIFICANCE": ("f4", 0),
    "CLASS_PERSON": ("i2", 0),
    "Z_CONF_PERSON": ("i2", 0),
    "Z_VI": ("f8", 0),
    "BAL_FLAG_VI": ("i2", 0),
    "BI_CIV": ("f4", 0),
    "FIT_CLASS": ("U6", N_FITS),
    "FIT_SUBCLASS": ("U21", N_FITS),
    "FIT_Z": ("f8", N_FITS),
    "FIT_Z_ERR": ("f4", N_FITS),
    "FIT_RCHI2": ("f4", N_FITS),
    "FIT_DOF": ("i4", N_FITS),
    "FIT_ZWARNING": ("i4", N_FITS),
}


@dataclass(frozen=True, slots=True)
class Pointing:
    """The spectra of one plate, spectrograph or petal, of one visit.

    Attributes
    ----------
    archive : {"boss", "sdss", "lamost", "desi"}
    number : int
        Pointings of a survey count from 0; all visits to a field share its number.
    visit : int
        0, or 1 for the second visit to a field, of some of its objects.
    instrument : Instrument
    observed : Observed
        Arrays of shape (n_spectra, n_pixels).
    table : dict of str to ndarray, shape (n_spectra,) or (n_spectra, length)
        `COLUMNS`.
    """

    archive: str
    number: int
    visit: int
    instrument: Instrument
    observed: Observed
    table: dict[str, NDArray[Any]]

    def __post_init__(self) -> None:
        n = len(self.observed.flux)
        for name, (code, length) in COLUMNS.items():
            shape = (n, length) if length else (n,)
            if self.table[name].shape != shape:
                raise ValueError(f"column {name} has shape {self.table[name].shape}, not {shape}")
            self.table[name] = self.table[name].astype(np.dtype(code), copy=False)

    @property
    def plate(self) -> int:
        """Number of the plate (or tile), the same at every visit: numbers that no real plate has."""
        return 90_000 + self.number

    @property
    def mjd(self) -> int:
        """Modified Julian date of the visit: ten pointings a night; the second visit a year later."""
        return 58_000 + self.number // 10 + 365 * self.visit
