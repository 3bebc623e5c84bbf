"""Catalogues of simulated DESI surveys, and the columns that they share with the files of petals.

Layouts: ``ztile`` catalogues of the DESI data model (https://desidatamodel.readthedocs.io); the truth table
is that of desisim and desitarget mocks. Columns that a simulated object has no value for are 0 or blank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.files.fits_parts import Field, GrowingTable

__all__ = ["EXPOSURE", "EXPOSURES", "filled", "redshift_fields", "target_values", "write_catalogues"]

Table = Mapping[str, NDArray[Any]]
Fields = dict[str, Field]

#: Exposures of a spectrum, and seconds of each.
EXPOSURES, EXPOSURE = 2, 500.0
# Bits of the data model: fibermask BROKENFIBER, desi_mask QSO and SKY.
_BROKENFIBER = 1 << 1
_QSO, _SKY = 1 << 2, 1 << 32


# ---- what is said of targets


def target_values(table: Table) -> dict[str, Any]:
    """Return what the fibermap and the catalogues say of targets and fibres; fluxes are nanomaggies."""
    dead, sky = table["TRUE_SUBCLASS"] == "DEAD", table["TRUE_CLASS"] == "SKY"
    magnitude = table["PSFMAG"].astype(np.float64)
    flux = np.where(np.isfinite(magnitude) & (magnitude > 0), 10 ** (0.4 * (22.5 - magnitude)), 0)
    return {
        "TARGET_RA": table["RA"],
        "TARGET_DEC": table["DEC"],
        "OBJTYPE": np.where(dead, "BAD", np.where(sky, "SKY", "TGT")),
        "COADD_FIBERSTATUS": np.where(dead, _BROKENFIBER, 0),
        "COADD_NUMEXP": np.where(dead, 0, EXPOSURES),
        "COADD_EXPTIME": np.where(dead, 0, EXPOSURES * EXPOSURE),
        **{f"FLUX_{band}": flux[:, i] for band, i in {"G": 1, "R": 2, "Z": 4}.items()},
        "DESI_TARGET": np.where(dead, 0, np.where(sky, _SKY, _QSO)),
    }


def filled(columns: str, values: Mapping[str, Any]) -> Fields:
    """Return a table of columns; those without values are 0 or blank."""
    words = columns.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return {name: Field(code, values.get(name, "" if code[-1] == "A" else 0)) for name, code in pairs}


def redshift_fields(table: Table) -> Fields:
    """Return redrock's columns of the best fit."""
    chi2 = table["FIT_RCHI2"].astype(np.float64) * table["FIT_DOF"]
    return {
        "Z": Field("D", table["FIT_Z"][:, 0]),
        "ZERR": Field("D", table["FIT_Z_ERR"][:, 0]),
        "ZWARN": Field("K", table["FIT_ZWARNING"][:, 0]),
        "CHI2": Field("D", chi2[:, 0]),
        "SPECTYPE": Field("6A", table["FIT_CLASS"][:, 0]),
        "SUBTYPE": Field("20A", table["FIT_SUBCLASS"][:, 0]),
        "DELTACHI2": Field("D", chi2[:, 1] - chi2[:, 0]),
    }


# ---- catalogues


def write_catalogues(tables: Iterable[Table], folder: Path) -> list[Path]:
    """Write what redrock said, and what is true, of a whole survey.

    ``zcatalog.fits`` (HDU ZCATALOG) has a row a spectrum, fibres on sky and broken ones too. ``truth.fits``
    (HDU TRUTH) has a row a target: the columns of desisim's table that apply, and the absorption.

    Parameters
    ----------
    tables : iterable of mapping of str to ndarray
        Chunks of spectra in the order of the catalogue: the columns of `Pointing.table`, and of
        `desi.identity_columns`, whose FIBER stands in place of the other. They are read once, one at a time.
        All visits to a target must be in the same chunk.
    folder : Path
        Made if it is not there.

    Returns
    -------
    list of Path
        The two files, which appear together at the end.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left then.
    ValueError
        If there is no table.
    """
    with ExitStack() as stack:
        zcatalog = stack.enter_context(GrowingTable(folder / "zcatalog.fits", "ZCATALOG"))
        truth = stack.enter_context(GrowingTable(folder / "truth.fits", "TRUTH"))
        for table in tables:
            zcatalog.append(_catalogue_fields(table))
            truth.append(_truth_fields(table))
        for file in (zcatalog, truth):
            file.finish()
        return [file.publish() for file in (zcatalog, truth)]


def _catalogue_fields(table: Table) -> Fields:
    columns = """
        PETAL_LOC I  FIBER J  COADD_FIBERSTATUS J  TARGET_RA D  TARGET_DEC D  OBJTYPE 3A  FLUX_G E  FLUX_R E
        FLUX_Z E  DESI_TARGET K  BGS_TARGET K  MWS_TARGET K  SCND_TARGET K  COADD_NUMEXP I  COADD_EXPTIME E
        COADD_NUMNIGHT I  COADD_NUMTILE I
    """
    values = {**table, **target_values(table)}
    once = np.minimum(values["COADD_NUMEXP"], 1)
    who = {"TARGETID": Field("K", table["TARGETID"]), "SURVEY": Field("7A", "main")}
    who |= {"PROGRAM": Field("6A", "dark"), "TILEID": Field("J", table["TILEID"])}
    who |= {"LASTNIGHT": Field("J", table["NIGHT"])}
    rest = filled(columns, values | {"COADD_NUMNIGHT": once, "COADD_NUMTILE": once})
    return who | redshift_fields(table) | rest


def _truth_fields(table: Table) -> Fields:
    """Return the truth of each target once."""
    _, rows = np.unique(table["TARGETID"], return_index=True)
    rows = np.sort(rows)
    rows = rows[table["TRUE_CLASS"][rows] != "SKY"]
    table = {name: column[rows] for name, column in table.items()}
    values = target_values(table)
    return {
        "TARGETID": Field("K", table["TARGETID"]),
        "MOCKID": Field("K", table["TARGETID"]),
        "RA": Field("D", table["RA"]),
        "DEC": Field("D", table["DEC"]),
        "TRUEZ": Field("D", table["TRUE_Z"]),
        "TRUESPECTYPE": Field("10A", table["TRUE_CLASS"]),
        "TRUESUBTYPE": Field("21A", table["TRUE_SUBCLASS"]),
        "TEMPLATETYPE": Field("10A", table["TRUE_CLASS"]),
        "TEMPLATESUBTYPE": Field("10A", table["TRUE_SUBCLASS"]),
        **{f"FLUX_{band}": Field("E", values[f"FLUX_{band}"]) for band in "GRZ"},
        "BI_CIV": Field("E", table["TRUE_BI_CIV"], "km/s"),
        "AI_CIV": Field("E", table["TRUE_AI_CIV"], "km/s"),
        "LOBAL": Field("I", table["TRUE_LOBAL"]),
    }
