"""The bit mask ``FLAGS`` of the catalogue: everything that can be wrong with a spectrum."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_TARGET", "UNCLASSIFIED", "Flag", "describe", "mark"]


class Flag(IntFlag):
    """One bit for each thing the reader of a catalogue row should know about its spectrum."""

    NO_DATA = 1 << 0
    UNREADABLE = 1 << 1
    NO_COVERAGE = 1 << 2
    FEW_PIXELS = 1 << 3
    SKY_FIBRE = 1 << 4
    NON_FINITE = 1 << 5
    NEGATIVE_IVAR = 1 << 6
    LOW_SN = 1 << 7
    CONFLICTING_LINES = 1 << 8
    BAD_WAVELENGTH = 1 << 9
    CONSTANT_FLUX = 1 << 10
    BAD_FIBRE = 1 << 11
    NO_IDENTITY = 1 << 12


_SENTENCES = {
    Flag.NO_DATA: "No pixel has a positive inverse variance.",
    Flag.UNREADABLE: "The file, or this row of it, could not be read.",
    Flag.NO_COVERAGE: "No good pixel falls on the model's wavelength range, so no line can be seen.",
    Flag.FEW_PIXELS: "Fewer than a tenth of the model's wavelength bins hold data.",
    Flag.SKY_FIBRE: "The archive says that this fibre looked at the sky.",
    Flag.NON_FINITE: "Pixels with a flux or inverse variance of NaN or infinity were masked.",
    Flag.NEGATIVE_IVAR: "Pixels with a negative inverse variance were masked.",
    Flag.LOW_SN: "The median signal-to-noise ratio per pixel is below 0.5.",
    Flag.CONFLICTING_LINES: "Two lines above the threshold disagree in redshift by more than 6000 km/s.",
    Flag.BAD_WAVELENGTH: "The wavelengths are not finite and strictly increasing.",
    Flag.CONSTANT_FLUX: "The flux does not vary over the model's bins, so it cannot be renormalised.",
    Flag.BAD_FIBRE: "The archive marks the fibre or the target as bad.",
    Flag.NO_IDENTITY: "The file does not say which object this spectrum belongs to.",
}

#: A row with any of these bits has no result: its result columns are missing.
UNCLASSIFIED = Flag.NO_DATA | Flag.UNREADABLE | Flag.NO_COVERAGE | Flag.BAD_WAVELENGTH | Flag.CONSTANT_FLUX

#: A row with any of these bits is of no object that its survey chose, so that there is no class to know.
NO_TARGET = Flag.SKY_FIBRE | Flag.BAD_FIBRE


def describe(flags: int) -> list[str]:
    """Return one sentence for each bit set in `flags`, lowest bit first.

    Parameters
    ----------
    flags : int
        A value of the catalogue's ``FLAGS`` column.
    """
    return [f"{flag.name}: {_SENTENCES[flag]}" for flag in Flag if flags & flag]


def mark(flags: NDArray[np.uint32], rows: NDArray[np.bool_] | NDArray[np.int64], flag: Flag) -> None:
    """Set `flag` in the given rows of `flags`, in place.

    Parameters
    ----------
    flags : ndarray of uint32, shape (n_spectra,)
    rows : ndarray
        Boolean mask or indices.
    flag : Flag
    """
    flags[rows] |= np.uint32(flag)
