"""LAMOST low-resolution spectra: one file a spectrum, ``spec-LMJD-PLANID_spNN-FFF.fits[.gz]``.

Two layouts, described by the documents of the data releases (lamost.org, "data production description"):

- up to DR9: the primary image has five rows: flux, inverse variance, wavelength, and-mask, or-mask. In early
  releases the third row is a spectrum without its continuum, and some later files shift it, so wavelengths
  come from COEFF0 and COEFF1 alone: log10(vacuum Angstrom) of pixel i is COEFF0 + COEFF1 i, on the lattice
  of SDSS.
- from DR10: a table COADD with the columns FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK and one row of arrays.

Pixels that get an inverse variance of 0 here (counted on 286 real files, 1,116,718 pixels):

- and-mask not 0 (the pixel is bad in every exposure): 2,085 pixels, all of them with an ivar of 0 already, so
  that this choice costs nothing. The or-mask (bad in some exposure) is not used: it would cost 48 pixels.
- filler: flux exactly 0 at either end or in two or more pixels in a row. The pipeline pads spectra there,
  most often with one repeated ivar but in some releases with varying ones: 1,596 pixels with a positive ivar,
  which would else count as good measurements of nothing. A lone 0 between other pixels is kept (1 pixel).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from broadline.air import air_to_vacuum
from broadline.archives.base import Archive, Head, open_fits, read_bytes, truth_table
from broadline.archives.singles import Single, gather, place
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import LATTICE_STEP, Spectra

__all__ = ["ARCHIVES", "truth"]

_NAME = "lamost"
_ROWS = 5
#: FIBERTYP of fibres that saw no target: unplugged, not on the target's position, or broken.
_BAD_FIBRES = ("UNUSED", "POSERR", "DEAD")
_COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK")

#: The value of a header keyword as text, "" where it is not there.
_Card = Callable[[str], str]


def _find_card(content: bytes, start: bytes) -> int:
    """Return the offset of the 80-byte header card that begins with `start`, or -1."""
    at = content.find(start)
    while at > 0 and at % 80:
        at = content.find(start, at + 1)
    return at


def _card_of_bytes(content: bytes) -> tuple[_Card, int] | None:
    """Return the look-up of the primary header in the bytes of a file, and where its data begin."""
    end = _find_card(content, b"END" + b" " * 77)
    if end < 0 or not content.startswith(b"SIMPLE  ="):
        return None
    header = content[:end]

    def card(keyword: str) -> str:
        at = _find_card(header, keyword.ljust(8).encode() + b"= ")
        if at < 0:
            return ""
        text = header[at + 10 : at + 80].decode("ascii", "replace").strip()
        return text[1:].split("'")[0].strip() if text.startswith("'") else text.split("/")[0].strip()

    return card, (end // 2880 + 1) * 2880


def _card_of_headers(headers: Sequence[fits.Header]) -> _Card:
    """Return the look-up of the first header that has the keyword."""

    def card(keyword: str) -> str:
        value = next((header[keyword] for header in headers if keyword in header), "")
        return "" if isinstance(value, fits.card.Undefined) else str(value).strip()

    return card


def _number(text: str) -> float:
    """Return the number that a header value stands for, NaN if it is none."""
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return float("nan")


def _integer(text: str) -> int:
    """Return the integer that a header value stands for (some files quote it), -1 if it is none."""
    try:
        return int(text)
    except ValueError:
        return -1


def _identity(card: _Card) -> dict[str, Any]:
    obsid, lmjd, spid, fiber = (_integer(card(key)) for key in ("OBSID", "LMJD", "SPID", "FIBERID"))
    planid = card("PLANID")
    objid = ""
    if obsid > 0:
        objid = str(obsid)
    elif planid and min(lmjd, spid, fiber) >= 0:
        objid = f"{lmjd}-{planid}-sp{spid:02d}-{fiber:03d}"
    return {
        "OBJID": objid,
        "RA": _number(card("RA")),
        "DEC": _number(card("DEC")),
        "FIBERID": fiber,
        "OBSID": obsid,
        "LMJD": lmjd,
        "PLANID": planid,
        "SPID": spid,
    }


def _flags(card: _Card, ids: dict[str, Any]) -> int:
    flags = 0 if ids["OBJID"] else int(Flag.NO_IDENTITY)
    types = {card("FIBERTYP").upper(), card("OBJTYPE").upper()}
    if "SKY" in types:
        flags |= Flag.SKY_FIBRE
    if not types.isdisjoint(_BAD_FIBRES):
        flags |= Flag.BAD_FIBRE
    return flags


def _clean_ivar(flux: NDArray[Any], ivar: NDArray[Any], andmask: NDArray[Any]) -> NDArray[np.float32]:
    """Return ivar with masked pixels and filler at 0 (see the module's docstring); arrays (n_pixels,)."""
    zero = np.ones(len(flux) + 2, dtype=bool)  # what lies beyond the ends counts as filler
    zero[1:-1] = flux == 0
    filler = zero[1:-1] & (zero[:-2] | zero[2:])
    cleaned = ivar.astype(np.float32)
    cleaned[filler | (andmask != 0)] = 0
    return cleaned


def _spectrum_of_rows(path: Path, card: _Card, rows: NDArray[Any]) -> Single | Spectra:
    """Return the spectrum of the image layout; `rows` has shape (5, n_pixels)."""
    coeff0, coeff1 = _number(card("COEFF0")), _number(card("COEFF1"))
    if not (2 < coeff0 < 6 and 0 < coeff1 < 0.1):
        reason = f"COEFF0 ({coeff0}) and COEFF1 ({coeff1}) do not describe wavelengths in log10(Angstrom)"
        raise ReadError(path, reason, Flag.BAD_WAVELENGTH)
    flux, ivar = rows[0].astype(np.float32), _clean_ivar(rows[0], rows[1], rows[3])
    ids = _identity(card)
    flags = _flags(card, ids)
    first, last = coeff0 / LATTICE_STEP, (coeff0 + coeff1 * (len(flux) - 1)) / LATTICE_STEP
    on_lattice = max(abs(first - round(first)), abs(last - round(first) - len(flux) + 1)) < 0.05
    if on_lattice and not _is_air(card):
        return Single(path, round(first), flux, ivar, flags, ids)
    wavelength = 10.0 ** (coeff0 + coeff1 * np.arange(len(flux), dtype=np.float64))
    return _place(path, card, wavelength, flux, ivar, flags, ids)


def _is_air(card: _Card) -> bool:
    return card("VACUUM").upper() in ("F", "FALSE")


def _place(path: Path, card: _Card, wavelength: NDArray[np.float64], *rest: Any) -> Single | Spectra:
    return place(_NAME, path, air_to_vacuum(wavelength) if _is_air(card) else wavelength, *rest)


def _read_narrow(path: Path, content: bytes) -> Single | Spectra | None:
    """Return the spectrum if the file has exactly the usual image layout, in float32; else None.

    It finds what `_read_with_astropy` finds, in a fraction of the time.
    """
    found = _card_of_bytes(content)
    if found is None:
        return None
    card, start = found
    layout = [card(key) for key in ("BITPIX", "NAXIS", "NAXIS2", "BSCALE", "BZERO")]
    n_pixels = _integer(card("NAXIS1"))
    if layout != ["-32", "2", str(_ROWS), "", ""] or n_pixels < 1:
        return None
    needed = start + 4 * _ROWS * n_pixels
    if len(content) < needed:
        raise ReadError(path, f"the file is cut short: {len(content)} bytes where its header needs {needed}")
    rows = np.frombuffer(content, ">f4", _ROWS * n_pixels, start).reshape(_ROWS, n_pixels)
    return _spectrum_of_rows(path, card, rows)


def _read_with_astropy(path: Path) -> Single | Spectra:
    """Return the spectrum of a file of either layout."""
    with open_fits(path) as hdus:
        table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and hdu.name == "COADD"), None)
        if table is not None:
            return _spectrum_of_table(path, hdus[0].header, table)
        image = hdus[0].data
        if image is None or image.ndim != 2 or len(image) != _ROWS or image.shape[1] < 1:
            found = "nothing" if image is None else f"an image of shape {image.shape}"
            raise ReadError(path, f"expected an image of {_ROWS} rows or a table COADD; found {found}")
        return _spectrum_of_rows(path, _card_of_headers([hdus[0].header]), image)


