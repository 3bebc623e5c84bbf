"""Places on the sky: which of a table's columns hold them, and the nearest of many."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from broadline.truth_layouts import Columns

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord

__all__ = ["NEAR", "PLACES", "Positions", "place_of", "somewhere"]

#: Spectra and labels this near to each other (arcsec) are of the same object.
NEAR = 1.0
#: Right ascension and declination (degrees), as different tables call them.
PLACES = (("RA", "DEC"), ("TARGET_RA", "TARGET_DEC"), ("PLUG_RA", "PLUG_DEC"))


class Positions:
    """Places on the sky that others are compared with; the search tree is built when it is first needed.

    Parameters
    ----------
    ra, dec : ndarray of float64, shape (n,)
        Degrees; not finite where unknown.
    rows : ndarray of int64, shape (n,)
        What is answered for each.
    """

    def __init__(self, ra: NDArray[np.float64], dec: NDArray[np.float64], rows: NDArray[np.int64]) -> None:
        known = somewhere(ra, dec)
        self.ra, self.dec, self.rows = ra[known], dec[known], rows[known]

    @cached_property
    def _sky(self) -> SkyCoord:
        from astropy.coordinates import SkyCoord

        return SkyCoord(self.ra, self.dec, unit="deg")

    def nearest(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the row of the nearest place within `NEAR` of each position, or -1, shape (n,)."""
        found = np.full(len(ra), -1, dtype=np.int64)
        known = np.flatnonzero(somewhere(ra, dec))
        if len(known) and len(self.rows):
            from astropy.coordinates import SkyCoord

            wanted = SkyCoord(ra[known], dec[known], unit="deg")
            index, apart, _ = wanted.match_to_catalog_sky(self._sky)
            found[known] = np.where(apart.arcsec <= NEAR, self.rows[index], -1)
        return found


def somewhere(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which positions are places on the sky, shape (n,)."""
    return np.asarray(np.isfinite(ra) & (np.abs(dec) <= 90))


def place_of(columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return right ascension and declination (degrees) of a table's rows; None if it has neither."""
    for ra, dec in PLACES:
        if columns.keys() >= {ra, dec}:
            return columns[ra].astype(np.float64), columns[dec].astype(np.float64)
    return None
