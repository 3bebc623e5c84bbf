"""Simulated LAMOST spectra as files: one low-resolution file a spectrum.

They follow the layout of DR5 (lamost.org, "data production description", section 2, and the headers of real
files). The headers say that nothing was observed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.files.fits_parts import BLOCK, published
from broadline.simulation.files.lamost_tables import (
    BANDS,
    Table,
    designations_of,
    fibre_type,
    magnitudes_of,
    verdict_of,
)
from broadline.simulation.instrument import COMBINEREJ, NODATA
from broadline.simulation.pointing import Pointing
from broadline.spectra import LATTICE_STEP

__all__ = ["identity_columns", "write_spectra"]

_ORDINAL = 678_576  # of MJD 0, 1858-11-17, in Python's calendar
# What the and-mask says of a pixel (DR5, section 2.3): bad on the CCD, no data.
_BADCCD, _EMPTY = 1.0, 32.0

#: The header: values in braces are those of the spectrum (`_own_values`) or of the pointing.
_HEADER = """\
SIMPLE  = T / conforms to FITS
BITPIX  = -32 / single precision
NAXIS   = 2 / an image
NAXIS1  = {NAXIS1} / pixels
NAXIS2  = 5 / rows, see EXTEN0
EXTEND  = T /
COMMENT --------FILE INFORMATION
COMMENT simulated: nothing in this file was observed
FILENAME= {FILENAME} / name of this file
OBSID   = {OBSID} / number of this spectrum
AUTHOR  = 'broadline' / who made the file
DATA_V  = 'LAMOST DR5' / data release whose layout this is
EXTEN0  = 'Flux, Inverse, Wavelength, Andmask, Ormask' /
N_EXTEN = 1 / number of images
EXTNAME = 'Flux' / name of the image
ORIGIN  = 'broadline simulation' / no observatory
DATE    = '{NIGHT}T16:00:00' / time of the file
COMMENT --------TELESCOPE PARAMETERS
TELESCOP= 'LAMOST' / Guo Shou Jing Telescope
LONGITUD= 117.58 / [deg] of the site
LATITUDE= 40.39 / [deg] of the site
FOCUS   = 19964 / [mm]
CAMPRO  = 'NEWCAM' / camera program
CAMVER  = 'v2.0' / its version
COMMENT --------OBSERVATION PARAMETERS
DATE-OBS= '{NIGHT}T14:00:00' / UTC of the middle
DATE-BEG= '{NIGHT}T21:15:00.0' / local time of the start
DATE-END= '{NIGHT}T22:45:00.0' / local time of the end
LMJD    = {LMJD} / local modified Julian day
MJD     = {MJD} / modified Julian day
LMJMLIST= '{LMJM}' / local Julian minutes of exposures
PLANID  = '{PLANID}' / plan
RA      = {RA} / [deg] of the object
DEC     = {DEC} / [deg] of the object
RA_OBS  = {RA} / [deg] of the fibre
DEC_OBS = {DEC} / [deg] of the fibre
OFFSET  = F / whether the fibre was moved off the object
OFFSET_V= 0.00 / [arcsec] by how much
DESIG   = {DESIG} / designation of the target
FIBERID = {FIBERID} / fibre
CELL_ID = '' / unit on the focal plane
X_VALUE = '' / [mm] on the focal plane
Y_VALUE = '' / [mm] on the focal plane
OBJNAME = {OBJNAME} / name of the object
OBJTYPE = {OBJTYPE} / type in the input catalogue
TSOURCE = 'BROADLINE' / input catalogue
TCOMMENT= '.' / on the target
TFROM   = '-' / source of the input catalogue
FIBERTYP= {FIBERTYP} / what the fibre saw
FIBERMAS= 0 / warnings, 0 is well
MAGTYPE = 'ugriz' / bands of the magnitudes
MAG1    = {MAG1} / [mag]
MAG2    = {MAG2} / [mag]
MAG3    = {MAG3} / [mag]
MAG4    = {MAG4} / [mag]
MAG5    = {MAG5} / [mag]
MAG6    = 99.00 / [mag]
MAG7    = 99.00 / [mag]
OBS_TYPE= 'OBJ' / OBJ, FLAT, ARC or BIAS
OBSCOMM = 'Science' / Science or Test
RADECSYS= 'FK5' / coordinate system
EQUINOX = 2000.00 / [yr]
LAMPLIST= 'lamphgcdne.dat' / arc lines
SKYLIST = 'skylines.dat' / sky lines
NEXP    = 3 / valid exposures
NEXP_B  = 3 / valid blue exposures
NEXP_R  = 3 / valid red exposures
EXPT_B  = 4500.00 / [s] blue
EXPT_R  = 4500.00 / [s] red
EXPTIME = 4500.00 / [s] the shorter of both
BESTEXP = {BESTEXP} / local Julian minute of the best exposure
COMMENT --------SPECTROGRAPH PARAMETERS
SPID    = {SPID} / spectrograph
SPRA    = {SPRA} / [deg] mean of its objects
SPDEC   = {SPDEC} / [deg] mean of its objects
SLIT_MOD= 'x2/3' / slit mode
COMMENT --------WEATHER CONDITION
SEEING  = 3.00 / [arcsec]
COMMENT --------DATA REDUCTION PARAMETERS
EXTRACT = 'aperture' / extraction
SFLATTEN= T / super flat applied
PCASKYSB= T / sky subtracted with principal components
NSKIES  = {NSKIES} / fibres on sky
HELIO   = T / heliocentric
HELIO_RV= 0.00000 / [km/s] correction
VACUUM  = T / wavelengths are in vacuum
NWORDER = 2 / coefficients
WFITTYPE= 'LOG-LINEAR' / dispersion
COEFF0  = {COEFF0} / log10(wavelength) of the first pixel
COEFF1  = 0.0001 / log10 step of a pixel
WAT0_001= 'system=linear' /
WAT1_001= 'wtype=linear label=Wavelength units=Angstroms' /
CRVAL1  = {COEFF0} / log10(wavelength) of the first pixel
CD1_1   = 0.0001 / log10 step of a pixel
CRPIX1  = 1 / first pixel
CTYPE1  = 'LINEAR' /
DC-FLAG = 1 / log-linear
COMMENT --------SPECTRA ANALYSIS RESULTS
VERSPIPE= 'v2.9.7' / pipeline that is imitated
CLASS   = {CLASS} / class of the object
SUBCLASS= {SUBCLASS} / subclass of the object
Z       = {Z} / redshift
Z_ERR   = {Z_ERR} / its error
ZFLAG   = 'PIPELINE' / what gave the redshift
SNRU    = {SNRU} / S/N in u
SNRG    = {SNRG} / S/N in g
SNRR    = {SNRR} / S/N in r
SNRI    = {SNRI} / S/N in i
SNRZ    = {SNRZ} / S/N in z
"""


# ---- who is who


def identity_columns(pointing: Pointing) -> dict[str, NDArray[Any]]:
    """Return what the archive calls the spectra, and their signal-to-noise ratios.

    A pointing is one of the sixteen spectrographs of a plan.

    Parameters
    ----------
    pointing : Pointing
        Of LAMOST, with at most 250 fibres.

    Returns
    -------
    dict of str to ndarray, shape (n_spectra,)
        LMJD, PLANID, SPID, FIBERID, OBSID (plan and visit, spectrograph and fibre as digits, as in the
        archive), and SNRU, SNRG, SNRR, SNRI, SNRZ: the median of flux * sqrt(ivar) in each band, not below
        0, pixels without data counted as 0; both the files and the general catalogue have them.
    """
    fiber = pointing.table["FIBER"].astype(np.int64)
    plan, spid = divmod(pointing.number, 16)
    first = (2 * plan + pointing.visit + 1) * 100_000 + (spid + 1) * 1000
    values = {"LMJD": pointing.mjd, "PLANID": f"BLSIM{plan:05d}", "SPID": spid + 1}
    same = {name: np.full(len(fiber), value) for name, value in values.items()}
    return {**same, "FIBERID": fiber, "OBSID": first + fiber, **_signal_to_noise(pointing)}


def _signal_to_noise(pointing: Pointing) -> dict[str, NDArray[Any]]:
    observed, wavelength = pointing.observed, pointing.instrument.wavelength
    ratio = np.sqrt(observed.ivar)
    ratio *= observed.flux
    found = {}
    for band, (centre, width) in BANDS.items():
        inside = slice(*np.searchsorted(wavelength, [centre - width / 2, centre + width / 2]))
        found[f"SNR{band}"] = np.maximum(np.median(ratio[:, inside], axis=1), 0)
    return found


# ---- files of spectra


def write_spectra(pointing: Pointing, folder: Path) -> None:
    """Write ``spectra/LMJD/PLANID/spec-LMJD-PLANID_spNN-FFF.fits.gz`` for each spectrum.

    The same pointing always gives the same bytes.

    Parameters
    ----------
    pointing : Pointing
        Of LAMOST, with at most 250 fibres.
    folder : Path
        Root of the survey; it is made if it is not there.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left of that file then, those before it stay.
    """
    observed, identity = pointing.observed, identity_columns(pointing)
    rows = np.empty((5, observed.flux.shape[1]), dtype=">f4")
    rows[2] = pointing.instrument.wavelength
    mask = np.float32(_BADCCD) * ((observed.and_mask & COMBINEREJ) != 0)
    mask += np.float32(_EMPTY) * ((observed.and_mask & NODATA) != 0)
    own = _own_values(pointing, identity)
    place = folder / "spectra" / f"{pointing.mjd}" / f"{identity['PLANID'][0]}"
    padding = bytes(-rows.nbytes % BLOCK)
    for i, header in enumerate(_headers(_shared_values(pointing, identity), own, len(mask))):
        rows[0], rows[1], rows[3], rows[4] = observed.flux[i], observed.ivar[i], mask[i], mask[i]
        with published(place / f"{own['FILENAME'][i][1:-1]}.gz") as stream:
            stream.write(_packed(header + rows.tobytes() + padding))


def _packed(content: bytes) -> bytes:
    """Return a gzip stream without name and time.

    Run-length matches alone: on spectra as small as level 1, in a third of the time, as mantissas are noise.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    return packer.compress(content) + packer.flush()


