"""Simulated DESI spectra as files: coadded spectra and redrock's results of each petal.

Layouts: the DESI data model (https://desidatamodel.readthedocs.io) of ``coadd`` and ``redrock`` files of
tiles, without the columns that need an atmosphere or the sum of all exposures' calibrations (TSNR2). ORIGIN
in the primary headers says that nothing was observed. Columns that a simulated object has no value for are 0
or blank.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.files.desi_tables import (
    EXPOSURE,
    EXPOSURES,
    Fields,
    filled,
    redshift_fields,
    target_values,
)
from broadline.simulation.files.fits_parts import (
    BLOCK,
    Field,
    header_of,
    primary_header,
    published,
    write_table,
)
from broadline.simulation.instrument import NODATA
from broadline.simulation.pointing import Pointing

__all__ = ["identity_columns", "write_coadd", "write_truth"]

_ORDINAL = 678_576  # of MJD 0, 1858-11-17, in Python's calendar
_DIAGONALS = 11
# Bits of the data model: specmask ALLBADPIX and NODATA.
_ALLBADPIX, _EMPTY = np.uint32(1 << 1), np.uint32(1 << 8)
# Where the scores of each camera are taken (Angstrom).
_SCORED = {"B": (4000, 5800), "R": (5800, 7600), "Z": (7600, 9800)}
# Coefficients of redrock's templates.
_COEFFICIENTS = {"GALAXY": 10, "QSO": 4, "STAR": 5}

#: Columns and TFORMs of the fibermap of the main survey.
_FIBERMAP = """
    TARGETID K  PETAL_LOC I  DEVICE_LOC J  LOCATION K  FIBER J  COADD_FIBERSTATUS J  TARGET_RA D  TARGET_DEC D
    PMRA E  PMDEC E  REF_EPOCH E  LAMBDA_REF E  FA_TARGET K  FA_TYPE B  OBJTYPE 3A  FIBERASSIGN_X E
    FIBERASSIGN_Y E  PRIORITY J  SUBPRIORITY D  OBSCONDITIONS J  RELEASE I  BRICKNAME 8A  BRICKID J
    BRICK_OBJID J  MORPHTYPE 4A  EBV E  FLUX_G E  FLUX_R E  FLUX_Z E  FLUX_W1 E  FLUX_W2 E  FLUX_IVAR_G E
    FLUX_IVAR_R E  FLUX_IVAR_Z E  FLUX_IVAR_W1 E  FLUX_IVAR_W2 E  FIBERFLUX_G E  FIBERFLUX_R E  FIBERFLUX_Z E
    FIBERTOTFLUX_G E  FIBERTOTFLUX_R E  FIBERTOTFLUX_Z E  MASKBITS I  SERSIC E  SHAPE_R E  SHAPE_E1 E
    SHAPE_E2 E  REF_ID K  REF_CAT 2A  GAIA_PHOT_G_MEAN_MAG E  GAIA_PHOT_BP_MEAN_MAG E
    GAIA_PHOT_RP_MEAN_MAG E  PARALLAX E  PHOTSYS 1A  PRIORITY_INIT K  NUMOBS_INIT K  DESI_TARGET K
    BGS_TARGET K  MWS_TARGET K  SCND_TARGET K  PLATE_RA D  PLATE_DEC D  TILEID J  COADD_NUMEXP I
    COADD_EXPTIME E  COADD_NUMNIGHT I  COADD_NUMTILE I  MEAN_DELTA_X E  RMS_DELTA_X E  MEAN_DELTA_Y E
    RMS_DELTA_Y E  MEAN_FIBER_RA D  STD_FIBER_RA E  MEAN_FIBER_DEC D  STD_FIBER_DEC E
    MEAN_PSF_TO_FIBER_SPECFLUX E  MEAN_FIBER_X E  MEAN_FIBER_Y E
