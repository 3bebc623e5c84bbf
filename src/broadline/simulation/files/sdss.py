"""Simulated BOSS and SDSS spectra as files: spPlate, spZbest and spZall, and one spec file a spectrum.

Layouts: the SDSS data model of ``spPlate``, ``spZbest``, ``spZall`` and ``spec`` (lite). Of the hundreds of
columns of the pipeline's results, those are written that say something of a simulated spectrum. The same
pointing always gives the same bytes, and ORIGIN in the primary header says that nothing was observed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.files.fits_parts import (
    BLOCK,
    ORIGIN,
    Card,
    Field,
    header_of,
    primary_header,
    published,
    records,
    table_header,
    write_table,
)
from broadline.simulation.files.sdss_tables import (
    Survey,
    Table,
    fit_fields,
    no_quasar_fields,
    survey_of,
    target_fields,
)
from broadline.simulation.pointing import N_FITS, Pointing
from broadline.spectra import LATTICE_STEP

__all__ = ["write_plate", "write_results", "write_spectra"]

#: The unit of flux as the archive writes it.
BUNIT = ("BUNIT", "1E-17 erg/cm^2/s/Ang")

_ROWS = 64  # rows of an image that are converted at a time: as many as stay in the cache
_PIXELS = np.dtype(
    [
        ("flux", ">f4"),
        ("loglam", ">f4"),
        ("ivar", ">f4"),
        ("and_mask", ">i4"),
        ("or_mask", ">i4"),
        ("wdisp", ">f4"),
        ("sky", ">f4"),
        ("model", ">f4"),
    ]
)
# Names in SPZLINE and vacuum wavelengths (Angstrom).
_LINES = {
    "Ly_alpha": 1215.67,
    "N_V 1240": 1240.81,
    "C_IV 1549": 1549.48,
    "He_II 1640": 1640.42,
    "C_III] 1908": 1908.73,
    "Mg_II 2799": 2800.32,
    "[O_II] 3725": 3727.09,
    "[O_II] 3727": 3729.88,
    "H_delta": 4102.89,
    "H_gamma": 4341.68,
    "H_beta": 4862.68,
    "[O_III] 4959": 4960.29,
    "[O_III] 5007": 5008.24,
    "[N_II] 6548": 6549.86,
    "H_alpha": 6564.61,
    "[N_II] 6583": 6585.27,
    "[S_II] 6716": 6718.29,
    "[S_II] 6730": 6732.68,
}


# ---- files


def write_plate(pointing: Pointing, folder: Path) -> None:
    """Write ``PLATE/spPlate-PLATE-MJD.fits``: flux, ivar, masks, dispersion, plug map and sky.

    Parameters
    ----------
    pointing : Pointing
        Of BOSS or SDSS.
    folder : Path
        Root of the reduction; it is made if it is not there.

    Raises
    ------
    UsageError
        If the file cannot be written; nothing is left of it then.
    ValueError
        If the pointing is of another archive.
    """
    observed, survey = pointing.observed, survey_of(pointing.archive)
    wcs = _wcs(_first(pointing))
    cards = [*_plate_cards(pointing, survey), ("NEXP", 4 * survey.exposures), *wcs, BUNIT]
    with published(_plate_folder(pointing, folder) / f"spPlate-{pointing.plate}-{pointing.mjd}.fits") as file:
        _write_image(file, "FLUX", observed.flux, [ORIGIN, *cards])
        _write_image(file, "IVAR", observed.ivar, wcs)
        for name in ("ANDMASK", "ORMASK"):
            _write_image(file, name, observed.and_mask, wcs)
        _write_image(file, "WAVEDISP", observed.wdisp, wcs)
        write_table(file, _plug_map(pointing, survey), "PLUGMAP")
        _write_image(file, "SKY", observed.sky, [*wcs, BUNIT])


def write_results(pointing: Pointing, folder: Path) -> None:
    """Write the pipeline's fits: ``spZbest``, a row a fibre, and ``spZall``, `N_FITS` rows a fibre.

    They lie in ``PLATE/RUN1D/``, for SDSS-I/II in ``PLATE/``. Rows of spZall are in the order of fibres, the
    best fit first (the archive has 134 a fibre). As there, HDU 1 has no name; the images of best-fit models
    that follow it there are left out.

    Parameters
    ----------
    pointing : Pointing
        Of BOSS or SDSS.
    folder : Path
        Root of the reduction; it is made if it is not there.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left of it then.
    ValueError
        If the pointing is of another archive.
    """
    survey, table = survey_of(pointing.archive), _named_table(pointing)
    place = _plate_folder(pointing, folder) / survey.run1d
    cards = [*_plate_cards(pointing, survey), ("VERS1D", survey.vers2d), ("RUN1D", survey.run1d)]
    best = _who(table, survey) | fit_fields(table) | no_quasar_fields(table)
    best |= {"SN_MEDIAN_ALL": Field("E", table["SN"])}
    with published(place / f"spZbest-{pointing.plate}-{pointing.mjd}.fits") as file:
        file.write(primary_header(cards))
        write_table(file, best)
    cards += [
        ("DIMS0", N_FITS, "Number of fits per objects"),
        ("DIMS1", len(table["RA"]), "Number of objects"),
    ]
    with published(place / f"spZall-{pointing.plate}-{pointing.mjd}.fits") as file:
        file.write(primary_header(cards))
        write_table(file, _all_fits(table, survey))


def write_spectra(pointing: Pointing, folder: Path) -> None:
    """Write ``spectra/lite/PLATE/spec-PLATE-MJD-FIBER.fits`` for each spectrum.

    As in the archive, a file begins and ends with a pixel that has data (ivar > 0). SPZLINE lists lines
    without measurements: area 0, errors -1, as where the pipeline could not fit one.

    Parameters
    ----------
    pointing : Pointing
        Of BOSS or SDSS.
    folder : Path
        Root of the reduction; it is made if it is not there.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left of that file then, those before it stay.
    ValueError
        If the pointing is of another archive.
    """
    observed, table = pointing.observed, _named_table(pointing)
    first, (n, n_pixels) = _first(pointing), observed.flux.shape
    starts, stops = _trimmed(observed.ivar)
    head, tail = _spec_head(pointing), _spec_tail(pointing, table)
    place = folder / "spectra" / "lite" / f"{pointing.plate}"
    names = [f"spec-{pointing.plate}-{pointing.mjd}-{fiber:04d}.fits" for fiber in table["FIBERID"].tolist()]
    ids = [table[name].tolist() for name in ("FIBERID", "THING_ID", "RA", "DEC")]
    block = np.empty((16, n_pixels), dtype=_PIXELS)
    block["loglam"] = LATTICE_STEP * np.arange(first, first + n_pixels)
    for i in range(n):
        if i % len(block) == 0:
            _interleave(pointing, slice(i, i + len(block)), block)
        start, stop = starts[i], stops[i]
        pixels = block[i % len(block), start:stop].view(np.uint8)
        header = head(first + start, stop - start, *(column[i] for column in ids))
        with published(place / names[i]) as file:
            file.write(b"".join((header, pixels, bytes(-len(pixels) % BLOCK), tail(i))))  # type: ignore[arg-type]


# ---- parts of a plate


def _named_table(pointing: Pointing) -> dict[str, NDArray[Any]]:
    """Return the pointing's table with PLATE, MJD and FIBERID."""
    n = len(pointing.table["FIBER"])
    names = {"PLATE": np.full(n, pointing.plate), "MJD": np.full(n, pointing.mjd)}
    return {**pointing.table, **names, "FIBERID": pointing.table["FIBER"]}


