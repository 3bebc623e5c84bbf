"""Layouts of truth tables: which columns tell one from others, and what their codes mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.errors import UsageError

__all__ = [
    "CLASSES",
    "COLUMNS",
    "FIRM",
    "GALAXY",
    "LAYOUTS",
    "OTHER",
    "QSO",
    "STAR",
    "UNKNOWN",
    "Columns",
    "Labels",
    "Layout",
    "in_control_sample",
]

#: Classes, as numbered in `Truth.kind`. "" was not inspected, or not identified; OTHER is known to be none
#: of the three, such as sky.
CLASSES = ("", "QSO", "STAR", "GALAXY", "OTHER")
UNKNOWN, QSO, STAR, GALAXY, OTHER = range(len(CLASSES))

_SPELLINGS = {name: code for code, name in enumerate(CLASSES)} | {
    "QUASAR": QSO,
    "QSO_BAL": QSO,
    "SKY": OTHER,
    "UNKNOWN": UNKNOWN,
}
#: CLASS_PERSON of the DR12Q and DR16Q supersets (Paris et al. 2017, Lyke et al. 2020): 0 was not inspected,
#: 30 is a BAL quasar. Busca & Balland (2018), section 2, use these; the few others (blazars) are none of the
#: three.
_PERSON = {0: UNKNOWN, 1: STAR, 3: QSO, 4: GALAXY, 30: QSO}
_BAL_QUASAR = 30
#: The confidence of a label that is sure in class and redshift.
FIRM = 3

Columns = Mapping[str, NDArray[Any]]


class Labels(NamedTuple):
    """The label columns of `Truth` in the order of the table.

    Objects are 0 or less where not known; no confidence at all means that the table does not rate its labels.
    """

    kind: NDArray[Any]
    z: NDArray[Any]
    confidence: NDArray[Any] | None
    bal_flag: NDArray[Any]
    balnicity: NDArray[Any]
    object: NDArray[Any]
    ancillary: NDArray[Any]


def _as_it_is(columns: Columns) -> Columns:
    return columns


class Layout(NamedTuple):
    """A kind of table that says what spectra are.

    Attributes
    ----------
    name : str
    needs : frozenset of str
        Columns that tell it from others; beside these, one of the names of `Truth.by` or a position must be
        there.
    labels : callable
        (path, columns) -> labels.
    z : str
        The column that the redshift is from; others become `Truth.other_z`.
    rows : callable
        columns -> columns with a row for each spectrum that the table says something of.
    """

    name: str
    needs: frozenset[str]
    labels: Callable[[Path, Columns], Labels]
    z: str
    rows: Callable[[Columns], Columns] = _as_it_is


# ---- supersets: all targets, inspected


def _inspected(path: Path, columns: Columns) -> Labels:
    """Return the labels of the DR12Q superset, and of QuasarNET's truth, which took its columns from there.

    BAL_FLAG_VI and BI_CIV are in DR12Q, not in the superset as published.
    """
    person = _whole(columns["CLASS_PERSON"])
    flag = _or(columns, "BAL_FLAG_VI", -1)
    return Labels(
        _kinds(person),
        columns["Z_VI"],
        columns["Z_CONF_PERSON"],
        np.where(person == _BAL_QUASAR, 1, flag),
        _balnicity(columns),
        _or(columns, "THING_ID", -1),
        _ancillary(columns),
    )


def _no_sky(columns: Columns) -> Columns:
    """Leave out the sky fibres of a simulated survey, as a superset does: nobody inspects them."""
    return _chosen(columns, columns["TRUE_CLASS"] != "SKY") if "TRUE_CLASS" in columns else columns


def _dr16q_superset(path: Path, columns: Columns) -> Labels:
    """Return what experts said of spectra of the DR16Q superset (Lyke et al. 2020, table D1).

    An inspection (CLASS_PERSON, Z_VI, Z_CONF) goes before that of the ten thousand drawn at random, which
    tells quasars from others alone: those others are OTHER.
    """
    person = _whole(columns["CLASS_PERSON"])
    drawn = person == 0
    quasar = _whole(_or(columns, "IS_QSO_10K", -1))
    return Labels(
        np.where(drawn, np.where(quasar == 1, QSO, OTHER), _kinds(person)),
        np.where(drawn, _or(columns, "Z_10K", np.nan), columns["Z_VI"]),
        np.where(drawn, _or(columns, "Z_CONF_10K", -1), columns["Z_CONF"]),
        np.where(person == _BAL_QUASAR, 1, -1),
        _balnicity(columns),
        _or(columns, "THING_ID", -1),
        _ancillary(columns),
    )


def _seen(columns: Columns) -> Columns:
    """Leave out what nobody inspected: a class by QuasarNET and the pipeline is no truth for them."""
    person, quasar = _whole(columns["CLASS_PERSON"]), _whole(_or(columns, "IS_QSO_10K", -1))
    return _chosen(columns, (person > 0) | (quasar >= 0))


# ---- catalogues of quasars only


def _quasars(path: Path, columns: Columns) -> Labels:
    """Return the labels of DR14Q (Paris et al. 2018, table A1) and of DR16Q without its superset."""
    return _all_quasars(columns, columns["Z"], None, "BAL_FLAG_VI")


def _every_visit(columns: Columns) -> Columns:
    """Return a row for each spectrum of an object: that listed, and those in the columns for duplicates."""
    names = [f"{name}_DUPLICATE" for name in _SPECTRUM]
    if not columns.keys() >= {*names, *_SPECTRUM}:
        return columns
    plate, mjd, fiber = (columns[name].astype(np.int64) for name in _SPECTRUM)
    thing = _or(columns, "THING_ID", -1)
    # Without a THING_ID, the spectrum listed stands for the object, by a number that no THING_ID reaches.
    thing = np.where(thing > 0, thing, plate * 10**9 + mjd * 10**4 + fiber)
    again = columns[names[0]] > 0
    row = np.append(np.arange(len(plate)), np.nonzero(again)[0])
    unfolded = {name: column[row] for name, column in columns.items() if name not in names}
    visits = {
        name: np.append(columns[name], columns[more][again])
        for name, more in zip(_SPECTRUM, names, strict=True)
    }
    return unfolded | visits | {"THING_ID": thing[row]}


def _dr12q(path: Path, columns: Columns) -> Labels:
    """Return the labels of DR12Q (Paris et al. 2017, table 4)."""
    return _all_quasars(columns, columns["Z_VI"], None, "BAL_FLAG_VI")


def _lamost(path: Path, columns: Columns) -> Labels:
    """Return the labels of the LAMOST quasar catalogues (Ai et al. 2016; Yao et al. 2019, table 3).

    A warning is raised where one line alone gives the redshift: the class is firm then, and it is not.
    """
    z = columns["Z_VI" if "Z_VI" in columns else "Z"]
    confidence = None
    if "ZWARNING" in columns:
        confidence = np.where(columns["ZWARNING"] == 0, FIRM, FIRM - 1)
    return _all_quasars(columns, z, confidence, "BAL_FLAG")


def _all_quasars(columns: Columns, z: NDArray[Any], confidence: NDArray[Any] | None, bal_flag: str) -> Labels:
    return Labels(
        np.full(len(z), QSO, dtype=np.int8),
        z,
        confidence,
        _or(columns, bal_flag, -1),
        _balnicity(columns),
        _or(columns, "THING_ID", -1),
        _ancillary(columns),
    )


# ---- others


def _simulated(path: Path, columns: Columns) -> Labels:
    """Return what is true of a simulated survey, with the confidence and BAL tag of its inspection.

    Confidence says what can be seen at all, and so does the tag: a trough that noise hides has a balnicity
    and no tag, hence no weight (`objective.bal_labels`).
    """
    return Labels(
        _classes(path, columns["TRUE_CLASS"]),
        columns["TRUE_Z"],
        np.where(columns["TRUE_CLASS"] == "SKY", FIRM, columns["Z_CONF_PERSON"]),
        columns["BAL_FLAG_VI"],
        columns["TRUE_BI_CIV"],
        columns["THING_ID"],
        np.zeros(len(columns["TRUE_Z"]), dtype=bool),
    )


def _redrock(path: Path, columns: Columns) -> Labels:
    """Return redrock's best fits, firm where there is no warning; negative TARGETIDs are no targets."""
    kind = np.where(columns["TARGETID"] < 0, UNKNOWN, _classes(path, columns["SPECTYPE"]))
    n = len(kind)
    return Labels(
        kind,
        columns["Z"],
        np.where(columns["ZWARN"] == 0, FIRM, 1),
        np.full(n, -1),
        np.full(n, np.nan),
        np.full(n, -1),
        np.zeros(n, dtype=bool),
    )