"""
#: The same of its exposures.
_EXP_FIBERMAP = """
    TARGETID K  PRIORITY J  SUBPRIORITY D  NIGHT J  EXPID J  MJD D  TILEID J  EXPTIME D  PETAL_LOC I
    DEVICE_LOC J  LOCATION K  FIBER J  FIBERSTATUS J  FIBERASSIGN_X E  FIBERASSIGN_Y E  LAMBDA_REF E
    PLATE_RA D  PLATE_DEC D  NUM_ITER K  FIBER_X D  FIBER_Y D  DELTA_X D  DELTA_Y D  FIBER_RA D  FIBER_DEC D
    PSF_TO_FIBER_SPECFLUX D
"""


# ---- who is who


def identity_columns(pointing: Pointing) -> dict[str, NDArray[Any]]:
    """Return what the archive calls the spectra.

    A pointing is one of the ten petals of a tile, with tile numbers that no real tile has.

    Parameters
    ----------
    pointing : Pointing
        Of DESI, with at most 500 fibres.

    Returns
    -------
    dict of str to ndarray, shape (n_spectra,)
        TARGETID (THING_ID; of fibres without a target -(10000 TILEID + LOCATION), as in the archive), TILEID,
        PETAL_LOC, NIGHT (YYYYMMDD), FIBER (500 a petal, from 0; not the FIBER of `Pointing.table`).
    """
    tile, petal = divmod(pointing.number, 10)
    tile += 90_000
    device = pointing.table["FIBER"].astype(np.int64) - 1
    night = int(f"{date.fromordinal(pointing.mjd + _ORDINAL):%Y%m%d}")
    same = {"TILEID": tile, "PETAL_LOC": petal, "NIGHT": night}
    nothing = -(10_000 * tile + 1000 * petal + device)
    return {
        "TARGETID": np.where(pointing.table["THING_ID"] < 0, nothing, pointing.table["THING_ID"]),
        **{name: np.full(len(device), value, dtype=np.int32) for name, value in same.items()},
        "FIBER": (500 * petal + device).astype(np.int32),
    }


def _path(pointing: Pointing, folder: Path, kind: str) -> Path:
    who = {name: column[0] for name, column in identity_columns(pointing).items()}
    place = folder / "tiles" / "cumulative" / f"{who['TILEID']}" / f"{who['NIGHT']}"
    return place / f"{kind}-{who['PETAL_LOC']}-{who['TILEID']}-thru{who['NIGHT']}.fits"


def _primary(pointing: Pointing) -> bytes:
    who = {name: int(column[0]) for name, column in identity_columns(pointing).items()}
    petal, tile, night = who["PETAL_LOC"], who["TILEID"], who["NIGHT"]
    cards = [("SPGRP", "cumulative"), ("SPGRPVAL", night), ("NIGHT", night), ("TILEID", tile)]
    cards += [("SPECTRO", petal), ("PETAL", petal), ("SURVEY", "main"), ("PROGRAM", "dark")]
    cards += [("FIBERMIN", 500 * petal), ("INFIL000", f"spectra-{petal}-{tile}-thru{night}.fits")]
    return primary_header(cards)


# ---- fibermaps


def _fibermap_values(pointing: Pointing) -> dict[str, Any]:
    identity, table = identity_columns(pointing), pointing.table
    values = target_values(table)
    target = values["OBJTYPE"] == "TGT"
    device = identity["FIBER"] % 500
    values |= {f"{where}_{x}": table[x] for where in ("PLATE", "MEAN_FIBER", "FIBER") for x in ("RA", "DEC")}
    values |= {f"FIBERFLUX_{band}": 0.78 * values[f"FLUX_{band}"] for band in "GRZ"}
    values |= {f"FIBERTOTFLUX_{band}": values[f"FIBERFLUX_{band}"] for band in "GRZ"}
    return {
        **values,
        **identity,
        "DEVICE_LOC": device,
        "LOCATION": 1000 * identity["PETAL_LOC"].astype(np.int64) + device,
        "FIBERSTATUS": values["COADD_FIBERSTATUS"],
        "FA_TARGET": values["DESI_TARGET"],
        "FA_TYPE": np.where(target, 1, np.where(values["OBJTYPE"] == "SKY", 4, 0)),
        "MORPHTYPE": np.where(target, "PSF", ""),
        "REF_EPOCH": np.where(target, 2015.5, 0),
        "LAMBDA_REF": 5400,
        "OBSCONDITIONS": np.where(target, 1, 0),
        "COADD_NUMNIGHT": np.minimum(values["COADD_NUMEXP"], 1),
        "COADD_NUMTILE": np.minimum(values["COADD_NUMEXP"], 1),
        "MEAN_PSF_TO_FIBER_SPECFLUX": 0.79,
    }


def _exposures(pointing: Pointing) -> Fields:
    """Return the fibermap of the exposures, those of a fibre one after the other."""
    values = _fibermap_values(pointing)
    n = len(values["TARGETID"])
    values = {k: np.repeat(v, EXPOSURES) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    which = np.tile(np.arange(EXPOSURES), n)
    tile = pointing.number // 10
    # The night of a date ends on the next one, in UTC.
    start = pointing.mjd + 1.2 + 2 * (EXPOSURE / 86_400) * which
    values |= {"EXPID": 10_000_000 + 2 * EXPOSURES * tile + EXPOSURES * pointing.visit + which}
    values |= {"MJD": start, "EXPTIME": EXPOSURE, "NUM_ITER": 2, "PSF_TO_FIBER_SPECFLUX": 0.79}
    return filled(_EXP_FIBERMAP, values)


# ---- spectra


def write_coadd(pointing: Pointing, folder: Path) -> None:
    """Write ``tiles/cumulative/TILEID/NIGHT/coadd-PETAL-TILEID-thruNIGHT.fits``.

    FIBERMAP, EXP_FIBERMAP, the five images of each camera, and SCORES, which have the archive's definitions
    but lack TSNR2. RESOLUTION has rows of sum 1, a sampled Gaussian each, the same for all spectra, as the
    simulator has one profile. The same pointing always gives the same bytes.

    Parameters
    ----------
    pointing : Pointing
        Of DESI, with at most 500 fibres.
    folder : Path
        Root of the reduction; it is made if it is not there.

    Raises
    ------
    UsageError
        If the file cannot be written; nothing is left of it then.
    """
    with published(_path(pointing, folder, "coadd")) as file:
        file.write(_primary(pointing))
        write_table(file, filled(_FIBERMAP, _fibermap_values(pointing)), "FIBERMAP")
        write_table(file, _exposures(pointing), "EXP_FIBERMAP")
        for arm, pixels in pointing.instrument.slices.items():
            _write_camera(file, pointing, arm.upper(), pixels)
        write_table(file, _scores(pointing), "SCORES")


def _write_camera(file: BinaryIO, pointing: Pointing, camera: str, pixels: slice) -> None:
    observed = pointing.observed
    n, wavelength = len(observed.flux), pointing.instrument.wavelength[pixels]
    image = (n, len(wavelength))
    flux, ivar, resolution = (camera + kind for kind in ("_FLUX", "_IVAR", "_RESOLUTION"))
    file.write(_image_header(f"{camera}_WAVELENGTH", -64, wavelength.shape, BUNIT="Angstrom"))
    _write_data(file, wavelength.astype(">f8"))
    file.write(_image_header(flux, -32, image, BUNIT="10**-17 erg/(s cm2 Angstrom)"))
    _write_data(file, observed.flux[:, pixels].astype(">f4"))
    file.write(_image_header(ivar, -32, image, BUNIT="10**+34 (s2 cm4 Angstrom2) / erg2"))
    _write_data(file, observed.ivar[:, pixels].astype(">f4"))
    file.write(_image_header(f"{camera}_MASK", 32, image, BSCALE=1, BZERO=1 << 31))
    # Unsigned numbers are stored as signed ones, 2^31 less.
    _write_data(file, (_mask(observed.and_mask[:, pixels]) ^ np.uint32(1 << 31)).astype(">u4"))
    file.write(_image_header(resolution, -32, (n, _DIAGONALS, len(wavelength))))
    _write_data(file, _resolution(observed.wdisp[0, pixels]).astype(">f4"), n)


def _image_header(name: str, bitpix: int, shape: tuple[int, ...], **cards: Any) -> bytes:
    axes = [(f"NAXIS{i}", length) for i, length in enumerate(reversed(shape), 1)]
    first = [("XTENSION", "IMAGE"), ("BITPIX", bitpix), ("NAXIS", len(shape)), *axes]
    return header_of([*first, ("PCOUNT", 0), ("GCOUNT", 1), *cards.items(), ("EXTNAME", name)])


def _write_data(file: BinaryIO, data: NDArray[Any], times: int = 1) -> None:
    """Write an array, `times` times over, and fill the last block."""
    content = data.tobytes()
    for _ in range(times):
        file.write(content)
    file.write(bytes(-times * len(content) % BLOCK))


def _mask(and_mask: NDArray[np.int32]) -> NDArray[np.uint32]:
    mask = _ALLBADPIX * ((and_mask & ~NODATA) != 0)
    mask += _EMPTY * ((and_mask & NODATA) != 0)
    return np.asarray(mask, dtype=np.uint32)


def _resolution(wdisp: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the diagonals of the matrix from perfect to observed flux, shape (11, n_pixels).

    As in desispec, row k, column j is the element (j - offset, j), the offset running from 5 to -5.
    """
    n = len(wdisp)
    offset = np.arange(_DIAGONALS // 2, -(_DIAGONALS // 2) - 1, -1)[:, None]
    row = np.arange(n) - offset
    inside = (row >= 0) & (row < n)
    row = np.clip(row, 0, n - 1)
    weight = np.where(inside, np.exp(-0.5 * (offset / wdisp[row].astype(np.float64)) ** 2), 0)
    total = np.bincount(row.ravel(), weight.ravel(), minlength=n)
    return np.asarray(weight / total[row])


def _scores(pointing: Pointing) -> Fields:
    """Return flux and S/N of each camera: integral, median, and median S/N in one Angstrom."""
    observed, instrument = pointing.observed, pointing.instrument
    step = instrument.linear_step
    fields = {"TARGETID": Field("K", identity_columns(pointing)["TARGETID"])}
    for arm, pixels in instrument.slices.items():
        low, high = _SCORED[arm.upper()]
        inside = slice(*(pixels.start + np.searchsorted(instrument.wavelength[pixels], (low, high))))
        flux = observed.flux[:, inside]
        found = {
            "INTEG_COADD_FLUX": flux.sum(axis=1, dtype=np.float64) * step,
            "MEDIAN_COADD_FLUX": np.median(flux, axis=1),
            "MEDIAN_COADD_SNR": np.median(flux * np.sqrt(observed.ivar[:, inside]), axis=1) / np.sqrt(step),
        }
        fields |= {f"{name}_{arm.upper()}": Field("E", values) for name, values in found.items()}
    return fields


# ---- redshifts


def write_truth(pointing: Pointing, folder: Path) -> None:
    """Write ``redrock-PETAL-TILEID-thruNIGHT.fits`` beside the coadd: what the pipeline found.

    REDSHIFTS and FIBERMAP, a row a spectrum, in its order. COEFF is 0: the fits are drawn, not made.

    Parameters
    ----------
    pointing : Pointing
        Of DESI, with at most 500 fibres.
    folder : Path
        Root of the reduction; it is made if it is not there.

    Raises
    ------
    UsageError
        If the file cannot be written; nothing is left of it then.
    """
    fits_of = redshift_fields(pointing.table)
    n_pixels = np.count_nonzero(pointing.observed.ivar > 0, axis=1)
    n_of = [_COEFFICIENTS.get(kind, 0) for kind in pointing.table["FIT_CLASS"][:, 0].tolist()]
    redshifts = {
        "TARGETID": Field("K", identity_columns(pointing)["TARGETID"]),
        "CHI2": fits_of["CHI2"],
        "COEFF": Field("10D", 0),
        **{name: fits_of[name] for name in ("Z", "ZERR", "ZWARN")},
        "NPIXELS": Field("K", n_pixels),
        **{name: fits_of[name] for name in ("SPECTYPE", "SUBTYPE")},
        "NCOEFF": Field("K", n_of),
        "DELTACHI2": fits_of["DELTACHI2"],
    }
    with published(_path(pointing, folder, "redrock")) as file:
        file.write(_primary(pointing))
        write_table(file, redshifts, "REDSHIFTS")
        write_table(file, filled(_FIBERMAP, _fibermap_values(pointing)), "FIBERMAP")