def _plate_folder(pointing: Pointing, folder: Path) -> Path:
    return folder / f"{pointing.plate}"


def _first(pointing: Pointing) -> int:
    """Return the lattice index of the first pixel."""
    return round(float(np.log10(pointing.instrument.wavelength[0])) / LATTICE_STEP)


def _plate_cards(pointing: Pointing, survey: Survey) -> list[Card]:
    ra, dec = np.radians(pointing.table["RA"]), np.radians(pointing.table["DEC"])
    x, y, z = (np.cos(dec) * np.cos(ra)).mean(), (np.cos(dec) * np.sin(ra)).mean(), np.sin(dec).mean()
    return [
        ("TELESCOP", "SDSS 2.5-M", "Sloan Digital Sky Survey"),
        ("FLAVOR", "science", "exposure type, SDSS spectro style"),
        ("MJD", pointing.mjd, "MJD of observation"),
        ("PLATEID", pointing.plate, "plate"),
        ("NAME", f"{pointing.plate}-{pointing.mjd}-01"),
        ("RA", round(float(np.degrees(np.arctan2(y, x)) % 360), 6), "RA of the middle of the plate (deg)"),
        ("DEC", round(float(np.degrees(np.arctan2(z, np.hypot(x, y)))), 6), "Dec of the same (deg)"),
        ("EQUINOX", 2000.0),
        ("RADECSYS", "FK5"),
        ("EXPTIME", 900.0 * survey.exposures, "Exposure time of each camera (seconds)"),
        ("VERS2D", survey.vers2d, "Version of the reduction that is imitated"),
        ("VERSCOMB", survey.vers2d),
        ("RUN2D", survey.run2d, "Spectro-2D reduction name"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
    ]


def _dispersion(start: float) -> list[Card]:
    return [
        ("NWORDER", 2, "Linear-log10 coefficients"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        ("COEFF0", start, "Central wavelength (log10) of first pixel"),
        ("COEFF1", LATTICE_STEP, "Log10 dispersion per pixel"),
    ]


def _wcs(first: int) -> list[Card]:
    # IRAF's way to say it: the world coordinate is log10 of the wavelength.
    start = round(first * LATTICE_STEP, 4)
    return [
        *_dispersion(start),
        ("WAT0_001", "system=linear"),
        ("WAT1_001", "wtype=linear label=Wavelength units=Angstroms"),
        ("CRVAL1", start, "Central wavelength (log10) of first pixel"),
        ("CD1_1", LATTICE_STEP, "Log10 dispersion per pixel"),
        ("CRPIX1", 1, "Starting pixel (1-indexed)"),
        ("CTYPE1", "LINEAR"),
        ("DC-FLAG", 1, "Log-linear flag"),
    ]


def _plug_map(pointing: Pointing, survey: Survey) -> dict[str, Field]:
    table = pointing.table
    target = table["TRUE_CLASS"] != "SKY"
    return {
        "OBJID": Field("5J", 0),
        "HOLETYPE": Field("16A", "OBJECT"),
        "RA": Field("D", table["RA"]),
        "DEC": Field("D", table["DEC"]),
        "MAG": Field("5E", np.nan_to_num(table["PSFMAG"])),
        "OBJTYPE": Field("16A", np.where(target, "QSO", "SKY")),
        "SPECTROGRAPHID": Field("J", 1 + (table["FIBER"] > survey.fibers)),
        "FIBERID": Field("J", table["FIBER"]),
        **target_fields(table, survey),
    }


def _write_image(file: BinaryIO, name: str, image: NDArray[Any], cards: list[Card]) -> None:
    """Write an image with header and padding; the first of a file becomes the primary HDU."""
    primary = file.tell() == 0
    bitpix, (n, n_pixels) = (32 if image.dtype.kind == "i" else -32), image.shape
    first: list[Card] = [("SIMPLE", True) if primary else ("XTENSION", "IMAGE")]
    first += [("BITPIX", bitpix), ("NAXIS", 2), ("NAXIS1", n_pixels), ("NAXIS2", n)]
    first += [("EXTEND", True)] if primary else [("PCOUNT", 0), ("GCOUNT", 1)]
    file.write(header_of([*first, ("EXTNAME", name), *cards]))
    buffer = np.empty((_ROWS, n_pixels), dtype=image.dtype.newbyteorder(">"))
    for start in range(0, n, _ROWS):
        part = buffer[: n - start]
        part[:] = image[start : start + _ROWS]
        file.write(part.data)
    file.write(bytes(-image.nbytes % BLOCK))


# ---- what the pipeline found


def _who(table: Table, survey: Survey) -> dict[str, Field]:
    sky = table["TRUE_CLASS"] == "SKY"
    return {
        "PLATE": Field("J", table["PLATE"]),
        "MJD": Field("J", table["MJD"]),
        "FIBERID": Field("J", table["FIBERID"]),
        "RUN2D": Field("6A", survey.run2d),
        "RUN1D": Field("6A", survey.run1d),
        "OBJTYPE": Field("16A", np.where(sky, "SKY", "QSO")),
        "PLUG_RA": Field("D", table["RA"]),
        "PLUG_DEC": Field("D", table["DEC"]),
        "THING_ID": Field("J", table["THING_ID"]),
    }


def _all_fits(table: Table, survey: Survey) -> dict[str, Field]:
    """Return the columns of spZall: the fits of the first fibre, best first, then those of the second."""
    known = ("PLATE", "MJD", "FIBERID", "TRUE_CLASS", "RA", "DEC", "THING_ID")
    every = [fit_fields(table, rank) for rank in range(N_FITS)]
    found = {
        name: Field(field.code, np.stack([fit[name].values for fit in every], axis=1).ravel())
        for name, field in every[0].items()
    }
    return _who({name: np.repeat(table[name], N_FITS) for name in known}, survey) | found


# ---- parts of a spec file


def _trimmed(ivar: NDArray[np.float32]) -> tuple[list[int], list[int]]:
    """Return where each spectrum's data begin and end; all pixels where fewer than two have data."""
    good, n_pixels = ivar > 0, ivar.shape[1]
    start, stop = good.argmax(axis=1), n_pixels - good[:, ::-1].argmax(axis=1)
    whole = ~good.any(axis=1) | (stop - start < 2)
    return np.where(whole, 0, start).tolist(), np.where(whole, n_pixels, stop).tolist()


def _interleave(pointing: Pointing, rows: slice, block: NDArray[Any]) -> None:
    """Fill a block of records from the images, all columns but loglam."""
    observed = pointing.observed
    n = len(observed.flux[rows])
    for name in ("flux", "ivar", "and_mask", "wdisp", "sky", "model"):
        block[name][:n] = getattr(observed, name)[rows]
    block["or_mask"][:n] = block["and_mask"][:n]


def _spec_head(pointing: Pointing) -> Callable[..., bytes]:
    """Return the function that gives a file's bytes up to the first pixel."""
    survey = survey_of(pointing.archive)
    own = [("PLUG_RA", 0.0, "RA of object [deg]"), ("PLUG_DEC", 0.0, "dec of object [deg]")]
    cards = [*_plate_cards(pointing, survey), ("NEXP", 2 * survey.exposures), *_dispersion(0.0)]
    cards += [BUNIT, *own]
    cards += [("THING_ID", 0, "Unique object identifier"), ("FIBERID", 0, "Fiber number")]
    codes = {"f": "E", "i": "J"}
    pixels = {name: Field(codes[_PIXELS[name].kind], 0) for name in _PIXELS.names or ()}
    header = bytearray(primary_header(cards) + table_header(pixels, 0, "COADD"))
    keywords = ("COEFF0", "NAXIS2", "FIBERID", "THING_ID", "PLUG_RA", "PLUG_DEC")
    places = [header.index(f"{keyword:8}= ".encode()) + 10 for keyword in keywords]

    def head(first: int, n_pixels: int, fiber: int, thing_id: int, ra: float, dec: float) -> bytes:
        numbers = (first * LATTICE_STEP, n_pixels, fiber, thing_id, ra, dec)
        text = b"%20.4f|%20d|%20d|%20d|%20.14f|%20.14f" % numbers
        for place, value in zip(places, text.split(b"|"), strict=True):
            header[place : place + 20] = value
        return bytes(header)

    return head


def _spec_tail(pointing: Pointing, table: Table) -> Callable[[int], bytes]:
    """Return the function that gives a file's bytes after the pixels: the pipeline's row, and lines."""
    survey = survey_of(pointing.archive)
    result = _who(table, survey) | fit_fields(table)
    result |= {"SN_MEDIAN_ALL": Field("E", table["SN"]), **no_quasar_fields(table)}
    result |= {"PSFMAG": Field("5E", table["PSFMAG"]), **target_fields(table, survey)}
    result |= {"SURVEY": Field("6A", survey.name), "INSTRUMENT": Field("4A", survey.instrument)}
    result |= {"SOURCETYPE": result["OBJTYPE"]}
    rows = records(result)
    lines = _line_fields(table)
    line_rows = records(lines).reshape(len(rows), len(_LINES))
    between = bytes(-rows.itemsize % BLOCK) + table_header(lines, len(_LINES), "SPZLINE")
    end = bytes(-len(_LINES) * line_rows.itemsize % BLOCK)
    start = table_header(result, 1, survey.results)
    return lambda i: b"".join((start, rows[i].tobytes(), between, line_rows[i].tobytes(), end))


def _line_fields(table: Table) -> dict[str, Field]:
    n = len(table["FIBERID"])
    fields = {name: Field("J", np.repeat(table[name], len(_LINES))) for name in ("PLATE", "MJD", "FIBERID")}
    fields["LINENAME"] = Field("13A", np.tile(list(_LINES), n))
    fields["LINEWAVE"] = Field("D", np.tile(list(_LINES.values()), n))
    fields["LINEZ"] = Field("E", np.repeat(table["FIT_Z"][:, 0], len(_LINES)))
    fields["LINEZ_ERR"] = Field("E", -1)
    for name in ("LINESIGMA", "LINEAREA", "LINEEW", "LINECONTLEVEL"):
        fields |= {name: Field("E", 0), f"{name}_ERR": Field("E", -1)}
    fields |= {name: Field("J", 0) for name in ("LINENPIXLEFT", "LINENPIXRIGHT")}
    return fields | {name: Field("E", 0) for name in ("LINEDOF", "LINECHI2")}
