"""Tables of simulated BOSS and SDSS surveys: the pipeline's results, and truth catalogues.

Layouts: the DR12Q superset (Paris et al. 2017), ``specObj`` of the SDSS data model, and DR14Q (Paris et al.
2018, table A.1). What a simulated object does not have, such as photometric errors, is 0 or -1 or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.simulation.files.fits_parts import Field, GrowingTable

__all__ = [
    "Survey",
    "fit_fields",
    "no_quasar_fields",
    "sdss_name",
    "survey_of",
    "target_fields",
    "write_catalogues",
]

_MOST_DUPLICATES = 51  # room for them in DR14Q
_QUASAR = (3, 30)  # CLASS_PERSON of quasars, without and with broad absorption

Table = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Survey:
    """What tells the files of BOSS from those of SDSS-I/II.

    Attributes
    ----------
    name, instrument, program : str
        SURVEY, INSTRUMENT and PROGRAMNAME of specObj.
    run2d, run1d, vers2d : str
        Names of the reductions and version of the code. SDSS-I/II has no RUN1D: its results lie beside the
        plate.
    fibers : int
        Fibres of one spectrograph.
    exposures : int
        Of 900 s each.
    results : str
        EXTNAME of the pipeline's row in spec files.
    boss_target1, primtarget : int
        Target bits of quasar candidates: QSO_CORE_MAIN of BOSS, TARGET_QSO_CAP of SDSS.
    """

    name: str
    instrument: str
    program: str
    run2d: str
    run1d: str
    vers2d: str
    fibers: int
    exposures: int
    results: str
    boss_target1: int
    primtarget: int


_SURVEYS = {
    "boss": Survey("boss", "BOSS", "boss", "v5_7_0", "v5_7_0", "v5_7_0", 500, 4, "SPALL", 1 << 40, 0),
    "sdss": Survey("sdss", "SDSS", "legacy", "26", "", "v5_3_12", 320, 3, "SPECOBJ", 0, 1 << 1),
}


def survey_of(archive: str) -> Survey:
    """Return what is particular to the files of an archive.

    Raises
    ------
    ValueError
        If the archive is neither "boss" nor "sdss".
    """
    if archive not in _SURVEYS:
        raise ValueError(f"no SDSS files of {archive!r}; the archives are {', '.join(_SURVEYS)}")
    return _SURVEYS[archive]


# ---- truth catalogues


def write_catalogues(tables: Iterable[Table], folder: Path, archive: str) -> list[Path]:
    """Write what is known of a survey as its users have it, a chunk at a time.

    ``Superset_DR12Q.fits`` has a row for each spectrum of a target (none for sky), with what the inspector
    said, and BAL_FLAG_VI and BI_CIV, which are joined to the superset from DR12Q in practice.
    ``specObj-dr14.fits`` has a row for each spectrum. ``DR14Q_v4_4.fits`` has a row for each object that an
    inspector called a quasar, at its best visit, and its other visits in the columns for duplicates; Z is
    that of the inspector, or the pipeline's where he gave none, and Z_ERR always the pipeline's.

    Parameters
    ----------
    tables : iterable of dict of str to ndarray
        The columns of `pointing.COLUMNS` with PLATE, MJD and FIBERID; all visits to an object must be in the
        same table.
    folder : Path
        It is made if it is not there.
    archive : {"boss", "sdss"}

    Returns
    -------
    list of Path
        The three files, which appear together at the end.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left then.
    ValueError
        If there is no table, or the archive is another.
    """
    survey = survey_of(archive)
    with ExitStack() as stack:
        files = [
            (stack.enter_context(GrowingTable(folder / file, name)), fields_of)
            for file, name, fields_of in _CATALOGUES
        ]
        for table in tables:
            for file, fields_of in files:
                file.append(fields_of(table, survey))
        for file, _ in files:
            file.finish()
        return [file.publish() for file, _ in files]


def _superset(table: Table, survey: Survey) -> dict[str, Field]:
    table = _rows(table, table["TRUE_CLASS"] != "SKY")
    return {
        **_object(table),
        "Z_VI": Field("D", table["Z_VI"]),
        "Z_PIPE": Field("E", table["FIT_Z"][:, 0]),
        "ERR_ZPIPE": Field("E", table["FIT_Z_ERR"][:, 0]),
        "ZWARNING": Field("J", table["FIT_ZWARNING"][:, 0]),
        "CLASS_PERSON": Field("J", table["CLASS_PERSON"]),
        "Z_CONF_PERSON": Field("J", table["Z_CONF_PERSON"]),
        "SDSS_MORPHO": Field("I", 0),
        "BOSS_TARGET1": Field("K", survey.boss_target1),
        **dict.fromkeys(("ANCILLARY_TARGET1", "ANCILLARY_TARGET2", "EBOSS_TARGET0"), Field("K", 0)),
        **_photometry(table),
        "EXTINCTION": Field("5E", 0),
        "BAL_FLAG_VI": Field("I", table["BAL_FLAG_VI"]),
        "BI_CIV": Field("E", table["BI_CIV"], "km/s"),
    }


def _spec_obj(table: Table, survey: Survey) -> dict[str, Field]:
    sky = table["TRUE_CLASS"] == "SKY"
    primary, visits = _primary(table, ~sky)
    return {
        "SURVEY": Field("6A", survey.name),
        "INSTRUMENT": Field("4A", survey.instrument),
        "PROGRAMNAME": Field("23A", survey.program),
        "PLATEQUALITY": Field("8A", "good"),
        "SPECPRIMARY": Field("B", primary),
        "SPECLEGACY": Field("B", primary & (survey.name == "sdss")),
        "SPECBOSS": Field("B", primary & (survey.name == "boss")),
        "SPECOBJID": Field("22A", _spec_obj_id(table, survey)),
        "NSPECOBS": Field("I", visits),
        "RUN2D": Field("6A", survey.run2d),
        "RUN1D": Field("6A", survey.run1d),
        "SOURCETYPE": Field("25A", np.where(sky, "SKY", "QSO")),
        "TARGETTYPE": Field("8A", np.where(sky, "SKY", "SCIENCE")),
        **target_fields(table, survey),
        "PLATE": Field("J", table["PLATE"]),
        "MJD": Field("J", table["MJD"]),
        "FIBERID": Field("J", table["FIBERID"]),
        "PLUG_RA": Field("D", table["RA"]),
        "PLUG_DEC": Field("D", table["DEC"]),
        **fit_fields(table),
        "SN_MEDIAN_ALL": Field("E", table["SN"]),
        **no_quasar_fields(table),
        "THING_ID": Field("J", table["THING_ID"]),
    }


def _dr14q(table: Table, survey: Survey) -> dict[str, Field]:
    table = _rows(table, table["TRUE_CLASS"] != "SKY")
    quasar = np.isin(table["CLASS_PERSON"], _QUASAR)
    # A visit at which it was called a quasar stands for the object, so that it has what was said then.
    visits = _visits(table["THING_ID"], ~quasar, table["FIT_ZWARNING"][:, 0] != 0, -table["SN"])
    best = visits.row[visits.rank == 0]
    listed = np.flatnonzero(quasar[best])
    listed = listed[np.argsort(best[listed])]
    others = {
        name: visits.others(table[name].astype(np.int32))[listed] for name in ("PLATE", "MJD", "FIBERID")
    }
    more = np.bincount(visits.object, minlength=len(best))[listed] - 1
    table = _rows(table, best[listed])
    seen = np.isfinite(table["Z_VI"]) & (table["Z_VI"] > 0)
    by_boss = survey.name == "boss"
    return {
        **_object(table),
        "SPECTRO": Field("4A", survey.instrument),
        "Z": Field("D", np.where(seen, table["Z_VI"], table["FIT_Z"][:, 0])),
        "Z_ERR": Field("D", table["FIT_Z_ERR"][:, 0]),
        "SOURCE_Z": Field("5A", np.where(seen, "VI", "PIPE")),
        "Z_VI": Field("D", np.where(seen, table["Z_VI"], -1)),
        "Z_PIPE": Field("D", table["FIT_Z"][:, 0]),
        "Z_PIPE_ERR": Field("D", table["FIT_Z_ERR"][:, 0]),
        "ZWARNING": Field("J", table["FIT_ZWARNING"][:, 0]),
        "BOSS_TARGET1": Field("K", survey.boss_target1),
        "N_SPEC_SDSS": Field("J", more * (not by_boss)),
        "N_SPEC_BOSS": Field("J", more * by_boss),
        "N_SPEC": Field("J", more),
        **{f"{name}_DUPLICATE": Field(f"{_MOST_DUPLICATES}J", values) for name, values in others.items()},
        "SPECTRO_DUPLICATE": Field(
            f"{4 * _MOST_DUPLICATES}A",
            np.where(others["PLATE"] >= 0, survey.instrument, ""),
            dim=f"(4,{_MOST_DUPLICATES})",
        ),
        "BI_CIV": Field("E", table["BI_CIV"], "km/s"),
        "ERR_BI_CIV": Field("E", -1, "km/s"),
        **_photometry(table),
    }


# File, EXTNAME, and columns of a chunk.
_CATALOGUES: tuple[tuple[str, str, Callable[[Table, Survey], dict[str, Field]]], ...] = (
    ("Superset_DR12Q.fits", "SUPERSET_DR12Q_V2_6.FITS", _superset),
    ("specObj-dr14.fits", "SPECOBJ", _spec_obj),
    ("DR14Q_v4_4.fits", "DR14Q_V4_4", _dr14q),
)


def _rows(table: Table, which: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: column[which] for name, column in table.items()}


def _object(table: Table) -> dict[str, Field]:
    return {
        "SDSS_NAME": Field("18A", sdss_name(table["RA"], table["DEC"])),
        "RA": Field("D", table["RA"], "deg"),
        "DEC": Field("D", table["DEC"], "deg"),
        "THING_ID": Field("J", table["THING_ID"]),
        "PLATE": Field("J", table["PLATE"]),
        "MJD": Field("J", table["MJD"]),
        "FIBERID": Field("J", table["FIBERID"]),
    }


def _photometry(table: Table) -> dict[str, Field]:
    return {
        "PSFFLUX": Field("5E", 10 ** (0.4 * (22.5 - table["PSFMAG"])), "nanomaggies"),
        "IVAR_PSFFLUX": Field("5E", 0),
        "PSFMAG": Field("5E", table["PSFMAG"]),
        "ERR_PSFMAG": Field("5E", 0),
    }


def sdss_name(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bytes_]:
    """Return hhmmss.ss+ddmmss.s of coordinates in degrees, cut off and not rounded, as SDSS names are."""
    # A millionth of the last digit makes up for binary fractions.
    time = np.floor(np.mod(ra, 360) / 15 * 360_000 + 1e-6).astype(np.int64)
    angle = np.floor(np.abs(dec) * 36_000 + 1e-6).astype(np.int64)
    numbers = {0: time // 360_000, 2: time // 6000 % 60, 4: time // 100 % 60, 7: time % 100}
    numbers |= {10: angle // 36_000, 12: angle // 600 % 60, 14: angle // 10 % 60}
    text = np.full((len(ra), 18), ord("."), dtype=np.uint8)
    text[:, 9] = np.where(dec < 0, ord("-"), ord("+"))
    for place, number in numbers.items():
        text[:, place] = ord("0") + number // 10
        text[:, place + 1] = ord("0") + number % 10
    text[:, 17] = ord("0") + angle % 10
    return text.view("S18")[:, 0]


def _spec_obj_id(table: Table, survey: Survey) -> NDArray[np.str_]:
    """Return SPECOBJID as decimal text, packed as SDSS does (data model of specObj).

    From the highest bit: 14 bits of plate, 12 of fibre, 14 of MJD - 50000, 14 of RUN2D, 10 free. Plates of
    five digits do not fit: their lowest 14 bits are kept.
    """
    if survey.run2d.startswith("v"):
        n, m, p = (int(part) for part in survey.run2d[1:].split("_"))
        run = 10_000 * (n - 5) + 100 * m + p
    else:
        run = int(survey.run2d)
    plate, fiber, mjd = (table[name].astype(np.uint64) for name in ("PLATE", "FIBERID", "MJD"))
    packed = (plate % (1 << 14)) << 50 | fiber << 38 | (mjd - 50_000) << 24
    return np.asarray((packed | np.uint64(run << 10)).astype("U22"))


# ---- visits


class _Visits(NamedTuple):
    """Spectra sorted by object, the best of each object first."""

    row: NDArray[np.int64]
    object: NDArray[np.int64]  # 0, 1, ... in the order of THING_ID
    rank: NDArray[np.int64]  # 0 for the best visit

    def others(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the values of all visits but the best, shape (n_objects, 51), filled with -1."""
        n = self.object[-1] + 1 if len(self.object) else 0
        filled = np.full((n, _MOST_DUPLICATES), -1, dtype=np.int32)
        later = (self.rank > 0) & (self.rank <= _MOST_DUPLICATES)
        filled[self.object[later], self.rank[later] - 1] = values[self.row[later]]
        return filled