def _plain(path: Path, columns: Columns) -> Labels:
    """Return the labels of a table of anybody's; without Z_CONF all classes given are firm."""
    kind = _classes(path, columns["CLASS"])
    return Labels(
        kind,
        columns["Z"],
        columns.get("Z_CONF"),
        _or(columns, "BAL_FLAG", -1),
        _or(columns, "BI_CIV", np.nan),
        _or(columns, "THING_ID", -1),
        _whole(_or(columns, "ANCILLARY", 0)) != 0,
    )


_SPECTRUM = ("PLATE", "MJD", "FIBERID")
_VISITS = frozenset(f"{name}_DUPLICATE" for name in _SPECTRUM)

#: In the order in which a table is offered to them: the simulator's has the columns of others too, and DR16Q
#: those of its superset.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "simulated",
        frozenset({"THING_ID", "TRUE_CLASS", "TRUE_Z", "TRUE_BI_CIV", "Z_CONF_PERSON", "BAL_FLAG_VI"}),
        _simulated,
        "TRUE_Z",
    ),
    Layout("inspected", frozenset({"CLASS_PERSON", "Z_CONF_PERSON", "Z_VI"}), _inspected, "Z_VI", _no_sky),
    Layout("dr14q", frozenset({"Z", "SOURCE_Z", *_VISITS}), _quasars, "Z", _every_visit),
    Layout(
        "dr16q-superset",
        frozenset({"CLASS_PERSON", "Z_CONF", "Z_VI", "IS_QSO_FINAL"}),
        _dr16q_superset,
        "Z_VI",
        _seen,
    ),
    Layout("dr14q", frozenset({"Z", "SOURCE_Z"}), _quasars, "Z"),
    Layout("dr12q", frozenset({"Z_VI", "BAL_FLAG_VI", "BI_CIV"}), _dr12q, "Z_VI"),
    Layout("redrock", frozenset({"TARGETID", "Z", "ZWARN", "SPECTYPE"}), _redrock, "Z"),
    Layout("lamost", frozenset({"OBSID", "Z_VI"}), _lamost, "Z_VI"),
    Layout("lamost", frozenset({"DESIGNATION", "Z_VI"}), _lamost, "Z_VI"),
    Layout("plain", frozenset({"CLASS", "Z"}), _plain, "Z"),
    Layout("lamost", frozenset({"DESIGNATION", "Z"}), _lamost, "Z"),
)

