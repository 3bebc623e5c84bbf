"""Catalogues of simulated LAMOST surveys, and what they and the files say of the spectra.

The general catalogue is the 36 columns of DR5 (lamost.org, "data production description", section 3.1), of
all fibres on targets; the quasar catalogues have those columns of the LAMOST quasar survey's full catalogue
that do not come from fitting emission lines (nadc.china-vo.org, article 20190110142147).
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from broadline.simulation.files.fits_parts import (
    BLOCK,
    Field,
    primary_header,
    published,
    records,
    table_header,
)
from broadline.simulation.files.sdss_tables import sdss_name

__all__ = ["BANDS", "designations_of", "fibre_type", "magnitudes_of", "verdict_of", "write_catalogues"]

Table = Mapping[str, NDArray[Any]]

#: Centre and width of the bands in which S/N is given (Angstrom; Fukugita et al. 1996, table 2).
BANDS = {"U": (3557, 599), "G": (4825, 1379), "R": (6261, 1382), "I": (7672, 1535), "Z": (9097, 1370)}

_MISSING = -9999
# ZWARNING of SDSS: many outliers, which a good fit may have too.
_OUTLIERS = 1 << 4
# The quasar catalogues, and the papers whose they are.
_QUASAR_FILES = {
    "lamost_dr1_quasars.fits": "Ai et al. 2016, AJ 151, 24",
    "lamost_dr23_quasars.fits": "Dong et al. 2018, AJ 155, 189",
    "lamost_dr45_quasars.fits": "Yao et al. 2019, ApJS 240, 6",
}


# ---- what is said of spectra


def fibre_type(table: Table) -> NDArray[Any]:
    """Return what each fibre saw: Obj, Sky or Dead (broken), as in FIBERTYP."""
    dead = table["TRUE_SUBCLASS"] == "DEAD"
    return np.where(dead, "Dead", np.where(table["TRUE_CLASS"] == "SKY", "Sky", "Obj"))


def verdict_of(table: Table) -> dict[str, NDArray[Any]]:
    """Return class, subclass and redshift as LAMOST says them: it has no warnings but the class Unknown."""
    doubted = (table["FIT_ZWARNING"][:, 0] & ~_OUTLIERS) != 0
    doubted |= fibre_type(table) != "Obj"
    kind = np.where(doubted, "Unknown", table["FIT_CLASS"][:, 0])
    words = np.char.partition(table["FIT_SUBCLASS"][:, 0], " ")[:, 0]
    return {
        "CLASS": kind,
        "SUBCLASS": np.where((kind == "STAR") & (words != ""), words, "Non"),
        "Z": np.where(doubted, _MISSING, np.round(table["FIT_Z"][:, 0], 8)),
        "Z_ERR": np.where(doubted, _MISSING, np.round(table["FIT_Z_ERR"][:, 0].astype(np.float64), 8)),
    }


def magnitudes_of(table: Table) -> NDArray[np.float64]:
    """Return the magnitudes in ugriz, 99 where there are none, shape (n_spectra, 5)."""
    magnitude = table["PSFMAG"].astype(np.float64)
    return np.where(np.isfinite(magnitude) & (magnitude > 0), np.round(magnitude, 2), 99)


def designations_of(table: Table) -> NDArray[np.str_]:
    """Return JHHMMSS.ss+DDMMSS.s of each position."""
    return np.strings.add("J", sdss_name(table["RA"], table["DEC"]).astype(str))


# ---- catalogues


def write_catalogues(tables: Iterable[Table], folder: Path) -> list[Path]:
    """Write the general catalogue and the three quasar catalogues of a survey.

    ``dr5_v3.csv.gz`` has a row a target (fibres on sky and broken ones are left out), columns parted by "|".
    The quasar catalogues (FITS) hold the spectra that an inspector called quasars with full confidence
    (CLASS_PERSON 3 or 30, Z_CONF_PERSON 3), the nights of the survey divided into thirds: DR1 (Ai et al.
    2016), DR2 and 3 (Dong et al. 2018), DR4 and 5 (Yao et al. 2019). Their MJD is LMJD - 1. What is not
    known of a simulated quasar is -9999, as what is not given is there.

    Parameters
    ----------
    tables : iterable of mapping of str to ndarray
        Chunks of spectra in the order of the catalogue: the columns of `Pointing.table` and of
        `lamost.identity_columns`. They are read once, one at a time.
    folder : Path
        Made if it is not there.

    Returns
    -------
    list of Path
        The four files.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left of that file then.
    """
    path = folder / "dr5_v3.csv.gz"
    quasars: Counter[int] = Counter()  # by LMJD; a night without any has a 0
    # Which third a spectrum belongs to is known after the last one.
    with published(path) as stream, TemporaryFile(dir=folder) as spool:
        fields: dict[str, Field] = {}
        with gzip.GzipFile("", "wb", 1, stream, 0) as packed:
            for table in tables:
                _write_csv(packed, _general(table), header=not fields)
                fields = _quasar_fields(table)
                spool.write(records(fields).tobytes())
                quasars.update(dict.fromkeys(np.unique(table["LMJD"]).tolist(), 0))
                quasars.update((fields["MJD"].values + 1).tolist())
        if not fields:
            raise ValueError("there is no table of which a catalogue could be made")
        return [path, *_write_quasars(spool, fields, quasars, folder)]


def _write_csv(stream: gzip.GzipFile, table: pa.Table, header: bool) -> None:
    if header:
        stream.write(("|".join(table.column_names) + "\n").encode())
    options = pa.csv.WriteOptions(include_header=False, delimiter="|", quoting_style="none")
    pa.csv.write_csv(table, stream, options)


def _general(table: Table) -> pa.Table:
    """Return the rows of the general catalogue."""
    target = fibre_type(table) == "Obj"
    table = {name: column[target] for name, column in table.items()}
    n, lmjd = len(table["LMJD"]), table["LMJD"].astype(np.int64)
    ra, dec = np.round(table["RA"], 6), np.round(table["DEC"], 6)
    magnitudes, night = magnitudes_of(table), (lmjd - 1).astype("m8[D]")
    names = ("LMJD", "PLANID", "SPID", "FIBERID")
    columns: dict[str, Any] = {
        "obsid": table["OBSID"],
        "designation": designations_of(table),
        "obsdate": (np.datetime64("1858-11-17") + night).astype(str),
        **{name.lower(): table[name] for name in names},
        "ra": ra,
        "dec": dec,
        **{f"snr{x.lower()}": np.round(table[f"SNR{x}"].astype(np.float64), 2) for x in BANDS},
        "objtype": ["QSO"] * n,
        **{name.lower(): column for name, column in verdict_of(table).items()},
        "magtype": ["ugriz"] * n,
        **{f"mag{i + 1}": magnitudes[:, i] if i < 5 else np.full(n, 99.0) for i in range(7)},
        "tsource": ["BROADLINE"] * n,
        "fibertype": ["Obj"] * n,
        "tfrom": ["-"] * n,
        "tcomment": ["."] * n,
        "offsets": ["False"] * n,
        "offset_v": np.zeros(n),
        "ra_obs": ra,
        "dec_obs": dec,
    }
    at = list(columns).index("planid")
    rows = pa.table(columns)
    return rows.add_column(at, "mjd", pa.array(lmjd - 1))


def _quasar_fields(table: Table) -> dict[str, Field]:
    """Return the rows of the quasar catalogues."""
    sure = np.isin(table["CLASS_PERSON"], (3, 30)) & (table["Z_CONF_PERSON"] >= 3)
    table = {name: column[sure] for name, column in table.items()}
    return {
        "ObsID": Field("K", table["OBSID"]),
        "Designation": Field("18A", sdss_name(table["RA"], table["DEC"])),
        "RA": Field("D", table["RA"], "deg"),
        "Dec": Field("D", table["DEC"], "deg"),
        "MJD": Field("J", table["LMJD"] - 1, "d"),
        "planID": Field("10A", table["PLANID"]),
        "spID": Field("J", table["SPID"]),
        "fiberID": Field("J", table["FIBERID"]),
        "z_vi": Field("D", table["Z_VI"]),
        "zWarning": Field("J", 0),
        "Mi_z2": Field("D", _MISSING, "mag"),
        "NspecOBS": Field("J", _MISSING),
        "SNR_spec": Field("D", table["SN"]),
        "BAL_flag": Field("J", table["BAL_FLAG_VI"]),
    }


def _write_quasars(
    spool: IO[bytes], fields: dict[str, Field], quasars: Counter[int], folder: Path
) -> list[Path]:
    """Write the rows in the spool, of which `fields` are the last ones, by thirds of the nights."""
    first, last = min(quasars), max(quasars)
    dtype = records(fields).dtype
    for third, (name, paper) in enumerate(_QUASAR_FILES.items()):
        start, stop = (first + -(-(last - first + 1) * k // 3) for k in (third, third + 1))
        n_rows = sum(count for night, count in quasars.items() if start <= night < stop)
        with published(folder / name) as stream:
            stream.write(primary_header([("REFERENC", paper, "whose columns these are")]))
            stream.write(table_header(fields, n_rows, "LAMOST_QSO"))
            spool.seek(0)
            for content in iter(partial(spool.read, 16_384 * dtype.itemsize), b""):
                rows = np.frombuffer(content, dtype)
                stream.write(rows[(start - 1 <= rows["MJD"]) & (rows["MJD"] < stop - 1)].tobytes())
            stream.write(bytes(-n_rows * dtype.itemsize % BLOCK))
    return [folder / name for name in _QUASAR_FILES]