def _spectrum_of_table(path: Path, primary: fits.Header, hdu: fits.BinTableHDU) -> Single | Spectra:
    missing = [name for name in _COLUMNS if name not in (name.upper() for name in hdu.columns.names)]
    if missing:
        raise ReadError(path, f"its table COADD has no column {', '.join(missing)}")
    columns = [np.asarray(hdu.data[name]) for name in _COLUMNS]
    if any(column.ndim > 1 and len(column) != 1 for column in columns):
        raise ReadError(path, f"its table COADD has {len(hdu.data)} rows of arrays, not one spectrum")
    flux, ivar, wavelength, andmask = (column.ravel() for column in columns)
    if not 0 < len(flux) == len(wavelength):
        raise ReadError(path, "its table COADD holds no pixels")
    card = _card_of_headers([primary, hdu.header])
    ids = _identity(card)
    ivar = _clean_ivar(flux, ivar, andmask)
    return _place(path, card, wavelength.astype(np.float64), flux, ivar, _flags(card, ids), ids)


def _read_one(path: Path) -> Single | Spectra:
    spectrum = _read_narrow(path, read_bytes(path))
    return _read_with_astropy(path) if spectrum is None else spectrum


def _read(paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    return gather(_NAME, paths, batch, _read_one)


def _recognise(head: Head) -> bool:
    if not head.is_fits or "LAMOST" not in head.card("TELESCOP") + head.card("ORIGIN"):
        return False
    image = head.card("NAXIS2") == str(_ROWS) and head.card("COEFF0") != ""
    return image or "COADD" in head.hdu_names  # medium-resolution files have COADD_B and COADD_R instead


def truth(path: Path) -> Table:
    """Return class and redshift that the LAMOST pipeline wrote into the header of its file.

    Parameters
    ----------
    path : Path
        A low-resolution spectrum of either layout.

    Returns
    -------
    Table
        One row: SOURCE, ROW, OBJID, CLASS ("STAR", "GALAXY", "QSO", or "" for the archive's "Unknown"), Z
        (NaN where the archive has -9999) and ZWARNING (-1: LAMOST has none).

    Raises
    ------
    ReadError
        If the file has no primary header to read.
    """
    found = _card_of_bytes(Head(path).start)
    if found is None:
        raise ReadError(path, "it is not a FITS file with a complete primary header")
    card = found[0]
    if not card("CLASS"):
        with open_fits(path) as hdus:
            card = _card_of_headers([hdu.header for hdu in hdus])
    kind, z = card("CLASS").upper(), _number(card("Z"))
    return truth_table(
        path,
        OBJID=[_identity(card)["OBJID"]],
        CLASS=["" if kind == "UNKNOWN" else kind],
        Z=[z if z > -1 else np.nan],
        ZWARNING=[-1],
    )


ARCHIVES = (
    Archive(
        name=_NAME,
        title="LAMOST low-resolution spectra, one a file",
        # SDSS writes spec-PLATE-MJD-FIBER, all digits: "_spNN-" is LAMOST's alone.
        file_name=re.compile(r"spec-\d{5}-[A-Za-z0-9_+-]+_sp\d{1,2}-\d{1,3}\.fits(\.gz)?"),
        recognise=_recognise,
        read=_read,
        truth=truth,
    ),
)