_OPTIONAL = ("THING_ID", "BAL_FLAG_VI", "BAL_FLAG", "BI_CIV", "Z_CONF", "ZWARNING")
_DRAWN = ("IS_QSO_10K", "Z_10K", "Z_CONF_10K")
_PROGRAMMES = ("ANCILLARY", "ANCILLARY_TARGET1", "ANCILLARY_TARGET2")
_QUEUE, _CONTROL = "QUEUE", "control"
#: All columns that any layout looks at, needed or not.
COLUMNS = frozenset().union(*(layout.needs for layout in LAYOUTS), _OPTIONAL, _DRAWN, _PROGRAMMES, {_QUEUE})


def in_control_sample(columns: Columns) -> NDArray[np.bool_]:
    """Return which rows an inspector was shown because they were drawn at random: QUEUE names "control"."""
    if _QUEUE not in columns:
        return np.zeros(len(next(iter(columns.values()))), dtype=bool)
    return np.asarray(np.strings.find(np.strings.lower(columns[_QUEUE].astype(str)), _CONTROL) >= 0)


def _or(columns: Columns, name: str, missing: float) -> NDArray[Any]:
    n = len(next(iter(columns.values())))
    return columns[name] if name in columns else np.full(n, missing)


def _chosen(columns: Columns, rows: NDArray[np.bool_]) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def _whole(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return codes as integers, 0 where they are missing."""
    return np.asarray(np.nan_to_num(values), dtype=np.int64)


def _kinds(person: NDArray[np.int64]) -> NDArray[np.int8]:
    kind = np.full(len(person), OTHER, dtype=np.int8)
    for code, value in _PERSON.items():
        kind[person == code] = value
    return kind


def _balnicity(columns: Columns) -> NDArray[Any]:
    """Return BI_CIV, NaN where it is negative: not measured."""
    values = _or(columns, "BI_CIV", np.nan)
    return np.where(values < 0, np.nan, values)


def _ancillary(columns: Columns) -> NDArray[np.bool_]:
    first, second = (_whole(_or(columns, f"ANCILLARY_TARGET{i}", 0)) for i in (1, 2))
    return np.asarray((first | second) != 0)


def _classes(path: Path, names: NDArray[Any]) -> NDArray[np.int8]:
    found, inverse = np.unique(np.strings.upper(names), return_inverse=True)
    unknown = [str(name) for name in found if str(name) not in _SPELLINGS]
    if unknown:
        raise UsageError(f"{path} has a class {unknown[0]!r}; write QSO, STAR, GALAXY or OTHER")
    codes = np.array([_SPELLINGS[str(name)] for name in found], dtype=np.int8)
    return np.asarray(codes[inverse.reshape(-1)])
