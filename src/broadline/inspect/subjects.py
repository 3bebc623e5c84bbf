"""What is to be inspected: the rows of a catalogue, with all of its columns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.errors import UsageError
from broadline.evaluation.catalogues import Catalogue, read_catalogue
from broadline.evaluation.shares import Floats, Ints, Mask
from broadline.lines import LINES, Line
from broadline.tables import raw_tables
from broadline.truth import names_of

__all__ = ["Solution", "Subjects", "read_subjects", "solutions"]

_TEXT = frozenset({"ARCHIVE", "SOURCE", "OBJID", "BEST_LINE", "PLANID"})
_SPECTRUM = ("PLATE", "MJD", "FIBERID")
# Redshifts that lie further below 0 than any star's are no solutions.
_LOWEST_Z = -0.005
_MOST = 4
_SURER = 0.05  # lines of a lower confidence stand behind what others say


class Solution(NamedTuple):
    """A redshift that a spectrum may have.

    Attributes
    ----------
    z : float
    confidence : float
        Of the line that it is from; NaN where there is none.
    said_by : str
        A line, or who else.
    """

    z: float
    confidence: float
    said_by: str


@dataclass(frozen=True, slots=True, eq=False)
class Subjects:
    """The rows of a catalogue.

    Attributes
    ----------
    catalogue : Catalogue
        Its verdicts, as they are evaluated.
    columns : mapping of str to ndarray, each of shape (n,)
        All its columns by upper-case name; numbers missing are NaN, or -1 in names.
        Text, numbers and logicals alone, not lists.
    sha256 : str
        Of the file.
    names : ndarray of str, shape (n,)
        What a spectrum is called.
    numbers : ndarray of int64, shape (n,)
        What it is called where names have to be numbers, as in prospect's TARGETID: that of DESI,
        PLATE * 10^9 + MJD * 10^4 + FIBERID of SDSS (as redrock has it), OBSID of LAMOST, and minus one more
        than the row of the catalogue where there is nothing of the kind.
    """

    catalogue: Catalogue
    columns: Mapping[str, NDArray[Any]]
    sha256: str
    names: NDArray[np.str_]
    numbers: Ints

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rule(self) -> Rule:
        """By which quasars were called; the paper's if the catalogue does not tell."""
        return self.catalogue.rule or Rule()

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines looked for whose confidences and redshifts are columns, BAL last."""
        names = [*self.catalogue.lines, *([self.catalogue.bal_line] if self.catalogue.bal_line else [])]
        return tuple(LINES[name] for name in names if name in LINES and f"Z_{name}" in self.columns)

    @property
    def strength(self) -> Floats:
        """Confidence in the surest emission line, 0 where there is no result, shape (n,)."""
        if self.catalogue.c is None:
            return np.zeros(len(self))
        return np.asarray(np.nan_to_num(self.catalogue.c).max(axis=1), dtype=np.float64)

    def number(self, name: str) -> Floats | None:
        """Return a column of probabilities or the like by the name that `Catalogue.numbers` has for it."""
        return self.catalogue.numbers.get(name)

    def mask(self, name: str) -> Mask:
        """Return a column of logicals; False if there is none, or no value."""
        if name not in self.columns:
            return np.zeros(len(self), dtype=bool)
        return np.nan_to_num(self.columns[name].astype(np.float64)) > 0


def read_subjects(path: Path) -> Subjects:
    """Return what is to be inspected.

    Parameters
    ----------
    path : Path
        A catalogue that `broadline classify` wrote: FITS (also gzipped), Parquet, ECSV or CSV.

    Raises
    ------
    UsageError
        If it cannot be read, is no catalogue, or does not say which files hold the spectra.
    """
    catalogue = read_catalogue(path)
    columns = next(
        {
            name: values
            for name, values in table.columns.items()
            if values.ndim == 1 and values.dtype.kind in "biufU"
        }
        for table in raw_tables(path, list, _TEXT)
        if any(len(values) == len(catalogue) for values in table.columns.values())
    )
    if not {"SOURCE", "ROW"} <= columns.keys():
        raise UsageError(
            f"{path} does not say where its spectra are (SOURCE and ROW); inspect what `broadline classify` "
            "wrote without --layout"
        )
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return Subjects(catalogue, columns, sha256, _names(columns), _numbers(columns))


def _names(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.str_]:
    n = len(columns["SOURCE"])
    rows = np.char.add("row ", np.arange(n).astype(str))
    names = columns.get("OBJID", np.full(n, ""))
    if "TARGETID" in columns:
        target = np.char.add("TARGETID ", columns["TARGETID"].astype(np.int64).astype(str))
        names = np.where((names == "") & (columns["TARGETID"] != -1), target, names)
    return np.where(names == "", rows, names).astype(np.str_)


def _numbers(columns: Mapping[str, NDArray[Any]]) -> Ints:
    number = -1 - np.arange(len(columns["SOURCE"]), dtype=np.int64)
    for name in ("OBSID", "TARGETID"):
        if name in columns:
            number = np.where(columns[name] != -1, columns[name], number).astype(np.int64)
    if columns.keys() >= set(_SPECTRUM):
        plate, mjd, fiber = (columns[name].astype(np.int64) for name in _SPECTRUM)
        named = names_of("PLATE-MJD-FIBERID", columns)[1]
        number = np.where(named, plate * 10**9 + mjd * 10**4 + fiber, number)
    return number


def solutions(subjects: Subjects, row: int, others: Sequence[Solution] = ()) -> list[Solution]:
    """Return the redshifts that a spectrum may have, the catalogue's first if it calls it a quasar.

    After it those of single lines, the surest first, those of `others`, and those of lines that are hardly
    there; one that lies within 6000 km/s of an earlier one is left out, and so are those below 0.

    Parameters
    ----------
    subjects : Subjects
    row : int
        Of the catalogue.
    others : sequence of Solution
        What others say: a pipeline, a truth table.
    """
    emission = [line.name for line in subjects.lines if not line.bal]
    single = [
        Solution(float(subjects.columns[f"Z_{name}"][row]), float(subjects.columns[f"C_{name}"][row]), name)
        for name in emission
    ]
    single = sorted(single, key=lambda one: -np.nan_to_num(one.confidence))[:_MOST]
    c, best = subjects.catalogue.c, subjects.columns.get("BEST_LINE")
    strength = 0.0 if c is None else float(np.nan_to_num(c[row]).max())
    named = "" if best is None else str(best[row])
    own = Solution(float(subjects.catalogue.z[row]), strength, named or "catalogue")
    sure = [one for one in single if one.confidence > _SURER]
    if subjects.catalogue.called[row] or strength > _SURER:
        sure.insert(0, own)
    found: list[Solution] = []
    for one in (*sure, *others, own, *single):
        new = all(abs(velocity(np.array(one.z), np.array(other.z))) > CONFLICT_KMS for other in found)
        if np.isfinite(one.z) and one.z > _LOWEST_Z and new:
            found.append(one)
    return found
