"""SDSS, BOSS, eBOSS and SDSS-V spectra, one a file: ``spec-PLATE-MJD-FIBER.fits``, lite and full.

Layout: the SDSS data model of ``spec``. HDU 1 has a row a pixel (flux, loglam, ivar, and_mask, ...), HDU 2
one row of the pipeline's results. Names of HDUs and the case of columns differ between releases.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from broadline.archives.base import (
    GZIP,
    Archive,
    Head,
    masked_ivar,
    object_name,
    open_fits,
    truth_table,
)
from broadline.archives.narrow import BLOCK, Cards, header_end, table_layout
from broadline.archives.singles import Single, gather, lattice_index
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import LATTICE_STEP, Spectra

__all__ = ["ARCHIVES", "read_spec_astropy", "read_spec_fast"]

_NAME = re.compile(r"spec-(?P<plate>\d{4,6})p?-(?P<mjd>\d{5})-(?P<fiber>\d{4,})\.fits?(\.gz)?")
# What is wanted of the pipeline's row, which has over 200 columns.
_RESULT = frozenset(
    [
        "OBJTYPE",
        "SOURCETYPE",
        "RA",
        "DEC",
        "PLUG_RA",
        "PLUG_DEC",
        "THING_ID",
        "PLATE",
        "MJD",
        "FIBERID",
        "CLASS",
        "Z",
        "ZWARNING",
    ]
)
# Pixel columns that the narrow reader takes, and the only types it takes them in.
_PIXELS = {"FLUX": ">f4", "LOGLAM": ">f4", "IVAR": ">f4", "AND_MASK": ">i4"}
_MODEL = "MODEL"  # the pipeline's best fit, which not all files have
_WANTED = frozenset({*_PIXELS, _MODEL})
_FIRST_READ = 1 << 18  # a lite file is 219 kB; the exposures of a full file lie behind what is needed


def read_spec(paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    """Yield batches of single-spectrum files, on the SDSS lattice wherever their pixels lie on it."""
    return gather("sdss", paths, batch, _read_one)


def _read_one(path: Path) -> Single:
    return read_spec_fast(path) or read_spec_astropy(path)


# ---- the narrow reader, for one layout and much faster than astropy on it


class _Parts(NamedTuple):
    """A file of the usual layout, its arrays still in the bytes read."""

    header: Cards
    pixels: NDArray[Any]
    result: dict[str, Any]


def _parse(path: Path) -> _Parts | None:
    """Return the parts of a spec file of the usual layout; None if its layout is another.

    The layout: a primary HDU without data; HDU 1 a binary table with float32 flux, loglam and ivar and an
    int32 and_mask; HDU 2 a binary table of one row.
    """
    content = _read_start(path)
    primary = header_end(content, 0)
    if primary is None or not content.startswith(b"SIMPLE  ="):
        return None
    start = header_end(content, primary) if content[primary : primary + 8] == b"XTENSION" else None
    layout = table_layout(content[primary:start], _WANTED) if start is not None else None
    if start is None or layout is None or layout.rows < 2 or start + layout.size > len(content):
        return None
    if not _PIXELS.items() <= layout.kinds.items():
        return None
    result = _result_row(path, content, start + -(-layout.size // BLOCK) * BLOCK)
    if result is None:
        return None
    pixels = np.frombuffer(content, layout.dtype, layout.rows, start)
    return _Parts(Cards(content[:primary]), pixels, result)


def read_spec_fast(path: Path) -> Single | None:
    """Read a spec file of the usual layout without a FITS library; None if its layout is another.

    What it returns is equal to what `read_spec_astropy` returns, bit for bit.
    """
    parts = _parse(path)
    if parts is None:
        return None
    header, pixels, result = parts
    index = lattice_index(pixels["LOGLAM"])
    if index is None:
        return None
    ivar = masked_ivar(pixels["IVAR"].astype(np.float32), pixels["AND_MASK"])
    ids = _identity(path, header, result)
    return Single(path, int(index[0]), pixels["FLUX"].astype(np.float32), ivar, _sky_flag(result), ids)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_FIRST_READ)
    if content[:2] == GZIP:
        # A lite file fits compressed into the first read; of a full one, this much is decompressed.
        stream = zlib.decompressobj(wbits=31)
        whole, content = len(content) < _FIRST_READ, stream.decompress(content, _FIRST_READ)
        if whole and not stream.eof and len(content) < _FIRST_READ:
            raise ReadError(path, "the gzip stream is cut short; fetch the file again")
    return content


def _result_row(path: Path, content: bytes, start: int) -> dict[str, Any] | None:
    """Return the row of HDU 2 with upper-case names, or None if it cannot be had from `content`."""
    if start >= len(content):
        return None
    data = header_end(content, start)
    if content[start : start + 8] != b"XTENSION" or (data is None and len(content) < _FIRST_READ):
        # astropy would read what is left without a word
        raise ReadError(path, f"it is damaged or cut short: no HDU begins at byte {start}; fetch it again")
    layout = table_layout(content[start:data], _RESULT) if data is not None else None
    if data is None or layout is None or layout.rows != 1 or data + layout.dtype.itemsize > len(content):
        return None
    row = np.frombuffer(content, layout.dtype, 1, data)
    return dict(zip(layout.kinds, row[0].item(), strict=True))


# ---- any layout


def read_spec_astropy(path: Path) -> Single:
    """Read any spec file with astropy.

    Raises
    ------
    ReadError
        If it has no table of pixels, or its pixels are not on the SDSS lattice.
    """
    with open_fits(path) as hdus:
        pixels = _pixel_table(path, hdus)
        index = lattice_index(pixels["loglam"])
        if index is None:
            raise ReadError(path, "loglam is not a run of SDSS lattice pixels", Flag.BAD_WAVELENGTH)
        result = _astropy_row(hdus)
        flux, ivar = pixels["flux"].astype(np.float32), pixels["ivar"].astype(np.float32)
        if "and_mask" in pixels:
            ivar = masked_ivar(ivar, pixels["and_mask"])
        ids = _identity(path, hdus[0].header, result)
    return Single(path, int(index[0]), flux, ivar, _sky_flag(result), ids)


def _pixel_table(path: Path, hdus: fits.HDUList) -> dict[str, NDArray[Any]]:
    for hdu in hdus[1:]:
        if not isinstance(hdu, fits.BinTableHDU):
            continue
        names = {name.lower(): name for name in hdu.columns.names}
        if not {"flux", "loglam", "ivar"} <= set(names):
            continue
        if len(hdu.data) < 2:
            raise ReadError(path, f"its spectrum has {len(hdu.data)} pixels", Flag.NO_DATA)
        wanted = ("flux", "loglam", "ivar", "and_mask")
        return {name: hdu.data[names[name]] for name in wanted if name in names}
    raise ReadError(path, "it is no SDSS spec file: no table has columns flux, loglam and ivar")


def _astropy_row(hdus: fits.HDUList) -> dict[str, Any]:
    """Return the row of the pipeline's results with upper-case names; empty if there is none."""
    for hdu in hdus[1:]:
        if isinstance(hdu, fits.BinTableHDU) and hdu.header["NAXIS2"] == 1:
            row = hdu.data[0]
            return {name.upper(): row[name] for name in hdu.columns.names if name.upper() in _RESULT}
    return {}


