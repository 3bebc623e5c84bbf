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
#: CLASS_PERSON of the DR12Q superset (Paris et al. 2017): 0 was not inspected, 30 is a BAL quasar. Busca &
#: Balland (2018), section 2, use these; the few others (blazars) are none of the three.
_PERSON = {0: UNKNOWN, 1: STAR, 3: QSO, 4: GALAXY, 30: QSO}
_BAL_QUASAR = 30
#: The confidence of a label that is sure in class and redshift.
FIRM = 3

Columns = Mapping[str, NDArray[Any]]


class Labels(NamedTuple):
    """The label columns of `Truth` in the order of the table; objects are 0 or less where not known."""

    kind: NDArray[Any]
    z: NDArray[Any]
    confidence: NDArray[Any]
    bal_flag: NDArray[Any]
    balnicity: NDArray[Any]
    object: NDArray[Any]
    ancillary: NDArray[Any]


class Layout(NamedTuple):
    """A kind of table that says what spectra are.

    Attributes
    ----------
    name : str
    needs : frozenset of str
        Columns that tell it from others; beside these, one of the names of `Truth.by` must be there.
    labels : callable
        (path, columns) -> labels.
    """

    name: str
    needs: frozenset[str]
    labels: Callable[[Path, Columns], Labels]


def _inspected(path: Path, columns: Columns) -> Labels:
    """Return the labels of the DR12Q superset, and of QuasarNET's truth, which took its columns from there.

    BAL_FLAG_VI and BI_CIV are in DR12Q, not in the superset as published.
    """
    person = columns["CLASS_PERSON"].astype(np.int64)
    kind = np.full(len(person), OTHER, dtype=np.int8)
    for code, value in _PERSON.items():
        kind[person == code] = value
    flag = _or(columns, "BAL_FLAG_VI", -1)
    return Labels(
        kind,
        columns["Z_VI"],
        columns["Z_CONF_PERSON"],
        np.where(person == _BAL_QUASAR, 1, flag),
        _or(columns, "BI_CIV", np.nan),
        _or(columns, "THING_ID", -1),
        (_or(columns, "ANCILLARY_TARGET1", 0) != 0) | (_or(columns, "ANCILLARY_TARGET2", 0) != 0),
    )


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


def _plain(path: Path, columns: Columns) -> Labels:
    """Return the labels of a table of anybody's; without Z_CONF all classes given are firm."""
    kind = _classes(path, columns["CLASS"])
    return Labels(
        kind,
        columns["Z"],
        _or(columns, "Z_CONF", FIRM),
        _or(columns, "BAL_FLAG", -1),
        _or(columns, "BI_CIV", np.nan),
        _or(columns, "THING_ID", -1),
        _or(columns, "ANCILLARY", 0) != 0,
    )


#: In the order in which a table is offered to them: the simulator's has the columns of others too.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "simulated",
        frozenset({"THING_ID", "TRUE_CLASS", "TRUE_Z", "TRUE_BI_CIV", "Z_CONF_PERSON", "BAL_FLAG_VI"}),
        _simulated,
    ),
    Layout("inspected", frozenset({"CLASS_PERSON", "Z_CONF_PERSON", "Z_VI"}), _inspected),
    Layout("plain", frozenset({"CLASS", "Z"}), _plain),
)

_OPTIONAL = ("THING_ID", "BAL_FLAG_VI", "BAL_FLAG", "BI_CIV", "Z_CONF")
_PROGRAMMES = ("ANCILLARY", "ANCILLARY_TARGET1", "ANCILLARY_TARGET2")
#: All columns that any layout looks at, needed or not.
COLUMNS = frozenset().union(*(layout.needs for layout in LAYOUTS), _OPTIONAL, _PROGRAMMES)


def _or(columns: Columns, name: str, missing: float) -> NDArray[Any]:
    n = len(next(iter(columns.values())))
    return columns[name] if name in columns else np.full(n, missing)


def _classes(path: Path, names: NDArray[Any]) -> NDArray[np.int8]:
    found, inverse = np.unique(np.strings.upper(names), return_inverse=True)
    unknown = [str(name) for name in found if str(name) not in _SPELLINGS]
    if unknown:
        raise UsageError(f"{path} has a class {unknown[0]!r}; write QSO, STAR, GALAXY or OTHER")
    codes = np.array([_SPELLINGS[str(name)] for name in found], dtype=np.int8)
    return np.asarray(codes[inverse.reshape(-1)])
