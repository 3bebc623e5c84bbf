"""What quasars are made of: their lattice, emission lines and the pseudo-lines of iron.

The line table follows the composite of Vanden Berk et al. (2001), AJ 122, 549, tables 2-4 (wavelengths,
equivalent widths, widths), with blends taken apart and weak lines set above the Fe II pseudo-continuum as
usual in spectral fits.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CIV",
    "FIRST",
    "IRON_BLEND",
    "IRON_OPTICAL",
    "IRON_UV",
    "IRON_WIDTHS",
    "LINES",
    "N_BROAD",
    "N_PIXELS",
    "EmissionLine",
]

#: The rest-frame lattice of all quasars: 479 to 10,963 Angstrom, what 3,500-10,500 needs at 0 < z < 6.3.
FIRST, N_PIXELS = 26_800, 13_600


@dataclass(frozen=True, slots=True)
class EmissionLine:
    """An emission line of the parametric quasar.

    Attributes
    ----------
    name : str
    wavelength : float
        Vacuum Angstrom.
    width : float
        Median rest equivalent width (Angstrom) at M1450 = -25, of broad-line quasars.
    baldwin : float
        Change of log10 equivalent width with a magnitude of M1450 (fainter is stronger).
    breadth : float
        Width relative to the quasar's MgII (broad) or [O III] (narrow).
    blueshift : float
        Centroid relative to the quasar's CIV blueshift.
    narrow : float
        Median equivalent width (Angstrom) in narrow-line AGN; lines with one are narrow in all quasars.
    """

    name: str
    wavelength: float
    width: float
    baldwin: float = 0.0
    breadth: float = 1.0
    blueshift: float = 0.0
    narrow: float = 0.0


_BROAD = (
    # name, wavelength, width, Baldwin, breadth, blueshift
    ("LyE", 937.80, 1.5, 0.03, 1.2, 0.3), ("LyD", 949.74, 2.0, 0.03, 1.2, 0.3),
    ("CIII977+LyG", 977.02, 6.0, 0.04, 1.5, 0.5), ("NIII991", 991.00, 3.0, 0.03, 1.3, 0.5),
    ("Lyb", 1025.72, 4.0, 0.04, 1.1, 0.4), ("OVI", 1034.00, 11.0, 0.08, 1.3, 0.7),
    ("ArI", 1066.66, 2.5, 0.03, 1.2, 0.2), ("NII1084", 1084.60, 1.5, 0.03, 1.0, 0.2),
    ("FeIII1123", 1123.00, 2.5, 0.02, 1.6, 0.2), ("CIII1175", 1175.70, 1.8, 0.03, 1.0, 0.4),
    ("Lya", 1215.67, 46.0, 0.055, 1.1, 0.25), ("Lya wing", 1216.50, 28.0, 0.05, 2.6, 0.5),
    ("NV", 1240.14, 17.0, 0.02, 1.25, 0.7), ("SiII1262", 1262.59, 2.2, 0.02, 1.2, 0.3),
    ("OI+SiII", 1305.42, 3.0, 0.02, 0.9, 0.1), ("CII", 1335.30, 1.0, 0.02, 0.8, 0.1),
    ("SiIV", 1396.76, 6.0, 0.035, 1.2, 0.6), ("OIV]", 1402.06, 3.0, 0.035, 1.1, 0.4),
    ("NIV]", 1486.50, 0.6, 0.03, 0.9, 0.3), ("CIV", 1549.06, 28.0, 0.07, 1.05, 1.0),
    ("1600 shelf", 1610.0, 5.0, 0.04, 3.5, 0.4), ("HeII1640", 1640.42, 4.5, 0.085, 1.6, 1.2),
    ("OIII]", 1663.48, 3.2, 0.05, 1.1, 0.3), ("AlII", 1670.79, 0.5, 0.03, 0.9, 0.1),
    ("NIV1718", 1718.55, 0.6, 0.03, 1.0, 0.4), ("NIII]", 1750.26, 1.4, 0.03, 1.0, 0.3),
    ("FeII1788", 1788.73, 1.5, 0.03, 1.2, 0.1), ("AlIII", 1857.40, 3.0, 0.0, 1.0, 0.3),
    ("SiIII]", 1892.03, 3.6, 0.02, 0.9, 0.2), ("CIII]", 1908.73, 17.0, 0.045, 1.15, 0.3),
    ("FeIII2077", 2076.62, 2.8, 0.0, 2.0, 0.1), ("CII]", 2326.44, 2.2, 0.03, 0.9, 0.0),
    ("NeIV br", 2423.83, 1.4, 0.03, 0.9, 0.0), ("MgII", 2799.12, 30.0, 0.05, 0.85, 0.0),
    ("MgII wing", 2799.12, 6.0, 0.04, 2.0, 0.0), ("OIII3133", 3133.70, 1.0, 0.04, 0.9, 0.1),
    ("HeI3189", 3188.67, 0.6, 0.0, 0.9, 0.0), ("HeII3203", 3204.04, 0.6, 0.03, 1.0, 0.0),
    ("H8", 3890.15, 1.2, 0.0, 0.9, 0.0), ("Heps", 3971.20, 2.0, 0.0, 0.9, 0.0),
    ("Hdelta", 4102.89, 6.0, 0.0, 1.0, 0.0), ("Hgamma", 4341.68, 14.0, 0.0, 1.0, 0.0),
    ("HeI4472", 4472.76, 0.8, 0.0, 1.0, 0.0), ("HeII4687", 4687.02, 2.5, 0.04, 1.4, 0.2),
    ("Hbeta", 4862.68, 52.0, 0.0, 1.0, 0.0), ("HeI5877", 5877.25, 6.0, 0.0, 1.1, 0.0),
    ("Halpha", 6564.61, 235.0, 0.0, 0.9, 0.0), ("HeI7067", 7067.20, 4.0, 0.0, 1.0, 0.0),
    ("OI8446", 8448.70, 11.0, 0.0, 0.7, 0.0), ("CaII8579", 8579.0, 7.0, 0.0, 1.8, 0.0),
    ("Pa10", 9017.40, 3.0, 0.0, 0.8, 0.0), ("Pa9", 9231.60, 5.0, 0.0, 0.9, 0.0),
    ("PaEps", 9548.60, 7.0, 0.0, 0.9, 0.0), ("PaDelta", 10052.1, 12.0, 0.0, 0.9, 0.0),
)  # fmt: skip
_NARROW = (
    # name, wavelength, width in broad-line quasars, Baldwin, breadth, in narrow-line AGN
    ("OVI n", 1034.00, 0.0, 0.0, 1.4, 6.0), ("Lya n", 1215.67, 1.0, 0.03, 1.3, 95.0),
    ("NV n", 1240.14, 0.1, 0.0, 1.3, 7.0), ("SiIV n", 1396.76, 0.1, 0.0, 1.3, 4.0),
    ("CIV n", 1549.06, 0.1, 0.03, 1.3, 34.0), ("HeII1640 n", 1640.42, 0.4, 0.03, 1.1, 15.0),
    ("OIII]1664 n", 1663.48, 0.1, 0.0, 1.0, 4.0), ("SiIII] n", 1892.03, 0.1, 0.0, 1.0, 3.0),
    ("CIII] n", 1908.73, 0.2, 0.03, 1.1, 17.0), ("CII] n", 2326.44, 0.2, 0.0, 1.0, 6.0),
    ("[NeIV]", 2423.83, 0.6, 0.02, 1.1, 9.0), ("MgII n", 2799.12, 0.2, 0.0, 1.2, 12.0),
    ("[NeV]3346", 3346.82, 0.35, 0.03, 1.2, 4.0), ("[NeV]3427", 3426.84, 1.0, 0.03, 1.2, 11.0),
    ("[OII]3727", 3727.09, 0.9, 0.02, 0.9, 17.0), ("[OII]3730", 3729.88, 1.1, 0.02, 0.9, 19.0),
    ("[NeIII]3870", 3869.86, 1.5, 0.02, 1.0, 15.0), ("[NeIII]3969", 3968.59, 0.45, 0.02, 1.0, 4.5),
    ("Hd n", 4102.89, 0.3, 0.0, 0.9, 4.0), ("Hg n", 4341.68, 0.5, 0.0, 0.9, 7.0),
    ("[OIII]4364", 4364.44, 0.6, 0.02, 1.0, 4.0), ("HeII4687 n", 4687.02, 0.2, 0.0, 1.0, 4.0),
    ("Hb n", 4862.68, 1.6, 0.0, 0.9, 16.0), ("[OIII]4960", 4960.30, 4.6, 0.02, 1.0, 50.0),
    ("[OIII]5008", 5008.24, 13.7, 0.02, 1.0, 150.0), ("[FeVII]6087", 6088.70, 0.5, 0.0, 1.0, 1.5),
    ("[OI]6302", 6302.05, 1.0, 0.0, 0.9, 9.0), ("[NII]6549", 6549.85, 1.5, 0.0, 0.9, 13.0),
    ("Ha n", 6564.61, 6.0, 0.0, 0.9, 75.0), ("[NII]6585", 6585.28, 4.5, 0.0, 0.9, 39.0),
    ("[SII]6718", 6718.29, 1.8, 0.0, 0.9, 14.0), ("[SII]6733", 6732.67, 1.6, 0.0, 0.9, 13.0),
    ("[ArIII]7138", 7137.80, 0.4, 0.0, 0.9, 4.0), ("[OII]7325", 7325.0, 0.3, 0.0, 1.5, 3.0),
    ("[SIII]9071", 9071.10, 1.2, 0.0, 0.9, 12.0), ("[SIII]9533", 9533.20, 2.8, 0.0, 0.9, 28.0),
)  # fmt: skip

#: All lines: 54 broad, 36 narrow.
LINES: tuple[EmissionLine, ...] = (
    *(EmissionLine(*row) for row in _BROAD),
    *(EmissionLine(n, w, ew, b, s, 0.0, ew2) for n, w, ew, b, s, ew2 in _NARROW),
)

#: Number of broad lines, which come first, and the number of CIV among them.
N_BROAD = len(_BROAD)
CIV = next(number for number, line in enumerate(LINES) if line.name == "CIV")

#: Fe II and Fe III pseudo-lines: wavelength, equivalent width (Angstrom) of the median quasar. Ultraviolet:
#: the humps of Vestergaard & Wilkes (2001), ApJS 134, 1, each a blend of hundreds of lines and so broadened
#: by `IRON_BLEND`; optical: multiplets 27, 28, 37, 38, 42, 48, 49, 74.
IRON_UV = (
    (1650.0, 2.5), (1720.0, 5.0), (1785.0, 6.0), (1845.0, 6.0), (1910.0, 4.0), (1960.0, 5.0), (2030.0, 5.0),
    (2085.0, 6.0), (2130.0, 4.0), (2190.0, 4.5), (2235.0, 5.0),
    (2275.0, 5.5), (2320.0, 7.5), (2370.0, 9.5), (2405.0, 9.0), (2450.0, 7.0), (2490.0, 8.5), (2530.0, 8.0),
    (2575.0, 8.0), (2615.0, 8.0), (2655.0, 3.0), (2695.0, 2.5), (2740.0, 5.0), (2775.0, 3.0), (2845.0, 3.5),
    (2885.0, 4.5), (2930.0, 6.0), (2965.0, 6.0), (3010.0, 4.0), (3060.0, 2.5), (3165.0, 3.5), (3195.0, 3.5),
    (3230.0, 3.0), (3280.0, 2.5), (3330.0, 1.0), (3500.0, 1.0),
)  # fmt: skip
IRON_OPTICAL = (
    (4179.0, 1.3), (4234.3, 2.0), (4297.8, 1.2), (4352.9, 1.6), (4418.0, 1.6), (4474.0, 0.8), (4492.7, 2.0),
    (4509.6, 2.2), (4523.9, 2.6), (4550.8, 4.2), (4585.1, 4.4), (4630.6, 4.2), (4668.0, 1.6), (4732.8, 0.8),
    (4925.3, 4.2), (5019.8, 4.6), (5132.0, 1.3), (5170.5, 5.2), (5199.0, 3.8), (5236.1, 3.9), (5265.0, 3.2),
    (5277.5, 4.0), (5318.1, 5.2), (5364.0, 2.6), (5415.0, 1.6), (5536.4, 1.2), (6149.3, 0.8), (6240.0, 1.2),
    (6457.0, 1.2), (6517.9, 1.0),
)  # fmt: skip
#: The widths between which those of Fe II lie, and how much its blends broaden it.
IRON_WIDTHS = (900.0, 2500.0)  # km / s, standard deviation
IRON_BLEND = (2600.0, 300.0)  # km / s, ultraviolet and optical