def _identity(path: Path, header: Any, result: dict[str, Any]) -> dict[str, Any]:
    """Return who the spectrum is: the pipeline's row first, then the primary header, then the file name."""
    named = _NAME.fullmatch(path.name)

    def number(keywords: tuple[str, ...], group: str = "", missing: float = -1) -> float:
        for source in (result, header):
            for keyword in keywords:
                value = source.get(keyword)
                if value is not None:
                    return float(value)
        return float(named[group]) if named and group else missing

    plate, mjd = int(number(("PLATEID", "PLATE"), "plate")), int(number(("MJD",), "mjd"))
    fiber = int(number(("FIBERID", "CATALOGID"), "fiber"))
    if not (abs(plate) < 1 << 31 and abs(mjd) < 1 << 31):
        raise ReadError(path, f"plate {plate}, MJD {mjd} are no plate and date; its header is damaged")
    return {
        "OBJID": object_name(plate, mjd, fiber),
        "RA": number(("PLUG_RA",), missing=np.nan),
        "DEC": number(("PLUG_DEC",), missing=np.nan),
        "PLATE": plate,
        "MJD": mjd,
        # SDSS-V numbers objects by a catalogue id that is no fibre
        "FIBERID": fiber if abs(fiber) < 1 << 31 else -1,
        "THING_ID": int(number(("THING_ID",))),
    }


