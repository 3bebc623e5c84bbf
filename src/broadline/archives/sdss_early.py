"""SDSS spectra of earlier releases: ``spSpec`` files (DR7 and before) and coadds as text (DR9)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from broadline.archives.base import (
    Archive,
    Head,
    masked_ivar,
    object_name,
    open_fits,
    read_bytes,
    truth_table,
)
from broadline.archives.singles import Single, gather, lattice_index, place
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import LATTICE_STEP, Spectra

__all__ = ["ARCHIVES"]

_SPSPEC_NAME = re.compile(r"spSpec-\d{5}-\d{4}-\d{3}\.fits?(\.gz)?")
_TEXT_NAME = re.compile(r"spec-(\d{4,5})-(\d{5})-(\d{4})\.dr9(\.gz)?")

# SPEC_CLN of the DR7 spectro pipeline
_DR7_CLASS = {1: "STAR", 2: "GALAXY", 3: "QSO", 4: "QSO", 5: "SKY", 6: "STAR"}


def read_spspec(paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    """Yield batches of DR7 files: an image of flux, continuum-subtracted flux, error and mask a pixel."""
    return gather("sdss-dr7", paths, batch, _read_spspec)


def _read_spspec(path: Path) -> Single:
    with open_fits(path) as hdus:
        header, image = hdus[0].header, hdus[0].data
        if image is None or image.ndim != 2 or len(image) < 4 or "COEFF0" not in header:
            raise ReadError(path, "it is no spSpec: no image of flux, error and mask with COEFF0")
        # The header rounds to single precision in some releases; the lattice puts it right.
        loglam = np.rint(header["COEFF0"] / LATTICE_STEP) * LATTICE_STEP + header["COEFF1"] * np.arange(
            image.shape[1]
        )
        index = lattice_index(loglam)
        if index is None:
            raise ReadError(path, "its wavelengths are not on the SDSS lattice", Flag.BAD_WAVELENGTH)
        error = image[2].astype(np.float64)
        ivar = np.divide(1.0, error**2, out=np.zeros_like(error), where=error > 0).astype(np.float32)
        masks = [hdu.data["andMask"] for hdu in hdus[1:] if _has_masks(hdu, image.shape[1])]
        if masks:
            ivar = masked_ivar(ivar, masks[0])
        sky = int(Flag.SKY_FIBRE) if str(header.get("OBJTYPE", "")).strip() == "SKY" else 0
        ids = _spspec_identity(header)
    return Single(path, int(index[0]), image[0].astype(np.float32), ivar, sky, ids)


def _has_masks(hdu: Any, n_pixels: int) -> bool:
    return (
        isinstance(hdu, fits.BinTableHDU)
        and "andMask" in hdu.columns.names
        and hdu.header["NAXIS2"] == n_pixels
    )


def _spspec_identity(header: fits.Header) -> dict[str, Any]:
    plate, mjd, fiber = (int(header.get(key, -1)) for key in ("PLATEID", "MJD", "FIBERID"))
    return {
        "OBJID": object_name(plate, mjd, fiber),
        "RA": float(header.get("RAOBJ", np.nan)),
        "DEC": float(header.get("DECOBJ", np.nan)),
        "PLATE": plate,
        "MJD": mjd,
        "FIBERID": fiber,
    }


def spspec_truth(path: Path) -> Table:
    """Return the DR7 pipeline's class (SPEC_CLN), redshift and warning from the primary header, one row."""
    with open_fits(path) as hdus:
        header = hdus[0].header
        ids = _spspec_identity(header)
    return truth_table(
        path,
        OBJID=[ids["OBJID"]],
        PLATE=[ids["PLATE"]],
        MJD=[ids["MJD"]],
        FIBERID=[ids["FIBERID"]],
        CLASS=[_DR7_CLASS.get(header.get("SPEC_CLN", 0), "")],
        Z=[float(header.get("Z", np.nan))],
        ZWARNING=[int(header.get("Z_WARNIN", -1))],
    )


def _is_spspec(head: Head) -> bool:
    return head.is_fits and head.card("NAXIS") == "2" and bool(head.card("SPEC_CLN") and head.card("COEFF0"))


def _read_text(path: Path) -> Single | Spectra:
    """Return a DR9 text coadd: wave, flux, err, flux, loglam, ivar, and_mask, or_mask, wdisp, sky, model."""
    lines = read_bytes(path).decode("ascii", "replace").splitlines()
    rows = np.loadtxt(lines, ndmin=2) if any(lines) else np.empty((0, 11))
    if rows.shape[1] != 11:
        raise ReadError(path, f"expected 11 columns of numbers, not {rows.shape[1]}")
    ivar = masked_ivar(rows[:, 5].astype(np.float32), rows[:, 6].astype(np.int64))
    name = _TEXT_NAME.fullmatch(path.name)
    ids: dict[str, Any] = {"OBJID": "", "PLATE": -1, "MJD": -1, "FIBERID": -1}
    if name is not None:
        plate, mjd, fiber = (int(text) for text in name.groups()[:3])
        ids = {"OBJID": object_name(plate, mjd, fiber), "PLATE": plate, "MJD": mjd, "FIBERID": fiber}
    flags = 0 if ids["OBJID"] else int(Flag.NO_IDENTITY)
    with np.errstate(over="ignore"):
        wavelength = 10.0 ** rows[:, 4]
    return place("sdss-ascii", path, wavelength, rows[:, 1], ivar, flags, ids)


def _is_text(head: Head) -> bool:
    row = head.start.split(b"\n", 1)[0].decode("ascii", "replace").split()
    try:
        numbers = [float(field) for field in row]
    except ValueError:
        return False
    if len(numbers) != 11:
        return False
    wave, loglam = numbers[0], numbers[4]
    return wave > 0 and abs(np.log10(wave) - loglam) < 1e-4


ARCHIVES = (
    Archive("sdss-dr7", "SDSS DR7 spSpec files", _SPSPEC_NAME, _is_spspec, read_spspec, spspec_truth),
    Archive(
        name="sdss-ascii",
        title="SDSS DR9 coadds as text, one a file",
        file_name=_TEXT_NAME,
        recognise=_is_text,
        read=lambda paths, batch: gather("sdss-ascii", paths, batch, _read_text),
    ),
)
