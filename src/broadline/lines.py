"""The line table: rest wavelengths in vacuum, each with its source. Finders refer to a line by name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEGACY_LINES", "LINES", "QUASARNET_LINES", "Line"]


@dataclass(frozen=True, slots=True)
class Line:
    """A spectral feature that a finder looks for.

    Attributes
    ----------
    name : str
        As in catalogue columns: ``C_<name>``, ``Z_<name>``.
    wavelength : float
        Rest wavelength, vacuum Angstrom.
    bal : bool
        True for a line with a broad absorption trough: it sets IS_BAL and counts for nothing else.
    """

    name: str
    wavelength: float
    bal: bool = False


#: Effective rest wavelengths of quasar emission lines.
LINES: dict[str, Line] = {
    line.name: line
    for line in (
        Line("LYA", 1215.67),  # Morton (2003), ApJS 149, 205
        Line("CIV", 1549.06),  # doublet mean: Vanden Berk et al. (2001), AJ 122, 549, table 2
        Line("CIII", 1908.734),  # CIII] 1908.73: Vanden Berk et al. (2001), table 2
        Line("MGII", 2799.117),  # doublet mean: SDSS line list, Stoughton et al. (2002), AJ 123, 485
        Line("HBETA", 4862.68),  # SDSS line list
        Line("HALPHA", 6564.61),  # SDSS line list
        Line("BAL_CIV", 1549.06, bal=True),  # placed at the emission line, as the paper's code places it
    )
}

#: The seven line finders of QuasarNET, in the order of Busca & Balland (2018), section 3.
QUASARNET_LINES: tuple[Line, ...] = tuple(LINES.values())

#: The wavelengths that the published QuasarNET weights were trained with. Halpha is its wavelength in air,
#: CIV and MgII are one member of the doublet: redshifts from such weights need the same constants.
LEGACY_LINES: tuple[Line, ...] = (
    Line("LYA", 1215.67),
    Line("CIV", 1548.2049),
    Line("CIII", 1908.734),
    Line("MGII", 2796.3511),
    Line("HBETA", 4862.68),
    Line("HALPHA", 6562.8),
    Line("BAL_CIV", 1548.2049, bal=True),
)