def _visits(thing_id: NDArray[Any], *worse: NDArray[Any]) -> _Visits:
    """Group spectra by object; the better visit has less of the first criterion, and so on."""
    _, number, counts = np.unique(thing_id, return_inverse=True, return_counts=True)
    row = np.lexsort((*reversed(worse), number))
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Visits(row, number[row], rank)


def _primary(table: Table, target: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which spectra are the best of their object, and how many the object has; sky is no object."""
    rows = np.flatnonzero(target)
    visits = _visits(table["THING_ID"][rows], table["FIT_ZWARNING"][rows, 0] != 0, -table["SN"][rows])
    primary, count = np.zeros(len(target), dtype=bool), np.ones(len(target), dtype=np.int64)
    primary[rows[visits.row[visits.rank == 0]]] = True
    count[rows[visits.row]] = np.bincount(visits.object)[visits.object]
    return primary, count


# ---- columns that several files have


def target_fields(table: Table, survey: Survey) -> dict[str, Field]:
    """Return the target bits: those of a quasar candidate, 0 for sky."""
    target = table["TRUE_CLASS"] != "SKY"
    return {
        "PRIMTARGET": Field("J", survey.primtarget * target),
        "SECTARGET": Field("J", 0),
        "BOSS_TARGET1": Field("K", survey.boss_target1 * target),
    }


def fit_fields(table: Table, rank: int = 0) -> dict[str, Field]:
    """Return the columns of the pipeline's best fit, or of the one that comes at `rank`."""
    rchi2 = table["FIT_RCHI2"]
    behind = np.diff(rchi2, axis=1, append=rchi2[:, -1:])
    return {
        "CLASS": Field("6A", table["FIT_CLASS"][:, rank]),
        "SUBCLASS": Field("21A", table["FIT_SUBCLASS"][:, rank]),
        "Z": Field("E", table["FIT_Z"][:, rank]),
        "Z_ERR": Field("E", table["FIT_Z_ERR"][:, rank]),
        "RCHI2": Field("E", rchi2[:, rank]),
        "DOF": Field("J", table["FIT_DOF"][:, rank]),
        "RCHI2DIFF": Field("E", behind[:, rank]),
        "ZWARNING": Field("J", table["FIT_ZWARNING"][:, rank]),
    }


def no_quasar_fields(table: Table) -> dict[str, Field]:
    """Return the columns of the best fit that is no quasar; blank and 0 where all kept fits are quasars."""
    other = table["FIT_CLASS"] != "QSO"
    found, each = other.any(axis=1), np.arange(len(other))

    def best(name: str) -> NDArray[Any]:
        values = table[name][each, other.argmax(axis=1)]
        return np.asarray(np.where(found, values, np.zeros_like(values)))

    return {
        "Z_NOQSO": Field("E", best("FIT_Z")),
        "Z_ERR_NOQSO": Field("E", best("FIT_Z_ERR")),
        "ZWARNING_NOQSO": Field("J", best("FIT_ZWARNING")),
        "CLASS_NOQSO": Field("6A", best("FIT_CLASS")),
        "SUBCLASS_NOQSO": Field("21A", best("FIT_SUBCLASS")),
    }
