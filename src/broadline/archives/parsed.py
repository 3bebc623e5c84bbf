"""QuasarNET's own parsed data: spectra already on its 443 pixels, and the truth table beside them.

Layout, as QuasarNET's ``parse_data`` writes it (github.com/ngbusca/QuasarNET): the primary image has a row a
spectrum, 443 fluxes and then 443 inverse variances; the table after it has TARGETID (the THING_ID of SDSS),
PLATE, MJD and FIBERID. The truth table has THING_ID, Z_VI, PLATE, MJD, FIBERID, CLASS_PERSON, Z_CONF_PERSON,
BAL_FLAG_VI and BI_CIV, with the meanings of the DR12Q superset (Paris et al. 2017).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from broadline.archives.base import Archive, Head, fault_of, object_name, open_fits, read_files
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.grid import QUASARNET_LOG
from broadline.patience import is_passing
from broadline.spectra import Spectra, identity, mend

__all__ = ["ARCHIVES", "truth"]

_NAME = "parsed"
_N_PIXELS = QUASARNET_LOG.size
_KEYS = ("TARGETID", "PLATE", "MJD", "FIBERID")
_TRUTH_COLUMNS = ("THING_ID", "PLATE", "MJD", "FIBERID", "Z_VI", "CLASS_PERSON")
#: CLASS_PERSON of the DR12Q superset: 1 star, 3 quasar, 4 galaxy, 30 BAL quasar; 0 was not inspected.
_CLASSES = {1: "STAR", 3: "QSO", 4: "GALAXY", 30: "QSO"}
#: What the truth adds to the identity: name, value where it is not known, type.
_TRUTH_VALUES: tuple[tuple[str, Any, type], ...] = (
    ("CLASS", "", object),
    ("Z", np.nan, np.float64),
    ("Z_CONF", -1, np.int64),
    ("BAL_FLAG_VI", -1, np.int64),
    ("BI_CIV", np.nan, np.float64),
    ("ZWARNING", -1, np.int64),
)
# Deflate cannot expand a byte into more than this (zlib's technical notes): what a gzipped file can hold.
_GZIP_LIMIT = 1032


def _column(table: fits.FITS_rec, name: str, missing: float, dtype: type) -> NDArray[Any]:
    """Return a column in native byte order, or `missing` throughout where the table does not have it."""
    if name not in table.columns.names:
        return np.full(len(table), missing, dtype=dtype)
    return np.asarray(table[name]).astype(dtype)


def _objid(thing_id: NDArray[np.int64], keys: Sequence[NDArray[Any]]) -> list[str]:
    """Return THING_ID as text; where there is none (it is <= 0), plate, MJD and fibre tell objects apart."""
    return [
        str(thing) if thing > 0 else object_name(plate, mjd, fiber)
        for thing, plate, mjd, fiber in zip(thing_id, *keys, strict=True)
    ]


def _n_spectra(path: Path, hdus: fits.HDUList) -> int:
    """Return how many spectra the image has, at most as many as the file has bytes for."""
    header = hdus[0].header
    if header["NAXIS"] != 2 or header["NAXIS1"] != 2 * _N_PIXELS:
        shape = [header[f"NAXIS{axis + 1}"] for axis in range(header["NAXIS"])]
        raise ReadError(path, f"expected a primary image {2 * _N_PIXELS} wide (flux and ivar), not {shape}")
    with path.open("rb") as stream:
        plain = stream.read(6) == b"SIMPLE"
    size = path.stat().st_size * (1 if plain else _GZIP_LIMIT)
    return int(min(header["NAXIS2"], size // (abs(header["BITPIX"]) // 8 * 2 * _N_PIXELS)))


def _identities(path: Path, hdus: fits.HDUList, n_spectra: int) -> dict[str, NDArray[Any]]:
    """Return the identity of all spectra of the file: about 100 bytes each, against 3,544 of pixels."""
    tables = [hdu for hdu in hdus[1:] if isinstance(hdu, fits.BinTableHDU)]
    table = next((hdu for hdu in tables if set(_KEYS) <= set(hdu.columns.names)), None)
    if table is None:
        reason = f"no table with {', '.join(_KEYS)} follows the image (is the file cut short?)"
        raise ReadError(path, reason, n_spectra=n_spectra)
    n_promised, n_ids = hdus[0].header["NAXIS2"], table.header["NAXIS2"]
    if n_promised != n_ids or n_promised != n_spectra:
        reason = f"the image has {n_promised} rows and the table {n_ids}: which is which cannot be known"
        raise ReadError(path, reason, n_spectra=n_spectra)
    try:
        thing_id, *keys = (_column(table.data, name, -1, np.int64) for name in _KEYS)
    except Exception as error:
        raise ReadError(path, fault_of(path, error).reason, n_spectra=n_spectra) from error
    return identity(
        _NAME,
        [str(path)] * n_spectra,
        row=np.arange(n_spectra),
        OBJID=_objid(thing_id, keys),
        THING_ID=thing_id,
        **dict(zip(_KEYS[1:], keys, strict=True)),
    )


def _read_rows(path: Path, image: fits.PrimaryHDU, rows: slice, ids: dict[str, NDArray[Any]]) -> Spectra:
    """Return the spectra of some rows; rows that cannot be read are flagged, with their identity."""
    n_rows = rows.stop - rows.start
    notes: tuple[str, ...] = ()
    try:
        block = np.asarray(image.section[rows]).astype(np.float32)
        flux, ivar, flags = mend(block[:, :_N_PIXELS], block[:, _N_PIXELS:])
    except Exception as error:
        if is_passing(error):
            raise
        flux = ivar = np.zeros((n_rows, _N_PIXELS), dtype=np.float32)
        flags = np.full(n_rows, Flag.UNREADABLE, dtype=np.uint32)
        notes = (str(fault_of(path, error)),)
    ids = {name: column[rows] for name, column in ids.items()}
    return Spectra(QUASARNET_LOG.centres, flux, ivar, ids, flags, notes)


def _read_file(path: Path, batch: int) -> Iterator[Spectra]:
    with open_fits(path) as hdus:
        n_spectra = _n_spectra(path, hdus)
        ids = _identities(path, hdus, n_spectra)
        for start in range(0, n_spectra, batch):
            yield _read_rows(path, hdus[0], slice(start, min(start + batch, n_spectra)), ids)


def _read(paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    return read_files(_NAME, paths, lambda path: _read_file(path, batch))


def _recognise(head: Head) -> bool:
    return (
        head.is_fits
        and (head.card("NAXIS"), head.card("NAXIS1")) == ("2", str(2 * _N_PIXELS))
        and any(columns.issuperset(_KEYS) for columns in head.columns)
    )


def _truth_table(path: Path) -> Table:
    """Return the rows of a truth file, in its order."""
    with open_fits(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        table = next((hdu for hdu in tables if set(_TRUTH_COLUMNS) <= set(hdu.columns.names)), None)
        if table is None:
            raise ReadError(path, f"no table with {', '.join(_TRUTH_COLUMNS)}, which a truth file has")
        data = table.data
    thing_id, *keys = (_column(data, name, -1, np.int64) for name in _TRUTH_COLUMNS[:4])
    z = _column(data, "Z_VI", np.nan, np.float64)
    person = _column(data, "CLASS_PERSON", 0, np.int64)
    return Table(
        {
            "SOURCE": np.array([str(path)] * len(data), dtype=object),
            "ROW": np.arange(len(data)),
            "OBJID": np.array(_objid(thing_id, keys), dtype=object),
            "THING_ID": thing_id,
            **dict(zip(_KEYS[1:], keys, strict=True)),
            "CLASS": np.array([_CLASSES.get(value, "") for value in person.tolist()], dtype=object),
            "Z": np.where(z > -1, z, np.nan),
            "Z_CONF": _column(data, "Z_CONF_PERSON", -1, np.int64),
            "BAL_FLAG_VI": _column(data, "BAL_FLAG_VI", -1, np.int64),
            "BI_CIV": _column(data, "BI_CIV", np.nan, np.float64),
            "ZWARNING": np.full(len(data), -1),
        }
    )


def _match(path: Path, ids: dict[str, NDArray[Any]], truths: Sequence[Table]) -> Table:
    """Return a truth row for each spectrum of the parsed file `path`, by plate, MJD and fibre.

    One object has several spectra and THING_ID is -1 for many, so THING_ID matches nothing by itself.
    """
    known: dict[tuple[int, int, int], tuple[Table, int]] = {}
    for table in truths:
        for row, key in enumerate(zip(*(table[name].tolist() for name in _KEYS[1:]), strict=True)):
            known.setdefault(key, (table, row))
    matched = Table({name: ids[name] for name in ("SOURCE", "ROW", "OBJID", "THING_ID", *_KEYS[1:])})
    found = [known.get(key) for key in zip(*(ids[name].tolist() for name in _KEYS[1:]), strict=True)]
    for name, missing, dtype in _TRUTH_VALUES:
        column = [missing if at is None else at[0][name][at[1]] for at in found]
        matched[name] = np.array(column, dtype=dtype)
    return matched


def truth(path: Path) -> Table:
    """Return what visual inspection says about the spectra of a parsed file, or the rows of a truth file.

    Parameters
    ----------
    path : Path
        A truth file, or a parsed data file with truth files (``truth*.fits``) in the same folder.

    Returns
    -------
    Table
        SOURCE, ROW, OBJID, THING_ID, PLATE, MJD, FIBERID, CLASS ("STAR", "QSO", "GALAXY" or ""), Z (NaN where
        unknown), Z_CONF, BAL_FLAG_VI, BI_CIV (km/s) and ZWARNING (-1). For a data file, one row a spectrum in
        its order, matched by (PLATE, MJD, FIBERID), the first truth row where there are several; spectra that
        the truth does not know have CLASS "" and Z NaN.

    Raises
    ------
    ReadError
        If the file is neither, or there is no truth beside a data file.
    """
    if not _recognise(Head(path)):
        return _truth_table(path)
    with open_fits(path) as hdus:
        ids = _identities(path, hdus, _n_spectra(path, hdus))
    beside = sorted([*path.parent.glob("truth*.fits"), *path.parent.glob("truth*.fits.gz")])
    if not beside:
        raise ReadError(path, "no truth*.fits lies beside it; put the truth table of these spectra there")
    return _match(path, ids, [_truth_table(file) for file in beside])


ARCHIVES = (
    Archive(
        name=_NAME,
        title="QuasarNET's parsed data: 443 fluxes and 443 inverse variances a row",
        file_name=re.compile(r"(?!)"),  # the files have no fixed name: only the content tells
        recognise=_recognise,
        read=_read,
        truth=truth,
    ),
)
