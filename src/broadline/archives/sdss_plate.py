"""SDSS and BOSS plates: ``spPlate-PLATE-MJD.fits``, a row a fibre, and the pipeline's results beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from broadline.archives.base import (
    Archive,
    Head,
    masked_ivar,
    object_name,
    open_fits,
    read_files,
    truth_table,
)
from broadline.archives.fits_file import columns_of
from broadline.errors import ReadError
from broadline.flags import Flag, mark
from broadline.patience import is_passing
from broadline.spectra import Spectra, identity, mend

__all__ = ["ARCHIVES"]

_PLUG_MAP = frozenset(["FIBERID", "RA", "DEC", "OBJTYPE"])
_PLATE_NAME = re.compile(r"spPlate-(\d{4,6})-(\d{5})\.fits?(\.gz)?")


def read_plate(paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    """Yield the fibres of each plate, at most `batch` at a time."""
    return read_files("sdss-plate", paths, lambda path: _plate_batches(path, batch))


def _plate_batches(path: Path, batch: int) -> Iterator[Spectra]:
    # Rows are read a block at a time from an uncompressed plate (astropy decompresses a gzipped one whole).
    with open_fits(path) as hdus:
        header = hdus[0].header
        n, n_pixels = header.get("NAXIS2", 0), header.get("NAXIS1", 0)
        if not {"COEFF0", "COEFF1"} <= set(header) or header["NAXIS"] != 2:
            raise ReadError(path, "it is no spPlate: no image of spectra with COEFF0 and COEFF1")
        if len(hdus) < 3:
            raise ReadError(path, "it is cut short: no images of ivar and and_mask", n_spectra=n)
        if any(hdus[i].shape != (n, n_pixels) for i in (1, 2)):
            shapes = [hdus[i].shape for i in range(3)]
            raise ReadError(path, f"flux, ivar and and_mask differ in shape {shapes}", n_spectra=n)
        loglam = header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels)
        ids, sky = _fibres(path, hdus, n)
        for start in range(0, n, batch):
            rows = slice(start, min(start + batch, n))
            try:
                flux, ivar, mask = (np.asarray(hdus[i].section[rows]) for i in range(3))
            except Exception as error:
                if is_passing(error):
                    raise
                lost = ReadError(path, f"it is cut short after fibre {start}: {error}", n_spectra=n - start)
                rest = {name: column[start:] for name, column in ids.items()}
                flags = np.full(n - start, Flag.UNREADABLE, dtype=np.uint32)
                yield replace(Spectra.unreadable("sdss-plate", lost), ids=rest, flags=flags)
                return
            clean = masked_ivar(ivar.astype(np.float32), mask)
            flux32, clean, flags = mend(flux.astype(np.float32), clean)
            part = {name: column[rows] for name, column in ids.items()}
            yield Spectra(10.0**loglam, flux32, clean, part, flags | sky[rows])


def _fibres(path: Path, hdus: fits.HDUList, n: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint32]]:
    """Return identity and sky flags from the plug map."""
    header = hdus[0].header
    named = _PLATE_NAME.fullmatch(path.name)
    plate = int(header.get("PLATEID", named[1] if named else -1))
    mjd = int(header.get("MJD", named[2] if named else -1))
    tables = [hdu for hdu in hdus[1:] if isinstance(hdu, fits.BinTableHDU) and hdu.header["NAXIS2"] == n]
    plug = next((plug for hdu in tables if "FIBERID" in (plug := columns_of(hdu, _PLUG_MAP))), None)
    sky = np.zeros(n, dtype=np.uint32)
    fiber = np.arange(1, n + 1)
    place: dict[str, Any] = {}
    if plug is not None:
        fiber = np.asarray(plug["FIBERID"], dtype=np.int64)
        place = {name: plug[name] for name in ("RA", "DEC") if name in plug}
        mark(sky, np.strings.upper(plug.get("OBJTYPE", np.full(n, ""))) == "SKY", Flag.SKY_FIBRE)
    names = [object_name(plate, mjd, f) for f in fiber]
    constants = {"PLATE": np.full(n, plate), "MJD": np.full(n, mjd), "FIBERID": fiber}
    ids = identity("sdss-plate", [str(path)] * n, np.arange(n), OBJID=names, **place, **constants)
    return ids, sky


def plate_truth(path: Path) -> Table:
    """Return the pipeline's results for each fibre of a plate, from the spZbest or spZall file beside it.

    Parameters
    ----------
    path : Path
        The spPlate file; results are looked for beside it and one folder down (RUN1D).

    Raises
    ------
    ReadError
        If there is neither file.
    """
    for kind in ("spZbest", "spZall"):
        for candidate in _beside(path, kind):
            return _fits_of(candidate, path)
    tail = _tail(path)
    raise ReadError(path, f"no spZbest-{tail} or spZall-{tail} lies beside it")


def plate_fitted(path: Path, row: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return wavelengths (vacuum Angstrom) and flux of the pipeline's best fit to a fibre.

    Parameters
    ----------
    path : Path
        The spPlate file; HDU 2 of the spZbest file beside it holds the fits, a row a fibre.
    row : int

    Raises
    ------
    ReadError
        If there is no such file, or it has no fits.
    """
    for results in _beside(path, "spZbest"):
        with open_fits(results) as hdus, open_fits(path) as plate:
            if len(hdus) > 2 and hdus[2].shape == plate[0].shape:  # on the pixels of the plate
                header = plate[0].header
                loglam = header["COEFF0"] + header["COEFF1"] * np.arange(header["NAXIS1"])
                return 10.0**loglam, np.asarray(hdus[2].section[row], dtype=np.float32)
    raise ReadError(path, "the pipeline's models are not beside it")


def _tail(path: Path) -> str:
    return path.name.removeprefix("spPlate-").removesuffix(".gz")


def _beside(path: Path, kind: str) -> list[Path]:
    """Return the results of one kind for a plate: in its folder or one down."""
    name = f"{kind}-{_tail(path)}*"
    return [*path.parent.glob(name), *path.parent.glob(f"*/{name}")]


def _fits_of(results: Path, plate: Path) -> Table:
    with open_fits(results) as hdus:
        data = hdus[1].data
        _, first = np.unique(data["FIBERID"], return_index=True)  # spZall lists each fibre's fits, best first
        data = data[np.sort(first)]
        return truth_table(
            plate,
            ROW=np.arange(len(data)),
            OBJID=[
                object_name(p, m, f)
                for p, m, f in zip(data["PLATE"], data["MJD"], data["FIBERID"], strict=True)
            ],
            PLATE=data["PLATE"],
            MJD=data["MJD"],
            FIBERID=data["FIBERID"],
            CLASS=np.char.strip(data["CLASS"]),
            Z=data["Z"],
            ZWARNING=data["ZWARNING"],
        )


def _is_plate(head: Head) -> bool:
    return (
        head.is_fits
        and head.card("NAXIS") == "2"
        and bool(head.card("PLATEID"))
        and "PLUGMAP" in head.hdu_names
    )


ARCHIVES = (
    Archive(
        "sdss-plate",
        "SDSS and BOSS spPlate files, a row a fibre",
        _PLATE_NAME,
        _is_plate,
        read_plate,
        plate_truth,
        fitted=plate_fitted,
    ),
)