def _sky_flag(result: dict[str, Any]) -> int:
    kinds = [_text(result.get(name, "")).upper() for name in ("OBJTYPE", "SOURCETYPE")]
    return int(Flag.SKY_FIBRE) if "SKY" in kinds else 0


def _text(value: Any) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip()


def truth(path: Path) -> Table:
    """Return the pipeline's class, redshift and warning from HDU 2 (SPALL or SPECOBJ), one row.

    Raises
    ------
    ReadError
        If the file has no such row.
    """
    parts = _parse(path)
    if parts:
        result, ids = parts.result, _identity(path, parts.header, parts.result)
    else:
        with open_fits(path) as hdus:
            result = _astropy_row(hdus)
            ids = _identity(path, hdus[0].header, result)
    if not {"CLASS", "Z"} <= set(result):
        raise ReadError(path, "it has no row of pipeline results (CLASS, Z, ZWARNING)")
    return truth_table(
        path,
        OBJID=[ids["OBJID"]],
        PLATE=[ids["PLATE"]],
        MJD=[ids["MJD"]],
        FIBERID=[ids["FIBERID"]],
        CLASS=[_text(result["CLASS"])],
        Z=[float(result["Z"])],
        ZWARNING=[int(result.get("ZWARNING", -1))],
    )


def fitted(path: Path, row: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return wavelengths (vacuum Angstrom) and flux of the pipeline's best fit, column ``model`` of HDU 1.

    Parameters
    ----------
    path : Path
    row : int
        Always 0: a file holds one spectrum.

    Raises
    ------
    ReadError
        If the file has none.
    """
    parts = _parse(path)
    if parts and _MODEL in (parts.pixels.dtype.names or ()):
        return _vacuum(parts.pixels["LOGLAM"]), parts.pixels[_MODEL].astype(np.float32)
    with open_fits(path) as hdus:
        for hdu in hdus[1:]:
            if isinstance(hdu, fits.BinTableHDU):
                names = {name.upper(): name for name in hdu.columns.names}
                if {"LOGLAM", _MODEL} <= set(names):
                    pixels = hdu.data
                    return _vacuum(pixels[names["LOGLAM"]]), pixels[names[_MODEL]].astype(np.float32)
    raise ReadError(path, "it has no model of the pipeline")


def _vacuum(loglam: NDArray[Any]) -> NDArray[np.float64]:
    """Return wavelengths, those of the lattice where pixels lie on it."""
    index = lattice_index(loglam)
    return np.asarray(10.0 ** (loglam.astype(np.float64) if index is None else LATTICE_STEP * index))


def _is_spec(head: Head) -> bool:
    return head.is_fits and any({"FLUX", "LOGLAM", "IVAR"} <= columns for columns in head.columns[:1])


ARCHIVES = (
    Archive(
        "sdss",
        "SDSS, BOSS, eBOSS, SDSS-V spec files, one spectrum each",
        _NAME,
        _is_spec,
        read_spec,
        truth,
        fitted=fitted,
    ),
)