def _shared_values(pointing: Pointing, identity: Table) -> dict[str, Any]:
    """Return the header's values that all spectra of a pointing have."""
    table = pointing.table
    angle = np.radians(table["RA"])
    ra = np.degrees(np.arctan2(np.sin(angle).sum(), np.cos(angle).sum())) % 360
    # Three exposures; LMJD is the day after the evening.
    minutes = [(pointing.mjd - 1) * 1440 + 1275 + 30 * k for k in range(3)]
    return {
        "NAXIS1": len(pointing.instrument.wavelength),
        "NIGHT": date.fromordinal(pointing.mjd - 1 + _ORDINAL),
        "LMJD": pointing.mjd,
        "MJD": pointing.mjd - 1,
        "LMJM": "-".join(map(str, minutes)),
        "BESTEXP": minutes[0],
        "PLANID": identity["PLANID"][0],
        "SPID": identity["SPID"][0],
        "SPRA": f"{ra:.7f}",
        "SPDEC": f"{table['DEC'].mean():.7f}",
        "NSKIES": int((fibre_type(table) == "Sky").sum()),
        "COEFF0": f"{round(np.log10(pointing.instrument.wavelength[0]) / LATTICE_STEP) * LATTICE_STEP:.4f}",
    }


def _own_values(pointing: Pointing, identity: Table) -> dict[str, list[str]]:
    """Return the header's values that each spectrum has for itself, as FITS writes them."""
    table, verdict, kinds = pointing.table, verdict_of(pointing.table), fibre_type(pointing.table)
    fibers = identity["FIBERID"].tolist()
    stem = f"spec-{pointing.mjd}-{identity['PLANID'][0]}_sp{identity['SPID'][0]:02d}"
    texts = {
        "FILENAME": [f"{stem}-{fiber:03d}.fits" for fiber in fibers],
        "DESIG": np.strings.add("LAMOST ", designations_of(table)).tolist(),
        "OBJNAME": np.where(kinds == "Obj", table["THING_ID"].astype(str), kinds).tolist(),
        "OBJTYPE": np.where(kinds == "Obj", "QSO", kinds).tolist(),
        "FIBERTYP": kinds.tolist(),
        "CLASS": verdict["CLASS"].tolist(),
        "SUBCLASS": verdict["SUBCLASS"].tolist(),
    }
    numbers = {"OBSID": (identity["OBSID"], "d"), "FIBERID": (identity["FIBERID"], "d")}
    numbers |= {name: (table[name], ".6f") for name in ("RA", "DEC")}
    numbers |= {f"MAG{i + 1}": (column, ".2f") for i, column in enumerate(magnitudes_of(table).T)}
    numbers |= {name: (verdict[name], ".8f") for name in ("Z", "Z_ERR")}
    numbers |= {f"SNR{band}": (identity[f"SNR{band}"], ".2f") for band in BANDS}
    own = {name: [f"'{text:8}'" for text in column] for name, column in texts.items()}
    return own | {name: [f"{x:{form}}" for x in column.tolist()] for name, (column, form) in numbers.items()}


def _headers(shared: Mapping[str, Any], own: Mapping[str, list[str]], n: int) -> Iterator[bytes]:
    """Yield the header of each spectrum: all cards are made once, then those of its own replaced."""
    cards: list[bytes] = []
    replaced: list[tuple[int, str, list[str]]] = []
    for line in _HEADER.splitlines():
        name = line.partition("{")[2].partition("}")[0]
        if name in own:
            replaced.append((len(cards), line, own[name]))
        cards.append(b"" if name in own else _card(line.format_map(shared)))
    size = -(-80 * (len(cards) + 1) // BLOCK) * BLOCK
    for i in range(n):
        for at, line, values in replaced:
            start, _, end = line.partition("{")
            cards[at] = _card(start + values[i] + end.partition("}")[2])
        yield (b"".join(cards) + b"END").ljust(size)


def _card(line: str) -> bytes:
    """Return one card of 80 bytes: texts to the left of their field, numbers to the right."""
    keyword, equals, rest = line.partition("= ")
    if equals:
        value, _, comment = rest.partition(" /")
        value = f"{value[:-1]:9}'" if value.startswith("'") else f"{value:>20}"
        line = f"{keyword}= {value:20} /{comment}"
    return line.ljust(80).encode("ascii")
